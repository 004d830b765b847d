"""A lease: renewed, given back, run out, or ended with the worker that held it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, select

from core.ledger.jobs.base import DISPATCH, JobRows
from core.lifecycle import JobState
from core.schema import JobRow

# A job that took its worker down so often is not given to a third one.
MAX_DEATHS = 2


class Holding(JobRows):
    """Keeps jobs in one worker's hands at a time."""

    def heartbeat(self, job_id: str, owner: str, until: datetime) -> bool:
        """Renew a lease; False when it is lost."""
        row = self._locked(job_id)
        if row.state != JobState.RUNNING or row.lease_owner != owner:
            return False
        row.lease_until = until
        return True

    def give_back(
        self,
        job_id: str,
        owner: str,
        reason: str,
        next_try_at: datetime,
        now: datetime,
        *,
        strain: int | None = None,
    ) -> None:
        """A passing trouble: the job waits for its next attempt.

        `strain` is how it is to be tried then (`core.domain.Job`), if otherwise than now.

        Raises:
            LeaseLostError: the caller does not hold the job any more.
        """
        row = self._held_by(job_id, owner)
        self.move(row, JobState.WAITING, reason, owner, now)
        row.next_try_at = next_try_at
        if strain is not None:
            row.strain = strain

    def expire(self, now: datetime, *, blame: bool = True) -> list[tuple[str, JobState]]:
        """Give jobs whose worker died back, or quarantine them.

        Without `blame` the deaths are not counted: the ledger or the node itself was away, so
        that a living worker could not renew its lease.
        """
        rows = self._session.scalars(
            select(JobRow)
            .where(expired(now))
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        ).all()
        return [(row.id, self._worker_died(row, DISPATCH, now, blame=blame)) for row in rows]

    def worker_died(self, job_id: str, owner: str, now: datetime) -> JobState | None:
        """It is known that `owner` is dead: its job need not wait for the lease to run out.

        Returns:
            What became of the job; None when `owner` did not hold it any more.
        """
        row = self._locked(job_id)
        if row.state != JobState.RUNNING or row.lease_owner != owner:
            return None
        return self._worker_died(row, "worker", now, blame=True)

    def _worker_died(self, row: JobRow, actor: str, now: datetime, *, blame: bool) -> JobState:
        row.deaths += blame
        if row.deaths >= MAX_DEATHS:
            state = JobState.QUARANTINED
            reason = f"its worker died {row.deaths} times while it ran"
            remedy = "Look at the worker's log; then `sentinode retry JOB`."
        else:
            state, reason, remedy = JobState.WAITING, "its worker died; given back", ""
        self.move(row, state, reason, actor, now, remedy=remedy)
        row.next_try_at = None
        return state


def expired(now: datetime) -> ColumnElement[bool]:
    """In the hands of a worker that is silent."""
    return (JobRow.state == JobState.RUNNING) & (JobRow.lease_until < now)
