"""The findings as a Comprehensive 3D SR (PS3.3 A.35.13, PS3.16 TID 1500), as IHE AIR asks."""

from __future__ import annotations

from highdicom.sr import (
    CodeContentItem,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    ImageContentItem,
    LanguageOfContentItemAndDescendants,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    ReferencedSegment,
    RelationshipTypeValues,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    UIDRefContentItem,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from core.domain import Finding
from core.errors import ResultError
from workers.findings import Findings
from workers.results.codes import (
    ABSENT,
    CERTAINTY_OF_FINDING,
    COMMENT,
    DEVICE,
    ENGLISH,
    PERCENT,
    PRESENT,
    SOURCE,
    acquisition_modality,
    concept,
    procedure_reported,
)
from workers.results.provenance import NOTICE, SR_SERIES_NUMBER, Provenance, sign, template_of
from workers.volume import SeriesVolume

_CONTAINS = RelationshipTypeValues.CONTAINS
_CONTEXT = RelationshipTypeValues.HAS_ACQ_CONTEXT
_Group = VolumetricROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations

# The most figures of a measured value: DS holds 16 characters, and more would be pretence.
_FIGURES = 6
# PS3.3 Table C.17-3 asks for these in an item of the Referenced Request Sequence.
_REQUEST_TYPE_2 = (
    "AccessionNumber",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
)


def build_sr(
    volume: SeriesVolume, findings: Findings, seg: Dataset | None, provenance: Provenance
) -> Dataset:
    """One TID 1411 group per lesion, tied to its segment; one TID 1501 group when absent.

    COMPLETE, as the algorithm has said all that it will; PRELIMINARY and UNVERIFIED, as nobody
    has looked at it.

    Raises:
        ResultError: there are lesions but no SEG to refer to.
    """
    if findings.present and seg is None:
        raise ResultError("a report on lesions needs the segmentation that shows them")
    source = volume.datasets[0]
    templates = [template_of(dataset, volume.spacing_mm[0]) for dataset in volume.datasets]
    remarks = _remarks(findings)
    groups = []
    for finding in findings.findings:
        group: _Group
        if finding.present and seg is not None:
            group = _present(finding, volume, seg, provenance)
        else:
            group = _absent(finding, provenance)
        for remark in remarks:
            group[0].ContentSequence.append(TextContentItem(COMMENT, remark, _CONTAINS))
        groups.append(group)
    report = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=_observer(provenance)),
        procedure_reported=procedure_reported(source),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        language_of_content_item_and_descendants=LanguageOfContentItemAndDescendants(ENGLISH),
    )
    content = report[0].ContentSequence
    content.insert(len(content) - 1, _image_library(volume))
    sr = Comprehensive3DSR(
        evidence=[*templates, *([] if seg is None else [seg])],
        content=report[0],
        series_instance_uid=provenance.uid("SR", "series"),
        series_number=SR_SERIES_NUMBER,
        sop_instance_uid=provenance.uid("SR"),
        instance_number=1,
        manufacturer=provenance.manufacturer,
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    if source.get("ProcedureCodeSequence"):
        sr.PerformedProcedureCodeSequence = source.ProcedureCodeSequence
    sign(sr, source, provenance)
    # The module SR Document Series has no request attributes; they are in the sequence above.
    if "RequestAttributesSequence" in sr:
        del sr.RequestAttributesSequence
    requests = _requests(source)
    if requests:
        sr.ReferencedRequestSequence = requests
    return sr


def _image_library(volume: SeriesVolume) -> ContainerContentItem:
    """The images that were analysed, in slice order (PS3.16 TID 1600).

    What they have in common stands once at the group; a description of each of several hundred
    slices would be most of the report.
    """
    source = volume.datasets[0]
    group = ContainerContentItem(codes.DCM.ImageLibraryGroup, relationship_type=_CONTAINS)
    group.ContentSequence = ContentSequence()
    modality = acquisition_modality(source)
    if modality is not None:
        group.ContentSequence.append(CodeContentItem(codes.DCM.Modality, modality, _CONTEXT))
    group.ContentSequence.append(
        UIDRefContentItem(codes.DCM.FrameOfReferenceUID, volume.frame_of_reference_uid, _CONTEXT)
    )
    for dataset in volume.datasets:
        group.ContentSequence.append(
            ImageContentItem(
                name=SOURCE,
                referenced_sop_class_uid=dataset.SOPClassUID,
                referenced_sop_instance_uid=dataset.SOPInstanceUID,
                relationship_type=_CONTAINS,
            )
        )
    library = ContainerContentItem(codes.DCM.ImageLibrary, relationship_type=_CONTAINS)
    library.ContentSequence = ContentSequence([group])
    return library


def _observer(provenance: Provenance) -> ObserverContext:
    """Who observed: this device (PS3.16 TID 1004)."""
    return ObserverContext(
        observer_type=DEVICE,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=provenance.device,
            name=f"{provenance.manufacturer_model_name} {provenance.software_version}",
            manufacturer_name=provenance.manufacturer,
            model_name=provenance.manufacturer_model_name,
            serial_number=provenance.device_serial_number,
        ),
    )


