"""Which jobs a worker is to be woken up for: those that are due, and lost ones again."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, select

from core.domain import Job
from core.ledger.jobs.base import DISPATCH, JobRows
from core.ledger.jobs.holding import expired
from core.ledger.rows import job_value
from core.lifecycle import JobState
from core.schema import JobRow

LONGEST_REPUBLISH = timedelta(hours=1)


class Publishing(JobRows):
    """Queues jobs."""

    def to_publish(self, now: datetime, republish: timedelta, limit: int = 200) -> list[Job]:
        """Move jobs that are due to queued, and take lost ones again; the urgent first.

        A queued job that no worker claimed within `republish` counts as lost: its message is
        sent again, after waits that double, or the messages of a weekend without workers would
        fill the broker. A message too many does no harm, for the claim decides.
        """
        jobs: list[Job] = []
        for condition in (_due(now), _lost(now)):
            for row in self._session.scalars(
                select(JobRow)
                .where(condition)
                .order_by(JobRow.priority.desc(), JobRow.created_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
                .execution_options(populate_existing=True)
            ):
                if row.state == JobState.WAITING:
                    self.move(row, JobState.QUEUED, "published", DISPATCH, now)
                    row.queued_at, row.published = now, 0
                wait = min(republish * 2**row.published, max(republish, LONGEST_REPUBLISH))
                row.republish_at = now + wait
                row.published = min(row.published + 1, 16)
                jobs.append(job_value(row))
        return jobs

    def has_work(self, now: datetime) -> bool:
        """Whether `to_publish` or `expire` would find anything; only reads."""
        return any(
            self._session.scalar(select(JobRow.id).where(condition).limit(1)) is not None
            for condition in (_due(now), _lost(now), expired(now))
        )

    def left_waiting(self, since: datetime) -> list[tuple[str, str]]:
        """Queues in which a job has been queued since then, each with the id of one; only reads."""
        rows = self._session.execute(
            select(JobRow.queue, func.min(JobRow.id))
            .where(JobRow.state == JobState.QUEUED, JobRow.queued_at <= since)
            .group_by(JobRow.queue)
            .order_by(JobRow.queue)
        )
        return [(queue, job_id) for queue, job_id in rows]

    def publish_failed(self, job_id: str, next_try_at: datetime, now: datetime) -> None:
        """The broker is away: the job waits, unless a worker has it already.

        One that somebody has in hand at this moment is left to be published again later: to wait
        for it, with other jobs in hand, was a deadlock with whoever cancels or holds a study.
        """
        row = self._session.scalars(
            select(JobRow)
            .where(JobRow.id == job_id, JobRow.state == JobState.QUEUED)
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        ).one_or_none()
        if row is not None:
            self.move(row, JobState.WAITING, "the broker is away", DISPATCH, now)
            row.next_try_at = next_try_at


def _due(now: datetime) -> ColumnElement[bool]:
    """Waiting, and its time has come."""
    in_time = JobRow.next_try_at.is_(None) | (JobRow.next_try_at <= now)
    return (JobRow.state == JobState.WAITING) & in_time


def _lost(now: datetime) -> ColumnElement[bool]:
    """Published, and no worker came for it."""
    return (JobRow.state == JobState.QUEUED) & (JobRow.republish_at <= now)
