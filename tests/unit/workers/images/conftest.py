"""Small series made in memory: the same voxels as single images or as one enhanced object."""

from types import SimpleNamespace

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)

from core.modelspec import InputSpec

ROOM = 10_000_000


def _image(stored, *, bits=16, modality="MR", sop_class=MRImageStorage, number=1, **attributes):
    """One instance of `stored`: (rows, columns), or (frames, …), or (…, 3) for colour."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = f"2.25.1{number:05d}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.2", "2.25.3"
    ds.PatientID, ds.PatientName, ds.AccessionNumber = "P", "Phantom", "A"
    ds.PatientBirthDate = ""
    ds.Modality, ds.InstanceNumber = modality, number
    color = attributes.get("SamplesPerPixel", 1) == 3
    plane = stored.shape[-3:-1] if color else stored.shape[-2:]
    ds.Rows, ds.Columns = plane
    if stored.ndim > (3 if color else 2):
        ds.NumberOfFrames = len(stored)
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = 8 * stored.dtype.itemsize
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    if color:
        ds.PlanarConfiguration = 0
    data = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def _place(affine, index):
    """Position, orientation and pixel spacing of a slice, as DICOM writes them."""
    columns = affine[:3, :3]
    down, along = np.linalg.norm(columns[:, 1]), np.linalg.norm(columns[:, 2])
    position = columns[:, 0] * index + affine[:3, 3]
    cosines = [*(columns[:, 2] / along), *(columns[:, 1] / down)]
    return (
        [f"{value:.9g}" for value in position],
        [f"{value:.9f}" for value in cosines],
        [f"{down:.6g}", f"{along:.6g}"],
    )


def _slices(array, affine, **attributes):
    """Single-frame instances of (slices, rows, columns), in the order of the array."""
    made = []
    for index, plane in enumerate(array):
        position, cosines, spacing = _place(affine, index)
        ds = _image(plane, number=attributes.get("first", 1) + index)
        ds.ImagePositionPatient, ds.ImageOrientationPatient = position, cosines
        ds.PixelSpacing, ds.SliceThickness = spacing, f"{np.linalg.norm(affine[:3, 0]):.6g}"
        ds.FrameOfReferenceUID = "2.25.4"
        for keyword, value in attributes.items():
            if keyword != "first":
                setattr(ds, keyword, value)
        made.append(ds)
    return made


def _enhanced(array, affine, order=None, **attributes):
    """One Enhanced MR instance whose frames are the slices in `order`."""
    order = list(range(len(array))) if order is None else order
    ds = _image(array[order], sop_class=EnhancedMRImageStorage)
    ds.FrameOfReferenceUID = "2.25.4"
    shared = Dataset()
    _, cosines, spacing = _place(affine, 0)
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=cosines)]
    shared.PixelMeasuresSequence = [
        _item(PixelSpacing=spacing, SliceThickness=f"{np.linalg.norm(affine[:3, 0]):.6g}")
    ]
    ds.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for index in order:
        group = Dataset()
        group.PlanePositionSequence = [_item(ImagePositionPatient=_place(affine, index)[0])]
        group.FrameContentSequence = [_item(StackID="1")]
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    ds.NumberOfFrames = len(array)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def _item(**attributes):
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def _affine(rotation=None, spacing=(2.0, 1.0, 0.5), origin=(-20.0, 10.0, 30.0)):
    """Slice, row and column vectors; the slices run along the cross product."""
    rotation = np.eye(3) if rotation is None else rotation
    affine = np.eye(4)
    along, down = rotation[:, 0], rotation[:, 1]
    vectors = [np.cross(along, down), down, along]
    affine[:3, :3] = np.stack(vectors, axis=1) * spacing
    affine[:3, 3] = origin
    return affine


@pytest.fixture(scope="session")
def make():
    return SimpleNamespace(
        image=_image,
        slices=_slices,
        enhanced=_enhanced,
        item=_item,
        affine=_affine,
        room=ROOM,
        volume=InputSpec(modality=("MR",)),
        images=InputSpec(modality=("MR",), kind="image"),
        ct=CTImageStorage,
        sc=SecondaryCaptureImageStorage,
    )
