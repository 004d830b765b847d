"""A brain MR study made by code: input for demos and tests that belongs to no patient.

The head is drawn in millimetres (scalp, skull, grey and white matter, ventricles, lesions) and
sampled onto the slices of one to four series with the contrast of each sequence. Everything
follows from the seed: the same call writes the same files, UIDs included.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from scipy import ndimage

from core.identifiers import derived_uid

Floats = npt.NDArray[np.float32]
SeriesName = Literal["FLAIR", "T1", "T2", "T1 post"]
Flaw = Literal[
    "missing slice",
    "uneven spacing",
    "mixed orientation",
    "duplicate positions",
    "no frame of reference",
]

FIELD_OF_VIEW_MM = 230.4  # 0.9 mm pixels at 256 columns
STORED_PER_UNIT = 8.0  # tissue values below are 0 to 255; 12 bits are stored
_BEGAN = datetime(2024, 1, 15, 9, 30)
_TISSUES = ("air", "scalp", "skull", "csf", "white", "grey", "lesion", "rim")
# Signal of each tissue in the order above.
_CONTRAST: dict[SeriesName, tuple[float, ...]] = {
    "FLAIR": (1, 185, 14, 18, 74, 92, 148, 148),
    "T1": (1, 205, 14, 30, 118, 88, 74, 74),
    "T2": (1, 120, 12, 215, 70, 92, 165, 165),
    "T1 post": (1, 205, 14, 30, 118, 90, 78, 200),
}
# Description, TR, TE, TI (ms), echo train, scanning sequence, sequence variant.
_PROTOCOL: dict[SeriesName, tuple[str, float, float, float | None, int, list[str]]] = {
    "FLAIR": ("AX FLAIR", 9000, 125, 2500, 16, ["SE", "IR"]),
    "T1": ("AX T1", 520, 12, None, 1, ["SE"]),
    "T2": ("AX T2", 4200, 98, None, 12, ["SE"]),
    "T1 post": ("AX T1 POST", 520, 12, None, 1, ["SE"]),
}


@dataclass(frozen=True, slots=True)
class PhantomSeries:
    """One series as written: its name here, Series Description, UID and files foot to head."""

    name: SeriesName
    description: str
    uid: str
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class PhantomStudy:
    """A study as written.

    Attributes:
        truth: lesion mask, bool (slices, rows, columns), slices foot to head.
        affine: 4×4, voxel index (slice, row, column) to patient coordinates, LPS, mm.
    """

    folder: Path
    patient_id: str
    uid: str
    series: tuple[PhantomSeries, ...]
    truth: npt.NDArray[np.bool_]
    affine: npt.NDArray[np.float64]

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file of the study."""
        return tuple(path for series in self.series for path in series.paths)

    def files(self, name: SeriesName) -> tuple[Path, ...]:
        """The files of the series called `name`, foot to head."""
        return next(series.paths for series in self.series if series.name == name)


