"""Analyses as the workers would hand them to the report, built by code: headers and findings."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from datetime import UTC, datetime

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    UltrasoundMultiFrameImageStorage,
)

from core.domain import Axes, Evaluation, Finding, FindingKind, KeyImage, Measurement, Space
from core.identifiers import derived_uid
from core.modelspec import Code, ModelSpec
from workers.analysis import Analysis, Part
from workers.images.stack import Basis, Calibration, ImageFrame, ImageStack
from workers.results.provenance import Provenance

WHEN = datetime(2025, 3, 4, 23, 6, 7, tzinfo=UTC)
SHAPE = (24, 32)


def code(value: str, scheme: str, meaning: str) -> Code:
    """A code."""
    return Code(value=value, scheme=scheme, meaning=meaning)


CATEGORY = code("49755003", "SCT", "Morphologically Abnormal Structure")
LESION = code("52988006", "SCT", "Lesion")
LIVER = code("10200004", "SCT", "Liver")
LEFT = code("7771000", "SCT", "Left")
MM = code("mm", "UCUM", "millimeter")
ML = code("mL", "UCUM", "milliliter")
HU = code("[hnsf'U]", "UCUM", "Hounsfield unit")
ATTENUATION = code("112031", "DCM", "Attenuation Coefficient")
MEAN = code("373098007", "SCT", "Mean")
MARGINS = code("111037", "DCM", "Margins")
SMOOTH = code("82280004", "SCT", "Smooth")
VOXELS = code("126030", "DCM", "Sum of segmented voxel method for volume")
OWN = code("MARGIN_SHARPNESS", "99SENTINODE", "Margin sharpness")
NO_UNITS = code("1", "UCUM", "no units")

SPEC = ModelSpec(
    schema_version=1,
    name="ct-liver-lesion",
    version="1.2.3",
    title="Liver lesions – Läsionen",
    intended_use="tests",
    licence="none",
    family={"value": "123110", "scheme": "DCM", "meaning": "Artificial Intelligence"},
    input={"modality": ("CT",)},
    network={"architecture": "none"},
    weights={"file": "w", "sha256": "0" * 64},
    output={"labels": [{"channel": 0, "name": "lesion", "category": CATEGORY, "type": LESION}]},
    training={"data": "none", "licence": "none", "config": "none"},
)
PROVENANCE = Provenance("job-1", WHEN, SPEC, "0.1.0", institution_name="Krankenhaus Süd")


def header(sop_class_uid: str, modality: str, *name: str, **attributes: object) -> Dataset:
    """What every source image says; `name` tells instances (and series, by its first) apart."""
    dataset = Dataset()
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = derived_uid("instance", modality, *name)
    dataset.SeriesInstanceUID = derived_uid("series", modality, name[0])
    dataset.StudyInstanceUID = derived_uid("study")
    dataset.Modality = modality
    dataset.PatientName = "Test^Report"
    dataset.PatientID = "R-1"
    dataset.PatientBirthDate = "19700101"
    dataset.PatientSex = "O"
    dataset.StudyDate, dataset.StudyTime = "20250304", "120000"
    dataset.StudyID, dataset.AccessionNumber = "1", "A-1"
    dataset.ReferringPhysicianName = ""
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.Rows, dataset.Columns = SHAPE
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def volume(slices: int = 4, series: str = "ct", **attributes: object) -> ImageStack:
    """An axial CT of single-frame instances, 2 mm apart."""
    place = derived_uid("place")
    frames = []
    for index in range(slices):
        dataset = header(CTImageStorage, "CT", series, str(index), **attributes)
        dataset.FrameOfReferenceUID = place
        dataset.PositionReferenceIndicator = ""
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [-20.0, -30.0, 2.0 * index]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing = [0.5, 0.5]
        dataset.SliceThickness = 2.0
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        position = (-20.0, -30.0, 2.0 * index)
        frames.append(ImageFrame(dataset, position=position, orientation=(1, 0, 0, 0, 1, 0)))
    affine = np.array(
        [[0, 0, 0.5, -20], [0, 0.5, 0, -30], [2.0, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64
    )
    return ImageStack(
        array=np.zeros((slices, *SHAPE), np.float32),
        frames=tuple(frames),
        quantity=ATTENUATION,
        unit=HU,
        affine=affine,
        calibrations=(Calibration(0.5, 0.5, Basis.PATIENT),),
        frame_of_reference_uid=str(place),
    )


def enhanced(slices: int = 4, frames: int | None = None) -> ImageStack:
    """The same volume in one Enhanced MR instance of `frames`, of which the first `slices` are."""
    stack = volume(slices)
    dataset = header(EnhancedMRImageStorage, "MR", "enhanced", NumberOfFrames=frames or slices)
    return ImageStack(
        array=stack.array,
        frames=tuple(
            ImageFrame(dataset, number + 1, True, frame.position, frame.orientation)
            for number, frame in enumerate(stack.present)
        ),
        quantity=code("110852", "DCM", "MR signal intensity"),
        unit=NO_UNITS,
        affine=stack.affine,
        calibrations=stack.calibrations,
        frame_of_reference_uid=stack.frame_of_reference_uid,
    )


def loop(frames: int = 3, laterality: str = "") -> ImageStack:
    """An ultrasound loop: no volume, no frame of reference."""
    dataset = header(UltrasoundMultiFrameImageStorage, "US", "loop", NumberOfFrames=frames)
    return ImageStack(
        array=np.zeros((frames, *SHAPE), np.float32),
        frames=tuple(ImageFrame(dataset, number + 1, True) for number in range(frames)),
        quantity=code("110852", "DCM", "MR signal intensity"),
        unit=NO_UNITS,
        calibrations=(Calibration(0.2, 0.2, Basis.REGION, (0, 0, 20, 20)),),
        laterality=laterality,
    )


def lesion(number: int, *, part: int = 0, segment: int = 0, **changes: object) -> Finding:
    """A lesion in a volume, with a few figures."""
    fields: dict[str, object] = {
        "number": number,
        "label": f"lesion {number}",
        "category": CATEGORY,
        "type": LESION,
        "tracking_uid": str(derived_uid("lesion", str(part), str(number))),
        "part": part,
        "segment": segment or number,
        "site": LIVER,
        "laterality": LEFT,
        "centre": (-14.25, -26.0, 2.0),
        "slices": (1, 2),
        "axes": Axes(1, ((4.5, 6.5), (12.5, 6.5)), ((8.5, 4.5), (8.5, 9.5))),
        "probability": 0.8765432,
        "measurements": (
            Measurement(code("118565006", "SCT", "Volume"), 1.23456789, ML, method=VOXELS),
            Measurement(code("103339001", "SCT", "Long Axis"), 4.0, MM),
            Measurement(ATTENUATION, -12.5, HU, derivation=MEAN),
            Measurement(OWN, 0.000012345678, code("[hnsf'U]/mm", "UCUM", "HU per mm")),
            Measurement(code("QCFX", "IBSI", "Sphericity"), 0.91, NO_UNITS),
        ),
        "evaluations": (Evaluation(MARGINS, SMOOTH),),
    }
    return Finding(**{**fields, **changes})  # type: ignore[arg-type]


def classified(number: int, present: bool, probability: float, **changes: object) -> Finding:
    """A class of a whole series."""
    fields: dict[str, object] = {
        "number": number,
        "label": f"class {number}",
        "category": code("404684003", "SCT", "Clinical finding"),
        "type": code("233604007", "SCT", "Pneumonia"),
        "tracking_uid": str(derived_uid("class", str(number))),
        "kind": FindingKind.CLASSIFICATION,
        "present": present,
        "probability": probability,
    }
    return Finding(**{**fields, **changes})  # type: ignore[arg-type]


def absent(**changes: object) -> Finding:
    """The statement that no lesion is there."""
    fields: dict[str, object] = {
        "number": 0,
        "label": "lesion",
        "category": CATEGORY,
        "type": LESION,
        "tracking_uid": str(derived_uid("absent")),
        "present": False,
        "site": LIVER,
    }
    return Finding(**{**fields, **changes})  # type: ignore[arg-type]


def in_image(number: int, index: int, **changes: object) -> Finding:
    """A lesion in one image that is part of no volume."""
    return lesion(
        number,
        space=Space.IMAGE,
        centre=(8.5, 6.5, float(index)),
        slices=(index, index),
        axes=Axes(index, ((4.5, 6.5), (12.5, 6.5)), ((8.5, 4.5), (8.5, 9.5))),
        **changes,
    )


def analysed(
    stacks: Sequence[ImageStack], findings: Sequence[Finding], **changes: object
) -> Analysis:
    """An analysis whose label maps show a few pixels for each lesion."""
    parts = []
    for index, stack in enumerate(stacks):
        own = tuple(finding for finding in findings if finding.part == index and finding.segment)
        label_map = np.zeros(stack.array.shape, np.uint16)
        for finding in own:
            first, last = finding.slices or (0, 0)
            row, column = divmod(finding.segment - 1, SHAPE[1] // 2)
            label_map[first : last + 1, 2 * row, 2 * column] = finding.segment
        parts.append(Part(stack, label_map, own))
    return Analysis(SPEC, tuple(parts), tuple(findings), **changes)  # type: ignore[arg-type]


def segmentations(analysis: Analysis) -> tuple[Dataset | None, ...]:
    """A SEG for each part with lesions: highdicom's for volumes, only the references for others."""
    return tuple(
        (_seg if part.stack.is_volume else _references)(part, index) if part.findings else None
        for index, part in enumerate(analysis.parts)
    )


