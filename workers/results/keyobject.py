"""Key Objects (PS3.3 A.35.4, PS3.16 TID 2010): images worth a look, and results that are void."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from core.domain import FOR_PAGES, Result, ResultKind
from core.errors import ResultError
from workers.analysis import Analysis
from workers.results.codes import concept
from workers.results.provenance import Provenance, observer_of, sign
from workers.results.sr_library import requests

KO_SERIES_NUMBER = 1004
REJECTION_SERIES_NUMBER = 1005

# PS3.16 CID 7010
OF_INTEREST = concept(codes.cid7010.OfInterest)
REJECTED = concept(codes.cid7010.RejectedForQualityReasons)

_SR_CLASSES = "1.2.840.10008.5.1.4.1.1.88."
_KINDS_OF_IMAGES = frozenset({ResultKind.SEG, ResultKind.SC})
# What is for pages is no DICOM object; to reject a rejection would bring back what it rejected.
_NOT_REJECTED = FOR_PAGES | {ResultKind.REJECTION}


def build_key_object(
    analysis: Analysis, provenance: Provenance, results_datasets: Sequence[Dataset]
) -> Dataset:
    """(113000, DCM, "Of Interest"): the key images of what was found, and the report on it.

    Each source instance is named once, with the numbers of its frames where it has several, in
    the order of the findings. Of `results_datasets` the structured reports are named.

    Raises:
        ResultError: nothing that was found has a key image among those that were analysed.
    """
    headers = {str(dataset.SOPInstanceUID): dataset for dataset in analysis.datasets}
    frames: dict[str, list[int]] = {}
    for finding in analysis.findings:
        key = finding.key_image
        if not finding.present or key is None:
            continue
        if key.sop_instance_uid not in headers:
            raise ResultError(f"the key image of {finding.label} was not analysed")
        numbers = frames.setdefault(key.sop_instance_uid, [])
        if key.frame is not None and key.frame not in numbers:
            numbers.append(key.frame)
    if not frames:
        raise ResultError("nothing was found that has a key image")
    reports = [made for made in results_datasets if str(made.SOPClassUID).startswith(_SR_CLASSES)]
    found = [finding.label for finding in analysis.findings if finding.present]
    return _document(
        title=OF_INTEREST,
        description=(
            f"{provenance.spec.title} {provenance.spec.version}: key images of "
            f"{len(found)} finding(s): {', '.join(found)}. AI result, not reviewed."
        ),
        references=[
            *(_reference(headers[uid], image=True) for uid in frames),
            *(_reference(report, image=False) for report in reports),
        ],
        frames=frames,
        source=analysis.source,
        provenance=provenance,
        uid=("KO",),
        series_number=KO_SERIES_NUMBER,
    )


def build_rejection(provenance: Provenance, source: Dataset) -> Dataset | None:
    """(113001, DCM, "Rejected for Quality Reasons") of the objects of the analysis before.

    A Rejection Note of IHE IOCM (RAD-66): an archive that knows it hides them. The images
    themselves are not touched. None where there is nothing to reject.
    """
    void = provenance.void or provenance.earlier
    earlier = [result for result in void if result.kind not in _NOT_REJECTED]
    if not earlier:
        return None
    return _document(
        title=REJECTED,
        description=(
            f"Superseded by revision {provenance.revision} of {provenance.spec.title} "
            f"({provenance.spec.name} {provenance.spec.version})."
        ),
        references=[_reference_to_result(result, source) for result in earlier],
        frames={},
        source=source,
        provenance=provenance,
        uid=("REJECTION",),
        series_number=REJECTION_SERIES_NUMBER,
    )


def _document(
    *,
    title: CodedConcept,
    description: str,
    references: Sequence[Dataset],
    frames: dict[str, list[int]],
    source: Dataset,
    provenance: Provenance,
    uid: tuple[str, ...],
    series_number: int,
) -> Dataset:
    """A Key Object Selection Document on `references`, all of the source's study."""
    content = KeyObjectSelection(
        document_title=title,
        referenced_objects=references,
        observer_device_context=observer_of(provenance),
        description=description,
    )
    for item in content[0].ContentSequence:
        for reference in item.get("ReferencedSOPSequence") or ():
            numbers = frames.get(str(reference.ReferencedSOPInstanceUID))
            if numbers:  # highdicom's selection knows whole instances only
                reference.ReferencedFrameNumber = sorted(numbers)
    made = KeyObjectSelectionDocument(
        evidence=references,
        content=content,
        series_instance_uid=provenance.uid(*uid, "series"),
        series_number=series_number,
        sop_instance_uid=provenance.uid(*uid),
        instance_number=1,
        manufacturer=provenance.manufacturer,
    )
    sign(made, source, provenance)
    # The Key Object Document Series has no request attributes; the document has its own.
    if "RequestAttributesSequence" in made:
        del made.RequestAttributesSequence
    orders = requests(source)
    if orders:
        made.ReferencedRequestSequence = orders
    return made


def _reference(dataset: Dataset, *, image: bool) -> Dataset:
    """As little of an object as highdicom needs to refer to it."""
    return _minimal(
        str(dataset.StudyInstanceUID),
        str(dataset.SeriesInstanceUID),
        str(dataset.SOPClassUID),
        str(dataset.SOPInstanceUID),
        image=image,
    )


def _reference_to_result(result: Result, source: Dataset) -> Dataset:
    return _minimal(
        str(source.StudyInstanceUID),
        result.series_instance_uid,
        result.sop_class_uid,
        result.sop_instance_uid,
        image=result.kind in _KINDS_OF_IMAGES,
    )


def _minimal(study: str, series: str, sop_class: str, instance: str, *, image: bool) -> Dataset:
    made = Dataset()
    made.StudyInstanceUID, made.SeriesInstanceUID = study, series
    made.SOPClassUID, made.SOPInstanceUID = sop_class, instance
    if image:  # by these highdicom tells an IMAGE from a COMPOSITE content item
        made.Rows = made.Columns = 1
    # `sign` puts in the source's own
    for keyword in (
        "PatientID", "PatientName", "PatientBirthDate", "PatientSex",
        "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
    ):  # fmt: skip
        setattr(made, keyword, None)
    return made
