"""What all phantoms share: whose they are, and a bright lesion drawn at a known place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from core.identifiers import derived_uid

Point = tuple[float, float, float]
DATE, TIME = "20240115", "093000"


@dataclass(frozen=True)
class Patient:
    """Nobody.

    Attributes:
        character_set: Specific Character Set (0008,0005) that the name is written in.
    """

    name: str = "Phantom^Test"
    id: str = "PHANTOM-1"
    character_set: str | tuple[str, ...] = "ISO_IR 100"
    sex: str = "O"
    birth_date: str = "19700101"
    weight_kg: float = 70.0


# Names as PS3.5 Annexes H to K have them, in the character sets of those countries.
PATIENTS = {
    "chinese": Patient("Wang^XiaoDong=王^小东", "PHANTOM-ZH", "GB18030"),
    "chinese utf-8": Patient("Wang^XiaoDong=王^小東", "PHANTOM-TW", "ISO_IR 192"),
    "japanese": Patient(
        "Yamada^Tarou=山田^太郎=やまだ^たろう", "PHANTOM-JA", ("", "ISO 2022 IR 87")
    ),
    "korean": Patient("Hong^Gildong=洪^吉洞=홍^길동", "PHANTOM-KO", ("", "ISO 2022 IR 149")),
    "arabic": Patient("قباني^لنزار", "PHANTOM-AR", "ISO_IR 127"),
    "german": Patient("Äneas^Rüdiger", "PHANTOM-DE", "ISO_IR 100"),
}


@dataclass(frozen=True)
class Study:
    """What a phantom belongs to; phantoms of one study may be of many kinds."""

    seed: int = 1
    patient: Patient = Patient()
    accession_number: str = "A0001"

    def uid(self, *parts: object) -> str:
        """A UID that follows from the study and `parts`."""
        own = (str(self.seed), self.patient.id, self.accession_number)
        return str(derived_uid("phantoms", *own, *map(str, parts)))

    def noise(self, shape: tuple[int, ...], deviation: float) -> np.ndarray:
        """Normal noise that follows from the seed, float64."""
        return np.random.default_rng(self.seed).normal(0, deviation, shape)


@dataclass(frozen=True)
class Lesion:
    """A bright ellipsoid.

    Attributes:
        centre: LPS, mm.
        radii_mm: half axes along the patient's left-right, front-back, foot-head.
    """

    centre: Point = (12.0, -6.0, 3.0)
    radii_mm: Point = (9.0, 7.0, 6.0)

    def holds(self, places: np.ndarray) -> np.ndarray:
        """Which places, (…, 3) LPS mm, lie in it: bool (…)."""
        away = (places - np.array(self.centre)) / np.array(self.radii_mm)
        return np.asarray((away**2).sum(axis=-1) <= 1)


STUDY = Study()
LESION = Lesion()


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume are.

    Attributes:
        shape: slices, rows, columns.
        affine: 4×4, voxel index (slice, row, column) to LPS, mm.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbours along a slice's normal, along a column, along a row."""
        down, along = self.affine[:3, 1], self.affine[:3, 2]
        lengths = np.linalg.norm(down), np.linalg.norm(along)
        normal = np.cross(along / lengths[1], down / lengths[0])
        return float(abs(normal @ self.affine[:3, 0])), float(lengths[0]), float(lengths[1])

    @property
    def orientation(self) -> list[str]:
        """Image Orientation (Patient)."""
        _, down, along = self.spacing_mm
        cosines = (*self.affine[:3, 2] / along, *self.affine[:3, 1] / down)
        return [f"{value + 0.0:.10f}" for value in cosines]

    def position(self, index: int) -> list[str]:
        """Image Position (Patient) of a slice."""
        return [f"{value + 0.0:.6f}" for value in (self.affine @ (index, 0, 0, 1))[:3]]

    def inside(self, lesion: Lesion) -> np.ndarray:
        """Voxels whose centre lies in the lesion: bool, of this shape."""
        index = np.moveaxis(np.indices(self.shape, dtype=np.float64), 0, -1)
        return lesion.holds(index @ self.affine[:3, :3].T + self.affine[:3, 3])

    def mirrored(self) -> Grid:
        """The same voxels, with the columns stored the other way round."""
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, 2] * (self.shape[2] - 1)
        affine[:3, 2] *= -1
        return replace(self, affine=affine)


