"""Volumes as one instance a slice: CT, MR, PET."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage

from support.phantoms_base import (
    DATE,
    LESION,
    STUDY,
    Grid,
    Lesion,
    Phantom,
    Study,
    code,
    grid,
    instance,
    item,
)
from support.phantoms_pixels import put_grey

CtVariant = Literal[
    "plain",
    "signed",
    "oblique",
    "gantry tilt",
    "missing slice",
    "duplicates",
    "two time points",
    "reversed",
    "mirrored",
]
DOSE_BQ = 350e6
HALF_LIFE_S = 6586.2  # fluorine-18
_INJECTED, _SCANNED, _WAITED_S = "083000.00", "093000.00", 3600.0
_TILT = {"oblique": 20.0, "gantry tilt": 15.0}


def drawn(where: Grid, lesion: Lesion, inside: float, outside: float) -> np.ndarray:
    """A body of `outside` with a lesion of `inside`, float64 of the grid's shape."""
    return np.where(where.inside(lesion), inside, outside)


def ct(
    variant: CtVariant = "plain",
    study: Study = STUDY,
    *,
    where: Grid | None = None,
    lesion: Lesion = LESION,
    noise: float = 2.0,
) -> Phantom:
    """Axial CT (PS3.3 A.3) in HU: a lesion of 90 in a body of 30.

    "missing slice" leaves out the one before the middle, "duplicates" sends one twice under
    another UID, "two time points" sends all twice, at another time and a lesion of 140;
    "reversed" numbers the slices from head to foot, "mirrored" stores each from left to right.
    """
    where = where or grid(tilt_degrees=_TILT.get(variant, 0.0), shear=variant == "gantry tilt")
    if variant == "mirrored":
        where = where.mirrored()
    series = f"CT {variant}"
    signed = variant == "signed"
    offset = 0 if signed else -1024

    def one(index: int, number: int, value: float = 90.0, **changes: Any) -> Dataset:
        values = drawn(where, lesion, value, 30.0)[index]
        values = values + study.noise(where.shape, noise)[index]
        made = _slice(study, CTImageStorage, "CT", series, number, where, index)
        made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        made.KVP, made.AcquisitionNumber, made.GantryDetectorTilt = 120, 1, 0
        made.RescaleIntercept, made.RescaleSlope, made.RescaleType = offset, 1, "HU"
        made.WindowCenter, made.WindowWidth = 40, 400
        if variant == "gantry tilt":
            made.GantryDetectorTilt = _TILT[variant]
        for keyword, changed in changes.items():
            setattr(made, keyword, changed)
        put_grey(made, values - offset, bits=16 if signed else 12, signed=signed)
        return made

    count = where.shape[0]
    numbers = range(count, 0, -1) if variant == "reversed" else range(1, count + 1)
    left_out = {count // 2 - 1} if variant == "missing slice" else set()
    made = [one(i, n) for i, n in enumerate(numbers) if i not in left_out]
    if variant == "duplicates":
        made.append(one(count // 2, count + 1))
    if variant == "two time points":
        later = {"AcquisitionNumber": 2, "AcquisitionTime": "093500", "ContentTime": "093500"}
        made += [one(i, count + n, 140.0, **later) for i, n in enumerate(numbers)]
    made.sort(key=lambda dataset: int(dataset.InstanceNumber))
    return Phantom(series, made, 90.0, 30.0, where.inside(lesion), "[hnsf'U]", lesion, where)


def mr(
    several: Literal["", "echoes", "b-values"] = "",
    study: Study = STUDY,
    *,
    where: Grid | None = None,
    lesion: Lesion = LESION,
    noise: float = 3.0,
) -> Phantom:
    """MR (PS3.3 A.4): a lesion of 900 in a body of 300, arbitrary units.

    With two echoes or two b-values in one series the second has half the signal; the values
    above are those of the first.
    """
    where = where or grid()
    series = f"MR {several or 'plain'}"
    values = drawn(where, lesion, 900.0, 300.0) + study.noise(where.shape, noise)
    made = []
    for part in range(2 if several else 1):
        for index in range(where.shape[0]):
            number = part * where.shape[0] + index + 1
            one = _slice(study, MRImageStorage, "MR", series, number, where, index)
            one.ImageType = ["ORIGINAL", "PRIMARY", "M_SE"]
            one.ScanningSequence, one.SequenceVariant, one.ScanOptions = "SE", "NONE", ""
            one.MRAcquisitionType, one.EchoTrainLength = "2D", 1
            one.RepetitionTime, one.EchoTime, one.EchoNumbers = 3000, 20 + 60 * part, part + 1
            one.MagneticFieldStrength = 1.5
            if several == "b-values":
                one.EchoTime, one.EchoNumbers = 80, 1
                one.DiffusionBValue = 1000.0 * part
            put_grey(one, values[index] / (part + 1))
            made.append(one)
    return Phantom(series, made, 900.0, 300.0, where.inside(lesion), "1", lesion, where)


def pet(
    study: Study = STUDY,
    *,
    where: Grid | None = None,
    lesion: Lesion = LESION,
    noise: float = 20.0,
    weight_known: bool = True,
) -> Phantom:
    """FDG PET (PS3.3 A.21) in Bq/mL: a lesion of 20,000 in a body of 4,000.

    Injected an hour before; each slice has a rescale slope of its own, as scanners write it.
    """
    where = where or grid()
    values = drawn(where, lesion, 20_000.0, 4_000.0) + study.noise(where.shape, noise)
    made = []
    for index, slice_ in enumerate(values):
        one = _slice(
            study, PositronEmissionTomographyImageStorage, "PT", "PET", index + 1, where, index
        )
        one.ImageType = ["ORIGINAL", "PRIMARY"]
        one.SeriesTime = one.AcquisitionTime = one.ContentTime = _SCANNED
        del one.PatientPosition  # coded below
        _tracer(one, where.shape[0], index)
        if not weight_known:
            del one.PatientWeight
        slope = f"{slice_.max() / 30_000:.8g}"
        one.RescaleIntercept, one.RescaleSlope = 0, slope
        put_grey(one, slice_ / float(slope), bits=16)
        made.append(one)
    left = DOSE_BQ * 2 ** (-_WAITED_S / HALF_LIFE_S)
    return Phantom(
        "PET",
        made,
        20_000.0,
        4_000.0,
        where.inside(lesion),
        "Bq/ml",
        lesion,
        where,
        suv_per_value=study.patient.weight_kg * 1000 / left,
    )


def _tracer(dataset: Dataset, slices: int, index: int) -> None:
    """PET Series, Isotope and Image modules (PS3.3 C.8.9)."""
    dataset.Units, dataset.CountsSource = "BQML", "EMISSION"
    dataset.SeriesType = ["STATIC", "IMAGE"]
    dataset.NumberOfSlices, dataset.ImageIndex = slices, index + 1
    dataset.CorrectedImage = ["NORM", "DTIM", "ATTN", "SCAT", "DECY", "RAN"]
    dataset.DecayCorrection, dataset.DecayFactor = "START", 1.0
    dataset.CollimatorType = "NONE"
    dataset.FrameReferenceTime, dataset.ActualFrameDuration = 60_000, 120_000
    dataset.AttenuationCorrectionMethod = dataset.ReconstructionMethod = "phantom"
    dataset.RadiopharmaceuticalInformationSequence = [
        item(
            Radiopharmaceutical="Fluorodeoxyglucose",
            RadiopharmaceuticalStartTime=_INJECTED,
            RadiopharmaceuticalStartDateTime=f"{DATE}{_INJECTED}",
            RadionuclideTotalDose=DOSE_BQ,
            RadionuclideHalfLife=HALF_LIFE_S,
            RadionuclidePositronFraction=0.967,
            RadionuclideCodeSequence=[code("77004003", "SCT", "^18^Fluorine")],
        )
    ]
    dataset.PatientOrientationCodeSequence = [code("102538003", "SCT", "recumbent")]
    dataset.PatientOrientationCodeSequence[0].PatientOrientationModifierCodeSequence = [
        code("40199007", "SCT", "supine")
    ]
    dataset.PatientGantryRelationshipCodeSequence = [code("102540008", "SCT", "headfirst")]


def _slice(
    study: Study, sop_class: str, modality: str, series: str, number: int, where: Grid, index: int
) -> Dataset:
    """Slice `index` of the grid, without pixels."""
    across, down, along = where.spacing_mm
    return instance(
        study,
        sop_class,
        modality,
        series,
        number,
        FrameOfReferenceUID=study.uid("frame of reference"),
        PositionReferenceIndicator="",
        PatientPosition="HFS",
        ImageOrientationPatient=where.orientation,
        ImagePositionPatient=where.position(index),
        PixelSpacing=[f"{down:.6g}", f"{along:.6g}"],
        SliceThickness=f"{across:.6g}",
        BodyPartExamined="ABDOMEN",
        PatientOrientation=_letters(where),
    )


def _letters(where: Grid) -> Sequence[str]:
    """Patient Orientation (0020,0020): where a row and a column lead to, by its main axis."""
    found = []
    for axis in (2, 1):
        main = int(np.abs(where.affine[:3, axis]).argmax())
        found.append(("LR", "PA", "HF")[main][int(where.affine[main, axis] < 0)])
    return found
