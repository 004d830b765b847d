"""One volume out of the frames of a series, or the reason why there is none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from core.errors import DecodeError, NotApplicableError
from core.modelspec import InputSpec
from workers.images.fill import fill
from workers.images.frames import Frame
from workers.images.geometry import SMALLEST_TILT, Grid, check_placed, grid_of, places_of
from workers.images.pixels import decode, is_color
from workers.images.several import Several, by_stack, tell_apart, why_not_whole
from workers.images.stack import Basis, Calibration, Floats, ImageFrame, ImageStack, Matrix
from workers.images.values import scales_of

# Slices farther apart than so many times their thickness are remarked upon.
FARTHEST_APART = 3.0
_LOCALIZER = "LOCALIZER"


def volume_of(frames: Sequence[Frame], spec: InputSpec, *, max_voxels: int) -> ImageStack:
    """Stack `frames`, sorted by geometry, never by Instance Number.

    Raises:
        NotApplicableError: they are not one evenly spaced stack of grey images, or not the one
            that `spec` takes; the message says why.
        DecodeError: pixel data that cannot be decoded.
    """
    remarks: list[str] = []
    chosen = _without_localizers(frames, remarks)
    if any(is_color(frame.dataset) for frame in chosen):
        raise NotApplicableError("the series has colour images; the model needs grey ones")
    chosen = _chosen(chosen, by_stack(chosen), spec, remarks)
    check_placed(chosen)
    chosen = _one_at_each_place(chosen, spec, remarks)
    grid = grid_of(chosen)
    ordered = [chosen[index] for index in grid.order]
    _check_whole(ordered, grid, spec, remarks)
    if grid.tilt >= SMALLEST_TILT:
        remarks.append(f"The slices are tilted by {grid.tilt:.1f}° against the stack.")
    remarks += _apart(ordered, grid)
    reference = ordered[0].text("FrameOfReferenceUID")
    if not reference:
        remarks.append("The images name no Frame of Reference: places hold in this series only.")
    scales = scales_of(ordered)
    scale = scales[0]
    if any((other.quantity, other.unit) != (scale.quantity, scale.unit) for other in scales):
        raise NotApplicableError("the images have values in different units")
    array = _empty(grid, ordered[0].size, max_voxels)
    padding = fill(ordered, scales, grid.slots, array)
    _interpolate(array, padding, grid.slots)
    finished: list[ImageFrame | None] = [None] * grid.slices
    for frame, slot in zip(ordered, grid.slots, strict=True):
        finished[slot] = frame.finished()
    sides = {frame.laterality for frame in ordered}
    return ImageStack(
        array=array,
        frames=tuple(finished),
        quantity=scale.quantity,
        unit=scale.unit,
        affine=grid.affine,
        calibrations=(Calibration(*grid.spacing, Basis.PATIENT),),
        frame_of_reference_uid=reference,
        laterality=sides.pop() if len(sides) == 1 else "",
        remarks=(*remarks, *dict.fromkeys(each.remark for each in scales if each.remark)),
        padding=padding,
    )


def _without_localizers(frames: Sequence[Frame], remarks: list[str]) -> list[Frame]:
    """Scouts (Image Type value 3, PS3.3 C.8.2.1.1.1) show where the slices lie; they are none."""
    slices = [frame for frame in frames if _LOCALIZER not in frame.kind]
    if not slices:
        raise NotApplicableError("the images are localizers")
    if len(slices) < len(frames):
        remarks.append(f"{len(frames) - len(slices)} localizer image(s) were left out.")
    return slices


def _chosen(
    frames: list[Frame],
    several: Several | None,
    spec: InputSpec,
    remarks: list[str],
    places: Sequence[int] | None = None,
) -> list[Frame]:
    """The volume that the model takes of several, or all frames where there is one.

    Takes each frame's place along the stack; None where the volumes lie in places of their own.
    """
    if several is None:
        return frames
    if spec.of_several == "refuse":
        raise NotApplicableError(several.reason)
    number = 0 if spec.of_several == "first" else len(several.groups) - 1
    stray = why_not_whole(several, number, places)
    if stray:
        raise NotApplicableError(f"{several.reason}; {stray}")
    value = several.values[number]
    remarks.append(
        f"{several.reason[0].upper()}{several.reason[1:]}. "
        f"The {spec.of_several} one ({value}) was analysed."
    )
    return [frames[index] for index in several.groups[number]]


def _one_at_each_place(frames: list[Frame], spec: InputSpec, remarks: list[str]) -> list[Frame]:
    """Frames of one volume: copies are dropped, and one of several volumes is taken."""
    places = places_of(frames)
    if len(set(places)) == len(frames):
        return frames
    kept = _without_copies(frames, places, everywhere=True)
    several = None
    if kept is None:
        several = tell_apart(frames, places)
        kept = frames if several else _without_copies(frames, places, everywhere=False) or frames
    if len(kept) < len(frames):
        remarks.append(f"{len(frames) - len(kept)} image(s) came twice; the copies were left out.")
        places = places_of(kept)
        if len(set(places)) == len(kept):
            return kept
        several = tell_apart(kept, places)
    if several is None:
        twice = len(kept) - len(set(places))
        raise NotApplicableError(
            f"{twice} image(s) lie where another one lies, and no attribute tells them apart"
        )
    return _chosen(kept, several, spec, remarks, places)


def _without_copies(
    frames: Sequence[Frame], places: Sequence[int], *, everywhere: bool
) -> list[Frame] | None:
    """`frames` without those that have the same pixels as an earlier one at their place.

    With `everywhere`, None as soon as a place holds images that differ: those are several
    volumes, which may well agree somewhere.
    """
    at: dict[int, list[int]] = {}
    for index, place in enumerate(places):
        at.setdefault(place, []).append(index)
    copies: set[int] = set()
    for members in at.values():
        known: set[bytes] = set()
        for index in members if len(members) > 1 else ():
            content = _content(frames[index])
            if content in known:
                copies.add(index)
            elif known and everywhere:
                return None
            known.add(content)
    return [frame for index, frame in enumerate(frames) if index not in copies]


def _content(frame: Frame) -> bytes:
    """A digest of a frame's stored values and of what they are rescaled by."""
    pixels = next(iter(decode(frame.dataset, [frame.index])))
    rescale = (frame.number("RescaleSlope"), frame.number("RescaleIntercept"))
    return hashlib.sha256(repr((rescale, pixels.dtype.str)).encode() + pixels.tobytes()).digest()