def write_phantom_study(
    folder: Path,
    *,
    seed: int = 7,
    lesions: int = 1,
    slices: int = 24,
    shape: tuple[int, int] = (256, 256),
    spacing_mm: float = 5.0,
    series: Sequence[SeriesName] = ("FLAIR", "T1", "T2", "T1 post"),
    patient_id: str = "PHANTOM-1",
    patient_name: str = "Phantom^Brain",
    accession_number: str = "A0001",
    oblique: bool = False,
    flaw: Flaw | None = None,
    random_uids: bool = False,
) -> PhantomStudy:
    """Write MR Image Storage instances (PS3.3 A.4) to `folder`, one subfolder per series.

    Takes the number of `lesions` (0 to 4), of `slices`, the `shape` (rows, columns) and the
    distance between slices in mm. `oblique` tilts the slices. `flaw` breaks every series in the
    way it names. `random_uids` gives new UIDs on each call, for sending a study twice.
    """
    key = (seed, lesions, slices, shape, spacing_mm, patient_id, accession_number, oblique, flaw)
    uid_key = uuid.uuid4().hex if random_uids else repr((*key, patient_name))
    affine = _affine(slices, shape, spacing_mm, oblique)
    pixel = FIELD_OF_VIEW_MM / max(shape)
    spacing = (spacing_mm, pixel, pixel)
    fractions = _head(seed, lesions, (slices, *shape), spacing)
    study_uid = derived_uid("phantom", uid_key)
    written = []
    for number, name in enumerate(series, start=1):
        rng = np.random.default_rng((seed, 100, list(_PROTOCOL).index(name)))
        pixels = _scan(fractions, _CONTRAST[name], spacing, rng)
        series_uid = derived_uid("phantom", uid_key, name)
        subfolder = folder / name.lower().replace(" ", "_")
        subfolder.mkdir(parents=True, exist_ok=True)
        paths: list[Path] = []
        for index in _written_slices(slices, flaw):
            dataset = _instance(name, pixels, index, affine, spacing_mm)
            dataset.PatientName, dataset.PatientID = patient_name, patient_id
            dataset.SpecificCharacterSet = "ISO_IR 100" if patient_name.isascii() else "ISO_IR 192"
            dataset.AccessionNumber = accession_number
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
            dataset.FrameOfReferenceUID = derived_uid("phantom", uid_key, "frame")
            dataset.SeriesNumber = number
            begun = _BEGAN + timedelta(minutes=5 * number)
            dataset.SeriesTime = dataset.AcquisitionTime = f"{begun:%H%M%S}"
            dataset.ContentTime = f"{begun:%H%M%S}"
            _break(dataset, index, len(paths), slices, flaw)
            dataset.SOPInstanceUID = derived_uid("phantom", uid_key, name, str(len(paths)))
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            path = subfolder / f"{len(paths):04d}.dcm"
            dataset.save_as(path, enforce_file_format=True)
            paths.append(path)
        description = _PROTOCOL[name][0]
        written.append(PhantomSeries(name, description, series_uid, tuple(paths)))
    truth = fractions["lesion"] + fractions["rim"] > 0.5
    return PhantomStudy(folder, patient_id, study_uid, tuple(written), truth, affine)


def _affine(
    slices: int, shape: tuple[int, int], spacing_mm: float, oblique: bool
) -> npt.NDArray[np.float64]:
    """Voxel index (slice, row, column) to LPS mm; the grid's centre lies near the origin."""
    tilt, turn = (np.radians((18.0, 7.0))) if oblique else (0.0, 0.0)
    about_x = np.array(
        [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    )
    about_z = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    x, y, z = (about_z @ about_x).T
    pixel = FIELD_OF_VIEW_MM / max(shape)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([z * spacing_mm, y * pixel, x * pixel], axis=1)
    centre = (np.array([slices, *shape]) - 1) / 2
    affine[:3, 3] = np.array([3.0, -12.0, 21.0]) - affine[:3, :3] @ centre
    return affine


def _head(
    seed: int, lesions: int, full: tuple[int, int, int], spacing: tuple[float, float, float]
) -> dict[str, Floats]:
    """Fraction of each tissue, 0 to 1, per voxel; float32 (slices, rows, columns) each."""
    rng = np.random.default_rng(seed)
    # Millimetres in the head's own frame: x to its left, y backwards, z upwards.
    z, y, x = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * step for n, step in zip(full, spacing, strict=True)),
        indexing="ij",
        sparse=True,
    )
    z = z + 18

    bumps = _texture(rng, full, spacing, 40.0) * 1.1
    shell = _ellipsoid(x, y, z, (72, 92, 92)) + bumps  # mm outside of the head's surface
    inner = _ellipsoid(x, y - 1, z, (61, 81, 81)) + bumps
    head = _soft(-shell, 0.6)
    skull_inside = _soft(-shell - 5.5 - 0.7 * _texture(rng, full, spacing, 14.0), 0.7)
    cavity = _soft(-inner - 1.5, 0.7)
    brain = _soft(-inner - 3.0 - 1.2 * _texture(rng, full, spacing, 5.0), 0.8)

    # Folds: the cortex winds where a smooth random field crosses zero.
    folds = _texture(rng, full, spacing, 9.0)
    near_surface = np.exp(-np.clip(-inner - 3, 0, None) / 13)
    sulci = np.exp(-((folds / 0.13) ** 2)) * near_surface
    fissure = np.exp(-(((x + 2 * np.sin(y / 30)) / 1.3) ** 2)) * _soft(np.abs(y + 5) - 38, 4)
    fluid = np.clip(0.8 * sulci + 0.75 * fissure, 0, 0.9)
    cortex = np.clip(np.exp(-((folds / 0.55) ** 2)) * near_surface * 1.3, 0, 1)
    nuclei = _soft(-_ellipsoid(np.abs(x) - 19, y - 2, z - 4, (9, 17, 13)), 1.5)

    horns = np.full(full, np.inf)
    for side in (-1, 1):
        bend = side * (7 + 0.0055 * (y + 4) ** 2 + 0.1 * np.clip(y, 0, None))
        horns = np.minimum(horns, _ellipsoid(x - bend, y - 2, z - 14 + 0.1 * y, (5.5, 36, 12)))
    ventricles = _soft(-horns + 0.6 * bumps, 0.8)
    fluid = np.maximum(fluid, ventricles)

    lesion, rim = np.zeros(full), np.zeros(full)
    for centre, radii in _lesion_places(rng, lesions):
        depth = -_ellipsoid(x - centre[0], y - centre[1], z - centre[2], radii)
        depth = depth + 2.6 * _texture(rng, full, spacing, 11.0)
        lesion = np.maximum(lesion, _soft(depth, 2.0))
        rim = np.maximum(rim, np.exp(-(((depth - 4) / 1.6) ** 2)) * _soft(depth, 1.3))
    lesion = lesion * (1 - ventricles) * cavity

    parts = {"air": 1 - head, "scalp": head * (1 - skull_inside)}
    parts["skull"] = head * skull_inside * (1 - cavity)
    inside = head * skull_inside * cavity
    tissue = inside * brain * (1 - fluid)
    parts["csf"] = inside - tissue
    grey = np.clip(cortex + nuclei, 0, 1)
    parts["rim"] = inside * lesion * rim * 0.8
    parts["lesion"] = inside * lesion - parts["rim"]
    for name, share in (("grey", tissue * grey), ("white", tissue * (1 - grey)), ("csf", None)):
        parts[name] = (parts[name] if share is None else share) * (1 - lesion)
    return {name: parts[name].astype(np.float32) for name in _TISSUES}


