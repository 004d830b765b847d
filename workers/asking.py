"""One stack of images shown to a model, and its answer brought back to the stack's own grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from core.errors import NotApplicableError
from core.modelspec import ModelSpec
from workers.images.axial import to_axial
from workers.images.stack import ImageStack

if TYPE_CHECKING:
    from models.registry import LoadedModel

# Between images that are no volume there is no distance; preprocessing looks only in plane.
_NO_STEP = 1.0


@dataclass(frozen=True, eq=False)
class Answered:
    """What a model said of one stack; None for what it does not answer.

    Attributes:
        pixels: float16 (channels, frames, rows, columns), probabilities in the stack's grid.
        scores: float32 (classes, frames), probabilities of the stack's frames.
        activation: float16 (frames, rows, columns), 0 to 1: where it looked.
        ignored: bool (frames,): images that count for nothing in the answer.
        remarks: what a reader must know about what was left out, whole sentences.
    """

    stack: ImageStack
    pixels: npt.NDArray[np.float16] | None = None
    scores: npt.NDArray[np.float32] | None = None
    activation: npt.NDArray[np.float16] | None = None
    ignored: npt.NDArray[np.bool_] | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Seen:
    """A stack as a model sees it.

    Attributes:
        array: float32 (frames, rows, columns); a volume on the axial grid nearest to its own.
        spacing_mm: along (frame, row, column); None where it is unknown.
        to_source: takes (…, frames, rows, columns) on that grid back to the stack's own.
    """

    array: npt.NDArray[np.float32]
    spacing_mm: tuple[float, float, float] | None
    to_source: Callable[[npt.NDArray[Any]], Any]

    @property
    def order(self) -> npt.NDArray[np.intp]:
        """For each of the stack's frames its place in `array`, where frames stay whole."""
        places = np.arange(len(self.array))[:, None, None]
        found: npt.NDArray[np.intp] = self.to_source(np.broadcast_to(places, self.array.shape))
        return found[:, 0, 0]


def as_seen(stack: ImageStack, spec: ModelSpec) -> Seen:
    """The stack as the model of `spec` wants to see it.

    Raises:
        NotApplicableError: the axial pixels of a volume are coarser than the model takes.
    """
    if stack.is_volume:
        view = to_axial(stack)
        _check_spacing(spec, view.spacing_mm)
        return Seen(view.array, view.spacing_mm, view.to_source)
    rows, columns = stack.array.shape[1:]
    known = stack.calibration_at(slice(0, rows), slice(0, columns))
    spacing = None if known is None else (_NO_STEP, known.row_mm, known.column_mm)
    return Seen(stack.array, spacing, lambda answer: answer)


def within_domain(
    stacks: Sequence[ImageStack], model: LoadedModel
) -> list[tuple[ImageStack, npt.NDArray[np.bool_]]]:
    """Each stack, and which of its frames look like the model's training images: bool (frames,).

    A volume is judged as a whole, images each for themselves. Some strange ones among others
    are left out by `without`.

    Raises:
        NotApplicableError: none does; or as `as_seen`. The message says how far off it is.
    """
    found, nearest = [], None
    for stack in stacks:
        inside = np.ones(len(stack.frames), dtype=bool)
        seen = as_seen(stack, model.spec)
        judged = model.strangeness(seen.array, seen.spacing_mm)
        if stack.is_volume and judged:
            inside[:] = not judged[0].outside
        elif judged:
            inside = ~np.array([item.outside for item in judged])[seen.order]
        for item in judged:
            nearest = item if nearest is None else min(nearest, item, key=lambda one: one.distance)
        found.append((stack, inside))
    if nearest is not None and not any(inside.any() for _, inside in found):
        raise NotApplicableError(f"{model.spec.name}: {nearest}")
    return found


def without(answered: Answered, outside: npt.NDArray[np.bool_]) -> Answered:
    """The answer with nothing said of the frames where `outside` is true, and a remark."""
    if not outside.any():
        return answered
    count, all_of_them = int(outside.sum()), len(outside)
    remark = (
        f"{count} of {all_of_them} images look like none of the model's training images and "
        "were left out."
    )
    pixels, activation = answered.pixels, answered.activation
    for array in (None if pixels is None else pixels.swapaxes(0, 1), activation):
        if array is not None:
            array[outside] = 0
    return replace(answered, ignored=outside, remarks=(*answered.remarks, remark))


def ask(
    stack: ImageStack, model: LoadedModel, batch_size: int, check: Callable[[], None]
) -> Answered:
    """All that `model` answers about `stack`, in one pass.

    `check` is called between batches; what it raises ends the work.

    Raises:
        NotApplicableError: as `as_seen`.
        ModelError: the network does not fit its specification, or memory is short.
    """
    seen = as_seen(stack, model.spec)
    found = model.examine(
        seen.array,
        seen.spacing_mm,
        batch_size=batch_size,
        activations=True,
        progress=lambda *_: check(),
    )
    back = seen.to_source
    return Answered(
        stack,
        None if found.pixels is None else back(found.pixels),
        # the axial view may run the other way; scores go with the frames they belong to
        None if found.scores is None else found.scores[:, seen.order],
        None if found.activations is None else back(found.activations),
    )


def _check_spacing(spec: ModelSpec, spacing_mm: tuple[float, float, float]) -> None:
    coarsest = spec.input.max_in_plane_spacing_mm
    if coarsest is not None and max(spacing_mm[1:]) > coarsest:
        raise NotApplicableError(
            f"axial pixels of {spacing_mm[1]:.2f} × {spacing_mm[2]:.2f} mm, "
            f"{spec.name} needs at most {coarsest:g} mm"
        )
