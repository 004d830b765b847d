"""The functional groups of a segmentation: where each frame lies, and what it was made of.

A segmentation may have thousands of frames, and their groups repeat: all segments on one image
share its position and its reference. So each part is encoded once by pydicom, and the items of
the Per-frame Functional Groups Sequence are joined from these parts.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from highdicom.sr import CodedConcept
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sr.codedict import codes
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import format_number_as_ds

from core.errors import ResultError
from workers.images.stack import ImageStack
from workers.results.codes import concept
from workers.results.seg_pixels import SegFrame
from workers.results.seg_place import are_turned, pixel_size, position_of, slice_thickness

_SEGMENTATION = CodedConcept("113076", "DCM", "Segmentation")
_SOURCE_IMAGE = concept(codes.cid7202.SourceImageForImageProcessingOperation)
_FRAME_CONTENT = Tag("FrameContentSequence")
_INDEX_VALUES = Tag("DimensionIndexValues")
_FRAME_LABEL = Tag("FrameLabel")


def source_reference(dataset: Dataset) -> Dataset:
    """A reference to an instance (PS3.3 Table 10-11)."""
    reference = Dataset()
    reference.ReferencedSOPClassUID = dataset.SOPClassUID
    reference.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    return reference


def dimensions(seg: Dataset, uid: str, *, by_segment: bool, by_position: bool) -> None:
    """Add the Multi-frame Dimension Module (PS3.3 C.7.6.17) to `seg`.

    Args:
        seg: the segmentation.
        uid: Dimension Organization UID.
        by_segment: the segment number is the first index.
        by_position: the other index counts positions in the patient, else it counts the labels of
            the images (C.7.6.16.2.2.5).
    """
    organization = Dataset()
    organization.DimensionOrganizationUID = uid
    seg.DimensionOrganizationSequence = [organization]
    pointers = [("ReferencedSegmentNumber", "SegmentIdentificationSequence")] * by_segment
    if by_position:
        pointers.append(("ImagePositionPatient", "PlanePositionSequence"))
    else:
        pointers.append(("FrameLabel", "FrameContentSequence"))
    seg.DimensionIndexSequence = []
    for attribute, group in pointers:
        index = Dataset()
        index.DimensionOrganizationUID = uid
        index.DimensionIndexPointer = Tag(attribute)
        index.FunctionalGroupPointer = Tag(group)
        index.DimensionDescriptionLabel = attribute
        seg.DimensionIndexSequence.append(index)


def shared_groups(stack: ImageStack, frames: Sequence[SegFrame], *, placed: bool) -> Dataset:
    """The item of the Shared Functional Groups Sequence (PS3.3 C.7.6.16).

    Pixel Measures have the pixel size as the images wrote it. Spacing Between Slices is there
    for a volume only: it is measured across the slices, with a tilted gantry too.
    """
    shared = Dataset()
    size = pixel_size(stack)
    if not placed or size is None:
        return shared
    measures = Dataset()
    measures.PixelSpacing = _decimals((size.row_mm, size.column_mm))
    thickness = slice_thickness(stack)
    if stack.spacing_mm is not None:
        if len(stack.frames) > 1:
            measures.SpacingBetweenSlices = _decimals(stack.spacing_mm[:1])[0]
        thickness = thickness or stack.spacing_mm[0]
    if thickness:
        measures.SliceThickness = _decimals([thickness])[0]
    shared.PixelMeasuresSequence = [measures]
    if not are_turned(stack, (frame.index for frame in frames)):
        shared.PlaneOrientationSequence = [_orientation(stack, frames[0].index)]
    return shared


def per_frame_groups(
    stack: ImageStack, frames: Sequence[SegFrame], *, placed: bool
) -> RawDataElement:
    """The Per-frame Functional Groups Sequence (PS3.3 C.7.6.16), encoded, Explicit VR LE.

    Raises:
        ResultError: an image has neither a place nor an instance to refer to.
    """
    ranks = {index: rank for rank, index in enumerate(sorted({f.index for f in frames}), 1)}
    turned = placed and are_turned(stack, ranks)
    derivations = {index: _encoded(_derivation(stack, index, placed)) for index in ranks}
    places = {index: _encoded(_place(stack, index, turned)) if placed else b"" for index in ranks}
    numbers = {frame.segment for frame in frames if frame.segment}
    segments = {number: _encoded(_identification(number)) for number in numbers}
    items = []
    for frame in frames:
        rank = ranks[frame.index]
        values = (frame.segment, rank) if frame.segment else (rank,)
        label = "" if placed and stack.is_volume else f"Image {frame.index + 1}"
        # in the order of their tags: (0008,9124), (0020,9111), (0020,9113) and on, (0062,000A)
        items.append(
            _item(
                derivations[frame.index]
                + _frame_content(values, label)
                + places[frame.index]
                + segments.get(frame.segment, b"")
            )
        )
    value = b"".join(items)
    tag = Tag("PerFrameFunctionalGroupsSequence")
    return RawDataElement(tag, "SQ", len(value), value, 0, False, True)


def _derivation(stack: ImageStack, index: int, placed: bool) -> Dataset:
    """Derivation Image (PS3.3 C.7.6.16.2.6); empty for a slice that did not come."""
    group = Dataset()
    frame = stack.frames[index]
    if frame is None:
        if not placed:
            raise ResultError(
                f"a lesion lies in image {index + 1} of the volume, which did not come and "
                "cannot be referred to, and there is no frame of reference to place it in"
            )
        group.DerivationImageSequence = []
        return group
    source = source_reference(frame.dataset)
    if frame.multi_frame:
        source.ReferencedFrameNumber = frame.number
    source.SpatialLocationsPreserved = "YES"
    source.PurposeOfReferenceCodeSequence = [_SOURCE_IMAGE]
    derivation = Dataset()
    derivation.SourceImageSequence = [source]
    derivation.DerivationCodeSequence = [_SEGMENTATION]
    group.DerivationImageSequence = [derivation]
    return group


def _place(stack: ImageStack, index: int, turned: bool) -> Dataset:
    """Plane Position and, where the images are turned, Plane Orientation (C.7.6.16.2.3, .4)."""
    group = Dataset()
    position = Dataset()
    position.ImagePositionPatient = _decimals(position_of(stack, index) or ())
    group.PlanePositionSequence = [position]
    if turned:
        group.PlaneOrientationSequence = [_orientation(stack, index)]
    return group


def _orientation(stack: ImageStack, index: int) -> Dataset:
    """The item of the Plane Orientation Sequence; a volume's is that of its first image."""
    frame = stack.present[0] if stack.is_volume else stack.frames[index]
    if frame is not None and frame.orientation is not None:
        values: Sequence[float] = frame.orientation
    else:
        assert stack.affine is not None  # placed, so it is a volume
        along = stack.affine[:3, [2, 1]] / np.linalg.norm(stack.affine[:3, [2, 1]], axis=0)
        values = [float(value) for value in along.T.ravel()]
    orientation = Dataset()
    orientation.ImageOrientationPatient = _decimals(values)
    return orientation


