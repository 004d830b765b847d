"""The lesions as DICOM Segmentations (PS3.3 A.51, and A.101 for label maps)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage
from skimage.color import rgb2lab

from core.alternatives import LABEL_MAP_SEGMENTATION
from core.domain import Finding
from core.errors import DecodeError, ResultError
from workers.analysis import Analysis, Part
from workers.images.attributes import texts
from workers.images.stack import ImageStack
from workers.results.codes import concept
from workers.results.lossy import write_lossy
from workers.results.provenance import SEG_SERIES_NUMBER, Provenance, sign
from workers.results.seg_groups import (
    dimensions,
    per_frame_groups,
    shared_groups,
    source_reference,
)
from workers.results.seg_pixels import (
    MAXIMUM_FRACTIONAL_VALUE,
    SegFrame,
    binary_bytes,
    fractional_bytes,
    frames_of,
    label_bytes,
)
from workers.results.seg_place import is_placed

SegKind = Literal["binary", "labelmap", "fractional"]

_BACKGROUND = 0
_AXES = ("LR", "AP", "HF")
# PS3.16 CID 7151 and Annex D
_BACKGROUND_CODE = CodedConcept("125040", "DCM", "Background")


def build_segs(
    analysis: Analysis, provenance: Provenance, *, kind: SegKind = "binary"
) -> tuple[Dataset | None, ...]:
    """One segmentation for each of `analysis.parts`; None where nothing was outlined.

    Segment Number is the finding's `segment`. Only frames that hold something are written. Where
    the images have a Frame of Reference and a place in it, each frame has the position and
    orientation of its source image, as that one wrote them; else a frame's grid is its source
    image's (PS3.3 A.51.5.1). Every frame names its source image. The same job makes the same
    bytes.

    Args:
        analysis: what was found.
        provenance: who made it; the UIDs follow from its job.
        kind: "binary" has one frame of bits for each segment and image, "labelmap" one frame
            of segment numbers for each image (Label Map Segmentation Storage), "fractional"
            one frame of probabilities for each segment and image.

    Raises:
        ResultError: a part's label map and its findings contradict each other; a lesion lies
            in an image that did not come and that has no place; `kind` is "fractional" and
            the probabilities were not kept.
    """
    return tuple(
        _build(part, number, provenance, kind) if part.segments else None
        for number, part in enumerate(analysis.parts)
    )


def _build(part: Part, number: int, provenance: Provenance, kind: SegKind) -> Dataset:
    stack = part.stack
    lesions = part.segments
    frames = frames_of(part.label_map, [finding.segment for finding in lesions])
    if kind == "labelmap":
        frames = [SegFrame(i) for i in sorted({frame.index for frame in frames})]
    placed = is_placed(stack, {frame.index for frame in frames})
    seg = Dataset()
    seg.SOPClassUID = LABEL_MAP_SEGMENTATION if kind == "labelmap" else SegmentationStorage
    seg.SOPInstanceUID = provenance.uid("SEG", str(number))
    seg.SeriesInstanceUID = provenance.uid("SEG", "series")
    seg.Modality = "SEG"
    seg.SeriesNumber = SEG_SERIES_NUMBER
    seg.InstanceNumber = number + 1
    seg.ImageType = ["DERIVED", "PRIMARY"]
    seg.ContentLabel = "AI_LESIONS"
    seg.ContentDescription = "AI result, not reviewed"
    seg.ContentCreatorName = f"{provenance.manufacturer}^AI"
    if placed:
        seg.FrameOfReferenceUID = stack.frame_of_reference_uid
        seg.PositionReferenceIndicator = stack.source.get("PositionReferenceIndicator")
    else:
        seg.PatientOrientation = _patient_orientation(stack)
    _describe_pixels(seg, stack, len(frames), kind, len(lesions))
    seg.SegmentSequence = [_segment(finding, provenance) for finding in lesions]
    if kind == "labelmap":
        seg.SegmentSequence.insert(0, _background())
    seg.SegmentsOverlap = "NO"
    seg.ReferencedSeriesSequence = _referenced_series(stack)
    dimensions(
        seg,
        provenance.uid("SEG", "dimensions", str(number)),
        by_segment=kind != "labelmap",
        by_position=stack.is_volume and placed,
    )
    seg.SharedFunctionalGroupsSequence = [shared_groups(stack, frames, placed=placed)]
    sign(seg, stack.source, provenance)
    # after `sign`, which looks at every element that it finds
    seg[Tag("PerFrameFunctionalGroupsSequence")] = per_frame_groups(stack, frames, placed=placed)
    seg[Tag("PixelData")] = DataElement(
        "PixelData", "OW" if seg.BitsAllocated == 16 else "OB", _pixels(part, frames, kind)
    )
    seg.file_meta = FileMetaDataset()
    seg.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # lets pydicom write the encoded functional groups as they are
    charset = seg.get("SpecificCharacterSet")
    encoding = convert_encodings(charset) if charset else default_encoding
    seg.set_original_encoding(False, True, encoding)
    return seg


def _describe_pixels(
    seg: Dataset, stack: ImageStack, frames: int, kind: SegKind, segments: int
) -> None:
    """Image Pixel and Segmentation Image (PS3.3 C.7.6.3, C.8.20.2)."""
    seg.SegmentationType = kind.upper()
    bits = {"binary": 1, "fractional": 8, "labelmap": 8 if segments < 2**8 else 16}[kind]
    seg.SamplesPerPixel = 1
    seg.PhotometricInterpretation = "MONOCHROME2"
    seg.NumberOfFrames = frames
    seg.Rows, seg.Columns = stack.array.shape[1:]
    seg.BitsAllocated = seg.BitsStored = bits
    seg.HighBit = bits - 1
    seg.PixelRepresentation = 0
    if kind == "fractional":
        seg.SegmentationFractionalType = "PROBABILITY"
        seg.MaximumFractionalValue = MAXIMUM_FRACTIONAL_VALUE
    elif kind == "labelmap":
        seg[Tag("PixelPaddingValue")] = DataElement("PixelPaddingValue", "US", _BACKGROUND)
    write_lossy(seg, stack.datasets)


def _pixels(part: Part, frames: Sequence[SegFrame], kind: SegKind) -> bytes:
    """Pixel Data (7FE0,0010), native, padded to an even length."""
    if kind == "binary":
        data = binary_bytes(part.label_map, frames)
    elif kind == "labelmap":
        data = label_bytes(part.label_map, frames, len(part.segments))
    elif part.probabilities is None:
        raise ResultError("a FRACTIONAL SEG needs probabilities, and they were not kept")
    else:
        channels = {finding.segment: finding.channel for finding in part.segments}
        data = fractional_bytes(part.label_map, frames, part.probabilities, channels)
    return data + b"\0" * (len(data) % 2)


def _segment(finding: Finding, provenance: Provenance) -> SegmentDescription:
    """The item of the Segment Sequence for `finding` (PS3.3 C.8.20.4)."""
    segment = SegmentDescription(
        segment_number=finding.segment,
        segment_label=finding.label,
        segmented_property_category=concept(finding.category),
        segmented_property_type=concept(finding.type),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=provenance.algorithm(),
        tracking_uid=finding.tracking_uid,
        tracking_id=finding.label,
        anatomic_regions=[concept(finding.site)] if finding.site else None,
        display_color=_cielab(finding.color),
    )
    if finding.site and finding.laterality:
        region = segment.AnatomicRegionSequence[0]
        region.AnatomicRegionModifierSequence = [concept(finding.laterality)]
    return segment


def _background() -> Dataset:
    """Pixel value 0: a label map describes every value that it has (PS3.3 C.8.20.2.3.3)."""
    background = Dataset()
    background.SegmentNumber = _BACKGROUND
    background.SegmentLabel = "Background"
    background.SegmentedPropertyCategoryCodeSequence = [_BACKGROUND_CODE]
    background.SegmentedPropertyTypeCodeSequence = [_BACKGROUND_CODE]
    background.SegmentAlgorithmType = "AUTOMATIC"
    background.SegmentAlgorithmName = "Background"
    background.RecommendedDisplayCIELabValue = list(_cielab((0, 0, 0)).value)
    return background


def _cielab(color: tuple[int, int, int]) -> CIELabColor:
    """`color`, sRGB 0 to 255, as Recommended Display CIELab Value (PS3.3 C.10.7.1.1)."""
    lightness, a, b = rgb2lab(np.array(color, dtype=np.float64) / 255)
    return CIELabColor(float(lightness), float(a), float(b))


def _patient_orientation(stack: ImageStack) -> list[str] | None:
    """Patient Orientation (0020,0020), where all images say the same; else unknown.

    Type 2C, so empty where it is unknown: also where it is not two directions of a human body
    (PS3.3 C.7.6.1.1.1). Those of animals need an attribute more, which is not written.
    """
    said: set[tuple[str, ...]] = set()
    for dataset in stack.datasets:
        try:
            said.add(texts(dataset, "PatientOrientation"))
        except DecodeError:  # one that cannot be read must not cost the result
            return None
    directions = said.pop()
    if said or len(directions) != 2 or not all(map(_is_direction, directions)):
        return None
    return list(directions)


def _is_direction(value: str) -> bool:
    """Whether `value` is one to three letters, each of another axis."""
    axes = [axis for letter in value for axis in _AXES if letter in axis]
    return 0 < len(value) == len(axes) == len(set(axes))


def _referenced_series(stack: ImageStack) -> list[Dataset]:
    """Every image that the model saw (PS3.3 C.12.2)."""
    by_series: dict[str, list[Dataset]] = {}
    for dataset in stack.datasets:
        references = by_series.setdefault(str(dataset.SeriesInstanceUID), [])
        references.append(source_reference(dataset))
    series = []
    for uid, references in by_series.items():
        item = Dataset()
        item.SeriesInstanceUID = uid
        item.ReferencedInstanceSequence = references
        series.append(item)
    return series
