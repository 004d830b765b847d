"""One analysis for several jobs: the same input and model version are computed once."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from core.domain import Finding
from core.ledger.jobs.ending import Ending, is_sent
from core.ledger.jobs.history import History
from core.ledger.rows import finding_value, insert_unless_there, result_value
from core.lifecycle import JobState, TransferState
from core.schema import FindingRow, JobRow, MeasurementRow, ResultRow, TransferRow

# Newest first; more than a few analyses of one input do not differ in what matters here.
_LOOKED_AT = 5


class Sharing(Ending, History):
    """Lets a job take the results of another."""

    def same_done(self, job_id: str, made_with: str) -> str | None:
        """A job that is done and whose results say all that this one's would, or None.

        It had the same input, model and version, and was made with the same software and
        settings (`made_with`, as it is in the summary); its objects are still there; and they
        take the place of every object that this job's own would. Not for a job that was asked
        for once more: who asks so wants it computed.
        """
        row = self._session.get_one(JobRow, job_id)
        if row.run != 1:
            return None
        candidates = self._session.scalars(
            select(JobRow)
            .where(
                JobRow.input_digest == row.input_digest,
                JobRow.model == row.model,
                JobRow.model_version == row.model_version,
                JobRow.state == JobState.DONE,
                JobRow.same_as.is_(None),
                JobRow.id != job_id,
            )
            .order_by(JobRow.finished_at.desc(), JobRow.id)
            .limit(_LOOKED_AT)
        ).all()
        replaced = {result.id for result in self.void(job_id)}
        for other in candidates:
            objects = self._session.scalars(
                select(ResultRow).where(ResultRow.job_id == other.id)
            ).all()
            there = bool(objects) and all(item.gone_at is None for item in objects)
            if (
                there
                and other.summary.get("made_with") == made_with
                and other.expected == row.expected  # the objects say what is missing
                and replaced <= {result.id for result in self.void(other.id)}
            ):
                return other.id
        return None

    def finish_as(self, job_id: str, owner: str, other_id: str, now: datetime) -> int | None:
        """End a job with the findings and objects of another one, done with the same input.

        A destination gets the very objects that the other job made, and none that it has or
        gets already.

        Returns:
            How many transfers were made; None when retention removed the other's objects at
            this moment, so that the job was given back to compute them anew.

        Raises:
            LeaseLostError: the caller does not hold the job any more; nothing was written.
        """
        other = self._session.get_one(JobRow, other_id)
        self._lock_study(other.study_instance_uid)  # retention locks it too
        row = self._held_by(job_id, owner, now)
        gone = select(ResultRow.id).where(
            ResultRow.job_id == other_id, ResultRow.gone_at.is_not(None)
        )
        if self._session.scalar(gone.limit(1)) is not None:
            note = f"the objects of job {other_id} were removed meanwhile"
            self.move(row, JobState.WAITING, note, owner, now)
            row.next_try_at = None
            return None
        note = f"the same was computed by job {other_id}; its results count"
        self.move(row, JobState.DONE, note, owner, now)
        row.finished_at, row.same_as = now, other_id
        row.summary = dict(other.summary)
        self._keep_findings(job_id, self._findings_of(other_id))
        made = 0
        results = self._session.scalars(
            select(ResultRow).where(ResultRow.job_id == other_id).order_by(ResultRow.id)
        )
        for result in results:
            if not is_sent(result_value(result)):
                continue
            for destination in row.destinations:
                made += insert_unless_there(
                    self._session,
                    TransferRow,
                    result_id=result.id,
                    # the job that made it: its objects are delivered in one order
                    job_id=other_id,
                    route=row.route,
                    study_instance_uid=row.study_instance_uid,
                    destination=destination,
                    state=TransferState.DUE,
                    attempts=0,
                    refusals=0,
                    created_at=now,
                    message="",
                    class_refused=False,
                )
        return made

    def _findings_of(self, job_id: str) -> list[Finding]:
        rows = self._session.scalars(
            select(FindingRow).where(FindingRow.job_id == job_id).order_by(FindingRow.id)
        ).all()
        found = []
        for row in rows:
            measurements = self._session.scalars(
                select(MeasurementRow)
                .where(MeasurementRow.finding_id == row.id)
                .order_by(MeasurementRow.id)
            ).all()
            found.append(finding_value(row, list(measurements)))
        return found
