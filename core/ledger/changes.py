"""What changed lately, for pages that are kept open.

Ids grow, but a transaction with a smaller id may be committed after one with a larger: who
follows them looks a little back each time and leaves out what they have seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.schema import (
    InstanceRow,
    JobEventRow,
    JobRow,
    SeriesRow,
    TransferAttemptRow,
    TransferRow,
)


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the changes were read: the greatest ids of three tables."""

    event: int = 0
    instance: int = 0
    attempt: int = 0

    def __str__(self) -> str:
        return f"{self.event}.{self.instance}.{self.attempt}"

    def back(self, count: int) -> Mark:
        """A mark some ids before this one."""
        return Mark(
            max(0, self.event - count), max(0, self.instance - count), max(0, self.attempt - count)
        )

    @classmethod
    def parse(cls, text: str) -> Mark | None:
        """A mark from its text; None if it is none."""
        parts = text.split(".")
        if len(parts) != len(cls.__slots__) or not all(
            part.isascii() and part.isdigit() and len(part) < 19 for part in parts
        ):
            return None
        return cls(*(int(part) for part in parts))


@dataclass(frozen=True, slots=True)
class Change:
    """One change.

    Attributes:
        kind: "job", "study" (images came) or "transfer".
        id: of the row that says it; unique within its kind.
        state: the job's, or the transfer's; empty for a study.
        note: what happened to the job; never of a patient.
    """

    kind: str
    id: int
    study_instance_uid: str
    job_id: str = ""
    state: str = ""
    note: str = ""


class ChangesRead:
    """Reads changes after a mark."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def mark(self) -> Mark:
        """Where the changes end now."""
        ends = (
            self._session.scalar(select(func.max(row.id))) or 0
            for row in (JobEventRow, InstanceRow, TransferAttemptRow)
        )
        return Mark(*ends)

    def since(self, mark: Mark, most: int) -> list[Change]:
        """Changes after `mark`, at most `most` of each kind, in the order of their ids."""
        jobs = self._session.execute(
            select(JobEventRow, JobRow.study_instance_uid)
            .join(JobRow, JobRow.id == JobEventRow.job_id)
            .where(JobEventRow.id > mark.event)
            .order_by(JobEventRow.id)
            .limit(most)
        )
        found = [
            Change("job", row.id, study, row.job_id, row.state, row.note) for row, study in jobs
        ]
        # the newest instance of each study stands for all that came with it
        fresh = (
            select(InstanceRow.id, InstanceRow.series_instance_uid)
            .where(InstanceRow.id > mark.instance)
            .order_by(InstanceRow.id.desc())
            .limit(most)
            .subquery()
        )
        studies = self._session.execute(
            select(SeriesRow.study_instance_uid, func.max(fresh.c.id))
            .join(fresh, fresh.c.series_instance_uid == SeriesRow.series_instance_uid)
            .group_by(SeriesRow.study_instance_uid)
        )
        found += [Change("study", number, study) for study, number in studies]
        attempts = self._session.execute(
            select(TransferAttemptRow.id, TransferRow)
            .join(TransferRow, TransferRow.id == TransferAttemptRow.transfer_id)
            .where(TransferAttemptRow.id > mark.attempt)
            .order_by(TransferAttemptRow.id)
            .limit(most)
        )
        found += [
            Change("transfer", number, row.study_instance_uid, row.job_id or "", row.state)
            for number, row in attempts
        ]
        return found
