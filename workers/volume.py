"""DICOM instances of one series, made into an array in patient space.

Slices are put in order by their geometry (PS3.3 C.7.6.2), never by Instance Number. What is not
one evenly spaced stack of grey images is refused with a reason that a person can act on.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array

from core.domain import IDENTITY_KEYWORDS
from core.errors import DecodeError, NotApplicableError, ResultError

Floats = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

# How far direction cosines of two slices may differ; positions come with few decimals.
ORIENTATION_TOLERANCE = 1e-3
# How far a slice may lie off its even place, as a part of the slice spacing.
SPACING_TOLERANCE = 0.05
# Cosine between the stack's direction and the slices' normal; below it the stack is sheared.
SHEAR_TOLERANCE = 0.9995
# Slices nearer than this, in mm, lie in the same place.
SAME_PLACE_MM = 1e-3

_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True, eq=False)
class SeriesVolume:
    """One series as a stack of parallel, evenly spaced slices.

    Attributes:
        array: float32 (slices, rows, columns), Modality LUT or rescale applied
            (PS3.3 C.11.1), so in the units that the series declares.
        affine: 4×4 float64, voxel index (slice, row, column) from 0 to the centre of that voxel
            in patient coordinates, LPS, mm (PS3.3 Equation C.7.6.2.1-1). Its first axis is the
            cross product of the row and column direction.
        spacing_mm: distance between voxel centres along (slice, row, column).
        datasets: the instances in slice order, without their pixel data.
        frame_of_reference_uid: Frame of Reference UID (0020,0052).
    """

    array: Floats
    affine: Matrix
    spacing_mm: tuple[float, float, float]
    datasets: tuple[Dataset, ...]
    frame_of_reference_uid: str

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000)


class AxialView(NamedTuple):
    """A volume on the canonical axial grid, by permuting and flipping only.

    Attributes:
        array: float32 (slices foot to head, rows anterior to posterior, columns right to left).
        spacing_mm: along (slice, row, column) of that grid.
        to_source: takes an array (…, slices, rows, columns) on that grid back to the volume's
            own grid, exactly.
    """

    array: Floats
    spacing_mm: tuple[float, float, float]
    to_source: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


def read_series(files: Sequence[Path | BinaryIO | bytes]) -> list[Dataset]:
    """Read the instances of one series: paths, open files, or Part 10 bytes.

    Raises:
        DecodeError: a file is none.
    """
    datasets: list[Dataset] = []
    for number, file in enumerate(files, start=1):
        try:
            source = io.BytesIO(file) if isinstance(file, bytes) else file
            datasets.append(pydicom.dcmread(source))
        except Exception as error:  # a damaged file can raise anything
            raise DecodeError(f"file {number} of {len(files)} cannot be read: {error}") from error
    return datasets


def build_volume(datasets: Sequence[Dataset]) -> SeriesVolume:
    """Stack the single-frame `datasets` of one series.

    Pixel data are decoded slice by slice and taken out of `datasets`, so that no more than the
    stored series and one float32 volume are held.

    Raises:
        NotApplicableError: not one evenly spaced stack of grey images; the message says why.
        ResultError: the instances do not all belong to one patient, study and series.
        DecodeError: pixel data that cannot be decoded.
    """
    _check_identity(datasets)
    _check_images(datasets)
    cosines, pixel_spacing, frame_of_reference = _check_geometry(datasets)
    along_row, along_column = cosines[:3], cosines[3:]
    normal = np.cross(along_row, along_column)
    positions = np.array([ds.ImagePositionPatient for ds in datasets], dtype=np.float64)
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    ordered = [datasets[index] for index in order]
    step = _even_step(ordered, positions, normal)

    affine = np.eye(4)
    affine[:3, 0] = normal * step
    affine[:3, 1] = along_column * pixel_spacing[0]
    affine[:3, 2] = along_row * pixel_spacing[1]
    affine[:3, 3] = positions[0]
    array = np.empty((len(ordered), ordered[0].Rows, ordered[0].Columns), dtype=np.float32)
    for index, dataset in enumerate(ordered):
        array[index] = _pixels(dataset, index)
    return SeriesVolume(
        array=array,
        affine=affine,
        spacing_mm=(step, *pixel_spacing),
        datasets=tuple(ordered),
        frame_of_reference_uid=frame_of_reference,
    )


def to_axial(volume: SeriesVolume) -> AxialView:
    """View `volume` on the axial grid nearest to its own; nothing is interpolated.

    An oblique volume stays oblique: its axes are only named by the patient axis nearest to them.
    """
    order, flips = axial_axes(volume.affine)
    array = np.flip(volume.array.transpose(order), flips)
    back = tuple(int(axis) for axis in np.argsort(order))

    def to_source(result: npt.NDArray[Any]) -> npt.NDArray[Any]:
        lead = result.ndim - 3
        upright = np.flip(result, tuple(lead + axis for axis in flips))
        return np.ascontiguousarray(
            upright.transpose(*range(lead), *(lead + axis for axis in back))
        )

    first, second, third = (volume.spacing_mm[axis] for axis in order)
    return AxialView(np.ascontiguousarray(array), (first, second, third), to_source)


def axial_axes(affine: Matrix) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Which voxel axis runs foot to head, anterior to posterior, right to left; and the flips.

    Returns the order in which to take the axes of an array indexed by `affine`, and those of
    the reordered array that run the other way.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    upright = directions[::-1]  # rows now: z, y, x; in LPS all three increase the wanted way
    order = max(permutations(range(3)), key=lambda p: sum(abs(upright[i, p[i]]) for i in range(3)))
    flips = tuple(i for i in range(3) if upright[i, order[i]] < 0)
    return (order[0], order[1], order[2]), flips


def _check_identity(datasets: Sequence[Dataset]) -> None:
    if not datasets:
        raise NotApplicableError("the series has no images")
    for keyword in (*IDENTITY_KEYWORDS, "SeriesInstanceUID"):
        if len({str(dataset.get(keyword, "")) for dataset in datasets}) > 1:
            raise ResultError(
                f"the images of one series do not agree on {keyword}",
                remedy="Correct the study at its source and send it again.",
            )


def _check_images(datasets: Sequence[Dataset]) -> None:
    for dataset in datasets:
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            raise NotApplicableError("multi-frame series are not supported by this version")
        if not any(keyword in dataset for keyword in _PIXEL_KEYWORDS):
            raise NotApplicableError("the series holds objects without pixel data")
        if dataset.get("SamplesPerPixel", 1) != 1 or not str(
            dataset.get("PhotometricInterpretation", "")
        ).startswith("MONOCHROME"):
            raise NotApplicableError("the series has colour images; the model needs grey ones")


def _check_geometry(datasets: Sequence[Dataset]) -> tuple[Matrix, tuple[float, float], str]:
    """Direction cosines (row, then column direction), pixel spacing (rows, columns), frame."""
    for keyword, count in (
        ("ImageOrientationPatient", 6),
        ("ImagePositionPatient", 3),
        ("PixelSpacing", 2),
    ):
        if any(len(dataset.get(keyword) or ()) != count for dataset in datasets):
            raise NotApplicableError(f"images without {keyword} have no place in the patient")
    frames = {str(dataset.get("FrameOfReferenceUID") or "") for dataset in datasets}
    if "" in frames:
        raise NotApplicableError("images without a Frame of Reference UID cannot be segmented")
    if len(frames) > 1:
        raise NotApplicableError("the images lie in different frames of reference")
    sizes = {(dataset.get("Rows"), dataset.get("Columns")) for dataset in datasets}
    if any(None in size for size in sizes):
        raise NotApplicableError("images without Rows and Columns have no pixels")
    if len(sizes) > 1:
        raise NotApplicableError("the images have different sizes")
    spacings = np.array([dataset.PixelSpacing for dataset in datasets], dtype=np.float64)
    if not np.allclose(spacings, spacings[0], rtol=1e-3) or spacings.min() <= 0:
        raise NotApplicableError("the images have different pixel spacings, or one that is zero")
    cosines = np.array([ds.ImageOrientationPatient for ds in datasets], dtype=np.float64)
    if np.abs(cosines - cosines[0]).max() > ORIENTATION_TOLERANCE:
        raise NotApplicableError("the images have several orientations, as a localizer has")
    row, column = cosines[0, :3], cosines[0, 3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if np.abs(np.array([*lengths, 1 + row @ column]) - 1).max() > ORIENTATION_TOLERANCE:
        raise NotApplicableError("Image Orientation (Patient) is not a pair of directions")
    unit = np.concatenate([row / lengths[0], column / lengths[1]])
    return unit, (float(spacings[0, 0]), float(spacings[0, 1])), frames.pop()


def _even_step(ordered: Sequence[Dataset], positions: Matrix, normal: Matrix) -> float:
    """Distance between neighbouring slices in mm, the same for all."""
    if len(ordered) == 1:
        only = ordered[0]
        step = float(only.get("SpacingBetweenSlices") or only.get("SliceThickness") or 0)
        if step <= 0:
            raise NotApplicableError("a single image without a slice thickness is no volume")
        return step
    along = positions @ normal
    gaps = np.diff(along)
    # A multi-echo or dynamic series has every position several times; two volumes in one series.
    if gaps.min() < SAME_PLACE_MM:
        twice = int((gaps < SAME_PLACE_MM).sum())
        raise NotApplicableError(
            f"{twice} image(s) lie where another one lies: several echoes or time points, "
            "or a slice sent twice"
        )
    usual = float(np.median(gaps))
    widest = int(np.argmax(gaps))
    if gaps[widest] > 1.5 * usual and np.allclose(
        gaps / usual, np.rint(gaps / usual), atol=2 * SPACING_TOLERANCE
    ):
        raise NotApplicableError(
            f"slices are missing: {gaps[widest]:.2f} mm between slices {widest + 1} and "
            f"{widest + 2} of {len(ordered)}, where {usual:.2f} mm is usual"
        )
    step = float((along[-1] - along[0]) / (len(along) - 1))
    even = along[0] + step * np.arange(len(along))
    if np.abs(along - even).max() > SPACING_TOLERANCE * step:
        raise NotApplicableError(
            f"the slices are not evenly spaced: {gaps.min():.2f} to {gaps.max():.2f} mm apart"
        )
    direction = positions[-1] - positions[0]
    if direction @ normal < SHEAR_TOLERANCE * np.linalg.norm(direction):
        raise NotApplicableError(
            "the stack of slices is sheared, as with a tilted gantry; it is not a box in space"
        )
    return step


def _pixels(dataset: Dataset, index: int) -> Floats:
    """Pixels of one slice in its declared units, and out of the data set."""
    try:
        pixels = np.asarray(apply_modality_lut(pixel_array(dataset), dataset), dtype=np.float32)
    except Exception as error:  # every decoder has its own exceptions
        raise DecodeError(f"slice {index + 1} cannot be decoded: {error}") from error
    if pixels.shape != (dataset.Rows, dataset.Columns):
        raise DecodeError(f"slice {index + 1} has {pixels.shape} pixels, not what it declares")
    for keyword in _PIXEL_KEYWORDS:
        if keyword in dataset:
            delattr(dataset, keyword)
    return pixels