def _lesion_places(
    rng: np.random.Generator, lesions: int
) -> list[tuple[tuple[float, float, float], tuple[float, float, float]]]:
    """Centre and half axes in mm of each lesion, well apart, in the white matter."""
    spots = [(-34.0, -24.0, 26.0), (33.0, 34.0, 18.0), (30.0, -34.0, 34.0), (-33.0, 40.0, 12.0)]
    places = []
    for number, (x, y, z) in enumerate(spots[:lesions]):
        dx, dy, dz = rng.uniform(-3, 3, 3)
        size = (17.0, 12.0, 9.0, 8.0)[number]
        a, b, c = size * rng.uniform(0.9, 1.15, 3)
        places.append(((x + dx, y + dy, z + dz), (a, b * 1.15, c)))
    return places


def _ellipsoid(x: Any, y: Any, z: Any, radii: tuple[float, float, float]) -> Any:
    """Approximate signed distance in mm to an ellipsoid's surface, negative inside."""
    r = np.sqrt((x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2)
    return (r - 1) * min(radii)


def _soft(depth: Any, width_mm: float) -> Any:
    """1 where `depth` is well above zero, 0 well below, with an edge `width_mm` wide."""
    return 1 / (1 + np.exp(-np.clip(depth / width_mm, -30, 30)))


def _texture(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    size_mm: float,
) -> Any:
    """A smooth random field of unit variance with features of about `size_mm`."""
    white = rng.standard_normal(shape).astype(np.float32)
    sigma = [size_mm / 2 / step for step in spacing]
    spectrum = ndimage.fourier_gaussian(np.fft.rfftn(white), sigma, n=shape[-1])
    smooth = np.fft.irfftn(spectrum, s=shape, axes=(0, 1, 2)).astype(np.float32)
    return smooth / smooth.std()


def _scan(
    fractions: dict[str, Floats],
    contrast: tuple[float, ...],
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
) -> npt.NDArray[np.uint16]:
    """Stored values, 12 bits: tissue signal, texture, coil shading, blur, Rician noise."""
    signal = sum(
        fractions[name] * np.float32(level) for name, level in zip(_TISSUES, contrast, strict=True)
    )
    assert not isinstance(signal, int)
    shape = signal.shape
    fine = _texture(rng, shape, spacing, 3.0)
    shading = np.clip(_texture(rng, shape, spacing, 110.0), -2, 2)
    signal = signal * (1 + 0.035 * fine) * (1 + 0.06 * shading)
    signal = ndimage.gaussian_filter(signal, (0, 0.5 / spacing[1], 0.5 / spacing[2]))
    noise = rng.standard_normal((2, *shape)).astype(np.float32) * 2.0
    magnitude = np.hypot(signal + noise[0], noise[1])
    stored: Floats = np.clip(np.rint(magnitude * STORED_PER_UNIT), 0, 4095)
    return stored.astype(np.uint16)


def _written_slices(slices: int, flaw: Flaw | None) -> list[int]:
    """The slice numbers to write, foot to head."""
    if flaw == "missing slice":
        return [index for index in range(slices) if index != slices // 2]
    if flaw == "duplicate positions":
        return sorted([*range(slices), slices // 2])
    return list(range(slices))


def _break(dataset: Dataset, index: int, written: int, slices: int, flaw: Flaw | None) -> None:
    """Spoil one instance in the way that `flaw` names."""
    middle = index == slices // 2
    if flaw == "no frame of reference":
        del dataset.FrameOfReferenceUID
    elif flaw == "mixed orientation" and middle:
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    elif flaw == "uneven spacing" and middle:
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, f"{float(z) + 1.7:.6f}"]
    elif flaw == "duplicate positions" and written > index:
        dataset.InstanceNumber = int(dataset.InstanceNumber) + slices


def _instance(
    name: SeriesName,
    pixels: npt.NDArray[np.uint16],
    index: int,
    affine: npt.NDArray[np.float64],
    spacing_mm: float,
) -> Dataset:
    """Slice `index` without its identity: acquisition, geometry and pixels."""
    description, repetition, echo, inversion, train, sequence = _PROTOCOL[name]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MRImageStorage
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M_IR" if name == "FLAIR" else "M_SE"]
    dataset.StudyDate = dataset.SeriesDate = f"{_BEGAN:%Y%m%d}"
    dataset.AcquisitionDate = dataset.ContentDate = f"{_BEGAN:%Y%m%d}"
    dataset.StudyTime = f"{_BEGAN:%H%M%S}"
    dataset.Modality, dataset.Manufacturer = "MR", "Sentinode phantom"
    dataset.ManufacturerModelName = "Phantom"
    dataset.ReferringPhysicianName = "Referrer^Example"
    dataset.StudyDescription, dataset.SeriesDescription = "MR BRAIN", description
    dataset.ProtocolName = description
    dataset.PatientBirthDate, dataset.PatientSex = "19700101", "O"
    dataset.BodyPartExamined = "BRAIN"
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = sequence, "SK", ""
    dataset.MRAcquisitionType = "2D"
    dataset.SliceThickness = dataset.SpacingBetweenSlices = spacing_mm
    dataset.RepetitionTime, dataset.EchoTime, dataset.EchoTrainLength = repetition, echo, train
    if inversion is not None:
        dataset.InversionTime = inversion
    dataset.MagneticFieldStrength = 1.5
    dataset.PatientPosition = "HFS"
    dataset.StudyID, dataset.PositionReferenceIndicator = "1", ""
    dataset.InstanceNumber = len(pixels) - index  # head to foot, against the order of geometry
    pixel = np.linalg.norm(affine[:3, 1:3], axis=0)
    cosines = (*affine[:3, 2] / pixel[1], *affine[:3, 1] / pixel[0])
    dataset.ImageOrientationPatient = [f"{value:.10f}" for value in cosines]
    position = (affine @ [index, 0, 0, 1])[:3]
    dataset.ImagePositionPatient = [f"{value:.6f}" for value in position]
    dataset.PixelSpacing = [f"{value:.6g}" for value in pixel]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[1:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = 750, 1500
    dataset.PixelData = pixels[index].tobytes()
    return dataset
