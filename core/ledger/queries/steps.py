"""Queries of the worklist: every job as a Scheduled Procedure Step (PS3.4 Annex K)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo
from typing import Any

from sqlalchemy import exists, false, func, or_, select, true
from sqlalchemy.orm import Session

from core.ledger.queries.conditions import Conditions, unindexed
from core.ledger.queries.matching import Matching, Moments, Name, OneOf, Span
from core.ledger.queries.paging import Entry, Page, Phase, Place, Query, read_page
from core.ledger.queries.studies import COLUMNS, StudyQueries, upper_entry
from core.lifecycle import JOB_OPEN, JobState
from core.schema import JobRow, JobSeriesRow, SeriesRow, StudyRow

# PS3.3 Section C.4.10, Scheduled Procedure Step Status (0040,0020).
STATUS: dict[JobState, str] = {
    JobState.WAITING: "SCHEDULED",
    JobState.HELD: "SCHEDULED",
    JobState.QUEUED: "READY",
    JobState.RUNNING: "STARTED",
    JobState.DONE: "COMPLETED",
    JobState.NOT_APPLICABLE: "COMPLETED",
    JobState.FAILED: "DISCONTINUED",
    JobState.QUARANTINED: "DISCONTINUED",
    JobState.CANCELLED: "CANCELED",
    JobState.SUPERSEDED: "CANCELED",
}
STEP_MOMENTS = "ScheduledProcedureStepStartDate+ScheduledProcedureStepStartTime"
_DATE, _TIME = "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime"
_STEP_ID_LENGTH = 16  # VR SH; a job's id begins with so many characters, without its dashes 14
_SELECTIVE = ("PatientID", "AccessionNumber", "StudyInstanceUID")
# As `node.deciding.priority` gives them; the words are those of Requested Procedure Priority.
_PRIORITIES = ((20, "STAT"), (10, "HIGH"), (0, "ROUTINE"))


@dataclass(frozen=True, slots=True)
class Station:
    """What every step has in common.

    Attributes:
        ae_title: ours.
        zone: the time zone that dates are told in.
        since: steps that are over are listed if they began after this.
    """

    ae_title: str
    zone: tzinfo | None
    since: datetime


def step_id(job_id: str) -> str:
    """Scheduled Procedure Step ID: the beginning of a job's id, as long as it may be."""
    return job_id[:_STEP_ID_LENGTH]


