"""The gate: every object is read again as a stranger would, before it may leave.

Checked are whose it is, its geometry and masks against the arrays that it was made from, that
each reference resolves, and that it conforms to its IOD. What does not pass stays here.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from core.domain import IDENTITY_KEYWORDS, ResultKind
from core.errors import ResultError
from workers.analysis import Analysis, Part
from workers.results.charset import CharacterSet
from workers.results.conformance import errors_of
from workers.results.make import Made
from workers.results.provenance import COPIED, Provenance
from workers.results.read_seg import read_seg

# Half a step of the 8 bits that a FRACTIONAL SEG has (PS3.3 C.8.20.2.3.2), and rounding.
FRACTION_TOLERANCE = 0.5 / 255 + 1e-3
_MOST_FAULTS_TOLD = 3
_TRACKING_UID = "112040"  # DCM, PS3.16 TID 4108


def check_objects(made: Sequence[Made], analysis: Analysis, provenance: Provenance) -> None:
    """Hold the encoded objects against what they were made from.

    Raises:
        ResultError: an object is not what it must be; the message says which and what.
    """
    try:
        _check(made, analysis, provenance)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ResultError(f"an object lacks what it must have: {error}") from error


def _check(made: Sequence[Made], analysis: Analysis, provenance: Provenance) -> None:
    objects: dict[Made, Dataset] = {
        item: pydicom.dcmread(io.BytesIO(item.data)) for item in made if item.dataset is not None
    }
    _check_conformance(objects, wide=CharacterSet.of(analysis.source).is_wide)
    _check_identity(objects, analysis.source)
    segs = {item.part: ds for item, ds in objects.items() if item.kind == ResultKind.SEG}
    for index, part in enumerate(analysis.parts):
        if bool(part.segments) != (index in segs):
            raise ResultError("a SEG must exist exactly where something was found")
        if index in segs:
            _check_segmentation(segs[index], part)
    known = _frames(analysis)
    ours = {str(ds.SOPInstanceUID) for ds in objects.values()}
    earlier = {item.sop_instance_uid for item in (*provenance.earlier, *provenance.void)}
    for item, dataset in objects.items():
        allowed = earlier if item.kind == ResultKind.REJECTION else ours | earlier
        _check_references(item, dataset, known, allowed)
        if item.kind == ResultKind.SR:
            _check_report(dataset, analysis, segs)


def _check_identity(objects: dict[Made, Dataset], source: Dataset) -> None:
    """Promise 3: the patient and the study are the source's, value for value."""
    seen: set[str] = set()
    for item, dataset in objects.items():
        for keyword in IDENTITY_KEYWORDS:
            if str(dataset.get(keyword) or "") != str(source.get(keyword) or ""):
                raise ResultError(f"the {item.kind}'s {keyword} is not the source's")
        if dataset.SeriesInstanceUID == source.SeriesInstanceUID:
            raise ResultError(f"the {item.kind} is in the source's series; it needs its own")
        if str(dataset.SOPInstanceUID) in seen:
            raise ResultError(f"the {item.kind}'s SOP Instance UID is another object's, too")
        seen.add(str(dataset.SOPInstanceUID))


def _check_segmentation(seg: Dataset, part: Part) -> None:
    stack = part.stack
    frame = str(seg.get("FrameOfReferenceUID") or "")
    # a SEG without a place in the patient has none (PS3.3 A.51.5.1); its frames are references
    if frame and frame != stack.frame_of_reference_uid:
        raise ResultError("the SEG's frame of reference is not the source's")
    values = read_seg(seg, stack)
    if values.dtype == np.uint16:
        differing = int(np.count_nonzero(values != part.label_map))
    elif part.probabilities is None:
        raise ResultError("a FRACTIONAL SEG needs the probabilities that it shows")
    else:
        differing = _differing_fractions(values, part)
    if differing:
        raise ResultError(f"the SEG's mask differs from what was found in {differing} voxel(s)")
    segments = {
        int(item.SegmentNumber): str(item.TrackingUID)
        for item in seg.SegmentSequence
        if "TrackingUID" in item  # a LABELMAP's background is a segment, too
    }
    if segments != {finding.segment: finding.tracking_uid for finding in part.segments}:
        raise ResultError("the SEG's segments are not the findings")