def _identification(segment: int) -> Dataset:
    """Segment Identification (PS3.3 C.8.20.3.1)."""
    group, identification = Dataset(), Dataset()
    identification.ReferencedSegmentNumber = segment
    group.SegmentIdentificationSequence = [identification]
    return group


def _decimals(values: Sequence[float]) -> list[str]:
    """`values` as Decimal Strings of at most 16 characters (PS3.5 Table 6.2-1)."""
    return [format_number_as_ds(float(value)) for value in values]


def _encoded(dataset: Dataset) -> bytes:
    """`dataset` as it stands in an item, Explicit VR Little Endian."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def _item(content: bytes) -> bytes:
    """`content` as an item of explicit length (PS3.5 Table 7.5-1)."""
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content


def _frame_content(values: Sequence[int], label: str) -> bytes:
    """Frame Content: Dimension Index Values, and Frame Label if any (C.7.6.16.2.2)."""
    content = _short_element(_INDEX_VALUES, b"UL", struct.pack(f"<{len(values)}L", *values))
    if label:
        text = label.encode("ascii")
        content += _short_element(_FRAME_LABEL, b"LO", text + b" " * (len(text) % 2))
    item = _item(content)
    tag = _FRAME_CONTENT
    return struct.pack("<HH2sHL", tag.group, tag.element, b"SQ", 0, len(item)) + item


def _short_element(tag: BaseTag, vr: bytes, value: bytes) -> bytes:
    """An element of a VR with a 16-bit length (PS3.5 Table 7.1-2)."""
    return struct.pack("<HH2sH", tag.group, tag.element, vr, len(value)) + value
