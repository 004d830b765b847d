"""Volumes as one multi-frame instance: Enhanced CT, MR and PET (PS3.3 A.36, A.38, A.56)."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, EnhancedPETImageStorage

from support.phantoms_base import (
    DATE,
    LESION,
    STUDY,
    TIME,
    Grid,
    Phantom,
    Study,
    code,
    grid,
    instance,
    item,
)
from support.phantoms_pixels import put_grey
from support.phantoms_volumes import DOSE_BQ, HALF_LIFE_S, drawn

_WHEN = f"{DATE}{TIME}"
_INJECTED = f"{DATE}083000"


def enhanced_ct(
    study: Study = STUDY, *, where: Grid | None = None, noise: float = 2.0
) -> Phantom:  # fmt: skip
    """Enhanced CT in HU: a lesion of 90 in a body of 30; frames from head to foot."""
    where = where or grid()
    made, values = _volume(study, EnhancedCTImageStorage, "CT", where, (90.0, 30.0), noise)
    shared = made.SharedFunctionalGroupsSequence[0]
    frame_type = item(FrameType=made.ImageType, **_DESCRIBED)
    shared.CTImageFrameTypeSequence = [frame_type]
    shared.PixelValueTransformationSequence = [_rescale(-1024, 1, "HU")]
    event = item(IrradiationEventUID=study.uid("Enhanced CT", "event"))
    shared.IrradiationEventIdentificationSequence = [event]
    _describe(made)
    made.ContentQualification = "RESEARCH"
    put_grey(made, values + 1024)
    return _phantom("Enhanced CT", made, 90.0, 30.0, "[hnsf'U]", where)


def enhanced_mr(
    study: Study = STUDY, *, where: Grid | None = None, noise: float = 3.0, echoes: int = 1,
) -> Phantom:  # fmt: skip
    """Enhanced MR, arbitrary units: a lesion of 900 in a body of 300; frames head to foot.

    With several `echoes` all frames are there once for each, the second with half the signal.
    """
    where = where or grid()
    made, values = _volume(
        study, EnhancedMRImageStorage, "MR", where, (900.0, 300.0), noise, echoes
    )
    shared = made.SharedFunctionalGroupsSequence[0]
    described = {**_DESCRIBED, "ComplexImageComponent": "MAGNITUDE", "AcquisitionContrast": "T2"}
    shared.MRImageFrameTypeSequence = [item(FrameType=made.ImageType, **described)]
    shared.PixelValueTransformationSequence = [_rescale(0, 1, "US")]
    for index, group in enumerate(made.PerFrameFunctionalGroupsSequence):
        echo = 20.0 + 60.0 * (index // where.shape[0])
        group.MREchoSequence = [item(EffectiveEchoTime=echo)]
    _describe(made)
    made.ComplexImageComponent, made.AcquisitionContrast = "MAGNITUDE", "T2"
    made.ContentQualification, made.ResonantNucleus = "RESEARCH", "1H"
    made.KSpaceFiltering, made.MagneticFieldStrength = "NONE", 1.5
    made.ApplicableSafetyStandardAgency = "IEC"
    put_grey(made, values)
    return _phantom(
        "Enhanced MR" + (" echoes" if echoes > 1 else ""), made, 900.0, 300.0, "1", where
    )


def enhanced_pet(
    study: Study = STUDY, *, where: Grid | None = None, noise: float = 20.0
) -> Phantom:  # fmt: skip
    """Enhanced PET in Bq/mL: a lesion of 20,000 in a body of 4,000; a slope for each frame."""
    where = where or grid()
    made, values = _volume(study, EnhancedPETImageStorage, "PT", where, (20_000.0, 4_000.0), noise)
    shared = made.SharedFunctionalGroupsSequence[0]
    shared.PETFrameTypeSequence = [item(FrameType=made.ImageType, **_DESCRIBED)]
    shared.RadiopharmaceuticalUsageSequence = [item(RadiopharmaceuticalAgentNumber=1)]
    stored = np.empty_like(values)
    for index, group in enumerate(made.PerFrameFunctionalGroupsSequence):
        slope = f"{values[index].max() / 30_000:.8g}"
        stored[index] = values[index] / float(slope)
        group.PixelValueTransformationSequence = [_rescale(0, slope, "US")]
        group.RealWorldValueMappingSequence = [_mapping(float(slope))]
    _describe(made)
    made.ContentQualification = "RESEARCH"
    _correct(made)
    made.RadiopharmaceuticalInformationSequence = [
        item(
            RadiopharmaceuticalAgentNumber=1,
            RadionuclideCodeSequence=[code("77004003", "SCT", "^18^Fluorine")],
            RadiopharmaceuticalCodeSequence=[code("35321007", "SCT", "Fluorodeoxyglucose F^18^")],
            RadiopharmaceuticalStartDateTime=_INJECTED,
            RadionuclideTotalDose=DOSE_BQ,
            RadionuclideHalfLife=HALF_LIFE_S,
            RadionuclidePositronFraction=0.967,
            AdministrationRouteCodeSequence=[code("47625008", "SCT", "Intravenous route")],
        )
    ]
    put_grey(made, stored, bits=16)
    left = DOSE_BQ * 2 ** (-3600 / HALF_LIFE_S)
    factor = study.patient.weight_kg * 1000 / left
    return _phantom("Enhanced PET", made, 20_000.0, 4_000.0, "Bq/ml", where, factor)


# DERIVED: an ORIGINAL one would have to describe its acquisition in all detail.
_IMAGE_TYPE = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
_DESCRIBED = {
    "PixelPresentation": "MONOCHROME",
    "VolumetricProperties": "VOLUME",
    "VolumeBasedCalculationTechnique": "NONE",
}


def _volume(
    study: Study,
    sop_class: str,
    modality: str,
    where: Grid,
    levels: tuple[float, float],
    noise: float,
    parts: int = 1,
) -> tuple[Dataset, np.ndarray]:
    """One instance with all that the kinds share, and its values in the order of the frames."""
    series = f"Enhanced {modality}{parts}"
    made = instance(
        study,
        sop_class,
        modality,
        series,
        FrameOfReferenceUID=study.uid("frame of reference"),
        PositionReferenceIndicator="",
        PatientPosition="HFS",
        ImageType=_IMAGE_TYPE,
        AcquisitionDateTime=_WHEN,
        AcquisitionNumber=1,
        PresentationLUTShape="IDENTITY",
        AcquisitionContextSequence=[],
    )
    # mirrors PS3.3 C.7.6.17: by place, or by echo and then place
    place = item(
        DimensionOrganizationUID=study.uid(series, "dimensions"),
        DimensionIndexPointer=0x00209057,
        FunctionalGroupPointer=0x00209111,
        DimensionDescriptionLabel="In-Stack Position Number",
    )
    made.DimensionOrganizationSequence = [
        item(DimensionOrganizationUID=study.uid(series, "dimensions"))
    ]
    echo = item(
        DimensionOrganizationUID=study.uid(series, "dimensions"),
        DimensionIndexPointer=0x00189082,
        FunctionalGroupPointer=0x00189114,
        DimensionDescriptionLabel="Effective Echo Time",
    )
    made.DimensionIndexSequence = [echo, place] if parts > 1 else [place]
    across, down, along = where.spacing_mm
    made.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[
                item(
                    PixelSpacing=[f"{down:.6g}", f"{along:.6g}"],
                    SliceThickness=f"{across:.6g}",
                )
            ],
            PlaneOrientationSequence=[item(ImageOrientationPatient=where.orientation)],
            FrameAnatomySequence=[
                item(
                    FrameLaterality="U",
                    AnatomicRegionSequence=[code("818983003", "SCT", "Abdomen")],
                )
            ],
        )
    ]
    count = where.shape[0]
    groups, order = [], []
    for part in range(parts):
        for number in range(1, count + 1):
            index = count - number
            order.append((part, index))
            values = [part + 1, number] if parts > 1 else [number]
            content = item(
                StackID="1",
                InStackPositionNumber=number,
                DimensionIndexValues=values,
                FrameAcquisitionDateTime=_WHEN,
                FrameReferenceDateTime=_WHEN,
                FrameAcquisitionDuration=100.0,
                FrameAcquisitionNumber=1,
            )
            if modality == "PT":
                content.TemporalPositionIndex = 1
            group = item(
                FrameContentSequence=[content],
                PlanePositionSequence=[item(ImagePositionPatient=where.position(index))],
            )
            groups.append(group)
    made.PerFrameFunctionalGroupsSequence = groups
    values = drawn(where, LESION, *levels) + study.noise(where.shape, noise)
    return made, np.stack([values[index] / (part + 1) for part, index in order])


def _describe(made: Dataset) -> None:
    """What the whole image says of its frames (PS3.3 C.8.16.2)."""
    for keyword, value in _DESCRIBED.items():
        setattr(made, keyword, value)


def _correct(made: Dataset) -> None:
    """Enhanced PET Acquisition and Corrections (PS3.3 C.8.22.3, C.8.22.4)."""
    made.TableMotion, made.TimeOfFlightInformationUsed = "STATIC", "FALSE"
    made.ViewCodeSequence = [code("62824007", "SCT", "Transverse")]
    made.CountsSource = "EMISSION"
    for name in ("Decay", "Attenuation", "Scatter", "DeadTime", "Randoms"):
        setattr(made, f"{name}Corrected", "YES")
    for name in ("GantryMotion", "PatientMotion", "CountLossNormalization"):
        setattr(made, f"{name}Corrected", "NO")
    made.NonUniformRadialSamplingCorrected = made.SensitivityCalibrated = "NO"
    made.DetectorNormalizationCorrection = "NO"
    made.DecayCorrectionDateTime = _WHEN
    made.AttenuationCorrectionSource = "CT"
    made.AttenuationCorrectionTemporalRelationship = "SEQUENTIAL"
    made.AttenuationCorrectionMethod = made.ScatterCorrectionMethod = "phantom"
    made.RandomsCorrectionMethod = "DLYD"


def _rescale(intercept: float, slope: float | str, kind: str) -> Dataset:
    return item(RescaleIntercept=intercept, RescaleSlope=slope, RescaleType=kind)


def _mapping(slope: float) -> Dataset:
    return item(
        RealWorldValueFirstValueMapped=0,
        RealWorldValueLastValueMapped=65535,
        RealWorldValueIntercept=0.0,
        RealWorldValueSlope=slope,
        LUTExplanation="Activity concentration",
        LUTLabel="BQML",
        MeasurementUnitsCodeSequence=[code("Bq/ml", "UCUM", "Becquerels/milliliter")],
    )


def _phantom(
    kind: str, made: Dataset, inside: float, outside: float, unit: str, where: Grid,
    suv_per_value: float | None = None,
) -> Phantom:  # fmt: skip
    mask = where.inside(LESION)
    return Phantom(
        kind, [made], inside, outside, mask, unit, LESION, where, suv_per_value=suv_per_value
    )
