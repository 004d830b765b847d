"""Whose turn it is: a worker takes the best job of its queue (docs/decisions/0016)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import aliased

from core.domain import Job
from core.ledger.jobs.base import JobRows
from core.ledger.rows import job_value
from core.lifecycle import JobState
from core.schema import JobRow


class Claiming(JobRows):
    """Gives queued jobs to workers, under a lease."""

    def claim(self, job_id: str, owner: str, until: datetime, now: datetime) -> Job | None:
        """Take this queued job under a lease; None when it is not to be had."""
        row = self._locked(job_id)
        if row.state != JobState.QUEUED:
            return None
        return self._take(row, owner, until, now)

    def claim_next(
        self, queue: str, owner: str, until: datetime, now: datetime, *, oldest: bool = False
    ) -> Job | None:
        """Take the best queued job of `queue` under a lease; None when there is none.

        The best: of the highest priority; then of the sender that has the fewest jobs running,
        then of the one that was served longest ago; then the smallest; then the oldest. With
        `oldest` the oldest of all, whatever it is: a worker asks so now and then, so that
        nothing waits for ever. A job whose twin (same input, model and version) is running is
        passed over: it will take its results.
        """
        passed: set[str] = set()
        while (found := next(self._in_turn(queue, passed, oldest=oldest), None)) is not None:
            job_id, study_uid = found
            # what was passed over is let go again: two studies' locks could be a deadlock
            with self._session.begin_nested() as point:
                self._lock_study(study_uid)
                row = self._locked(job_id)
                if row.state == JobState.QUEUED and not self._twin_runs(row):
                    return self._take(row, owner, until, now)
                point.rollback()
            passed.add(job_id)
        return None

    def _take(self, row: JobRow, owner: str, until: datetime, now: datetime) -> Job:
        row.attempt += 1
        row.lease_owner, row.lease_until, row.started_at = owner, until, now
        self.move(row, JobState.RUNNING, f"attempt {row.attempt}", owner, now)
        self._session.flush()
        return job_value(row, self.series_of(row.id))

    def _in_turn(self, queue: str, passed: set[str], *, oldest: bool) -> Iterator[tuple[str, str]]:
        """Ids of queued jobs and of their studies, the best first, one for each sender."""
        queued = (JobRow.state == JobState.QUEUED) & (JobRow.queue == queue)
        best = (
            select(JobRow.id, JobRow.study_instance_uid)
            .where(queued, ~_has_running_twin(), JobRow.id.not_in(passed))
            .limit(1)
        )
        if oldest:
            yield from self._session.execute(best.order_by(JobRow.created_at, JobRow.id))
            return
        priorities = self._session.scalars(
            select(JobRow.priority).where(queued).distinct().order_by(JobRow.priority.desc())
        ).all()
        for priority in priorities:
            of_class = queued & (JobRow.priority == priority)
            for sender in self._senders(of_class):
                yield from self._session.execute(
                    best.where(JobRow.priority == priority, JobRow.sender == sender).order_by(
                        JobRow.size, JobRow.created_at, JobRow.id
                    )
                )

    def _senders(self, waiting: ColumnElement[bool]) -> list[str]:
        """Who waits, the one first that was served least."""
        who = select(JobRow.sender).where(waiting).distinct().subquery()
        served = aliased(JobRow)
        last = (
            select(func.max(served.started_at))
            .where(served.sender == who.c.sender)
            .correlate(who)
            .scalar_subquery()
        )
        rows = self._session.execute(select(who.c.sender, last)).all()
        if len(rows) <= 1:
            return [sender for sender, _ in rows]
        running: dict[str, int] = dict(
            self._session.execute(
                select(JobRow.sender, func.count())
                .where(JobRow.state == JobState.RUNNING)
                .group_by(JobRow.sender)
            ).all()
        )

        def turn(item: tuple[str, datetime | None]) -> tuple[int, float, str]:
            sender, moment = item
            return running.get(sender, 0), moment.timestamp() if moment else 0.0, sender

        return [sender for sender, _ in sorted(rows, key=turn)]

    def _twin_runs(self, row: JobRow) -> bool:
        found = select(JobRow.id).where(JobRow.id == row.id, _has_running_twin())
        return self._session.scalar(found) is not None


def _has_running_twin() -> ColumnElement[bool]:
    """The same is being computed for another route; who asks for another run wants its own."""
    twin = aliased(JobRow)
    return (JobRow.run == 1) & (
        select(twin.id)
        .where(
            twin.input_digest == JobRow.input_digest,
            twin.model == JobRow.model,
            twin.model_version == JobRow.model_version,
            twin.id != JobRow.id,
            twin.state == JobState.RUNNING,
        )
        .correlate(JobRow)
        .exists()
    )
