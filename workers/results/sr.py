"""The findings as a Comprehensive 3D SR (PS3.3 A.35.13, PS3.16 TID 1500), as IHE AIR asks."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.base import SOPClass
from highdicom.sr import (
    LanguageOfContentItemAndDescendants,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian

from core.equipment import MANUFACTURER, MODEL_NAME
from core.errors import ResultError
from workers.analysis import Analysis
from workers.results.codes import ENGLISH, concept, procedure_codes, procedure_reported
from workers.results.provenance import SR_SERIES_NUMBER, Provenance, observer_of, sign
from workers.results.sr_groups import Groups
from workers.results.sr_items import TEMPLATES, Items, Relation, sequence
from workers.results.sr_library import evidence, image_library, predecessors, requests

_CONTENT = Tag("ContentSequence")
_TITLE = codes.DCM.ImagingMeasurementReport


def build_sr(analysis: Analysis, segs: Sequence[Dataset | None], provenance: Provenance) -> Dataset:
    """One group for each finding: TID 1411 or 1410 a lesion, TID 1501 a class or "absent".

    Anatomy that was outlined has a group, too, by its site and without a finding.

    COMPLETE, as the algorithm has said all that it will; PRELIMINARY and UNVERIFIED, as nobody
    has looked at it. Its evidence is every instance that was analysed, and the SEGs. The same
    job makes the same bytes.

    Args:
        analysis: what was found.
        segs: one for each of `analysis.parts`, None where it has no lesion. `finding.segment`
            is a Segment Number in `segs[finding.part]`.
        provenance: who made it; reports among `provenance.earlier` become its predecessors.

    Raises:
        ResultError: there is no finding, a lesion has no SEG to refer to, or a measurement is
            not finite.
    """
    if not (analysis.findings or analysis.structures):
        raise ResultError("a report needs a finding, if only that what was sought is absent")
    source = analysis.source
    # highdicom writes the type 2 attributes and, as `sign` does again, who and when
    report: Dataset = SOPClass(
        study_instance_uid=source.StudyInstanceUID,
        series_instance_uid=provenance.uid("SR", "series"),
        series_number=SR_SERIES_NUMBER,
        sop_instance_uid=provenance.uid("SR"),
        sop_class_uid=Comprehensive3DSRStorage,
        instance_number=1,
        modality="SR",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    report.CompletionFlag = "COMPLETE"
    report.VerificationFlag = "UNVERIFIED"
    report.PreliminaryFlag = "PRELIMINARY"
    report.ReferencedPerformedProcedureStepSequence = []
    report.ValueType = "CONTAINER"
    report.ContinuityOfContent = "SEPARATE"
    report.ConceptNameCodeSequence = [concept(_TITLE)]
    report.ContentTemplateSequence = [_template("1500")]
    sign(report, source, provenance)
    # all that follows comes after `sign`, which looks at every element that it finds
    if "RequestAttributesSequence" in report:
        # the module SR Document Series has none; they are in the sequence of requests
        del report.RequestAttributesSequence
    orders = requests(source)
    if orders:
        report.ReferencedRequestSequence = orders
    report.PerformedProcedureCodeSequence = procedure_codes(source)
    before = predecessors(provenance.earlier, str(source.StudyInstanceUID))
    if before:
        report.PredecessorDocumentsSequence = before
    made = [seg for seg in segs if seg is not None]
    report.CurrentRequestedProcedureEvidenceSequence = evidence([*analysis.datasets, *made])
    items = Items(source.get("SpecificCharacterSet"))
    content = _content(analysis, segs, provenance, items)
    private = sorted(scheme for scheme in items.schemes if scheme.startswith("99"))
    if private:
        report.CodingSchemeIdentificationSequence = [_scheme(name) for name in private]
    report[_CONTENT] = sequence(_CONTENT, content)
    # lets pydicom write the encoded content as it is
    report.set_original_encoding(False, True, report._character_set)
    return report


def _content(
    analysis: Analysis, segs: Sequence[Dataset | None], provenance: Provenance, items: Items
) -> list[bytes]:
    """The items under the document's root (PS3.16 TID 1500)."""
    language = LanguageOfContentItemAndDescendants(ENGLISH)
    groups = Groups(analysis, segs, provenance, items)
    return [
        *(items.same(item) for item in language),
        *(items.same(item) for item in observer_of(provenance)),
        items.code(
            Relation.MODIFIER, codes.DCM.ProcedureReported, procedure_reported(analysis.source)
        ),
        image_library([part.stack for part in analysis.parts], items),
        items.container(
            Relation.CONTAINS,
            codes.DCM.ImagingMeasurements,
            [groups.group(found) for found in (*analysis.findings, *analysis.structures)],
        ),
    ]


def _scheme(designator: str) -> Dataset:
    """A private coding scheme (PS3.3 C.12.1.1.5; PS3.16 Section 8: it begins with 99)."""
    scheme = Dataset()
    scheme.CodingSchemeDesignator = designator
    if designator.removeprefix("99") == MODEL_NAME.upper():
        scheme.CodingSchemeName = f"Measurements of {MODEL_NAME}"
        scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    return scheme


def _template(identifier: str) -> Dataset:
    """The item of the Content Template Sequence (PS3.3 C.18.8)."""
    template = Dataset()
    template.MappingResource = "DCMR"
    template.MappingResourceUID = TEMPLATES
    template.TemplateIdentifier = identifier
    return template
