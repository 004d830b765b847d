"""A stored object made again in a lesser SOP class, for a destination that does not take its own.

The same object gives the same alternative: UIDs follow from its own, dates are its own, nothing
asks for the time. `core.alternatives` says what is tried in which order (docs/decisions/0011).
"""

from __future__ import annotations

from copy import deepcopy
from typing import Final

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array
from pydicom.tag import Tag

from core.alternatives import (
    ALTERNATIVES,
    BASIC_TEXT_SR,
    COMPREHENSIVE_SR,
    ENHANCED_SR,
    LABEL_MAP_SEGMENTATION,
    SEGMENTATION,
)
from core.errors import ResultError
from core.identifiers import UID, derived_uid
from workers.results.seg_pixels import binary_bytes, frames_of
from workers.results.sr_items import Relation

# PS3.3 A.35.1.3.1, A.35.2.3.1, A.35.3.3.1: the value types of each class.
_BASIC: Final = frozenset({
    "TEXT", "CODE", "DATETIME", "DATE", "TIME", "UIDREF", "PNAME", "COMPOSITE", "IMAGE",
    "WAVEFORM", "CONTAINER",
})  # fmt: skip
_PERMITTED: Final = {
    BASIC_TEXT_SR: _BASIC,
    ENHANCED_SR: _BASIC | {"NUM", "SCOORD", "TCOORD"},
    COMPREHENSIVE_SR: _BASIC | {"NUM", "SCOORD", "TCOORD"},
}
# What belongs to a value type that became TEXT.
_NOT_OF_TEXT = (
    "MeasuredValueSequence",
    "NumericValueQualifierCodeSequence",
    "GraphicData",
    "GraphicType",
    "PixelOriginInterpretation",
    "ReferencedFrameOfReferenceUID",
)
# What a label map has and a segmentation of bits has not (PS3.3 C.8.20.2).
_NOT_OF_BITS = (
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "PaletteColorLookupTableUID",
    "ICCProfile",
    "ColorSpace",
)


def lesser_sr(report: Dataset, sop_class_uid: str) -> Dataset:
    """`report` in a class that allows fewer value types; not a figure of it is lost.

    Items that the class does not allow become TEXT in place, under the same concept name: a
    measurement its value and unit, coordinates their numbers. A template's identification goes
    where a measurement under it became text, as its readers would look for numbers.

    The document is in a series of its own. The standard lets a series hold several SR classes,
    but at a destination that comes to have both, no viewer is to take the lesser for the newest
    of the series. It names the original as predecessor, because it includes its content
    (PS3.3 C.17.2).

    Args:
        report: a Comprehensive 3D SR; it is left as it is.
        sop_class_uid: one of its alternatives in `core.alternatives`.

    Raises:
        ResultError: `sop_class_uid` is no alternative to the report's class.
    """
    _check_alternative(report, sop_class_uid)
    made = _copy(report, sop_class_uid)
    _name_predecessor(made, report)
    if _lower(made, _PERMITTED[sop_class_uid]):
        made.pop("ContentTemplateSequence", None)
    return made


def labelmap_to_binary(seg: Dataset) -> Dataset:
    """A Label Map Segmentation as a Segmentation of bits: a frame for each segment and image.

    Segments keep their numbers and tracking UIDs, frames their place and source image. Only
    frames that hold something are written. Beside the label map, only eight frames of bits are
    unpacked at a time: a study may have thousands.

    Args:
        seg: a Label Map Segmentation with its pixel data; it is left as it is.

    Raises:
        ResultError: it is no label map, holds nothing but background, or its pixels and its
            Segment Sequence do not have the same segments.
    """
    _check_alternative(seg, SEGMENTATION)
    if seg.SOPClassUID != LABEL_MAP_SEGMENTATION:
        raise ResultError("only a label map can be made into a segmentation of bits")
    labels = pixel_array(seg, view_only=True)
    labels = labels[np.newaxis] if labels.ndim == 2 else labels
    made = _copy(seg, SEGMENTATION)
    for keyword in _NOT_OF_BITS:
        made.pop(keyword, None)
    made.SegmentSequence = [item for item in made.SegmentSequence if item.SegmentNumber > 0]
    described = [int(item.SegmentNumber) for item in made.SegmentSequence]
    frames = frames_of(labels, described)
    if not frames:
        raise ResultError("the label map holds nothing but background")
    images = list(made.PerFrameFunctionalGroupsSequence)
    made.PerFrameFunctionalGroupsSequence = [
        _of_segment(images[frame.index], frame.segment) for frame in frames
    ]
    made.NumberOfFrames = len(frames)
    made.SegmentationType = "BINARY"
    made.SegmentsOverlap = "NO"
    made.PhotometricInterpretation = "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = 1, 1, 0
    _index_by_segment(made)
    bits = binary_bytes(labels, frames)
    made[Tag("PixelData")] = DataElement("PixelData", "OB", bits + b"\0" * (len(bits) % 2))
    return made


def _check_alternative(dataset: Dataset, sop_class_uid: str) -> None:
    known = str(dataset.get("SOPClassUID") or "")
    if sop_class_uid not in ALTERNATIVES.get(known, ()):
        raise ResultError(f"an object of SOP class {known} cannot be made in {sop_class_uid}")


