"""What the messages of the normalised services say: data sets in, UIDs and states out.

Only what is evidence is kept; names and identifiers of patients are never read here. Each
reader checks what the standard requires of the message and raises MessageError with the status
that the peer is to get.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset

from core.errors import InvalidValueError, MessageError
from core.identifiers import UID
from node.dimse.contexts import COMMITMENT_INSTANCE

IN_PROGRESS, COMPLETED, DISCONTINUED = "IN PROGRESS", "COMPLETED", "DISCONTINUED"
FINAL_STATES = frozenset({COMPLETED, DISCONTINUED})

# PS3.7 Annex C
INVALID_ATTRIBUTE_VALUE = 0x0106
NO_SUCH_INSTANCE = 0x0112
NO_SUCH_EVENT_TYPE = 0x0113
INVALID_ARGUMENT_VALUE = 0x0115
MISSING_ATTRIBUTE = 0x0120
MISSING_ATTRIBUTE_VALUE = 0x0121
NO_SUCH_ACTION_TYPE = 0x0123

# PS3.4 Table F.7.2-1: what an SCU must give a value in N-CREATE (usage 1)
_STEP_REQUIRED = (
    "ScheduledStepAttributesSequence",
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "PerformedProcedureStepStatus",
    "Modality",
)
# PS3.4 Section J.3.2.1.2 and Table J.3-2
_ACTION_TYPE = 1
_ALL_COMMITTED, _FAILURES_EXIST = 1, 2
_UNAVAILABLE = "UNAVAILABLE"  # PS3.3 Section C.4.23.1.1


@dataclass(frozen=True, slots=True)
class CommitReport:
    """The answer to a storage commitment (PS3.4 Section J.3.3).

    Attributes:
        committed: SOP Instance UIDs that the peer took responsibility for.
        failed: those that it did not, with Failure Reason (0008,1197).
    """

    transaction_uid: str
    committed: tuple[str, ...]
    failed: Mapping[str, int]

    def content(self) -> dict[str, Any]:
        """As a notice keeps it."""
        return {
            "transaction": self.transaction_uid,
            "committed": list(self.committed),
            "failed": dict(self.failed),
        }


def read_step_creation(uid: str, attributes: Dataset) -> dict[str, Any]:
    """A Modality Performed Procedure Step that begins (PS3.4 Section F.7.2.1).

    Raises:
        MessageError: a required attribute is missing or empty, or it is not in progress.
    """
    for keyword in _STEP_REQUIRED:
        _required(attributes, keyword)
    status = str(attributes.PerformedProcedureStepStatus)
    if status != IN_PROGRESS:
        raise MessageError(INVALID_ATTRIBUTE_VALUE, f"a step is created {IN_PROGRESS}")
    studies = [
        _uid(_required(item, "StudyInstanceUID"))
        for item in attributes.ScheduledStepAttributesSequence
    ]
    return _step(uid, attributes, status, studies[0])


def read_step_setting(uid: str, attributes: Dataset) -> dict[str, Any]:
    """News of a Modality Performed Procedure Step (PS3.4 Section F.7.2.2).

    Raises:
        MessageError: its state is none, or it ends without naming a series.
    """
    status = str(attributes.get("PerformedProcedureStepStatus", "") or "")
    if status not in {"", IN_PROGRESS, *FINAL_STATES}:
        raise MessageError(INVALID_ATTRIBUTE_VALUE, "no state of a performed procedure step")
    if status == COMPLETED and "PerformedSeriesSequence" in attributes:
        # the series may have been named earlier; but if they are named, there must be one
        _required(attributes, "PerformedSeriesSequence")
    return _step(uid, attributes, status, "")


def read_availability(uid: str, attributes: Dataset) -> dict[str, Any]:
    """An Instance Availability Notification (PS3.4 Table R.3.2-1, PS3.3 Section C.4.23).

    Raises:
        MessageError: a required attribute is missing or empty.
    """
    study = _uid(_required(attributes, "StudyInstanceUID"))
    series: dict[str, list[str]] = {}
    for item in _required(attributes, "ReferencedSeriesSequence"):
        listed = series.setdefault(_uid(_required(item, "SeriesInstanceUID")), [])
        listed += [
            _uid(_required(reference, "ReferencedSOPInstanceUID"))
            for reference in _required(item, "ReferencedSOPSequence")
            if reference.get("InstanceAvailability") != _UNAVAILABLE
        ]
    return {"uid": _uid(uid), "study": study, "series": series}


def read_commit_request(
    action_type: int | None, instance_uid: str, information: Dataset
) -> dict[str, Any]:
    """A request for storage commitment (PS3.4 Section J.3.2).

    Raises:
        MessageError: it is another action, asked of another object, or names no instance.
    """
    if action_type != _ACTION_TYPE:
        raise MessageError(NO_SUCH_ACTION_TYPE, f"no action type {action_type}")
    if instance_uid != COMMITMENT_INSTANCE:
        raise MessageError(NO_SUCH_INSTANCE, "not the well-known Storage Commitment instance")
    return {
        "transaction": _uid(_argument(information, "TransactionUID")),
        "instances": [
            [
                _uid(_argument(item, "ReferencedSOPClassUID")),
                _uid(_argument(item, "ReferencedSOPInstanceUID")),
            ]
            for item in _argument(information, "ReferencedSOPSequence")
        ],
    }


def read_commit_report(event_type: int | None, information: Dataset) -> CommitReport:
    """The report of a storage commitment that we asked for (PS3.4 Section J.3.3).

    Args:
        event_type: Event Type ID: 1 all committed, 2 failures exist.
        information: the Event Information.

    Raises:
        MessageError: it is another event, or names no transaction.
    """
    if event_type not in {_ALL_COMMITTED, _FAILURES_EXIST}:
        raise MessageError(NO_SUCH_EVENT_TYPE, f"no event type {event_type}")
    failed = {
        _uid(_argument(item, "ReferencedSOPInstanceUID")): int(item.get("FailureReason") or 0)
        for item in information.get("FailedSOPSequence") or ()
    }
    committed = tuple(
        uid
        for item in information.get("ReferencedSOPSequence") or ()
        if (uid := _uid(_argument(item, "ReferencedSOPInstanceUID"))) not in failed
    )
    return CommitReport(_uid(_argument(information, "TransactionUID")), committed, failed)


def _step(uid: str, attributes: Dataset, status: str, study: str) -> dict[str, Any]:
    # a setting without the sequence leaves what was told earlier (PS3.7 Section 10.1.3)
    told = "PerformedSeriesSequence" in attributes
    series: dict[str, list[str]] = {}
    for item in attributes.get("PerformedSeriesSequence") or ():
        listed = series.setdefault(_uid(_required(item, "SeriesInstanceUID")), [])
        listed += _references(item.get("ReferencedImageSequence"))
        listed += _references(item.get("ReferencedNonImageCompositeSOPInstanceSequence"))
    return {
        "uid": _uid(uid),
        "status": status,
        "study": study,
        "final": status in FINAL_STATES,
        "series": series if told else None,
    }


def _references(items: Iterable[Dataset] | None) -> list[str]:
    return [_uid(_required(item, "ReferencedSOPInstanceUID")) for item in items or ()]


def _required(dataset: Dataset, keyword: str) -> Any:
    """A value of usage 1.

    Raises:
        MessageError: the attribute is missing or has no value.
    """
    if keyword not in dataset:
        raise MessageError(MISSING_ATTRIBUTE, f"{keyword} is missing")
    element = dataset[keyword]
    if element.is_empty or (element.VR == "SQ" and not element.value):
        raise MessageError(MISSING_ATTRIBUTE_VALUE, f"{keyword} has no value")
    return element.value


def _argument(dataset: Dataset, keyword: str) -> Any:
    """The same for the information of an action or an event (PS3.7 Sections 10.1.1 and 10.1.4)."""
    try:
        return _required(dataset, keyword)
    except MessageError as error:
        raise MessageError(INVALID_ARGUMENT_VALUE, str(error)) from error


def _uid(value: Any) -> str:
    try:
        return UID(str(value))
    except InvalidValueError as error:
        raise MessageError(INVALID_ATTRIBUTE_VALUE, "a UID that is none") from error
