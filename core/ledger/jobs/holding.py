"""A lease: renewed, given back, run out, or ended with the worker that held it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, select

from core.ledger.jobs.base import DISPATCH
from core.ledger.jobs.returning import Returning
from core.lifecycle import JobState
from core.schema import JobRow

# A job that took its worker down so often is not given to a third one.
MAX_DEATHS = 2
# So often it may be lost with nobody to blame: a job that takes its whole node down is among them.
MAX_LOSSES = 5


class Holding(Returning):
    """Keeps jobs in one worker's hands at a time."""

    def heartbeat(self, job_id: str, owner: str, until: datetime, now: datetime) -> bool:
        """Renew a lease; False when it is lost.

        A lease that had run out is the owner's again where nobody else has the job.
        """
        row = self._mine(job_id, owner, now)
        if row is None:
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
        row = self._held_by(job_id, owner, now)
        self.move(row, JobState.WAITING, reason, owner, now)
        row.next_try_at = next_try_at
        if strain is not None:
            row.strain = strain

    def expire(self, now: datetime, *, blame: bool = True) -> list[tuple[str, JobState]]:
        """Give jobs whose worker fell silent back, or quarantine them.

        Without `blame` the deaths are not counted: the ledger or the node itself was away, so
        that a living worker could not renew its lease. A job that is lost so too often is
        quarantined all the same, or one that ends the whole node would do so for ever.
        """
        rows = self._session.scalars(
            select(JobRow)
            .where(expired(now))
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        ).all()
        return [(row.id, self._fell_silent(row, DISPATCH, now, blame=blame)) for row in rows]

    def worker_died(self, job_id: str, owner: str, now: datetime) -> JobState | None:
        """It is known that `owner` is dead: its job need not wait for the lease to run out.

        Returns:
            What became of the job; None when `owner` did not hold it any more.
        """
        row = self._locked(job_id)
        if row.state == JobState.RUNNING and row.lease_owner == owner:
            state = self._fell_silent(row, "worker", now, blame=True)
            row.lost_by = None  # nobody will be heard again
            return state
        if row.lost_by == owner and not row.blamed:
            # the lease ran out first, and it was not known why
            row.losses, row.deaths, row.lost_by = row.losses - 1, row.deaths + 1, None
            if row.deaths >= MAX_DEATHS and row.state in {JobState.WAITING, JobState.QUEUED}:
                return self._quarantine(row, "worker", now)
        return None

    def _fell_silent(self, row: JobRow, actor: str, now: datetime, *, blame: bool) -> JobState:
        row.deaths += blame
        row.losses += not blame
        row.lost_by, row.blamed = row.lease_owner, blame
        if row.deaths >= MAX_DEATHS or row.losses >= MAX_LOSSES:
            return self._quarantine(row, actor, now)
        what = "its worker died" if blame else "its worker was not heard of while the node was away"
        self.move(row, JobState.WAITING, f"{what}; given back", actor, now)
        row.next_try_at = None
        return JobState.WAITING

    def _quarantine(self, row: JobRow, actor: str, now: datetime) -> JobState:
        reason = f"its worker died {row.deaths} times while it ran"
        if row.deaths < MAX_DEATHS:
            reason = f"it was lost {row.losses} times, with its worker and its node"
        remedy = "Look at the worker's log; then `sentinode retry JOB`."
        self.move(row, JobState.QUARANTINED, reason, actor, now, remedy=remedy)
        row.next_try_at = None
        return JobState.QUARANTINED


def expired(now: datetime) -> ColumnElement[bool]:
    """In the hands of a worker that is silent."""
    return (JobRow.state == JobState.RUNNING) & (JobRow.lease_until < now)
