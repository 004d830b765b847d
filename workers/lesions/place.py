"""Where a lesion lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.domain import KeyImage, Space
from core.modelspec import Code, LabelSpec
from workers.images.stack import ImageStack, Point
from workers.lesions.concepts import LEFT, RIGHT
from workers.lesions.midline import Body
from workers.lesions.region import Region

# Nearer to the midline than this a side would be a guess.
MIDLINE_MM = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """A lesion's place; centre and box count in `space`, as `core.domain.Finding` says."""

    space: Space
    centre: Point
    box: tuple[float, float, float, float, float, float]
    slices: tuple[int, int]


def place_of(region: Region) -> Place:
    """Centre of mass, bounding box of the voxel centres, first and last slice.

    In a volume in LPS, mm, by its affine; the box is that of the voxels themselves, also where
    the slices are oblique. In images, and in a volume without a Frame of Reference (whose
    coordinates nothing else could be compared with), in (column, row, frame).
    """
    mask = region.mask
    middle = [
        np.average(
            np.arange(size),
            weights=np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis)),
        )
        for axis, size in enumerate(mask.shape)
    ]
    centre = np.array(middle) + region.starts
    frames = region.box[0]
    slices = (int(frames.start), int(frames.stop) - 1)
    affine = region.stack.affine
    if affine is None or not region.stack.frame_of_reference_uid:
        frame, row, column = centre
        _, rows, columns = region.box
        first, last = slices
        return Place(
            space=Space.IMAGE,
            centre=(float(column) + 0.5, float(row) + 0.5, float(frame)),
            box=(
                columns.start + 0.5,
                rows.start + 0.5,
                first,
                columns.stop - 0.5,
                rows.stop - 0.5,
                last,
            ),
            slices=slices,
        )
    # Only the first and the last voxel of a row can be extreme in any direction.
    plane, row_index = np.nonzero(mask.any(axis=2))
    lines = mask[plane, row_index]
    ends = (lines.argmax(axis=1), mask.shape[2] - 1 - lines[:, ::-1].argmax(axis=1))
    indices = np.concatenate([np.stack([plane, row_index, end], axis=1) for end in ends])
    placed = (indices + region.starts) @ affine[:3, :3].T + affine[:3, 3]
    x0, y0, z0 = (float(value) for value in placed.min(axis=0))
    x1, y1, z1 = (float(value) for value in placed.max(axis=0))
    x, y, z = (float(value) for value in affine[:3, :3] @ centre + affine[:3, 3])
    return Place(space=Space.PATIENT, centre=(x, y, z), box=(x0, y0, z0, x1, y1, z1), slices=slices)


def side_of(stack: ImageStack, label: LabelSpec, place: Place, body: Body | None) -> Code | None:
    """Left or right, where the attributes or the body's midline say so; else None.

    Images: by their laterality attribute only. Volumes, where the label has sides: by the
    attribute, else farther than 5 mm from the body's midline, in LPS (x grows to the left).
    """
    if stack.is_volume and not label.sided:
        return None
    if stack.laterality:
        return LEFT if stack.laterality == "L" else RIGHT
    if body is None or place.space is not Space.PATIENT:
        return None
    middle = body.midline_mm(place.centre[2])
    if middle is None or abs(place.centre[0] - middle) <= MIDLINE_MM:
        return None
    return LEFT if place.centre[0] > middle else RIGHT


def key_image(stack: ImageStack, index: int) -> KeyImage | None:
    """The image at `index` of the stack; None where that slice is missing."""
    frame = stack.frames[index]
    if frame is None:
        return None
    return KeyImage(
        sop_instance_uid=str(frame.dataset.SOPInstanceUID),
        frame=frame.number if frame.multi_frame else None,
        index=index,
    )