def grid(
    shape: tuple[int, int, int] = (12, 40, 48),
    spacing_mm: tuple[float, float, float] = (3.0, 1.5, 1.5),
    *,
    tilt_degrees: float = 0.0,
    shear: bool = False,
    centre: Point = (2.0, -3.0, 1.0),
) -> Grid:
    """Axial slices, foot to head, rows from right to left, columns from front to back.

    `tilt_degrees` turns them about the left-right axis. With `shear` only the slices turn, and
    they still follow each other along the table: a tilted gantry.
    """
    angle = np.radians(tilt_degrees)
    down = np.array([0.0, np.cos(angle), np.sin(angle)])
    across = np.array([0.0, 0.0, 1.0]) if shear else np.cross([1.0, 0.0, 0.0], down)
    affine = np.eye(4)
    affine[:3, 0] = across * spacing_mm[0]
    affine[:3, 1] = down * spacing_mm[1]
    affine[:3, 2] = np.array([1.0, 0.0, 0.0]) * spacing_mm[2]
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


@dataclass(frozen=True)
class Phantom:
    """Instances made by code, and what is known of them.

    Attributes:
        kind: for people and test ids.
        datasets: with File Meta Information, in the order of their instance numbers.
        lesion_value, background_value: in `unit`, without noise: of colour the luminance, of
            MONOCHROME1 as it is shown (the largest value less the stored one).
        unit: UCUM; "1" where the values are arbitrary.
        mask: bool (frames, rows, columns): where the lesion was drawn. A volume's slices lie as
            in `grid`; images are in the order of the datasets and frames.
        lesion: its place in the patient; None for images without one.
        grid: of a volume.
        disc: row, column (from 0, centre of the first pixel) and radius in pixels of the lesion
            in images that are no volume.
        pixel_mm: true size of a pixel (row, column) where there is no grid; None if unknown.
        suv_per_value: what one unit is in g/mL by body weight, of PET.
    """

    kind: str
    datasets: list[Dataset]
    lesion_value: float
    background_value: float
    mask: np.ndarray
    unit: str = "1"
    lesion: Lesion | None = None
    grid: Grid | None = None
    disc: Point | None = None
    pixel_mm: tuple[float, float] | None = None
    suv_per_value: float | None = None

    def lesion_at(self, places: np.ndarray) -> np.ndarray:
        """Which places, (…, 3) LPS mm, lie in the lesion: bool (…)."""
        assert self.lesion is not None, f"{self.kind} has no place in the patient"
        return self.lesion.holds(places)

    def write(self, folder: Path) -> list[Path]:
        """Write the instances as Part 10 files, one a file, into `folder`."""
        return write(self.datasets, folder)


def write(datasets: Iterable[Dataset], folder: Path) -> list[Path]:
    """Write instances as Part 10 files, numbered in their order, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(datasets):
        path = folder / f"{number:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def instance(
    study: Study, sop_class: str, modality: str, series: str, number: int = 1, **attributes: Any
) -> Dataset:
    """One instance without pixels: Patient, General Study, Series, Equipment, SOP Common.

    `series` names the series within the study; `number` is the Instance Number.
    """
    patient = study.patient
    made = Dataset()
    several = isinstance(patient.character_set, tuple)
    made.SpecificCharacterSet = list(patient.character_set) if several else patient.character_set
    made.SOPClassUID = sop_class
    made.SOPInstanceUID = study.uid(series, number)
    made.StudyDate, made.StudyTime = DATE, TIME
    made.SeriesDate = made.AcquisitionDate = made.ContentDate = DATE
    made.SeriesTime = made.AcquisitionTime = made.ContentTime = TIME
    made.AccessionNumber = study.accession_number
    made.Modality = modality
    made.Manufacturer, made.ManufacturerModelName = "Sentinode phantom", "Phantom"
    made.DeviceSerialNumber, made.SoftwareVersions = "1", "1"
    made.ReferringPhysicianName = "Referrer^Example"
    made.StudyDescription, made.SeriesDescription = "PHANTOM", series
    made.PatientName, made.PatientID = patient.name, patient.id
    made.PatientBirthDate, made.PatientSex = patient.birth_date, patient.sex
    made.PatientWeight = patient.weight_kg
    made.StudyInstanceUID = study.uid()
    made.SeriesInstanceUID = study.uid(series)
    made.StudyID = "1"
    # five digits that follow from the name: series of one study differ
    made.SeriesNumber = int(study.uid(series)[-5:])
    made.InstanceNumber = number
    made.BurnedInAnnotation, made.LossyImageCompression = "NO", "00"
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3 Table 8.8-1)."""
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = value, scheme, meaning
    return made


def item(**attributes: Any) -> Dataset:
    """An item of a sequence."""
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made
