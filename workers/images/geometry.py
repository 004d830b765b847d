"""Where slices lie: one direction, one distance, one grid (PS3.3 C.7.6.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.errors import NotApplicableError
from workers.images.calibration import patient_spacing
from workers.images.frames import Frame
from workers.images.stack import Matrix

# How far direction cosines of two slices may differ; positions come with few decimals.
ORIENTATION_TOLERANCE = 1e-3
# How far a slice may lie off its even place, as a part of the slice spacing.
SPACING_TOLERANCE = 0.05
# How far slices may drift sideways, in pixels, before the stack counts as oblique to them.
DRIFT_TOLERANCE = 0.02
# A gantry tilts by up to 30°; more is no tilt but another arrangement.
LARGEST_TILT = 45.0
# Below this a tilt is not worth a remark, degrees.
SMALLEST_TILT = 1.0
# Slices nearer than this, in mm, lie in the same place.
SAME_PLACE_MM = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """An even stack of slices.

    Attributes:
        order: indices of the frames in the order of the stack.
        slots: the index on the stack's first axis of each frame of `order`, from 0; indices
            that are left out are missing slices.
        affine: as `ImageStack.affine`.
        spacing: distance between rows and between columns, mm.
        tilt: angle between the stack and the slices' normal, degrees.
    """

    order: tuple[int, ...]
    slots: tuple[int, ...]
    affine: Matrix
    spacing: tuple[float, float]
    tilt: float

    @property
    def slices(self) -> int:
        """How many slices the whole stack has."""
        return self.slots[-1] + 1


def check_placed(frames: Sequence[Frame]) -> None:
    """See that every frame has a place in one frame of reference, and all have one size.

    Raises:
        NotApplicableError: not so; the message says what is missing.
    """
    for keyword, known in (
        ("ImageOrientationPatient", [frame.orientation for frame in frames]),
        ("ImagePositionPatient", [frame.position for frame in frames]),
        ("PixelSpacing", [patient_spacing(frame) for frame in frames]),
    ):
        if None in known:
            raise NotApplicableError(f"images without {keyword} have no place in the patient")
    references = {frame.text("FrameOfReferenceUID") for frame in frames}
    if len(references) > 1:
        raise NotApplicableError("the images lie in different frames of reference")
    if len({frame.size for frame in frames}) > 1:
        raise NotApplicableError("the images have different sizes")


def directions(frames: Sequence[Frame]) -> tuple[Matrix, Matrix, Matrix]:
    """Unit vectors along the rows, down the columns, and across the slices, LPS.

    Raises:
        NotApplicableError: the frames have several orientations, or one that is none.
    """
    cosines = np.array([frame.orientation for frame in frames], dtype=np.float64)
    if np.abs(cosines - cosines[0]).max() > ORIENTATION_TOLERANCE:
        raise NotApplicableError("the images have several orientations, as a localizer has")
    row, column = cosines[0, :3], cosines[0, 3:]
    lengths = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    if np.abs(np.array([*lengths, 1 + row @ column]) - 1).max() > ORIENTATION_TOLERANCE:
        raise NotApplicableError("Image Orientation (Patient) is not a pair of directions")
    row, column = row / lengths[0], column / lengths[1]
    normal = np.cross(row, column)
    return row, column, normal / np.linalg.norm(normal)


def places_of(frames: Sequence[Frame]) -> list[int]:
    """Which place along the stack each frame lies at, counted from 0 along the normal."""
    along = _positions(frames) @ directions(frames)[2]
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order], prepend=along[order[0]]) >= SAME_PLACE_MM
    places = np.empty(len(frames), dtype=np.int64)
    places[order] = np.cumsum(steps)
    return [int(place) for place in places]


def grid_of(frames: Sequence[Frame]) -> Grid:
    """The even stack that `frames`, each at a place of its own, lie on.

    Raises:
        NotApplicableError: they lie on none; the message says why.
    """
    spacings = np.array([patient_spacing(frame) for frame in frames], dtype=np.float64)
    if not np.allclose(spacings, spacings[0], rtol=1e-3):
        raise NotApplicableError("the images have different pixel spacings")
    spacing = float(spacings[0, 0]), float(spacings[0, 1])
    row, column, normal = directions(frames)
    positions = _positions(frames)
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    if len(frames) == 1:
        slots, step, tilt = [0], normal * _thickness(frames[0]), 0.0
    else:
        slots = _slots(positions @ normal)
        step = _step(positions, slots, normal, min(spacing))
        tilt = math.degrees(math.acos(min(1.0, float(step @ normal / np.linalg.norm(step)))))
    if tilt > LARGEST_TILT:
        raise NotApplicableError(
            f"the slices are shifted against each other: the stack leans by {tilt:.0f}°"
        )
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = column * spacing[0]
    affine[:3, 2] = row * spacing[1]
    affine[:3, 3] = positions[0]
    return Grid(tuple(int(index) for index in order), tuple(slots), affine, spacing, tilt)


def _positions(frames: Sequence[Frame]) -> Matrix:
    return np.array([frame.position for frame in frames], dtype=np.float64)


def _thickness(frame: Frame) -> float:
    """What one slice stands for along its normal, mm."""
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        found = frame.number(keyword)
        if found is not None and found > 0:
            return found
    raise NotApplicableError("a single image without a slice thickness is no volume")


def _slots(along: Matrix) -> list[int]:
    """The whole number of steps from the first slice to each; gaps are missing slices."""
    gaps = np.diff(along)
    usual = float(np.mean(gaps[gaps < 1.25 * gaps.min()]))
    steps = np.rint(gaps / usual)
    if (np.abs(gaps / usual - steps) > 2 * SPACING_TOLERANCE * steps).any():
        raise _uneven(gaps)
    slots = np.concatenate([[0], np.cumsum(steps)])
    # Most slices have their neighbour, and there are no more holes than slices; else it is only
    # by chance that the distances are multiples of the least one.
    if np.median(steps) != 1 or slots[-1] >= 2 * len(along):
        raise _uneven(gaps)
    fit: npt.NDArray[np.float64] = along[0] + slots * (along[-1] - along[0]) / slots[-1]
    if np.abs(along - fit).max() > SPACING_TOLERANCE * usual:
        raise _uneven(gaps)
    return [int(slot) for slot in slots]


def _uneven(gaps: Matrix) -> NotApplicableError:
    return NotApplicableError(
        f"the slices are not evenly spaced: {gaps.min():.2f} to {gaps.max():.2f} mm apart"
    )


def _step(positions: Matrix, slots: Sequence[int], normal: Matrix, pixel: float) -> Matrix:
    """The vector from slice to slice; along the normal unless the slices drift sideways."""
    step: Matrix = (positions[-1] - positions[0]) / slots[-1]
    upright: Matrix = normal * float(step @ normal)
    counts = np.array(slots, dtype=np.float64)[:, None]
    away = positions - positions[0]
    if np.linalg.norm(away - counts * upright, axis=1).max() <= max(
        DRIFT_TOLERANCE * pixel, SAME_PLACE_MM
    ):
        return upright
    # Distances along the normal were looked at before; what is left is sideways.
    off = away - counts * step
    off -= np.outer(off @ normal, normal)
    if np.linalg.norm(off, axis=1).max() > max(SPACING_TOLERANCE * pixel * 10, 0.1):
        raise NotApplicableError("the slices are shifted against each other; they form no stack")
    return step
