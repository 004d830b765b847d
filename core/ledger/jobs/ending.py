"""How a job ends: with what it found, or because somebody cancelled it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select

from core.domain import FOR_PAGES, Finding, Result
from core.errors import IllegalMoveError, NotFoundError
from core.ledger.jobs.returning import Returning
from core.ledger.rows import finding_row, measurement_row, result_row
from core.lifecycle import JOB_MOVES, JOB_OPEN, JobState, TransferState
from core.schema import JobRow, TransferRow


class Ending(Returning):
    """Finishes and cancels jobs."""

    def finish(
        self,
        job_id: str,
        owner: str,
        state: JobState,
        now: datetime,
        *,
        reason: str = "",
        remedy: str = "",
        findings: Sequence[Finding] = (),
        results: Sequence[Result] = (),
        summary: dict[str, Any] | None = None,
    ) -> None:
        """End a job with what it found, and make its transfers due, in one transaction.

        The objects of a job that failed are kept and not sent.

        Raises:
            LeaseLostError: the caller does not hold the job any more; nothing was written.
        """
        row = self._held_by(job_id, owner, now)
        found = sum(item.present for item in findings)
        note = reason or f"{found} finding{'' if found == 1 else 's'}"
        self.move(row, state, note, owner, now, remedy=remedy)
        row.finished_at, row.summary = now, summary or {}
        self._keep_findings(job_id, findings)
        for result in results:
            stored_result = result_row(job_id, result, now)
            self._session.add(stored_result)
            self._session.flush()
            # an alternative gets its transfers from the rendition that asked for it
            if state != JobState.DONE or not is_sent(result):
                continue
            for destination in row.destinations:
                self._session.add(
                    TransferRow(
                        result_id=stored_result.id,
                        job_id=job_id,
                        route=row.route,
                        study_instance_uid=row.study_instance_uid,
                        destination=destination,
                        state=TransferState.DUE,
                        created_at=now,
                    )
                )

    def cancel(self, job_id: str, actor: str, now: datetime, *, note: str = "cancelled") -> None:
        """End a job that is not finished; a worker that has it notices and writes nothing.

        Args:
            note: why, for a person.

        Raises:
            NotFoundError: no such job.
            IllegalMoveError: it is finished already.
        """
        row = self._locked(job_id)
        if JobState.CANCELLED not in JOB_MOVES[JobState(row.state)]:
            raise IllegalMoveError(f"job {job_id} is {row.state}: there is nothing to cancel")
        self.move(row, JobState.CANCELLED, note, actor, now)
        row.next_try_at = None

    def cancel_study(self, study_instance_uid: str, actor: str, now: datetime) -> tuple[str, ...]:
        """Cancel every job of a study that is not finished; their ids.

        Raises:
            NotFoundError: no such study.
        """
        if self._lock_study(study_instance_uid) is None:
            raise NotFoundError(f"no study {study_instance_uid}")
        ids = self._session.scalars(
            select(JobRow.id)
            .where(JobRow.study_instance_uid == study_instance_uid, JobRow.state.in_(JOB_OPEN))
            .order_by(JobRow.id)
            .with_for_update()
        ).all()
        for job_id in ids:
            self.cancel(job_id, actor, now)
        return tuple(ids)

    def _keep_findings(self, job_id: str, findings: Sequence[Finding]) -> None:
        for finding in findings:
            stored = finding_row(job_id, finding)
            self._session.add(stored)
            self._session.flush()
            for measurement in finding.measurements:
                self._session.add(measurement_row(stored.id, measurement))


def is_sent(result: Result) -> bool:
    """Whether a result is an object that its job sends."""
    return result.kind not in FOR_PAGES and result.alternative_to is None