def _copy(dataset: Dataset, sop_class_uid: str) -> Dataset:
    """A copy in another class, with UIDs of its own."""
    made = deepcopy(dataset)
    made.SOPClassUID = sop_class_uid
    made.SOPInstanceUID = _derived(str(dataset.SOPInstanceUID), sop_class_uid)
    made.SeriesInstanceUID = _derived(str(dataset.SeriesInstanceUID), sop_class_uid)
    return made


def _derived(uid: str, *parts: str) -> UID:
    """A UID that follows from `uid`, under the same root."""
    return derived_uid(uid, *parts, root=uid.rpartition(".")[0])


def _name_predecessor(made: Dataset, original: Dataset) -> None:
    """Add `original` to the Predecessor Documents Sequence (PS3.3 C.17.2)."""
    reference, series, study = Dataset(), Dataset(), Dataset()
    reference.ReferencedSOPClassUID = original.SOPClassUID
    reference.ReferencedSOPInstanceUID = original.SOPInstanceUID
    series.SeriesInstanceUID = original.SeriesInstanceUID
    series.ReferencedSOPSequence = [reference]
    before = made.get("PredecessorDocumentsSequence") or []
    if before:
        before[0].ReferencedSeriesSequence.append(series)
        return
    study.StudyInstanceUID = original.StudyInstanceUID
    study.ReferencedSeriesSequence = [series]
    made.PredecessorDocumentsSequence = [study]


def _lower(item: Dataset, permitted: frozenset[str]) -> bool:
    """Make what is under `item` fit; gives whether a measurement became text there."""
    lost = False
    for child in item.get("ContentSequence") or ():
        if _lower(child, permitted):
            child.pop("ContentTemplateSequence", None)
            lost = True
        if child.ValueType not in permitted:
            lost |= child.ValueType == "NUM"
            _make_text(child)
    return lost


def _make_text(item: Dataset) -> None:
    """Turn `item` into TEXT, in place; what it was selected from, it is inferred from."""
    text = _text_of(item)
    for keyword in _NOT_OF_TEXT:
        item.pop(keyword, None)
    item.ValueType = "TEXT"
    item.TextValue = text
    for child in item.get("ContentSequence") or ():
        if child.RelationshipType == Relation.SELECTED:
            child.RelationshipType = str(Relation.INFERRED)


def _text_of(item: Dataset) -> str:
    """What `item` says, for a person; every figure as it was written.

    Raises:
        ResultError: an item of a value type that our reports do not have.
    """
    match item.ValueType:
        case "NUM":
            return _measured(item)
        case "SCOORD":
            return f"{_points(item, 2)} pixels from the left and from the top"
        case "SCOORD3D":
            place = item.ReferencedFrameOfReferenceUID
            return f"{_points(item, 3)} mm (LPS) in frame of reference {place}"
    raise ResultError(f"a content item of value type {item.ValueType} cannot be made into text")


def _measured(item: Dataset) -> str:
    """A measurement's value and unit."""
    if not item.get("MeasuredValueSequence"):
        qualifier = item.get("NumericValueQualifierCodeSequence")
        return str(qualifier[0].CodeMeaning) if qualifier else "no value"
    measured = item.MeasuredValueSequence[0]
    unit = measured.MeasurementUnitsCodeSequence[0]
    symbol = str(unit.CodeValue)
    if symbol == "1":  # UCUM: no unit
        return str(measured.NumericValue)
    # [hnsf'U] and {pixels} are for machines
    readable = unit.CodeMeaning if set(symbol) & set("[{") else symbol
    return f"{measured.NumericValue} {readable}"


def _points(item: Dataset, dimensions: int) -> str:
    """The graphic's type and points, each float32 by the fewest figures that tell it apart."""
    values = np.asarray(item.GraphicData, dtype=np.float32).reshape(-1, dimensions)
    points = ", ".join(f"({', '.join(map(str, point))})" for point in values)
    return f"{str(item.GraphicType).lower()} {points}"


def _of_segment(group: Dataset, segment: int) -> Dataset:
    """A frame's functional groups, for one segment (PS3.3 C.8.20.3.1)."""
    made = Dataset()
    for element in group:
        # the others are shared by all segments on this image, which saves gigabytes
        if element.keyword not in {"SegmentIdentificationSequence", "FrameContentSequence"}:
            made.add(element)
    identification = Dataset()
    identification.ReferencedSegmentNumber = segment
    made.SegmentIdentificationSequence = [identification]
    content = deepcopy(group.FrameContentSequence[0])
    values = content.DimensionIndexValues
    content.DimensionIndexValues = [segment, *([values] if isinstance(values, int) else values)]
    made.FrameContentSequence = [content]
    return made


def _index_by_segment(seg: Dataset) -> None:
    """Put the segment before the other dimensions (PS3.3 C.7.6.17)."""
    uid = _derived(str(seg.SOPInstanceUID), "dimensions")
    index = Dataset()
    index.DimensionOrganizationUID = uid
    index.DimensionIndexPointer = Tag("ReferencedSegmentNumber")
    index.FunctionalGroupPointer = Tag("SegmentIdentificationSequence")
    index.DimensionDescriptionLabel = "ReferencedSegmentNumber"
    for other in seg.DimensionIndexSequence:
        other.DimensionOrganizationUID = uid
    seg.DimensionIndexSequence = [index, *seg.DimensionIndexSequence]
    organization = Dataset()
    organization.DimensionOrganizationUID = uid
    seg.DimensionOrganizationSequence = [organization]
