"""What peers order and set, checked as far as its own content goes (PS3.4 Table CC.2.5-3)."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset

from core.errors import InvalidValueError, MessageError
from core.identifiers import UID
from core.settings import Settings
from core.settings import Workitem as Offered
from core.workitems import InputSeries, Readiness, Workitem, WorkitemState
from node.worklist.ups.content import as_json
from node.worklist.ups.statuses import (
    INVALID_VALUE,
    MISSING_ATTRIBUTE,
    NOT_FINAL,
    NOT_SCHEDULED,
    PROCESSING_FAILURE,
)

MOST_BYTES = 256 * 1024
_MOST_SERIES = 1000
_PRIORITIES = ("HIGH", "MEDIUM", "LOW")
_SHORT = 64
# Never changed by N-SET: identity, state and what we keep.
_FIXED = (
    "SOPClassUID",
    "SOPInstanceUID",
    "ProcedureStepState",
    "TransactionUID",
    "InputInformationSequence",
    "ScheduledWorkitemCodeSequence",
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
)


def read_order(
    uid: str, attributes: Dataset, settings: Settings, ordered_by: str, now: datetime
) -> tuple[Workitem, bool]:
    """A workitem from an N-CREATE, and whether something of it was changed.

    Raises:
        MessageError: it cannot be one.
    """
    state = str(attributes.get("ProcedureStepState") or "")
    if state != WorkitemState.SCHEDULED:
        raise MessageError(NOT_SCHEDULED, f"Procedure Step State is {state[:16]!r}, not SCHEDULED")
    if str(attributes.get("TransactionUID") or ""):
        raise MessageError(INVALID_VALUE, "Transaction UID must be empty in a new workitem")
    offered = _offered(attributes, settings)
    inputs = _inputs(attributes)
    priority = str(attributes.get("ScheduledProcedureStepPriority") or "MEDIUM")
    changed = priority not in _PRIORITIES
    label = str(attributes.get("ProcedureStepLabel") or "") or offered.meaning
    item = Workitem(
        uid=uid,
        state=WorkitemState.SCHEDULED,
        route=offered.route or "",
        code=(offered.code, offered.scheme, offered.meaning),
        label=label[:_SHORT],
        priority="MEDIUM" if changed else priority,
        readiness=Readiness.INCOMPLETE,
        created_at=now,
        changed_at=now,
        study={"PatientID": str(attributes.get("PatientID") or "")},
        inputs=inputs,
        given=bounded(attributes),
        ordered_by=ordered_by,
        outside=offered.outside,
    )
    return item, changed


def read_change(before: dict[str, Any], changes: Dataset) -> dict[str, Any]:
    """What is given after an N-SET: each attribute as a whole in place of the earlier one.

    Raises:
        MessageError: an attribute that may not be set, or too much.
    """
    for keyword in _FIXED:
        if keyword in changes and keyword != "TransactionUID":
            raise MessageError(INVALID_VALUE, f"{keyword} is not set by N-SET")
    merged = Dataset.from_json(before) if before else Dataset()
    for element in changes:
        if element.keyword != "TransactionUID":
            merged.add(element)
    return bounded(merged)


def check_final(given: dict[str, Any], state: WorkitemState) -> None:
    """What must be known at the end (PS3.4 Table CC.2.5-3, final state requirements).

    Raises:
        MessageError: something is missing.
    """
    made = Dataset.from_json(given) if given else Dataset()
    if state is WorkitemState.CANCELED:
        progress = made.get("ProcedureStepProgressInformationSequence") or [Dataset()]
        if not progress[0].get("ProcedureStepDiscontinuationReasonCodeSequence"):
            raise MessageError(NOT_FINAL, "the reason code of the discontinuation is missing")
        return
    performed = made.get("UnifiedProcedureStepPerformedProcedureSequence")
    if not performed:
        raise MessageError(NOT_FINAL, "the performed procedure is missing")
    wanted = (
        "PerformedStationNameCodeSequence",
        "PerformedWorkitemCodeSequence",
        "PerformedProcedureStepStartDateTime",
        "PerformedProcedureStepEndDateTime",
    )
    missing = [keyword for keyword in wanted if not performed[0].get(keyword)]
    if "OutputInformationSequence" not in performed[0]:
        missing.append("OutputInformationSequence")
    if missing:
        raise MessageError(NOT_FINAL, f"missing: {', '.join(missing)}")


def bounded(attributes: Dataset) -> dict[str, Any]:
    """As DICOM JSON.

    Raises:
        MessageError: it is more than a workitem may hold, or no JSON can be made of it.
    """
    try:
        made = as_json(attributes)
        size = len(json.dumps(made))
    except Exception as error:  # pydicom raises nearly anything on values that are none
        raise MessageError(PROCESSING_FAILURE, "the attributes cannot be read") from error
    if size > MOST_BYTES:
        raise MessageError(INVALID_VALUE, f"more than {MOST_BYTES} bytes")
    return made


def uid_of(text: Any, what: str) -> UID:
    """A UID.

    Raises:
        MessageError: it is none.
    """
    try:
        return UID(str(text or ""))
    except InvalidValueError as error:
        raise MessageError(INVALID_VALUE, f"{what} is no UID") from error


def _offered(attributes: Dataset, settings: Settings) -> Offered:
    said = attributes.get("ScheduledWorkitemCodeSequence")
    if not said:
        raise MessageError(MISSING_ATTRIBUTE, "Scheduled Workitem Code Sequence is missing")
    value, scheme = (
        str(said[0].get(keyword) or "") for keyword in ("CodeValue", "CodingSchemeDesignator")
    )
    for item in settings.workitems:
        if (item.code, item.scheme) == (value, scheme):
            return item
    raise MessageError(INVALID_VALUE, f"no [[workitems]] has the code {value} {scheme}")


def _inputs(attributes: Dataset) -> tuple[InputSeries, ...]:
    said = attributes.get("InputInformationSequence")
    if not said:
        raise MessageError(MISSING_ATTRIBUTE, "Input Information Sequence is missing or empty")
    if len(said) > _MOST_SERIES:
        raise MessageError(INVALID_VALUE, f"more than {_MOST_SERIES} series of input")
    found = []
    for item in said:
        instances = tuple(
            (
                str(uid_of(one.get("ReferencedSOPClassUID"), "Referenced SOP Class UID")),
                str(uid_of(one.get("ReferencedSOPInstanceUID"), "Referenced SOP Instance UID")),
            )
            for one in item.get("ReferencedSOPSequence") or ()
        )
        found.append(
            InputSeries(
                uid_of(item.get("StudyInstanceUID"), "Study Instance UID of the input"),
                uid_of(item.get("SeriesInstanceUID"), "Series Instance UID of the input"),
                instances,
            )
        )
    if len({item.study_instance_uid for item in found}) > 1:
        raise MessageError(INVALID_VALUE, "the inputs are of more than one study")
    return tuple(found)
