"""The picture as Secondary Capture: what every viewer shows, whatever else it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import (
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from core.errors import DecodeError, ResultError
from core.identifiers import derived_uid
from workers.analysis import Analysis
from workers.images.attributes import texts
from workers.results.codes import concept
from workers.results.lossy import write_lossy
from workers.results.picture import Page, Shown
from workers.results.provenance import Provenance, sign

SC_SERIES_NUMBER = 1003

_DERIVATION = "Key images with outlines and measurements of an AI result, not reviewed"
# Kinds of images that usually bear the patient's name where nobody says otherwise.
_OFTEN_ANNOTATED = frozenset({"US", "IVUS", "OT", "ES", "XC", "DOC", "GM", "SM", "OP"})
# What belongs to frames of the multi-frame object, not to one image.
_OF_FRAMES = ("NumberOfFrames", "FrameIncrementPointer", "PageNumberVector")


def build_capture(pages: Sequence[Page], analysis: Analysis, provenance: Provenance) -> Dataset:
    """The pages as one Multi-frame True Color Secondary Capture (PS3.3 A.8.5), uncompressed.

    Source Image Sequence has an item for each page, in order. No palette or presentation LUT:
    Presentation LUT Shape is for MONOCHROME2 only (PS3.3 Table C.8-25b).

    Raises:
        ResultError: there is no page, pages of several sizes, or a page that shows an image
            which was not analysed.
    """
    if not pages:
        raise ResultError("a picture needs at least one page")
    if len({page.rgb.shape for page in pages}) > 1:
        raise ResultError("the pages of a picture must be of one size")
    made = Dataset()
    made.SOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
    made.SOPInstanceUID = provenance.uid("SC")
    made.SeriesInstanceUID = provenance.uid("SC", "series")
    made.SeriesNumber = SC_SERIES_NUMBER
    made.InstanceNumber = 1
    made.Modality = "OT"  # no scanner's image: nobody may take it for one of the source's
    made.ConversionType = "WSD"  # PS3.3 C.8.6.1: made at a workstation
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.PatientOrientation = None  # type 2C: an image of text and images has none
    sides = {part.stack.laterality for part in analysis.parts}
    # Type 2C, "if the body part examined is a paired structure": which is not said here, so it
    # is always there, empty where unknown (PS3.3 Table C.7-5a).
    made.Laterality = sides.pop() if len(sides) == 1 else None
    made.DerivationDescription = _DERIVATION
    _write_pixels(made, np.stack([page.rgb for page in pages]))
    made.NumberOfFrames = len(pages)
    if len(pages) > 1:
        # PS3.3 Table C.8-25b and C.8.6.4: the frames are the pages of one document
        made.FrameIncrementPointer = Tag("PageNumberVector")
        made.PageNumberVector = list(range(1, len(pages) + 1))
    headers = {str(dataset.SOPInstanceUID): dataset for dataset in analysis.datasets}
    shown = [_headers_of(page, headers) for page in pages]
    made.SourceImageSequence = [_reference(one) for page in pages for one in page.shows]
    _write_history(made, [dataset for page in shown for dataset in page])
    sign(made, analysis.source, provenance)
    return made


def single_captures(capture: Dataset) -> tuple[Dataset, ...]:
    """The pages of a stored capture as single-frame Secondary Capture images (PS3.3 A.8.1).

    For a destination that does not accept the multi-frame class. The same capture gives the
    same objects: all else is copied, and the UIDs follow from its own.

    Raises:
        ResultError: it is no multi-frame capture of ours.
    """
    if (
        capture.get("SOPClassUID") != MultiFrameTrueColorSecondaryCaptureImageStorage
        or capture.get("BitsAllocated") != 8
    ):
        raise ResultError("only a multi-frame true colour capture can be taken apart")
    count = int(capture.get("NumberOfFrames") or 1)
    size = int(capture.Rows) * int(capture.Columns) * int(capture.SamplesPerPixel)
    pixels = capture.PixelData
    if len(pixels) < count * size:
        raise ResultError(f"the capture has no pixels for all of its {count} pages")
    template = Dataset()
    for element in capture:
        if element.keyword not in (*_OF_FRAMES, "PixelData") and element.tag.group != 2:
            template.add(element)
    original = str(capture.SOPInstanceUID)
    root = _root_of(original)
    sources = list(capture.get("SourceImageSequence") or ())
    singles = []
    for page in range(count):
        single = deepcopy(template)
        single.SOPClassUID = SecondaryCaptureImageStorage
        single.SOPInstanceUID = derived_uid(original, "single", str(page + 1), root=root)
        # A series holds one kind of object at the destination, whichever it took.
        single.SeriesInstanceUID = derived_uid(str(capture.SeriesInstanceUID), "single", root=root)
        single.InstanceNumber = page + 1
        if len(sources) == count:
            single.SourceImageSequence = [deepcopy(sources[page])]
        single.PixelData = _even(pixels[page * size : (page + 1) * size])
        single["PixelData"].VR = "OB"
        singles.append(single)
    return tuple(singles)


def _write_pixels(made: Dataset, frames: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    """`frames` (frames, rows, columns, 3) as RGB, color-by-pixel (PS3.3 C.7.6.3)."""
    made.Rows, made.Columns = frames.shape[1:3]
    made.SamplesPerPixel = 3
    made.PhotometricInterpretation = "RGB"
    made.PlanarConfiguration = 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    made.PixelRepresentation = 0
    made.PixelData = _even(frames.tobytes())
    made["PixelData"].VR = "OB"


def _write_history(made: Dataset, shown: Sequence[Dataset]) -> None:
    """What the shown images pass on to an image that is made of them.

    Burned In Annotation says whether the pixels identify the patient (PS3.3 Tables C.7-9 and
    C.8-25b), not whether there is text: ours does not, but an ultrasound image with the name on
    it keeps it.
    """
    made.BurnedInAnnotation = "YES" if any(map(_annotated, shown)) else "NO"
    if any(dataset.get("RecognizableVisualFeatures") == "YES" for dataset in shown):
        made.RecognizableVisualFeatures = "YES"
    write_lossy(made, shown)


def _annotated(dataset: Dataset) -> bool:
    """Whether an image may have the patient's name in its pixels; in doubt it may."""
    said, modality = _texts(dataset, "BurnedInAnnotation"), _texts(dataset, "Modality")
    if "YES" in said or "NO" in said:
        return "YES" in said
    return not _OFTEN_ANNOTATED.isdisjoint(modality) or "ConversionType" in dataset