def _present(
    finding: Finding, volume: SeriesVolume, seg: Dataset, provenance: Provenance
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    """A lesion's group (PS3.16 TID 1411)."""
    measurements = [
        Measurement(
            name=concept(measured.concept),
            value=float(f"{measured.value:.{_FIGURES}g}"),
            unit=concept(measured.unit),
            method=concept(measured.method) if measured.method else None,
        )
        for measured in finding.measurements
    ]
    if finding.probability is not None:
        percent = float(f"{100 * finding.probability:.4g}")
        measurements.append(Measurement(CERTAINTY_OF_FINDING, percent, PERCENT))
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(finding.tracking_uid, finding.label),
        referenced_segment=ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=finding.number,
            source_series=SourceSeriesForSegmentation(volume.datasets[0].SeriesInstanceUID),
        ),
        finding_category=concept(finding.category),
        finding_type=concept(finding.type),
        finding_sites=[FindingSite(concept(finding.site))] if finding.site else None,
        algorithm_id=provenance.algorithm_template(),
        measurements=measurements,
        qualitative_evaluations=[QualitativeEvaluation(concept(finding.type), PRESENT)],
    )


def _absent(finding: Finding, provenance: Provenance) -> MeasurementsAndQualitativeEvaluations:
    """The statement that the lesion was sought and not found (PS3.16 TID 1501)."""
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(finding.tracking_uid, finding.label),
        finding_category=concept(finding.category),
        finding_type=concept(finding.type),
        finding_sites=[FindingSite(concept(finding.site))] if finding.site else None,
        algorithm_id=provenance.algorithm_template(),
        qualitative_evaluations=[QualitativeEvaluation(concept(finding.type), ABSENT)],
    )


def _remarks(findings: Findings) -> list[str]:
    """What a reader of a group must know; the notice first."""
    remarks = [NOTICE]
    if findings.too_small:
        remarks.append(
            f"{findings.too_small} region(s) under the least size are not listed "
            f"(together {findings.too_small_ml:.3g} mL)."
        )
    if findings.left_out:
        remarks.append(
            f"{findings.left_out} smaller finding(s) are not listed: the limit was reached "
            f"(together {findings.left_out_ml:.3g} mL)."
        )
    return remarks


def _requests(source: Dataset) -> list[Dataset]:
    """The orders that the study answers (PS3.3 Table C.17-3), from the images' own items."""
    requests = []
    for item in source.get("RequestAttributesSequence") or ():
        request = Dataset()
        request.StudyInstanceUID = item.get("StudyInstanceUID") or source.StudyInstanceUID
        request.ReferencedStudySequence = item.get("ReferencedStudySequence") or []
        for keyword in _REQUEST_TYPE_2:
            setattr(request, keyword, item.get(keyword))
        if not request.AccessionNumber:
            request.AccessionNumber = source.get("AccessionNumber")
        request.RequestedProcedureCodeSequence = item.get("RequestedProcedureCodeSequence") or []
        requests.append(request)
    return requests
