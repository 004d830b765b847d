"""A workitem as a data set (PS3.4 Table CC.2.5-3, PS3.3 Sections C.30.1 to C.30.3)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from pydicom.dataset import Dataset

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
_SHORT = 64


def dataset_of(item: Workitem, own_title: str, zone: ZoneInfo | None, now: datetime) -> Dataset:
    """Everything that is told of a workitem; the Transaction UID is not.

    Args:
        own_title: our AE title, from which inputs and outputs can be retrieved.
        zone: in which times are told.
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
    _once(made, "ProcedureStepLabel", item.label)
    _once(made, "WorklistLabel", own_title)
    _once(made, "ScheduledProcedureStepPriority", item.priority)
    _once(made, "ScheduledProcedureStepStartDateTime", _moment(item.created_at, zone))
    made.ScheduledProcedureStepModificationDateTime = _moment(item.changed_at, zone)
    if "ScheduledWorkitemCodeSequence" not in made:
        made.ScheduledWorkitemCodeSequence = [_code(item)]
    if "ScheduledStationNameCodeSequence" not in made and not item.outside:
        made.ScheduledStationNameCodeSequence = [coded(own_title[:16], OURS, own_title)]
    if "InputInformationSequence" not in made:
        made.InputInformationSequence = list(_inputs(item.inputs, own_title))
    for keyword, value in item.study.items():
        if keyword not in _OF_REQUEST and keyword not in made:
            setattr(made, keyword, value)
    if "ReferencedRequestSequence" not in made:
        request = Dataset()
        for keyword in _OF_REQUEST:
            setattr(request, keyword, item.study.get(keyword, ""))
        made.ReferencedRequestSequence = [request]
    made.ProcedureStepProgressInformationSequence = _progress(item, made, zone, now)
    if item.job_id and item.started_at is not None:
        made.UnifiedProcedureStepPerformedProcedureSequence = [_performed(item, own_title, zone)]
    return made


def report_of(item: Workitem) -> Dataset:
    """UPS State Report (PS3.4 Table CC.2.6-2)."""
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.ProcedureStepState = str(item.state)
    made.InputReadinessState = str(item.readiness)
    if item.state is WorkitemState.CANCELED:
        made.ReasonForCancellation = item.reason[:1024]
        made.ProcedureStepDiscontinuationReasonCodeSequence = [_discontinued(item)]
    return made


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3 Table 8.8-1)."""
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = value, scheme, meaning[:_SHORT]
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


_OF_REQUEST = (
    "StudyInstanceUID",
    "AccessionNumber",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
)


def _once(made: Dataset, keyword: str, value: str) -> None:
    if not made.get(keyword):
        setattr(made, keyword, value)


def _code(item: Workitem) -> Dataset:
    if item.code[0]:
        return coded(*item.code)
    return coded(item.route[:16], OURS, f"Analysis by {item.model or item.route}")


def _inputs(inputs: Iterable[InputSeries], own_title: str) -> Iterable[Dataset]:
    for part in inputs:
        made = _referenced(part.study_instance_uid, part.series_instance_uid, own_title)
        made.ReferencedSOPSequence = [_reference(cls, uid) for cls, uid in part.instances]
        yield made


def _referenced(study: str, series: str, own_title: str) -> Dataset:
    made = Dataset()
    made.TypeOfInstances = "DICOM"
    made.StudyInstanceUID, made.SeriesInstanceUID = study, series
    where = Dataset()
    where.RetrieveAETitle = own_title
    made.DICOMRetrievalSequence = [where]
    return made


def _reference(sop_class: str, uid: str) -> Dataset:
    made = Dataset()
    made.ReferencedSOPClassUID, made.ReferencedSOPInstanceUID = sop_class, uid
    return made


def _outputs(outputs: Iterable[Output], own_title: str) -> list[Dataset]:
    made: dict[str, Dataset] = {}
    for one in outputs:
        item = made.get(one.series_instance_uid)
        if item is None:
            item = _referenced(one.study_instance_uid, one.series_instance_uid, own_title)
            item.ReferencedSOPSequence = []
            made[one.series_instance_uid] = item
        item.ReferencedSOPSequence.append(_reference(one.sop_class_uid, one.sop_instance_uid))
    return list(made.values())


def _progress(item: Workitem, made: Dataset, zone: ZoneInfo | None, now: datetime) -> list[Dataset]:
    given = made.get("ProcedureStepProgressInformationSequence")
    progress = given[0] if given else Dataset()
    said = item.reason
    if item.overdue(now):
        said = f"overdue: {item.performer} should have ended it by {_moment(item.due_at, zone)}"
    if item.state in FINAL_STATES:
        _once(progress, "ProcedureStepProgress", "100" if not item.reason else "")
    if said:
        _once(progress, "ProcedureStepProgressDescription", said[:1024])
    if item.state is WorkitemState.CANCELED:
        _once(progress, "ReasonForCancellation", item.reason[:1024])
        _once(progress, "ProcedureStepCancellationDateTime", _moment(item.finished_at, zone))
        if "ProcedureStepDiscontinuationReasonCodeSequence" not in progress:
            progress.ProcedureStepDiscontinuationReasonCodeSequence = [_discontinued(item)]
    return [progress] if len(progress) else []


def _discontinued(item: Workitem) -> Dataset:
    """CID 9300 and 9301: Procedure Discontinued for Unspecified Reason."""
    del item
    return coded("110513", "DCM", "Discontinued for unspecified reason")


def _performed(item: Workitem, own_title: str, zone: ZoneInfo | None) -> Dataset:
    made = Dataset()
    made.PerformedStationNameCodeSequence = [coded(own_title[:16], OURS, own_title)]
    made.PerformedProcedureStepStartDateTime = _moment(item.started_at, zone)
    made.PerformedProcedureStepDescription = f"{item.model} {item.model_version}"[:_SHORT]
    made.PerformedWorkitemCodeSequence = [_code(item)]
    made.PerformedProcessingParametersSequence = []
    if item.state in FINAL_STATES:
        made.PerformedProcedureStepEndDateTime = _moment(item.finished_at, zone)
    made.OutputInformationSequence = _outputs(item.outputs, own_title)
    return made


def _moment(at: datetime | None, zone: ZoneInfo | None) -> str:
    """VR DT with its offset from UTC (PS3.5 Table 6.2-1)."""
    if at is None:
        return ""
    return f"{at.astimezone(zone):%Y%m%d%H%M%S%z}"


def as_json(dataset: Dataset) -> dict[str, Any]:
    """DICOM JSON (PS3.18 Annex F)."""
    made: dict[str, Any] = dataset.to_json_dict()
    return made
