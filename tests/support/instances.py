"""Small DICOM instances made by code."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from core.domain import Association, IncomingInstance
from node.filing.incoming import identity_of, short_attributes

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def mr_slice(number: int = 1, *, rows: int = 16, columns: int = 16, **attributes: Any) -> Dataset:
    """One MR slice with everything that the door and a volume need."""
    dataset = Dataset()
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = "1.2.3.4"
    dataset.FrameOfReferenceUID = "1.2.3.5"
    dataset.PatientID = "PHANTOM"
    dataset.PatientName = "Phantom^Test"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.AccessionNumber = "A1"
    dataset.StudyID = "1"
    dataset.StudyDate = "20260102"
    dataset.StudyTime = "030405"
    dataset.ReferringPhysicianName = ""
    dataset.Modality = "MR"
    dataset.SeriesDescription = "AX FLAIR"
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = number
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [0, 0, 5.0 * number]
    dataset.PixelSpacing = [1, 1]
    dataset.SliceThickness = 5
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    rng = np.random.default_rng(number)
    dataset.PixelData = rng.integers(0, 1000, (rows, columns), dtype=np.uint16).tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def association(name: str = "a1") -> Association:
    """An association that is open."""
    return Association(name, "MR1", "SENTINODE", "127.0.0.1:1", T0)


def incoming(
    dataset: Dataset | None = None, *, digest: str = "d" * 64, name: str = "a1", **changes: Any
) -> IncomingInstance:
    """An instance as intake reads it."""
    dataset = dataset or mr_slice()
    values: dict[str, Any] = {
        "sop_instance_uid": str(dataset.SOPInstanceUID),
        "sop_class_uid": str(dataset.SOPClassUID),
        "study_instance_uid": str(dataset.StudyInstanceUID),
        "series_instance_uid": str(dataset.SeriesInstanceUID),
        "transfer_syntax_uid": str(ExplicitVRLittleEndian),
        "digest": digest,
        "store_key": f"instances/{dataset.SOPInstanceUID}-{digest[:8]}",
        "size": 100,
        "received_at": T0,
        "association": association(name),
        "attributes": short_attributes(dataset),
        "identity": identity_of(dataset),
    }
    return IncomingInstance(**{**values, **changes})
