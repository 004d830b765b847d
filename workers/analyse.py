"""One series, one model: from stored instances to what was found.

    instances → stacks (volume in LPS, or images) → the model's own preprocessing → logits
    → lesions or classes

Nothing is written here: the pipeline commits, `workers.results` makes the objects.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from core.errors import NotApplicableError
from core.modelspec import ModelSpec
from core.settings import Settings
from workers.analysis import Analysis
from workers.images.axial import to_axial
from workers.images.build import build_stacks
from workers.images.read import read_series
from workers.images.stack import ImageStack
from workers.inference import Models
from workers.lesions.classify import classify
from workers.lesions.find import find_lesions

if TYPE_CHECKING:
    from models.registry import LoadedModel

# Between images that are no volume there is no distance; preprocessing looks only in plane.
_NO_STEP = 1.0

Probabilities = npt.NDArray[np.float16]


@dataclass(slots=True)
class Clock:
    """How long each step took, in seconds, for the job's summary."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to the step `name`."""
        began = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


def analyse(
    files: Sequence[Any],
    spec: ModelSpec,
    models: Models,
    settings: Settings,
    *,
    job_id: str,
    check: Callable[[], None],
    clock: Clock,
    announced: int | None = None,
) -> tuple[Analysis, dict[str, Any]]:
    """Read `files` (one series), ask the model of `spec`, and say what it found.

    `check` is called between the steps and between batches; it raises when the work is not
    wanted any more. `announced` is how many images there should be, where anybody said so.
    Returns the analysis and a summary for people: counts, sizes, device.

    Raises:
        NotApplicableError: the images are not what the model is for; the message says why.
        DecodeError: an instance cannot be read.
        ResultError: the instances belong to different patients, studies or series.
        ModelError: the model cannot be had, or does not fit into memory (MemoryShortError).
    """
    with clock("read"):
        stacks = build_stacks(read_series(files), spec.input, max_voxels=settings.worker.max_voxels)
        _check_input(spec, stacks)
    check()
    model = models.get(spec, settings.worker.device)
    ask = _ask_classes if spec.output.kind == "classification" else _ask_lesions
    analysis = ask(stacks, model, settings, job_id, check, clock)
    if announced is not None and len(files) < announced:
        remark = f"{len(files)} of {announced} images had come: the series is incomplete."
        analysis = replace(analysis, announced=announced, remarks=(remark, *analysis.remarks))
    return analysis, _summary(analysis, model, len(files))


def _ask_lesions(
    stacks: Sequence[ImageStack],
    model: LoadedModel,
    settings: Settings,
    job_id: str,
    check: Callable[[], None],
    clock: Clock,
) -> Analysis:
    answers = []
    for stack in stacks:
        with clock("infer"):
            probabilities = _probabilities(stack, model, settings.worker.batch_size, check)
        answers.append((stack, probabilities))
        check()
    limits = settings.results
    with clock("measure"):
        return find_lesions(
            answers,
            model.spec,
            job_id=job_id,
            min_volume_ml=limits.min_volume_ml,
            max_findings=limits.max_segments,
            uid_root=limits.uid_root,
            keep_probabilities=limits.segmentation == "fractional",
        )


def _ask_classes(
    stacks: Sequence[ImageStack],
    model: LoadedModel,
    settings: Settings,
    job_id: str,
    check: Callable[[], None],
    clock: Clock,
) -> Analysis:
    answers, activations = [], []
    for stack in stacks:
        with clock("infer"):
            array, spacing, to_source = _as_seen(stack, model.spec)
            scores, activation = model.classify(
                array,
                spacing,
                batch_size=settings.worker.batch_size,
                activations=True,
                progress=lambda *_: check(),
            )
        # the axial view may run the other way; scores go with the frames they belong to
        order = to_source(np.broadcast_to(np.arange(len(array))[:, None, None], array.shape))
        answers.append((stack, scores[:, order[:, 0, 0]]))
        activations.append(None if activation is None else to_source(activation))
        check()
    with clock("measure"):
        return classify(
            answers,
            model.spec,
            job_id=job_id,
            uid_root=settings.results.uid_root,
            activations=activations,
        )


def _probabilities(
    stack: ImageStack, model: LoadedModel, batch_size: int, check: Callable[[], None]
) -> Probabilities:
    """(channels, frames, rows, columns) in the stack's own grid."""
    array, spacing, to_source = _as_seen(stack, model.spec)
    answer = model.predict(array, spacing, batch_size=batch_size, progress=lambda *_: check())
    restored: Probabilities = to_source(answer)
    return restored


def _as_seen(
    stack: ImageStack, spec: ModelSpec
) -> tuple[
    npt.NDArray[np.float32], tuple[float, float, float] | None, Callable[[npt.NDArray[Any]], Any]
]:
    """The stack as the model wants to see it: array, spacing, and the way back.

    A volume is shown on the axial grid nearest to its own; images as they are.
    """
    if stack.is_volume:
        view = to_axial(stack)
        _check_spacing(spec, view.spacing_mm)
        return view.array, view.spacing_mm, view.to_source
    rows, columns = stack.array.shape[1:]
    known = stack.calibration_at(slice(0, rows), slice(0, columns))
    spacing = None if known is None else (_NO_STEP, known.row_mm, known.column_mm)
    return stack.array, spacing, lambda answer: answer


def _check_input(spec: ModelSpec, stacks: Sequence[ImageStack]) -> None:
    modality = str(stacks[0].source.get("Modality", ""))
    if modality not in spec.input.modality:
        wanted = ", ".join(spec.input.modality)
        raise NotApplicableError(f"{spec.name} is for {wanted}, the series is {modality}")
    frames = sum(len(stack.present) for stack in stacks)
    if frames < spec.input.min_slices:
        raise NotApplicableError(
            f"{frames} slices, {spec.name} needs at least {spec.input.min_slices}"
        )


def _check_spacing(spec: ModelSpec, spacing_mm: tuple[float, float, float]) -> None:
    coarsest = spec.input.max_in_plane_spacing_mm
    if coarsest is not None and max(spacing_mm[1:]) > coarsest:
        raise NotApplicableError(
            f"axial pixels of {spacing_mm[1]:.2f} × {spacing_mm[2]:.2f} mm, "
            f"{spec.name} needs at most {coarsest:g} mm"
        )


def _summary(analysis: Analysis, model: LoadedModel, instances: int) -> dict[str, Any]:
    stacks = [part.stack for part in analysis.parts]
    first = stacks[0]
    spacing = first.spacing_mm
    return {
        "images": sum(len(stack.present) for stack in stacks),
        "expected": sum(len(stack.frames) for stack in stacks),
        "instances": instances,
        "announced": analysis.announced,
        "shape": list(first.array.shape),
        "spacing_mm": None if spacing is None else [round(value, 4) for value in spacing],
        "device": str(model.device),
        "too_small": analysis.too_small,
        "too_small_ml": round(analysis.too_small_ml, 4),
        "left_out": analysis.left_out,
        "remarks": list(analysis.remarks),
    }
