"""How much is in hand, and what is here of old: for those who fetch or analyse many studies."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from core.ledger.jobs.base import turn_of
from core.lifecycle import JobState, SeriesState
from core.schema import InstanceRow, JobRow, JobSeriesRow, ResultRow, SeriesRow, StudyRow

# What a worker still has to do; jobs that wait for a person do not count.
_BEFORE_WORKERS = (JobState.WAITING, JobState.QUEUED, JobState.RUNNING)
_MOST_AT_ONCE = 500  # SQL parameters of one statement


@dataclass(frozen=True, slots=True)
class OldSeries:
    """A series that is whole, as a selection lists it.

    Attributes:
        gone: so many of its images retention removed from the store.
        conflict: whether its study waits for an administrator.
    """

    series_instance_uid: str
    study_instance_uid: str
    study_date: str
    gone: int
    conflict: bool


@dataclass(frozen=True, slots=True)
class LastJob:
    """The newest job of a route on a series."""

    id: str
    state: JobState
    model: str
    model_version: str


class Backlog:
    """Reads what there is to do, and what could be done again."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def in_hand(self) -> tuple[int, int]:
        """How many jobs are before the workers, and how many series are being received."""
        jobs = select(func.count()).where(JobRow.state.in_(_BEFORE_WORKERS))
        series = select(func.count()).where(SeriesRow.state == SeriesState.RECEIVING)
        return self._session.scalar(jobs) or 0, self._session.scalar(series) or 0

    def held(self, series: Collection[str]) -> Mapping[str, int]:
        """How many images the store has of each of these series; others are left out."""
        found: dict[str, int] = {}
        uids = list(series)
        for start in range(0, len(uids), _MOST_AT_ONCE):
            rows = self._session.execute(
                select(InstanceRow.series_instance_uid, func.count())
                .where(
                    InstanceRow.series_instance_uid.in_(uids[start : start + _MOST_AT_ONCE]),
                    InstanceRow.current.is_(True),
                    InstanceRow.gone_at.is_(None),
                )
                .group_by(InstanceRow.series_instance_uid)
            )
            for uid, count in rows:
                found[uid] = count
        return found

    def own(self, series: Collection[str]) -> frozenset[str]:
        """Those of these series that hold results of ours."""
        found: set[str] = set()
        uids = list(series)
        for start in range(0, len(uids), _MOST_AT_ONCE):
            part = uids[start : start + _MOST_AT_ONCE]
            made = select(ResultRow.series_instance_uid).where(
                ResultRow.series_instance_uid.in_(part)
            )
            back = select(SeriesRow.series_instance_uid).where(
                SeriesRow.series_instance_uid.in_(part), SeriesRow.state == SeriesState.OWN
            )
            found |= set(self._session.scalars(made)) | set(self._session.scalars(back))
        return frozenset(found)

    def old_series(
        self,
        first: str,
        last: str,
        modalities: Collection[str],
        after: tuple[str, str, str] | None,
        limit: int,
    ) -> list[OldSeries]:
        """Whole series of studies of some days, the newest first, page by page.

        Args:
            first: the first Study Date, YYYYMMDD; empty: no bound.
            last: the last one.
            modalities: only these; empty: all.
            after: study date, study and series of the last one before this page.
        """
        place = (
            StudyRow.study_date,
            StudyRow.study_instance_uid,
            SeriesRow.series_instance_uid,
        )
        gone = (
            select(func.count())
            .where(
                InstanceRow.series_instance_uid == SeriesRow.series_instance_uid,
                InstanceRow.current.is_(True),
                InstanceRow.gone_at.is_not(None),
            )
            .correlate(SeriesRow)
            .scalar_subquery()
        )
        query = (
            select(*place, gone, StudyRow.conflict)
            .join(SeriesRow, SeriesRow.study_instance_uid == StudyRow.study_instance_uid)
            .where(SeriesRow.state == SeriesState.WHOLE)
            .order_by(*(column.desc() for column in place))
            .limit(limit)
        )
        if first:
            query = query.where(StudyRow.study_date >= first)
        if last:
            query = query.where(StudyRow.study_date <= last, StudyRow.study_date != "")
        if modalities:
            query = query.where(SeriesRow.modality.in_(list(modalities)))
        if after is not None:
            query = query.where(tuple_(*place) < after)
        return [
            OldSeries(series, study, date, missing, conflict)
            for date, study, series, missing, conflict in self._session.execute(query)
        ]

    def all_old_series(
        self, first: str, last: str, modalities: Collection[str], page: int = 200
    ) -> Iterator[OldSeries]:
        """All of them, read a page at a time, in one transaction."""
        after: tuple[str, str, str] | None = None
        while True:
            found = self.old_series(first, last, modalities, after, page)
            yield from found
            if len(found) < page:
                return
            after = (
                found[-1].study_date,
                found[-1].study_instance_uid,
                found[-1].series_instance_uid,
            )

    def last_job(self, series_instance_uid: str, route: str) -> LastJob | None:
        """The newest job of a route on a series; None if there was none."""
        row = self._session.scalars(
            select(JobRow)
            .join(JobSeriesRow, JobSeriesRow.job_id == JobRow.id)
            .where(JobSeriesRow.series_instance_uid == series_instance_uid, JobRow.route == route)
            .order_by(turn_of().desc())
            .limit(1)
        ).first()
        if row is None:
            return None
        return LastJob(row.id, JobState(row.state), row.model, row.model_version)

    def patient_of(self, study_instance_uid: str) -> tuple[str, str] | None:
        """Patient ID and Study Date of a study that is here; None if it is not."""
        row = self._session.get(StudyRow, study_instance_uid)
        return None if row is None else (row.patient_id, row.study_date)
