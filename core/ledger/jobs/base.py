"""What every part of the jobs' room uses: a job's row, locked, and one legal move."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ScalarSelect, func, select
from sqlalchemy.orm import Session

from core.domain import Instance
from core.errors import IllegalMoveError, NotFoundError
from core.ledger.rows import instance_value
from core.lifecycle import JOB_MOVES, JobState
from core.schema import (
    InstanceRow,
    JobEventRow,
    JobInstanceRow,
    JobRow,
    JobSeriesRow,
    StudyRow,
)

HELD_REASON = "identity conflict: the study's images disagree about whose they are"
HELD_REMEDY = "Look at `sentinode conflicts`; then `sentinode resolve STUDY --release` or --cancel."
DISPATCH = "dispatch"
# In these a worker that was taken for dead may be heard again.
_MAY_COME_BACK = frozenset(
    {JobState.WAITING, JobState.QUEUED, JobState.RUNNING, JobState.QUARANTINED}
)


class JobRows:
    """Reads, locks and moves the rows of jobs."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def move(
        self,
        row: JobRow,
        state: JobState,
        note: str,
        actor: str,
        now: datetime,
        *,
        remedy: str = "",
    ) -> None:
        """Make one legal move and write it into the job's life.

        Raises:
            IllegalMoveError: the lifecycle does not allow it.
        """
        before = JobState(row.state)
        if state not in JOB_MOVES[before]:
            raise IllegalMoveError(f"job {row.id} cannot go from {row.state} to {state}")
        row.state, row.updated_at, row.reason, row.remedy = state, now, note, remedy
        if state != JobState.RUNNING:
            row.lease_owner = row.lease_until = None
        if state not in _MAY_COME_BACK:
            row.lost_by = None
        self._session.add(
            JobEventRow(job_id=row.id, at=now, state=state, note=note, actor=actor[:64])
        )
        if before == JobState.RUNNING:
            self._wake_twins(row, now)

    def instances_of(self, job_id: str) -> list[Instance]:
        """The versions of the instances that a job reads."""
        rows = self._session.scalars(
            select(InstanceRow)
            .join(JobInstanceRow, JobInstanceRow.instance_id == InstanceRow.id)
            .where(JobInstanceRow.job_id == job_id)
            .order_by(InstanceRow.id)
        )
        return [instance_value(row) for row in rows]

    def gone(self, job_id: str) -> int:
        """How many of the instances that a job reads were removed from the store."""
        return (
            self._session.scalar(
                select(func.count())
                .select_from(InstanceRow)
                .join(JobInstanceRow, JobInstanceRow.instance_id == InstanceRow.id)
                .where(JobInstanceRow.job_id == job_id, InstanceRow.gone_at.is_not(None))
            )
            or 0
        )

    def series_of(self, job_id: str) -> tuple[str, ...]:
        """The series of a job's input."""
        return tuple(
            self._session.scalars(
                select(JobSeriesRow.series_instance_uid)
                .where(JobSeriesRow.job_id == job_id)
                .order_by(JobSeriesRow.series_instance_uid)
            )
        )

    def turn(self, job_id: str) -> int:
        """When a job was made among all jobs (`turn_of`)."""
        return self._session.scalar(select(turn_of()).where(JobRow.id == job_id)) or 0

    def _locked(self, job_id: str) -> JobRow:
        row = self._session.scalars(
            select(JobRow)
            .where(JobRow.id == job_id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one_or_none()
        if row is None:
            raise NotFoundError(f"no job {job_id}")
        return row

    def _lock_study(self, study_instance_uid: str) -> StudyRow | None:
        """The study before any job of it, as intake does: two orders would be a deadlock."""
        return self._session.scalars(
            select(StudyRow)
            .where(StudyRow.study_instance_uid == study_instance_uid)
            .with_for_update(key_share=True)
            .execution_options(populate_existing=True)
        ).one_or_none()

    def _wake_twins(self, row: JobRow, now: datetime) -> None:
        """Publish the jobs again at once that waited for this one's results.

        One that somebody else holds at this moment is left to the usual healing: to wait for
        it here, with this job's lock in hand, could be a deadlock.
        """
        twins = self._session.scalars(
            select(JobRow)
            .where(
                JobRow.input_digest == row.input_digest,
                JobRow.model == row.model,
                JobRow.model_version == row.model_version,
                JobRow.id != row.id,
                JobRow.state == JobState.QUEUED,
            )
            .with_for_update(skip_locked=True)
        )
        for twin in twins:
            twin.republish_at = now


def turn_of(job: type[JobRow] = JobRow) -> ScalarSelect[int | None]:
    """When a job was made among all jobs: the number of its first event.

    Not its `created_at`: a clock may be set back, and two jobs may share a moment.
    """
    first = select(func.min(JobEventRow.id)).where(JobEventRow.job_id == job.id)
    return first.correlate(job).scalar_subquery()
