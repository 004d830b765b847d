"""One lesion's voxels with what is needed to measure them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from core.modelspec import Code
from workers.images.stack import Calibration, ImageStack, Matrix
from workers.lesions.components import Box, Mask
from workers.lesions.concepts import MILLIMETRE, PIXELS, SQUARE_MILLIMETRE
from workers.lesions.mesh import Mesh, mesh_of

Values = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Region:
    """A lesion in its stack.

    Attributes:
        box: (frames, rows, columns) in the stack.
        mask: bool, in the box; at least one voxel is true.
        foreground: bool (frames, rows, columns) of the whole stack: every voxel that belongs
            to any lesion, this one included.
    """

    stack: ImageStack
    box: Box
    mask: Mask
    foreground: Mask

    @cached_property
    def voxels(self) -> int:
        """How many voxels it has."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def starts(self) -> npt.NDArray[np.float64]:
        """(3,) indices of the box's first voxel."""
        return np.array([side.start for side in self.box], dtype=np.float64)

    @cached_property
    def calibration(self) -> Calibration | None:
        """The pixel size that holds in the whole box; None in a volume, or where unknown."""
        if self.stack.is_volume:
            return None
        return self.stack.calibration_at(self.box[1], self.box[2])

    @cached_property
    def pixel(self) -> tuple[float, float]:
        """Distance between rows and between columns, in `length_unit`."""
        spacing = self.stack.spacing_mm
        if spacing is not None:
            return spacing[1], spacing[2]
        if self.calibration is not None:
            return self.calibration.row_mm, self.calibration.column_mm
        return 1.0, 1.0

    @property
    def length_unit(self) -> Code:
        """Millimetres, or pixels where their size is not known."""
        known = self.stack.is_volume or self.calibration is not None
        return MILLIMETRE if known else PIXELS

    @property
    def area_unit(self) -> Code:
        """Square millimetres, or pixels where their size is not known."""
        return SQUARE_MILLIMETRE if self.length_unit == MILLIMETRE else PIXELS

    @cached_property
    def matrix(self) -> Matrix:
        """3×3: a step in (frame, row, column) as a vector, in `length_unit`.

        In a volume it is the affine's, LPS; in an image the frame counts nothing.
        """
        if self.stack.affine is not None:
            return self.stack.affine[:3, :3]
        return np.diag([0.0, *self.pixel])

    @cached_property
    def values(self) -> Values:
        """The finite image values in it, in the stack's unit, in no particular shape.

        Pixels where the source has no data are left out.
        """
        padding = self.stack.padding
        known = self.mask if padding is None else self.mask & ~padding[self.box]
        values = self.stack.array[self.box][known]
        finite = np.isfinite(values)
        return values if finite.all() else values[finite]

    @cached_property
    def across_gap(self) -> bool:
        """Whether a missing slice lies between its first and its last."""
        frames = self.box[0]
        return any(frames.start <= index < frames.stop for index in self.stack.missing)

    @cached_property
    def mesh(self) -> Mesh | None:
        """Its surface in mm; None in an image, and where a slice of it is missing."""
        if not self.stack.is_volume or self.across_gap:
            return None
        return mesh_of(self.mask, self.matrix)

    def around(self, pixels: int) -> tuple[Box, Mask]:
        """A box with `pixels` more rows and columns on each side, and the mask in it."""
        _, height, width = self.stack.array.shape
        frames, rows, columns = self.box
        box = (
            frames,
            slice(max(rows.start - pixels, 0), min(rows.stop + pixels, height)),
            slice(max(columns.start - pixels, 0), min(columns.stop + pixels, width)),
        )
        top, left = rows.start - box[1].start, columns.start - box[2].start
        bottom, right = box[1].stop - rows.stop, box[2].stop - columns.stop
        return box, np.pad(self.mask, ((0, 0), (top, bottom), (left, right)))
