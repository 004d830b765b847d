"""A worker that was taken for dead and is not: it gets its job back, and the blame is undone.

A busy machine, a clock that was set, or a ledger that was away let the lease of a living worker
run out. Nobody can tell at that moment; the worker's next word does.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import case, select
from sqlalchemy.orm import aliased

from core.errors import LeaseLostError, LedgerError
from core.ledger.jobs.base import DISPATCH, JobRows, turn_of
from core.lifecycle import JobState
from core.schema import JobRow, JobSeriesRow, StudyRow

TAKEN_BACK = "its worker is alive; it has its job back"


class Returning(JobRows):
    """Gives jobs back to those who had them."""

    def _held_by(self, job_id: str, owner: str, now: datetime) -> JobRow:
        """The job's row, locked and in the owner's hands.

        Raises:
            LeaseLostError: it is not the owner's any more.
            LedgerError: it cannot be known at this moment.
        """
        row = self._mine(job_id, owner, now)
        if row is None:
            raise LeaseLostError(f"job {job_id} is no longer ours: another has it, or it ended")
        return row

    def _mine(self, job_id: str, owner: str, now: datetime) -> JobRow | None:
        """The row of a job that is the owner's, also again; None when it is lost."""
        row = self._locked(job_id)
        if row.state == JobState.RUNNING and row.lease_owner == owner:
            return row
        if row.lost_by != owner:
            return None
        if row.state == JobState.QUARANTINED and not self._may_leave_quarantine(row):
            self._undo_blame(row)
            return None
        self._undo_blame(row)
        if row.state == JobState.RUNNING or self._twin_is_ahead(row):
            return None
        self.move(row, JobState.RUNNING, TAKEN_BACK, owner, now)
        row.lease_owner, row.lease_until, row.next_try_at = owner, now, None
        return row

    def left_by_machine(self, machine: str, boot: str) -> list[str]:
        """Jobs that a machine had in hand, or is blamed for, before it was started again.

        Args:
            machine: as in the names of owners, `worker:MACHINE.BOOT:…`.
            boot: of the machine as it runs now.
        """
        owner = case((JobRow.state == JobState.RUNNING, JobRow.lease_owner), else_=JobRow.lost_by)
        before = owner.startswith(f"worker:{machine}.") & ~owner.startswith(
            f"worker:{machine}.{boot}:"
        )
        counts = (JobRow.state == JobState.RUNNING) | JobRow.blamed
        states = [JobState.WAITING, JobState.QUEUED, JobState.RUNNING, JobState.QUARANTINED]
        return list(
            self._session.scalars(select(JobRow.id).where(JobRow.state.in_(states), before, counts))
        )

    def machine_restarted(self, job_id: str, machine: str, boot: str, now: datetime) -> bool:
        """A machine was started again: what it had in hand was not lost by the job's fault.

        Returns:
            Whether the job was given back, or its blame undone.

        Raises:
            LedgerError: its study is being worked on; ask again.
        """
        row = self._locked(job_id)
        if job_id not in self.left_by_machine(machine, boot):
            return False
        note = "its machine was switched off; given back"
        if row.state == JobState.RUNNING:
            row.losses += 1
            row.lost_by, row.blamed = row.lease_owner, False
            self.move(row, JobState.WAITING, note, DISPATCH, now)
            row.next_try_at = None
            return True
        if row.state == JobState.QUARANTINED and self._may_leave_quarantine(row):
            self.move(row, JobState.WAITING, note, DISPATCH, now)
            row.next_try_at = None
        row.deaths, row.losses, row.blamed = row.deaths - 1, row.losses + 1, False
        return True

    @staticmethod
    def _undo_blame(row: JobRow) -> None:
        row.deaths -= row.blamed
        row.losses -= not row.blamed
        row.lost_by, row.blamed = None, False

    def _may_leave_quarantine(self, row: JobRow) -> bool:
        """Nothing that came since stands against it: no conflict, and no later job.

        Raises:
            LedgerError: somebody works on the study at this moment; ask again. To wait for it
                here, with the job's lock in hand, could be a deadlock.
        """
        study = self._session.scalars(
            select(StudyRow)
            .where(StudyRow.study_instance_uid == row.study_instance_uid)
            .with_for_update(key_share=True, skip_locked=True)
            .execution_options(populate_existing=True)
        ).one_or_none()
        if study is None:
            raise LedgerError(f"the study of job {row.id} is being worked on")
        later = (
            select(JobRow.id)
            .join(JobSeriesRow, JobSeriesRow.job_id == JobRow.id)
            .where(
                JobSeriesRow.series_instance_uid.in_(self.series_of(row.id)),
                JobRow.route == row.route,
                turn_of() > self.turn(row.id),
            )
            .limit(1)
        )
        return not study.conflict and self._session.scalar(later) is None

    def _twin_is_ahead(self, row: JobRow) -> bool:
        """The same was begun, or done, for another route since: its results will count."""
        twin = aliased(JobRow)
        found = select(twin.id).where(
            twin.input_digest == row.input_digest,
            twin.model == row.model,
            twin.model_version == row.model_version,
            twin.id != row.id,
            twin.state.in_((JobState.RUNNING, JobState.DONE)),
            twin.started_at >= row.started_at,
        )
        return self._session.scalar(found.limit(1)) is not None
