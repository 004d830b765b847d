"""What a job found, made by code: images of several kinds with findings in them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from core.domain import Axes, Finding, FindingKind, KeyImage, Measurement
from core.modelspec import Code, ModelSpec
from workers.analysis import Analysis, Part
from workers.images.stack import Calibration, ImageFrame, ImageStack
from workers.results.provenance import Provenance

HU = Code(value="[hnsf'U]", scheme="UCUM", meaning="Hounsfield unit")
NO_UNITS = Code(value="1", scheme="UCUM", meaning="no units")
LESION = Code(value="52988006", scheme="SCT", meaning="Lesion")
ABNORMAL = Code(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure")
QUANTITY = Code(value="112031", scheme="DCM", meaning="Attenuation Coefficient")
LEFT = Code(value="7771000", scheme="SCT", meaning="Left")
WHEN = datetime(2025, 3, 4, 23, 6, 7, tzinfo=UTC)
COLORS = ((255, 64, 64), (64, 255, 64), (80, 160, 255), (255, 255, 0), (255, 0, 255))

SPEC = ModelSpec(
    schema_version=1,
    name="phantom-lesion",
    version="1.2.3",
    title="Phantom lesions – Läsionen",
    intended_use="tests",
    licence="none",
    family={"value": "123110", "scheme": "DCM", "meaning": "Artificial Intelligence"},
    input={"modality": ("CT",)},
    network={"architecture": "none"},
    weights={"file": "w", "sha256": "0" * 64},
    output={"labels": [{"channel": 0, "name": "Lesion", "category": ABNORMAL, "type": LESION}]},
    training={"data": "none", "licence": "none", "config": "none"},
)
PROVENANCE = Provenance("job-1", WHEN, SPEC, "0.1.0")


def header(number: int = 1, **attributes: Any) -> Dataset:
    """An instance's header, as a CT's, without pixels."""
    values: dict[str, Any] = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "SOPInstanceUID": f"1.2.3.4.{number}",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4",
        "FrameOfReferenceUID": "1.2.3.5",
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientName": "Phantom^山田",
        "PatientID": "PHANTOM",
        "PatientBirthDate": "",
        "PatientSex": "O",
        "StudyDate": "20250304",
        "StudyTime": "120000",
        "AccessionNumber": "A1",
        "StudyID": "1",
        "ReferringPhysicianName": "",
        "Modality": "CT",
        "PhotometricInterpretation": "MONOCHROME2",
        "InstanceNumber": number,
        **attributes,
    }
    made = Dataset()
    for keyword, value in values.items():
        if value is not None:
            setattr(made, keyword, value)
    return made


def volume(
    shape: tuple[int, int, int] = (12, 64, 48),
    *,
    spacing: tuple[float, float, float] = (5.0, 1.0, 1.0),
    multi_frame: bool = False,
    **attributes: Any,
) -> ImageStack:
    """A body of soft tissue in air, HU."""
    array = np.full(shape, -1000, np.float32)
    rows, columns = shape[1:]
    array[:, rows // 8 : -rows // 8, columns // 8 : -columns // 8] = 40
    if multi_frame:
        enhanced = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1", "NumberOfFrames": shape[0]}
        dataset = header(1, **enhanced, **attributes)
        frames = [ImageFrame(dataset, number + 1, multi_frame=True) for number in range(shape[0])]
    else:
        frames = [ImageFrame(header(number + 1, **attributes)) for number in range(shape[0])]
    return ImageStack(
        array=array,
        frames=tuple(frames),
        quantity=QUANTITY,
        unit=HU,
        affine=np.diag([*spacing, 1.0])[[2, 1, 0, 3]],
        calibrations=(),
        frame_of_reference_uid="1.2.3.5",
    )


def images(
    shape: tuple[int, int, int] = (1, 64, 48),
    *,
    calibrations: Sequence[Calibration] = (),
    color: bool = False,
    **attributes: Any,
) -> ImageStack:
    """Images for themselves, a bright disc in the middle."""
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    disc = (rows - shape[1] / 2) ** 2 + (columns - shape[2] / 2) ** 2 < (shape[1] / 4) ** 2
    array = np.broadcast_to(disc * 200.0 + 20, shape).astype(np.float32)
    values = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1", "Modality": "CR", **attributes}
    frames = [ImageFrame(header(number + 1, **values)) for number in range(shape[0])]
    painted = np.zeros((*shape, 3), np.uint8)
    painted[..., 2] = array.astype(np.uint8)
    return ImageStack(
        array=array,
        frames=tuple(frames),
        quantity=Code(value="110852", scheme="DCM", meaning="MR signal intensity"),
        unit=NO_UNITS,
        calibrations=tuple(calibrations),
        color=painted if color else None,
    )


def lesions(
    stack: ImageStack,
    boxes: Sequence[tuple[slice, slice, slice]],
    *,
    part: int = 0,
    first: int = 1,
    label: str = "Lesion",
    **changes: Any,
) -> Part:
    """`stack` with a lesion in each of `boxes`, brighter than what is around it."""
    label_map = np.zeros(stack.array.shape, np.uint16)
    findings = []
    for segment, box in enumerate(boxes, start=1):
        number = first + segment - 1
        label_map[box] = segment
        stack.array[box] += 150
        index = (box[0].start + box[0].stop) // 2
        frame = stack.frames[index]
        assert frame is not None
        uid = str(frame.dataset.SOPInstanceUID)
        top, left = box[1].start, box[2].start
        down, right = box[1].stop, box[2].stop
        values: dict[str, Any] = {
            "number": number,
            "label": f"{label} {number}",
            "category": ABNORMAL,
            "type": LESION,
            "tracking_uid": f"1.2.3.9.{number}",
            "part": part,
            "segment": segment,
            "color": COLORS[(number - 1) % len(COLORS)],
            "slices": (box[0].start, box[0].stop - 1),
            "key_image": KeyImage(uid, frame.number if frame.multi_frame else None, index),
            "axes": Axes(
                index,
                ((float(left), float(top)), (float(right), float(down))),
                ((float(right), float(top)), (float(left), float(down))),
            ),
            "laterality": LEFT,
            "probability": 0.87,
            "measurements": (
                measured("118565006", "Volume", 12.34, "mL"),
                measured("103339001", "Long Axis", 23.4, "mm"),
                measured("103340004", "Short Axis", 9.87, "mm"),
                measured("112031", "Attenuation Coefficient", 45.6, "[hnsf'U]", "373098007"),
            ),
            **changes,
        }
        findings.append(Finding(**values))
    return Part(stack, label_map, tuple(findings))


def measured(
    code: str, meaning: str, value: float, unit: str, derivation: str | None = None
) -> Measurement:
    return Measurement(
        Code(value=code, scheme="SCT", meaning=meaning),
        value,
        Code(value=unit, scheme="UCUM", meaning=unit),
        derivation=None
        if derivation is None
        else Code(value=derivation, scheme="SCT", meaning=derivation),
    )


def analysed(*parts: Part, **changes: Any) -> Analysis:
    """The analysis that has all findings of `parts`, or says that there is none."""
    findings = tuple(finding for part in parts for finding in part.findings)
    return Analysis(SPEC, parts, findings or (absent(),), **changes)


def absent() -> Finding:
    return Finding(
        number=0,
        label="Lesion",
        category=ABNORMAL,
        type=LESION,
        tracking_uid="1.2.3.9.0",
        present=False,
    )


def classified(
    stack: ImageStack, index: int = 0, *, present: bool = True, activation: bool = True
) -> Analysis:
    """A classifier's answer: one class that is there and one that is not."""
    frame = stack.frames[index]
    assert frame is not None
    uid = str(frame.dataset.SOPInstanceUID)
    findings = tuple(
        Finding(
            number=number,
            label=name,
            category=ABNORMAL,
            type=LESION,
            tracking_uid=f"1.2.3.9.{number}",
            kind=FindingKind.CLASSIFICATION,
            present=there,
            probability=probability,
            key_image=KeyImage(uid, frame.number if frame.multi_frame else None, index),
        )
        for number, (name, there, probability) in enumerate(
            [("Pneumonia", present, 0.91 if present else 0.2), ("Effusion", False, 0.12)], start=1
        )
    )
    heat = np.zeros(stack.array.shape, np.float16)
    heat[:, : stack.array.shape[1] // 3, : stack.array.shape[2] // 3] = 1
    part = Part(
        stack,
        np.zeros(stack.array.shape, np.uint16),
        activation=heat if activation else None,
    )
    return Analysis(SPEC, (part,), findings)
