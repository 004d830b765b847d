"""Images of one series as an array that knows its place, its size and its units.

These are the types that all rooms of the workshop share: `workers.images` makes them,
`workers.lesions` measures in them, `workers.results` refers back to the instances they came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from core.modelspec import Code

Floats = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
Point = tuple[float, float, float]


class Basis(StrEnum):
    """What a pixel's size rests on.

    patient: a plane in the patient, or a projection that was calibrated there.
    magnified: a projection; the detector's spacing over the estimated magnification
        (PS3.3 C.8.7.2, Estimated Radiographic Magnification Factor (0018,1114)).
    detector: a projection; millimetres at the detector, larger than in the patient.
    region: an ultrasound region (PS3.3 C.8.5.5).
    """

    PATIENT = "patient"
    MAGNIFIED = "magnified"
    DETECTOR = "detector"
    REGION = "region"


@dataclass(frozen=True, slots=True)
class Calibration:
    """How large a pixel is, what that rests on, and where in the image it holds.

    Attributes:
        row_mm: distance between the centres of neighbouring rows, mm.
        column_mm: distance between the centres of neighbouring columns, mm.
        region: (first column, first row, last column, last row), from 0, ends included; None
            where it holds everywhere.
        outside: boxes like `region`, within it, where it does not hold all the same.
    """

    row_mm: float
    column_mm: float
    basis: Basis
    region: tuple[int, int, int, int] | None = None
    outside: tuple[tuple[int, int, int, int], ...] = ()

    def holds_at(self, rows: slice, columns: slice) -> bool:
        """Whether it holds in the whole box of `rows` and `columns` (ends excluded)."""
        if self.region is None:
            return True
        left, top, right, bottom = self.region
        first = left <= int(columns.start) and top <= int(rows.start)
        if not (first and int(columns.stop) <= right + 1 and int(rows.stop) <= bottom + 1):
            return False
        return not any(
            columns.start <= right
            and left < columns.stop
            and rows.start <= bottom
            and top < rows.stop
            for left, top, right, bottom in self.outside
        )


@dataclass(frozen=True, slots=True, eq=False)
class ImageFrame:
    """One frame that a result can refer to.

    Attributes:
        dataset: the instance's header, without pixel data; frames of one instance share it.
        number: frame number, from 1; 1 for a single-frame instance.
        multi_frame: whether references need a Referenced Frame Number (PS3.3 Table 10-3).
        position: Image Position (Patient), as written, LPS, mm; None without a place.
        orientation: Image Orientation (Patient), as written; None without a place.
    """

    dataset: Dataset
    number: int = 1
    multi_frame: bool = False
    position: Point | None = None
    orientation: tuple[float, float, float, float, float, float] | None = None


@dataclass(frozen=True, eq=False)
class ImageStack:
    """Images of one size from one series: a volume in the patient, or frames for themselves.

    Attributes:
        array: float32 (frames, rows, columns) in `unit`; colour is made grey (luminance). Higher
            is brighter: MONOCHROME1 images in arbitrary units are turned round.
        frames: what lies at each index of the array's first axis; None where a slice of the
            volume is missing, and the array is interpolated there.
        quantity: what the values are, e.g. (112031, DCM, "Attenuation Coefficient").
        unit: UCUM unit of the values, e.g. (g/ml{SUVbw}, UCUM, …), ([hnsf'U], UCUM, …); no unit
            is (1, UCUM, "no units").
        affine: 4×4 float64, voxel index (slice, row, column) from 0 to the centre of that voxel
            in patient coordinates, LPS, mm (PS3.3 Equation C.7.6.2.1-1). None where the images
            are no volume. Its first column may be oblique to the slices (gantry tilt); the
            slices come in such an order that it points along the cross product of the row and
            column direction.
        calibrations: pixel sizes and where they hold; empty where unknown. A volume has one.
        frame_of_reference_uid: Frame of Reference UID (0020,0052), empty where there is none.
        laterality: "L" or "R" by the instances' own attributes, else empty.
        color: uint8 (frames, rows, columns, 3) sRGB, where the images had colour.
        remarks: what a reader of the results must know about the input, whole sentences.
        padding: bool (frames, rows, columns), True where the source has no data (PS3.3
            C.7.5.1.1.2) whatever value `array` has there; None where it has data everywhere.
    """

    array: Floats
    frames: tuple[ImageFrame | None, ...]
    quantity: Code
    unit: Code
    affine: Matrix | None = None
    calibrations: tuple[Calibration, ...] = ()
    frame_of_reference_uid: str = ""
    laterality: str = ""
    color: npt.NDArray[np.uint8] | None = None
    remarks: tuple[str, ...] = ()
    padding: npt.NDArray[np.bool_] | None = None

    @property
    def is_volume(self) -> bool:
        """Whether the frames are one evenly spaced stack in patient space."""
        return self.affine is not None

    @property
    def present(self) -> tuple[ImageFrame, ...]:
        """The frames that came, in order."""
        return tuple(frame for frame in self.frames if frame is not None)

    @property
    def missing(self) -> tuple[int, ...]:
        """Indices of the slices that did not come."""
        return tuple(index for index, frame in enumerate(self.frames) if frame is None)

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """The instances' headers, each once, in the order of their first frame."""
        return tuple({id(frame.dataset): frame.dataset for frame in self.present}.values())

    @property
    def source(self) -> Dataset:
        """The first instance's header: what all results copy identity from."""
        return self.present[0].dataset

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Distance between voxel centres along (slice, row, column); None if no volume.

        The first is measured across the slices: with a tilted gantry it is less than the
        length of the affine's first column.
        """
        if self.affine is None:
            return None
        along_column = float(np.linalg.norm(self.affine[:3, 1]))
        along_row = float(np.linalg.norm(self.affine[:3, 2]))
        return self.voxel_mm3 / (along_column * along_row), along_column, along_row

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel, mm³.

        Raises:
            ValueError: the images are no volume.
        """
        if self.affine is None:
            raise ValueError("images that are no volume have no voxels")
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel, mL."""
        return self.voxel_mm3 / 1000

    def calibration_at(self, rows: slice, columns: slice) -> Calibration | None:
        """The pixel size that holds in the whole of a box, or None where it is not known."""
        return next((c for c in self.calibrations if c.holds_at(rows, columns)), None)


def instances_of(stacks: Sequence[ImageStack]) -> tuple[Dataset, ...]:
    """The headers of all instances in `stacks`, each once, in order."""
    found = {id(dataset): dataset for stack in stacks for dataset in stack.datasets}
    return tuple(found.values())