def key_image(stack: ImageStack, index: int) -> KeyImage:
    """The image at `index` as a finding's key image."""
    frame = stack.frames[index]
    assert frame is not None
    number = frame.number if frame.multi_frame else None
    return KeyImage(str(frame.dataset.SOPInstanceUID), number, index)


def _seg(part: Part, index: int) -> Dataset:
    algorithm = AlgorithmIdentificationSequence(
        name="tests", family=codes.cid7162.ArtificialIntelligence, version="1"
    )
    return Segmentation(
        source_images=[_plain(dataset) for dataset in part.stack.datasets],
        pixel_array=part.label_map,
        segmentation_type="BINARY",
        segment_descriptions=[
            SegmentDescription(
                finding.segment,
                finding.label,
                codes.SCT.MorphologicallyAbnormalStructure,
                codes.SCT.Lesion,
                "AUTOMATIC",
                algorithm,
                tracking_uid=finding.tracking_uid,
                tracking_id=finding.label,
            )
            for finding in part.findings
        ],
        series_instance_uid=derived_uid("SEG", "series"),
        series_number=1001,
        sop_instance_uid=derived_uid("SEG", str(index)),
        instance_number=index + 1,
        manufacturer="tests",
        manufacturer_model_name="tests",
        software_versions="1",
        device_serial_number="1",
    )


def _plain(dataset: Dataset) -> Dataset:
    """`dataset` without what highdicom would not copy: names in some character sets."""
    plain = deepcopy(dataset)
    plain.pop("SpecificCharacterSet", None)
    plain.PatientName = "Test^Report"
    return plain


def _references(part: Part, index: int) -> Dataset:
    """What a report reads of a SEG: its UIDs, and which frame shows which image."""
    seg = header("1.2.840.10008.5.1.4.1.1.66.4", "SEG", "seg", str(index))
    groups = []
    for finding in part.findings:
        first, last = finding.slices or (0, 0)
        for frame in part.stack.frames[first : last + 1]:
            assert frame is not None
            source = Dataset()
            source.ReferencedSOPInstanceUID = frame.dataset.SOPInstanceUID
            if frame.multi_frame:
                source.ReferencedFrameNumber = frame.number
            derivation, identification, group = Dataset(), Dataset(), Dataset()
            derivation.SourceImageSequence = [source]
            identification.ReferencedSegmentNumber = finding.segment
            group.DerivationImageSequence = [derivation]
            group.SegmentIdentificationSequence = [identification]
            groups.append(group)
    seg.PerFrameFunctionalGroupsSequence = groups
    return seg