class StepQueries:
    """Pages of steps, the newest first."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._conditions = Conditions(session)
        self._studies = StudyQueries(session)

    def page(self, query: Query, station: Station, place: Place, limit: int) -> Page:
        """A page of steps."""
        rows = (
            select(
                *COLUMNS.values(),
                StudyRow.procedure_id,
                JobRow.id,
                JobRow.model,
                JobRow.model_version,
                JobRow.state,
                JobRow.priority,
                JobRow.created_at,
            )
            .join(StudyRow, StudyRow.study_instance_uid == JobRow.study_instance_uid)
            .where(*self._where(query.keys, station))
        )
        found, after = read_page(
            self._session, self._phases(rows, query.keys, station), place, limit
        )
        modalities = self._modalities([row.id for row in found])
        entries = [
            upper_entry(row) | _step(row, modalities.get(row.id, ""), station) for row in found
        ]
        return Page(tuple(item for item in entries if _accepts(query.keys, item)), after)

    def _modalities(self, jobs: list[str]) -> dict[str, str]:
        rows = self._session.execute(
            select(JobSeriesRow.job_id, func.min(SeriesRow.modality))
            .join(SeriesRow, SeriesRow.series_instance_uid == JobSeriesRow.series_instance_uid)
            .where(JobSeriesRow.job_id.in_(jobs))
            .group_by(JobSeriesRow.job_id)
        )
        return dict(rows.all())

    def _where(self, keys: Mapping[str, Matching], station: Station) -> list[Any]:
        conditions = self._studies.where(keys)
        for keyword, asked in keys.items():
            if keyword == "Modality":
                conditions.append(
                    exists().where(
                        JobSeriesRow.job_id == JobRow.id,
                        JobSeriesRow.series_instance_uid == SeriesRow.series_instance_uid,
                        self._conditions.of(SeriesRow.modality, asked),
                    )
                )
            elif keyword == "ScheduledProcedureStepStatus" and not isinstance(asked, Moments):
                states = [state for state, word in STATUS.items() if asked.accepts(word)]
                conditions.append(unindexed(JobRow.state, "").in_(states))
            elif keyword == "ScheduledProcedureStepID":
                conditions.append(
                    self._conditions.of(func.substr(JobRow.id, 1, _STEP_ID_LENGTH), asked)
                )
                if isinstance(asked, OneOf):  # for the index
                    conditions.append(or_(false(), *(_begins(value) for value in asked.values)))
            elif keyword == "ScheduledStationAETitle" and not isinstance(asked, Moments):
                conditions.append(true() if asked.accepts(station.ae_title) else false())
        return conditions

    def _phases(self, rows: Any, keys: Mapping[str, Matching], station: Station) -> list[Phase]:
        """In which order jobs are read: by their begin, or below the studies that match."""
        order = (JobRow.created_at, JobRow.id)
        low, high = _days(keys, station.zone)
        began = []
        if high is not None:
            began.append(JobRow.created_at < high)
        if low is not None:
            began.append(JobRow.created_at >= low)
        if any(isinstance(keys.get(keyword), OneOf | Name) for keyword in _SELECTIVE) or (
            low is not None and low >= station.since
        ):
            is_open = unindexed(JobRow.state, "").in_(JOB_OPEN)
            seen = or_(JobRow.created_at >= station.since, is_open)
            where = (*began,) if low is not None and low >= station.since else (*began, seen)
            return [Phase(rows, order, where, descending=True)]
        return [
            Phase(rows, order, (*began, JobRow.created_at >= station.since), descending=True),
            Phase(
                rows,
                order,
                (*began, JobRow.created_at < station.since, JobRow.state.in_(JOB_OPEN)),
                descending=True,
            ),
        ]


def _begins(value: str) -> Any:
    return JobRow.id.between(value, value + "~")


def _step(row: Any, modality: str, station: Station) -> Entry:
    began = row.created_at.astimezone(station.zone)
    identifier = step_id(row.id)
    return {
        "RequestedProcedureID": row.procedure_id or identifier,
        "RequestedProcedureDescription": row.procedure or row.description,
        "RequestedProcedurePriority": next(
            (word for least, word in _PRIORITIES if row.priority >= least), "LOW"
        ),
        "ScheduledStationAETitle": station.ae_title,
        _DATE: f"{began:%Y%m%d}",
        _TIME: f"{began:%H%M%S}",
        "Modality": modality,
        "ScheduledProcedureStepDescription": f"{row.model} {row.model_version}"[:64],
        "ScheduledProcedureStepID": identifier,
        "ScheduledProcedureStepStatus": STATUS[JobState(row.state)],
    }


def _days(
    keys: Mapping[str, Matching], zone: tzinfo | None
) -> tuple[datetime | None, datetime | None]:
    """Between which moments steps begin: whole days, a little more than what is asked for."""
    asked = keys.get(_DATE)
    low = high = ""
    if isinstance(asked, Span):
        low, high = asked.low, asked.high
    elif isinstance(asked, OneOf):
        low, high = min(asked.values), max(asked.values)
    elif isinstance(moments := keys.get(STEP_MOMENTS), Moments):
        low, high = moments.low[0], moments.high[0]
    return (
        _midnight(low, zone) if low else None,
        _midnight(high, zone, timedelta(days=1)) if high else None,
    )


def _midnight(day: str, zone: tzinfo | None, later: timedelta = timedelta()) -> datetime:
    midnight = datetime.combine(datetime.strptime(day, "%Y%m%d") + later, time.min)
    return midnight.replace(tzinfo=zone) if zone is not None else midnight.astimezone()


def _accepts(keys: Mapping[str, Matching], entry: Entry) -> bool:
    """What the database was not asked: times of the day, which depend on the time zone."""
    for keyword, asked in keys.items():
        if isinstance(asked, Moments):
            if keyword == STEP_MOMENTS and not asked.accepts(entry[_DATE], entry[_TIME]):
                return False
        elif keyword in _HERE and not asked.accepts(entry.get(keyword, "")):
            return False
    return True


_HERE = frozenset(
    {
        _DATE,
        _TIME,
        "RequestedProcedureID",
        "RequestedProcedureDescription",
        "ScheduledProcedureStepDescription",
    }
)
