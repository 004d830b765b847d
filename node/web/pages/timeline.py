"""A study's way as steps with durations: received, whole, queued, inferred, sent, proved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.ledger.browse_study import StudyJob, StudySeries
from core.lifecycle import TRANSFER_OPEN, JobState

_WIDTH = 1000.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes:
        name: key of its name.
        at: when it was reached; None when it was not yet, or never will be.
        took: since the step before it.
        going: it is being worked at now.
        left, width: of its bar, of 1000.
    """

    name: str
    at: datetime | None
    took: timedelta | None
    going: bool = False
    left: float = 0.0
    width: float = 0.0


def timeline(series: Sequence[StudySeries], item: StudyJob, now: datetime) -> list[Step]:
    """The steps of one job, from its first image to the proof that its objects are there."""
    job = item.job
    mine = [part for part in series if part.series.series_instance_uid in job.series_instance_uids]
    first = min((p.first_received_at for p in mine if p.first_received_at), default=None)
    last = max((part.last_received_at for part in mine), default=None)
    whole = max((p.series.decided_at for p in mine if p.series.decided_at), default=None)
    made = job.created_at
    if last is not None and last > made:
        last = None  # images that came later belong to a later job
    if whole is not None and whole > made + timedelta(seconds=1):
        whole = made
    sending = [t for t in item.transfers if t.state in TRANSFER_OPEN]
    open_proofs = [t for t in item.transfers if t.state == "sent" and not t.proof]
    ended = job.state == JobState.DONE
    marks: list[tuple[str, datetime | None]] = [
        ("first", first),
        ("last", last),
        ("whole", whole or made),
        ("queued", job.queued_at),
        ("started", job.started_at),
        ("finished", job.finished_at),
        ("sent", None if sending else item.sent_at),
        ("proved", None if sending or open_proofs else item.proved_at),
    ]
    steps = _steps(marks)
    waiting_for = next((place for place, step in enumerate(steps) if step.at is None), None)
    open_job = job.state in {JobState.WAITING, JobState.QUEUED, JobState.RUNNING}
    goes_on = open_job or (ended and bool(sending or open_proofs))
    if waiting_for is not None and goes_on:
        before = max((step.at for step in steps if step.at is not None), default=now)
        step = steps[waiting_for]
        steps[waiting_for] = Step(step.name, None, max(now - before, timedelta()), going=True)
    return _with_bars(steps)


def _steps(marks: list[tuple[str, datetime | None]]) -> list[Step]:
    steps: list[Step] = []
    before: datetime | None = None
    for name, at in marks:
        took = max(at - before, timedelta()) if at is not None and before is not None else None
        steps.append(Step(name, at, took))
        before = at if before is None else max(before, at or before)
    return steps


def _with_bars(steps: list[Step]) -> list[Step]:
    total = sum((step.took or timedelta() for step in steps), timedelta()).total_seconds() or 1.0
    drawn, left = [], 0.0
    for step in steps:
        width = (step.took or timedelta()).total_seconds() / total * _WIDTH
        drawn.append(
            Step(step.name, step.at, step.took, step.going, round(left, 1), round(width, 1))
        )
        left += width
    return drawn