def _texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    with suppress(DecodeError):  # one that cannot be read must not cost the result
        return texts(dataset, keyword)
    return ()


def _headers_of(page: Page, headers: dict[str, Dataset]) -> list[Dataset]:
    missing = [one.sop_instance_uid for one in page.shows if one.sop_instance_uid not in headers]
    if missing:
        raise ResultError(f"the picture shows an image that was not analysed: {missing[0]}")
    return [headers[one.sop_instance_uid] for one in page.shows]


def _reference(shown: Shown) -> Dataset:
    """An item of the Source Image Sequence (PS3.3 Tables 10-3 and C.12-9)."""
    item = Dataset()
    item.ReferencedSOPClassUID = shown.sop_class_uid
    item.ReferencedSOPInstanceUID = shown.sop_instance_uid
    if shown.frame is not None:
        item.ReferencedFrameNumber = shown.frame
    item.PurposeOfReferenceCodeSequence = [
        concept(codes.cid7202.SourceImageForImageProcessingOperation)
    ]
    return item


def _root_of(uid: str) -> str:
    """The site's root of a UID that was derived with one; empty for a UUID-derived UID."""
    return "" if uid.startswith("2.25.") else uid.rpartition(".")[0]


def _even(pixels: bytes) -> bytes:
    """Pixel Data has an even length (PS3.5 Section 8.1.1)."""
    return pixels + b"\0" * (len(pixels) % 2)
