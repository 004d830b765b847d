"""Unified Procedure Steps: states, moves, and what a workitem is (PS3.4 Annex CC).

Every job is a workitem, whoever began it. A workitem that another system orders has a row of its
own, and the job that comes of it once its inputs are here; one for outside performers never gets
a job. Where there is a job, its state decides.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from core.identifiers import UID
from core.lifecycle import JobState

# PS3.4 Section CC.2.3.3 and PS3.6 Table A-3: all workitems, or those that match a filter.
GLOBAL_SUBSCRIPTION = UID("1.2.840.10008.5.1.4.34.5")
FILTERED_SUBSCRIPTION = UID("1.2.840.10008.5.1.4.34.5.1")
_UUID_ROOT = "2.25."


class WorkitemState(StrEnum):
    """Procedure Step State (0074,1000), PS3.4 Section CC.1.1."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


class Readiness(StrEnum):
    """Input Readiness State (0040,4041), PS3.3 Table C.30.2-1."""

    READY = "READY"
    INCOMPLETE = "INCOMPLETE"
    UNAVAILABLE = "UNAVAILABLE"


FINAL_STATES = frozenset({WorkitemState.COMPLETED, WorkitemState.CANCELED})

# PS3.4 Table CC.1.1-2, by N-ACTION "Change UPS State": the status where the move is not made;
# 0 where it is, a warning where nothing is left to do.
MOVES: dict[tuple[WorkitemState, WorkitemState], int] = {
    (WorkitemState.SCHEDULED, WorkitemState.SCHEDULED): 0xC303,
    (WorkitemState.SCHEDULED, WorkitemState.IN_PROGRESS): 0,
    (WorkitemState.SCHEDULED, WorkitemState.COMPLETED): 0xC310,
    (WorkitemState.SCHEDULED, WorkitemState.CANCELED): 0xC310,
    (WorkitemState.IN_PROGRESS, WorkitemState.SCHEDULED): 0xC303,
    (WorkitemState.IN_PROGRESS, WorkitemState.IN_PROGRESS): 0xC302,
    (WorkitemState.IN_PROGRESS, WorkitemState.COMPLETED): 0,
    (WorkitemState.IN_PROGRESS, WorkitemState.CANCELED): 0,
    (WorkitemState.COMPLETED, WorkitemState.SCHEDULED): 0xC303,
    (WorkitemState.COMPLETED, WorkitemState.IN_PROGRESS): 0xC300,
    (WorkitemState.COMPLETED, WorkitemState.COMPLETED): 0xB306,
    (WorkitemState.COMPLETED, WorkitemState.CANCELED): 0xC300,
    (WorkitemState.CANCELED, WorkitemState.SCHEDULED): 0xC303,
    (WorkitemState.CANCELED, WorkitemState.IN_PROGRESS): 0xC300,
    (WorkitemState.CANCELED, WorkitemState.COMPLETED): 0xC300,
    (WorkitemState.CANCELED, WorkitemState.CANCELED): 0xB304,
}

OF_JOBS: dict[JobState, WorkitemState] = {
    JobState.WAITING: WorkitemState.SCHEDULED,
    JobState.HELD: WorkitemState.SCHEDULED,
    JobState.QUEUED: WorkitemState.SCHEDULED,
    JobState.RUNNING: WorkitemState.IN_PROGRESS,
    JobState.DONE: WorkitemState.COMPLETED,
    JobState.NOT_APPLICABLE: WorkitemState.COMPLETED,
    JobState.FAILED: WorkitemState.CANCELED,
    JobState.QUARANTINED: WorkitemState.CANCELED,
    JobState.CANCELLED: WorkitemState.CANCELED,
    JobState.SUPERSEDED: WorkitemState.CANCELED,
}


def uid_of_job(job_id: str) -> UID:
    """The workitem of a job that nobody ordered: its id as a UID (PS3.5 Section B.2)."""
    return UID(f"{_UUID_ROOT}{uuid.UUID(job_id).int}")


def job_of_uid(uid: str) -> str | None:
    """The job that a UID would be the workitem of; None where it is no such UID."""
    number = uid.removeprefix(_UUID_ROOT)
    if number == uid or not number.isdigit() or int(number) >= 1 << 128:
        return None
    return str(uuid.UUID(int=int(number)))


@dataclass(frozen=True, slots=True)
class InputSeries:
    """A series of the input, and which of its instances; none listed: all of them."""

    study_instance_uid: str
    series_instance_uid: str
    instances: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """An object that came of a workitem."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Workitem:
    """One workitem, as it stands.

    Attributes:
        job_id: of our own; empty while there is none, and for outside performers.
        code: value, scheme and meaning of its Scheduled Workitem Code.
        label: Procedure Step Label.
        priority: HIGH, MEDIUM or LOW.
        study: identity attributes by DICOM keyword, as far as the study is known.
        inputs: as ordered, or the series of the job.
        given: DICOM JSON of what was ordered, set or performed.
        outside: other performers may claim it.
        performer: AE title of who claimed it, or of us.
        due_at: by when a claim should have ended.
        reason: why it was cancelled, or what it came to.
    """

    uid: str
    state: WorkitemState
    route: str
    code: tuple[str, str, str]
    label: str
    priority: str
    readiness: Readiness
    created_at: datetime
    changed_at: datetime
    study: Mapping[str, str]
    inputs: tuple[InputSeries, ...]
    job_id: str = ""
    model: str = ""
    model_version: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outputs: tuple[Output, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    ordered_by: str = ""
    outside: bool = False
    performer: str = ""
    transaction_uid: str = ""
    due_at: datetime | None = None
    reason: str = ""

    def overdue(self, now: datetime) -> bool:
        """Whether who claimed it should have ended by now."""
        late = self.due_at is not None and self.due_at < now
        return late and self.state is WorkitemState.IN_PROGRESS
