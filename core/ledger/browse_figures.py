"""Figures about the node: queues, workers, rates, how each model and each peer does.

Each query reads a bounded number of rows, whatever the ledger holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.lifecycle import TRANSFER_OPEN, JobState, TransferState
from core.schema import AssociationRow, InstanceRow, JobRow, ResultRow, StudyRow, TransferRow

MOST_ROWS = 20_000
MOST_OF_A_MODEL = 1000
_WORK = (JobState.WAITING, JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """One queue of jobs.

    Attributes:
        oldest: when its oldest job that nobody has begun was made.
    """

    name: str
    states: dict[JobState, int]
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """A worker that holds a job now."""

    owner: str
    job_id: str
    study_instance_uid: str
    model: str
    started_at: datetime | None
    lease_until: datetime | None


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """How a model's newest jobs went, `MOST_OF_A_MODEL` of them at most.

    Attributes:
        jobs: how many were looked at.
        states: of them.
        seconds: (median, 95 %, longest) from start to end of those that are done; None without.
    """

    name: str
    jobs: int
    since: datetime | None
    states: dict[JobState, int]
    seconds: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """What came from a peer, or went to it.

    Attributes:
        objects: how many, `size` bytes in all.
        seconds: in how long a time.
    """

    objects: int
    size: int
    seconds: float


class BrowseFigures:
    """Figures for people."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def queues(self) -> list[QueueFigures]:
        """The queues that have work, by name."""
        rows = self._session.execute(
            select(JobRow.queue, JobRow.state, func.count(), func.min(JobRow.created_at))
            .where(JobRow.state.in_(_WORK))
            .group_by(JobRow.queue, JobRow.state)
        )
        found: dict[str, QueueFigures] = {}
        for name, state, count, oldest in rows:
            known = found.get(name, QueueFigures(name, {}, None))
            waits = state != JobState.RUNNING
            moments = [m for m in (known.oldest, oldest if waits else None) if m is not None]
            states = known.states | {JobState(state): count}
            found[name] = QueueFigures(name, states, min(moments, default=None))
        return [found[name] for name in sorted(found)]

    def workers(self, limit: int = 200) -> list[WorkerFigures]:
        """Workers that hold a job, by name."""
        rows = self._session.scalars(
            select(JobRow).where(JobRow.state == JobState.RUNNING).limit(limit)
        )
        found = [
            WorkerFigures(
                owner=row.lease_owner or "",
                job_id=row.id,
                study_instance_uid=row.study_instance_uid,
                model=f"{row.model} {row.model_version}",
                started_at=row.started_at,
                lease_until=row.lease_until,
            )
            for row in rows
        ]
        return sorted(found, key=lambda item: (item.owner, item.job_id))

    def devices(self, among: int = 200) -> dict[str, tuple[int, float]]:
        """Where the newest jobs that are done were computed: how many, and their median seconds."""
        rows = self._session.execute(
            select(JobRow.summary, JobRow.started_at, JobRow.finished_at)
            .where(JobRow.state == JobState.DONE)
            .order_by(JobRow.created_at.desc())
            .limit(among)
        )
        took: dict[str, list[float]] = {}
        for summary, started, finished in rows:
            device = str(summary.get("device") or "")
            if device and started is not None and finished is not None:
                took.setdefault(device, []).append((finished - started).total_seconds())
        return {name: (len(times), median(times)) for name, times in sorted(took.items())}

    def waiting_transfers(self) -> dict[str, dict[TransferState, int]]:
        """For each destination the objects that are not there yet, and those given up."""
        states = (*TRANSFER_OPEN, TransferState.REFUSED, TransferState.FAILED)
        rows = self._session.execute(
            select(TransferRow.destination, TransferRow.state, func.count())
            .where(TransferRow.state.in_(states))
            .group_by(TransferRow.destination, TransferRow.state)
        )
        found: dict[str, dict[TransferState, int]] = {}
        for destination, state, count in rows:
            found.setdefault(destination, {})[TransferState(state)] = count
        return found

    def sent(self, destination: str, since: datetime, now: datetime) -> PeerFigures:
        """What went to a destination since then; of very many the newest."""
        newest = (
            select(TransferRow.sent_at, TransferRow.result_id, TransferRow.instance_id)
            .where(TransferRow.destination == destination, TransferRow.sent_at >= since)
            .order_by(TransferRow.sent_at.desc())
            .limit(MOST_ROWS)
            .subquery()
        )
        count, first, results, images = self._session.execute(
            select(
                func.count(),
                func.min(newest.c.sent_at),
                func.sum(ResultRow.size),
                func.sum(InstanceRow.size),
            )
            .select_from(newest)
            .outerjoin(ResultRow, ResultRow.id == newest.c.result_id)
            .outerjoin(InstanceRow, InstanceRow.id == newest.c.instance_id)
        ).one()
        return PeerFigures(
            count, int(results or 0) + int(images or 0), _seconds(count, first, since, now)
        )

    def received(self, since: datetime, now: datetime) -> dict[str, PeerFigures]:
        """What came from each AE title since then; of very many the newest."""
        newest = (
            select(InstanceRow.association_id, InstanceRow.size, InstanceRow.received_at)
            .where(InstanceRow.received_at >= since, InstanceRow.gone_at.is_(None))
            .order_by(InstanceRow.received_at.desc())
            .limit(MOST_ROWS)
            .subquery()
        )
        rows = self._session.execute(
            select(
                AssociationRow.calling_ae,
                func.count(),
                func.sum(newest.c.size),
                func.min(newest.c.received_at),
            )
            .select_from(newest)
            .join(AssociationRow, AssociationRow.id == newest.c.association_id)
            .group_by(AssociationRow.calling_ae)
        ).all()
        total = sum(row[1] for row in rows)
        return {
            title: PeerFigures(count, int(size or 0), _seconds(total, first, since, now))
            for title, count, size, first in rows
        }

    def model(self, name: str) -> ModelFigures:
        """How the newest jobs of a model went."""
        rows = self._session.execute(
            select(JobRow.state, JobRow.started_at, JobRow.finished_at, JobRow.created_at)
            .where(JobRow.model == name)
            .order_by(JobRow.created_at.desc())
            .limit(MOST_OF_A_MODEL)
        ).all()
        states: dict[JobState, int] = {}
        took = []
        for state, started, finished, _ in rows:
            states[JobState(state)] = states.get(JobState(state), 0) + 1
            if state == JobState.DONE and started is not None and finished is not None:
                took.append((finished - started).total_seconds())
        took.sort()
        seconds = (
            (median(took), took[min(len(took) - 1, int(len(took) * 0.95))], took[-1])
            if took
            else None
        )
        return ModelFigures(name, len(rows), rows[-1][3] if rows else None, states, seconds)

    def rates(
        self, now: datetime, bins: int = 48, each: timedelta = timedelta(minutes=30)
    ) -> dict[str, list[int]]:
        """Studies that came, jobs made, done and failed in each of the last `bins` spans of time.

        The first figure is that of the oldest span. Of very many rows the newest are counted.
        """
        since = now - bins * each
        studies = self._session.scalars(
            select(StudyRow.first_received_at)
            .where(StudyRow.first_received_at >= since)
            .order_by(StudyRow.first_received_at.desc())
            .limit(MOST_ROWS)
        ).all()
        jobs = self._session.execute(
            select(JobRow.created_at, JobRow.finished_at, JobRow.state)
            .where(JobRow.created_at >= since - each * bins)
            .order_by(JobRow.created_at.desc())
            .limit(MOST_ROWS)
        ).all()
        ended = (JobState.DONE, JobState.NOT_APPLICABLE, JobState.SUPERSEDED)
        bad = (JobState.FAILED, JobState.QUARANTINED)

        def binned(moments: Iterable[datetime]) -> list[int]:
            counts = [0] * bins
            for moment in moments:
                place = bins - 1 - int((now - moment) // each)
                if 0 <= place < bins:
                    counts[place] += 1
            return counts

        return {
            "studies": binned(studies),
            "jobs": binned(made for made, _, _ in jobs),
            "done": binned(end for _, end, state in jobs if end is not None and state in ended),
            "failed": binned(end for _, end, state in jobs if end is not None and state in bad),
        }


def _seconds(count: int, first: datetime | None, since: datetime, now: datetime) -> float:
    """How long a time a count stands for: less than was asked for when it was cut."""
    begin = first if count >= MOST_ROWS and first is not None else since
    return max((now - begin).total_seconds(), 1.0)