def _check_whole(ordered: Sequence[Frame], grid: Grid, spec: InputSpec, remarks: list[str]) -> None:
    """Refuse a stack that lacks slices, or say how many it lacks."""
    missing = grid.slices - len(ordered)
    if not missing:
        return
    if spec.incomplete == "refuse":
        jumps = np.diff(grid.slots)
        widest = int(np.argmax(jumps))
        usual = float(grid.affine[:3, 0] @ np.cross(*_axes(grid)))
        raise NotApplicableError(
            f"slices are missing: {jumps[widest] * usual:.2f} mm between slices {widest + 1} and "
            f"{widest + 2} of {len(ordered)}, where {usual:.2f} mm is usual"
        )
    remarks.append(f"{len(ordered)} of {grid.slices} images: {missing} slice(s) missing.")


def _apart(ordered: Sequence[Frame], grid: Grid) -> list[str]:
    """A remark where slices lie so far apart that much between them was not imaged."""
    if len(ordered) < 2:
        return []
    try:
        thickness = ordered[0].number("SliceThickness")
    except DecodeError:  # the grid does not rest on it
        return []
    distance = float(grid.affine[:3, 0] @ np.cross(*_axes(grid)))
    if thickness is None or thickness <= 0 or distance <= FARTHEST_APART * thickness:
        return []
    return [
        f"The slices are {distance:.2f} mm apart and {thickness:.2f} mm thick: what lies between "
        "them was not imaged, or slices are missing."
    ]


def _axes(grid: Grid) -> tuple[Matrix, Matrix]:
    """Unit vectors along the rows and down the columns."""
    row, column = grid.affine[:3, 2], grid.affine[:3, 1]
    return row / np.linalg.norm(row), column / np.linalg.norm(column)


def _empty(grid: Grid, size: tuple[int, int], max_voxels: int) -> Floats:
    voxels = grid.slices * size[0] * size[1]
    if voxels > max_voxels:
        raise NotApplicableError(
            f"the volume has {voxels:,} voxels, more than the {max_voxels:,} that this worker takes"
        )
    return np.empty((grid.slices, *size), dtype=np.float32)


def _interpolate(
    array: Floats, padding: npt.NDArray[np.bool_] | None, slots: Sequence[int]
) -> None:
    """Fill the slices between those that came, each linearly from its two neighbours.

    There is no data between where one of the two has none.
    """
    for before, after in pairwise(slots):
        for slot in range(before + 1, after):
            part = (slot - before) / (after - before)
            array[slot] = array[before] * (1 - part) + array[after] * part
            if padding is not None:
                padding[slot] = padding[before] | padding[after]
