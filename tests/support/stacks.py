"""Stacks of images, made by code, and analyses of them: input for tests of results."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from core.domain import Finding
from core.modelspec import Code, ModelSpec
from workers.analysis import Analysis, Part
from workers.images.stack import Basis, Calibration, ImageFrame, ImageStack
from workers.results.provenance import Provenance

HU = Code(value="[hnsf'U]", scheme="UCUM", meaning="Hounsfield unit")
ATTENUATION = Code(value="112031", scheme="DCM", meaning="Attenuation Coefficient")
NO_UNITS = Code(value="1", scheme="UCUM", meaning="no units")
CATEGORY = Code(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure")
LESION = Code(value="52988006", scheme="SCT", meaning="Lesion")
BREAST = Code(value="76752008", scheme="SCT", meaning="Breast")
LEFT = Code(value="7771000", scheme="SCT", meaning="Left")

SPEC = ModelSpec.model_validate(
    {
        "schema_version": 1,
        "name": "lesions",
        "version": "1.2.3",
        "title": "Lesions",
        "intended_use": "tests",
        "licence": "none",
        "family": {"value": "123110", "scheme": "DCM", "meaning": "Artificial Intelligence"},
        "input": {"modality": ("CT",)},
        "network": {"architecture": "none"},
        "weights": {"file": "w", "sha256": "0" * 64},
        "output": {"labels": []},
        "training": {"data": "none", "licence": "none", "config": "none"},
    }
)
PROVENANCE = Provenance("job-1", datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC), SPEC, "0.1.0")


def instance(number: int, sop_class: str, rows: int, columns: int, **attributes: Any) -> Dataset:
    """The header of one instance of the phantom's study."""
    dataset = Dataset()
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = f"2.25.100.{number}"
    dataset.StudyInstanceUID = "2.25.200"
    dataset.SeriesInstanceUID = "2.25.300"
    dataset.PatientName = "Phantom^Test"
    dataset.PatientID = "PHANTOM"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "O"
    dataset.StudyDate = "20260102"
    dataset.StudyTime = "030405"
    dataset.StudyID = "1"
    dataset.AccessionNumber = "A1"
    dataset.ReferringPhysicianName = ""
    dataset.Modality = "CT"
    dataset.InstanceNumber = number
    dataset.Rows, dataset.Columns = rows, columns
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def volume(
    shape: tuple[int, int, int] = (5, 12, 10),
    *,
    spacing: tuple[float, float, float] = (2.5, 0.8, 0.7),
    rotation: np.ndarray | None = None,
    origin: Sequence[float] = (-10.0, 20.0, -30.0),
    shear: float = 0.0,
    multi_frame: bool = False,
    missing: Sequence[int] = (),
    frame_of_reference_uid: str = "2.25.400",
    number: int = 1,
) -> ImageStack:
    """A volume as single-frame CT or one Enhanced CT instance.

    Args:
        shape: slices, rows, columns.
        spacing: mm between slices, rows, columns.
        rotation: 3×3, its columns are the directions along a row, along a column and across.
        origin: centre of the first voxel, LPS, mm.
        shear: mm by which each slice is moved along a column: a tilted gantry.
        multi_frame: frames of one instance, stored the other way round.
        missing: slices that did not come.
        frame_of_reference_uid: empty for none.
        number: tells stacks apart.
    """
    slices, rows, columns = shape
    axes = np.eye(3) if rotation is None else rotation
    affine = np.eye(4)
    affine[:3, 0] = axes[:, 2] * spacing[0] + axes[:, 1] * shear
    affine[:3, 1] = axes[:, 1] * spacing[1]
    affine[:3, 2] = axes[:, 0] * spacing[2]
    affine[:3, 3] = origin
    orientation = tuple(float(v) for v in (*axes[:, 0], *axes[:, 1]))
    sop_class = EnhancedCTImageStorage if multi_frame else CTImageStorage
    frames: list[ImageFrame | None] = []
    one = instance(1000 * number, sop_class, rows, columns, NumberOfFrames=slices)
    for index in range(slices):
        dataset = one if multi_frame else instance(1000 * number + index, sop_class, rows, columns)
        dataset.SliceThickness = spacing[0]
        if frame_of_reference_uid:
            dataset.FrameOfReferenceUID = frame_of_reference_uid
            dataset.PositionReferenceIndicator = ""
        x, y, z = (float(v) for v in (affine @ (index, 0, 0, 1))[:3])
        frames.append(
            None
            if index in missing
            else ImageFrame(
                dataset,
                slices - index if multi_frame else 1,
                multi_frame,
                (x, y, z),
                orientation,  # type: ignore[arg-type]
            )
        )
    return ImageStack(
        np.zeros(shape, dtype=np.float32),
        tuple(frames),
        ATTENUATION,
        HU,
        affine=affine,
        calibrations=(Calibration(spacing[1], spacing[2], Basis.PATIENT),),
        frame_of_reference_uid=frame_of_reference_uid,
    )


def clip(shape: tuple[int, int, int] = (4, 12, 10), **attributes: Any) -> ImageStack:
    """A multi-frame ultrasound clip: no place in the patient."""
    dataset = instance(
        1, UltrasoundMultiFrameImageStorage, *shape[1:], NumberOfFrames=shape[0], Modality="US"
    )
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    frames = tuple(ImageFrame(dataset, index + 1, True) for index in range(shape[0]))
    calibration = Calibration(0.2, 0.2, Basis.REGION, (0, 0, shape[2] - 1, shape[1] - 1))
    array = np.zeros(shape, dtype=np.float32)
    color = np.zeros((*shape, 3), dtype=np.uint8)
    return ImageStack(array, frames, ATTENUATION, NO_UNITS, None, (calibration,), color=color)


def images(
    shape: tuple[int, int, int] = (2, 12, 10),
    sop_class: str = SecondaryCaptureImageStorage,
    **attributes: Any,
) -> ImageStack:
    """Single-frame images each for itself, without a place in the patient."""
    frames = tuple(
        ImageFrame(instance(index + 1, sop_class, *shape[1:], **attributes))
        for index in range(shape[0])
    )
    return ImageStack(np.zeros(shape, dtype=np.float32), frames, ATTENUATION, NO_UNITS)


def labelled(shape: tuple[int, int, int], segments: int, seed: int = 0) -> np.ndarray:
    """A label map, uint16, with 1 to `segments`, scattered and without overlap."""
    rng = np.random.default_rng(seed)
    label_map = rng.integers(0, segments + 1, shape).astype(np.uint16)
    label_map[rng.random(shape) < 0.5] = 0
    label_map.reshape(-1)[:segments] = np.arange(1, segments + 1)  # each is somewhere
    return label_map


def findings(count: int, **changes: Any) -> tuple[Finding, ...]:
    """Lesions with segments 1, 2, 3 …"""
    values: dict[str, Any] = {"category": CATEGORY, "type": LESION, **changes}
    return tuple(
        Finding(number, f"Lesion {number}", tracking_uid=f"2.25.500.{number}", segment=number,
                **values)
        for number in range(1, count + 1)
    )  # fmt: skip


def analysis(*parts: tuple[ImageStack, np.ndarray], **changes: Any) -> Analysis:
    """An analysis with a lesion for each number in each part's label map."""
    made = tuple(
        Part(stack, label_map, findings(int(label_map.max()), part=number, **changes))
        for number, (stack, label_map) in enumerate(parts)
    )
    return Analysis(SPEC, made, tuple(f for part in made for f in part.findings))
