"""A workitem as a data set (PS3.4 Table CC.2.5-3, PS3.3 Sections C.30.1 to C.30.3)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from pydicom.dataset import Dataset

from core.settings import Settings
from core.workitems import FINAL_STATES, InputSeries, Output, Workitem, WorkitemState
from node.dimse.contexts import UPS_PUSH

OURS = "99SENTINODE"
# What the ledger knows better than anybody who sets it.
_MANAGED = (
    "SOPClassUID",
    "SOPInstanceUID",
    "ProcedureStepState",
    "InputReadinessState",
    "TransactionUID",
)
_OF_REQUEST = (
    "StudyInstanceUID",
    "AccessionNumber",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
)
# Type 2 in Table CC.2.5-3: there, without a value where nobody said anything.
_TEXTS = (
    "AdmissionID",
    "AdmittingDiagnosesDescription",
    "CommentsOnTheScheduledProcedureStep",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientID",
    "PatientName",
    "PatientSex",
)
_SEQUENCES = (
    "AdmittingDiagnosesCodeSequence",
    "IssuerOfAdmissionIDSequence",
    "ScheduledProcessingParametersSequence",
    "ScheduledStationClassCodeSequence",
    "ScheduledStationGeographicLocationCodeSequence",
    "ScheduledStationNameCodeSequence",
    "UnifiedProcedureStepPerformedProcedureSequence",
)
_MEANING, _CODE, _LONG = 64, 16, 1024


@dataclass(frozen=True, slots=True)
class Describer:
    """How workitems are told.

    Attributes:
        own_title: our AE title, from which inputs and outputs can be retrieved.
        zone: in which times are told.
        codes: of routes that can be ordered: value, scheme and meaning of their workitem code.
    """

    own_title: str
    zone: ZoneInfo | None
    codes: Mapping[str, tuple[str, str, str]]

    @classmethod
    def of(cls, settings: Settings) -> Describer:
        """As the settings say."""
        zone = ZoneInfo(settings.results.timezone) if settings.results.timezone else None
        codes = {
            item.route: (item.code, item.scheme, item.meaning)
            for item in reversed(settings.workitems)
            if item.route is not None
        }
        return cls(settings.node.ae_title, zone, codes)

    def dataset(self, item: Workitem, now: datetime) -> Dataset:
        """Everything that is told of a workitem; the Transaction UID is not.

        Args:
            now: to say that a claim is overdue.
        """
        made = Dataset.from_json(dict(item.given)) if item.given else Dataset()
        for keyword in _MANAGED:
            if keyword in made:
                delattr(made, keyword)
        made.SpecificCharacterSet = "ISO_IR 192"
        made.SOPClassUID, made.SOPInstanceUID = UPS_PUSH, item.uid
        made.ProcedureStepState = str(item.state)
        made.InputReadinessState = str(item.readiness)
        self._add_schedule(made, item)
        self._add_whose(made, item)
        made.ProcedureStepProgressInformationSequence = self._progress(item, made, now)
        if item.job_id and (item.started_at is not None or item.state is WorkitemState.COMPLETED):
            made.UnifiedProcedureStepPerformedProcedureSequence = [self._performed(item)]
        for keyword in _TEXTS:
            _once(made, keyword, "")
        for keyword in _SEQUENCES:
            if keyword not in made:
                setattr(made, keyword, [])
        return made

    def _add_schedule(self, made: Dataset, item: Workitem) -> None:
        _once(made, "ProcedureStepLabel", item.label)
        _once(made, "WorklistLabel", self.own_title)
        _once(made, "ScheduledProcedureStepPriority", item.priority)
        _once(made, "ScheduledProcedureStepStartDateTime", self._moment(item.created_at))
        made.ScheduledProcedureStepModificationDateTime = self._moment(item.changed_at)
        if not made.get("ScheduledWorkitemCodeSequence"):
            made.ScheduledWorkitemCodeSequence = [self._code(item)]
        if not made.get("ScheduledStationNameCodeSequence") and not item.outside:
            made.ScheduledStationNameCodeSequence = [self._station()]
        if not made.get("InputInformationSequence"):
            made.InputInformationSequence = list(self._inputs(item.inputs))

    def _add_whose(self, made: Dataset, item: Workitem) -> None:
        for keyword, value in item.study.items():
            if keyword == "StudyInstanceUID" or keyword not in _OF_REQUEST:
                _once(made, keyword, value)
        if not made.get("ReferencedRequestSequence"):
            request = Dataset()
            for keyword in _OF_REQUEST:
                setattr(request, keyword, item.study.get(keyword, ""))
            made.ReferencedRequestSequence = [request]

    def _station(self) -> Dataset:
        return coded(self.own_title, OURS, self.own_title)

    def _code(self, item: Workitem) -> Dataset:
        known = item.code if item.code[0] else self.codes.get(item.route)
        if known is not None:
            return coded(*known)
        return coded(item.route, OURS, f"Analysis by {item.model or item.route}")

    def _inputs(self, inputs: Iterable[InputSeries]) -> Iterable[Dataset]:
        for part in inputs:
            made = self._referenced(part.study_instance_uid, part.series_instance_uid)
            made.ReferencedSOPSequence = [_reference(cls, uid) for cls, uid in part.instances]
            yield made

    def _referenced(self, study: str, series: str) -> Dataset:
        made = Dataset()
        made.TypeOfInstances = "DICOM"
        made.StudyInstanceUID, made.SeriesInstanceUID = study, series
        where = Dataset()
        where.RetrieveAETitle = self.own_title
        made.DICOMRetrievalSequence = [where]
        return made

    def _outputs(self, outputs: Iterable[Output]) -> list[Dataset]:
        made: dict[str, Dataset] = {}
        for one in outputs:
            item = made.get(one.series_instance_uid)
            if item is None:
                item = self._referenced(one.study_instance_uid, one.series_instance_uid)
                item.ReferencedSOPSequence = []
                made[one.series_instance_uid] = item
            item.ReferencedSOPSequence.append(_reference(one.sop_class_uid, one.sop_instance_uid))
        return list(made.values())

    def _progress(self, item: Workitem, made: Dataset, now: datetime) -> list[Dataset]:
        given = made.get("ProcedureStepProgressInformationSequence")
        progress = given[0] if given else Dataset()
        if item.overdue(now):
            due = self._moment(item.due_at)
            said = f"overdue: {item.performer} should have ended it by {due}"
            progress.ProcedureStepProgressDescription = said
        elif item.reason:
            _once(progress, "ProcedureStepProgressDescription", item.reason[:_LONG])
        if item.state is WorkitemState.COMPLETED:
            _once(progress, "ProcedureStepProgress", "100")
        if item.state is WorkitemState.CANCELED:
            _once(progress, "ReasonForCancellation", item.reason[:_LONG])
            _once(progress, "ProcedureStepCancellationDateTime", self._moment(item.finished_at))
            if not progress.get(_DISCONTINUED):
                setattr(progress, _DISCONTINUED, [_discontinued(item)])
        return [progress] if len(progress) else []

    def _performed(self, item: Workitem) -> Dataset:
        made = Dataset()
        made.PerformedStationNameCodeSequence = [self._station()]
        # one that a person ended before a worker began it took no time
        began = item.started_at or item.finished_at
        made.PerformedProcedureStepStartDateTime = self._moment(began)
        made.PerformedProcedureStepDescription = f"{item.model} {item.model_version}"[:_MEANING]
        made.PerformedWorkitemCodeSequence = [self._code(item)]
        made.PerformedProcessingParametersSequence = []
        if item.state in FINAL_STATES:
            made.PerformedProcedureStepEndDateTime = self._moment(item.finished_at)
        made.OutputInformationSequence = self._outputs(item.outputs)
        return made

    def _moment(self, at: datetime | None) -> str:
        """VR DT with its offset from UTC (PS3.5 Table 6.2-1)."""
        return "" if at is None else f"{at.astimezone(self.zone):%Y%m%d%H%M%S%z}"


def report_of(item: Workitem, whole: Dataset) -> Dataset:
    """UPS State Report (PS3.4 Table CC.2.6-2).

    Args:
        whole: the workitem as a data set.
    """
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.ProcedureStepState = str(item.state)
    made.InputReadinessState = str(item.readiness)
    if item.state is WorkitemState.CANCELED:
        (progress,) = whole.ProcedureStepProgressInformationSequence
        for keyword in ("ReasonForCancellation", _DISCONTINUED):
            if keyword in progress:
                made.add(progress[keyword])
    return made


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3 Table 8.8-1)."""
    made = Dataset()
    if len(value) > _CODE:
        made.LongCodeValue = value
    else:
        made.CodeValue = value
    made.CodingSchemeDesignator, made.CodeMeaning = scheme, meaning[:_MEANING]
    return made


def pruned(whole: Dataset, keys: Dataset) -> Dataset:
    """What was asked for: the keys that are known, sequences with their items' keys."""
    made = Dataset()
    for element in keys:
        if not element.tag.element or element.tag not in whole:
            continue
        known = whole[element.tag]
        if element.VR == "SQ" and element.value and len(element.value[0]):
            items = [pruned(item, element.value[0]) for item in known.value]
            made.add_new(element.tag, "SQ", items)
        else:
            made.add(copy.copy(known))
    return made


_DISCONTINUED = "ProcedureStepDiscontinuationReasonCodeSequence"


def _once(made: Dataset, keyword: str, value: str) -> None:
    if not made.get(keyword):
        setattr(made, keyword, value)


def _reference(sop_class: str, uid: str) -> Dataset:
    made = Dataset()
    made.ReferencedSOPClassUID, made.ReferencedSOPInstanceUID = sop_class, uid
    return made


def _discontinued(item: Workitem) -> Dataset:
    value, meaning = item.discontinued
    return coded(value, "DCM", meaning)


def as_json(dataset: Dataset) -> dict[str, Any]:
    """DICOM JSON (PS3.18 Annex F)."""
    made: dict[str, Any] = dataset.to_json_dict()
    return made