def _differing_fractions(values: np.ndarray, part: Part) -> int:
    differing = 0
    assert part.probabilities is not None
    for finding in part.segments:
        first, last = finding.slices or (0, len(part.label_map) - 1)
        inside = part.label_map[first : last + 1] == finding.segment
        wanted = part.probabilities[finding.channel, first : last + 1].astype(np.float32)
        off = np.abs(values[first : last + 1] - wanted) > FRACTION_TOLERANCE
        differing += int(np.count_nonzero(off & inside))
    return differing + int(np.count_nonzero(values[part.label_map == 0]))


def _frames(analysis: Analysis) -> dict[str, int]:
    """How many frames each source instance has."""
    return {
        str(dataset.SOPInstanceUID): int(dataset.get("NumberOfFrames") or 1)
        for dataset in analysis.datasets
    }


def _check_references(
    item: Made, dataset: Dataset, sources: dict[str, int], others: set[str]
) -> None:
    """Each reference that we wrote leads to a source instance, and a frame that it has."""
    for reference in _references(dataset):
        uid = str(reference.ReferencedSOPInstanceUID)
        if uid in others:
            continue
        if uid not in sources:
            raise ResultError(f"the {item.kind} refers to an instance that is not its input")
        numbers = reference.get("ReferencedFrameNumber")
        if numbers is None:
            continue
        for number in [numbers] if isinstance(numbers, int) else numbers:
            if not 1 <= int(number) <= sources[uid]:
                raise ResultError(
                    f"the {item.kind} refers to frame {number} of {sources[uid]} of an instance"
                )


def _references(dataset: Dataset) -> Iterator[Dataset]:
    """Every item with a Referenced SOP Instance UID that is not copied from the source."""
    for tag in dataset.keys():  # noqa: SIM118 - iteration itself decodes every value
        if dataset.get_item(tag).VR != "SQ":
            continue
        element = dataset[tag]
        if element.keyword in COPIED:
            continue
        for item in element.value:
            if "ReferencedSOPInstanceUID" in item:
                yield item
            yield from _references(item)


def _check_report(report: Dataset, analysis: Analysis, segs: dict[int, Dataset]) -> None:
    """The report's evidence is its input and the SEGs; its groups are the findings."""
    wanted = {str(dataset.SOPInstanceUID) for dataset in analysis.datasets}
    wanted |= {str(seg.SOPInstanceUID) for seg in segs.values()}
    evidence = {
        str(instance.ReferencedSOPInstanceUID)
        for study in report.get("CurrentRequestedProcedureEvidenceSequence") or ()
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    if evidence != wanted:
        raise ResultError("the SR's evidence is not the source images and the SEGs")
    tracked: set[str] = set()
    segments: set[tuple[str, int]] = set()
    for item in _content(report):
        if item.ValueType == "UIDREF" and item.ConceptNameCodeSequence[0].CodeValue == (
            _TRACKING_UID
        ):
            tracked.add(str(item.UID))
        if item.ValueType == "IMAGE":
            reference = item.ReferencedSOPSequence[0]
            if "ReferencedSegmentNumber" in reference:
                uid = str(reference.ReferencedSOPInstanceUID)
                segments.add((uid, int(reference.ReferencedSegmentNumber)))
    told = (*analysis.findings, *analysis.structures)
    if tracked != {finding.tracking_uid for finding in told}:
        raise ResultError("the SR's tracking UIDs are not the findings'")
    if segments != {
        (str(segs[finding.part].SOPInstanceUID), finding.segment)
        for finding in (*analysis.lesions, *analysis.structures)
    }:
        raise ResultError("the SR's referenced segments are not the SEGs'")


def _content(item: Dataset) -> Iterator[Dataset]:
    """Every content item under `item`, in order."""
    for child in item.get("ContentSequence") or ():
        yield child
        yield from _content(child)


def _check_conformance(objects: dict[Made, Dataset], *, wide: bool) -> None:
    faults = errors_of({f"{item.kind} {item.part + 1}": item.data for item in objects}, wide=wide)
    for name, errors in faults.items():
        told = "; ".join(errors[:_MOST_FAULTS_TOLD])
        rest = len(errors) - _MOST_FAULTS_TOLD
        more = f" and {rest} more" if rest > 0 else ""
        raise ResultError(f"the {name} does not conform to its IOD: {told}{more}")
