"""Moments that lie too far ahead: a clock was set back, and nobody would wait so long.

A lease that runs out, or a wait that ends, is a moment by the clock of who wrote it. Is the clock
set back by an hour, the lease of a dead worker holds for an hour more. Each kind of moment lies at
most so far ahead when it is written; one that lies further is put where it would be if it were
written now. A living worker or sender renews its lease, so nothing is taken from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.lifecycle import (
    AnswerState,
    CommitmentState,
    JobState,
    RenditionState,
    SeriesState,
    TransferState,
)
from core.schema import (
    AssociationRow,
    CommitmentRequestRow,
    CommitmentRow,
    DestinationRow,
    JobRow,
    RenditionRow,
    SeriesAssociationRow,
    SeriesRow,
    TransferRow,
)

# Clocks of several machines differ a little.
SLACK = timedelta(seconds=60)
_MOST = 500
_NOW = timedelta()


@dataclass(frozen=True, slots=True)
class Farthest:
    """How far ahead each kind of moment is when it is written, at most.

    Attributes:
        job_lease: of a worker.
        rendition_lease: of a worker that makes an alternative.
        republish: before a job's message is sent again.
        retry: before a job or a rendition is tried again.
        send_lease: of a sender, for an object.
        delivery: before an object, a destination or a question is tried again.
        proof: before a proof is looked for again, and of the lease of who looks.
        report: waiting for the report of a storage commitment.
        answer: before a peer is told again what we commit to.
    """

    job_lease: timedelta
    rendition_lease: timedelta
    republish: timedelta
    retry: timedelta
    send_lease: timedelta
    delivery: timedelta
    proof: timedelta
    report: timedelta
    answer: timedelta


class Moments:
    """Pulls in what lies too far ahead."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def too_far(self, farthest: Farthest, now: datetime) -> bool:
        """Whether `pull_in` would find anything; only reads."""
        return any(
            self._session.scalar(select(column).where(which).limit(1)) is not None
            for _, column, _, which in _kinds(farthest, now)
        )

    def pull_in(self, farthest: Farthest, now: datetime) -> int:
        """Put moments that lie too far ahead where they would be if written now; how many.

        Rows that somebody has locked are left to the next time: to wait for them, with others
        in hand, could be a deadlock.
        """
        count = 0
        for table, column, ahead, which in _kinds(farthest, now):
            rows = self._session.scalars(
                select(table)
                .where(which)
                .limit(_MOST)
                .with_for_update(skip_locked=True)
                .execution_options(populate_existing=True)
            ).all()
            for row in rows:
                setattr(row, column.key, now + ahead)
            count += len(rows)
        return count


def _kinds(farthest: Farthest, now: datetime) -> list[tuple[Any, Any, timedelta, Any]]:
    """(table, column, how far ahead it is put, which rows) of each kind of moment."""
    job, transfer, commitment = JobRow, TransferRow, CommitmentRow
    lease, wait = True, False
    receiving = (
        select(SeriesAssociationRow.association_id)
        .join(SeriesRow, SeriesRow.series_instance_uid == SeriesAssociationRow.series_instance_uid)
        .where(SeriesRow.state == SeriesState.RECEIVING)
    )
    kinds: tuple[tuple[Any, Any, bool, timedelta, Any], ...] = (
        (job, job.lease_until, lease, farthest.job_lease, job.state == JobState.RUNNING),
        (job, job.next_try_at, wait, farthest.retry, job.state == JobState.WAITING),
        (job, job.republish_at, wait, farthest.republish, job.state == JobState.QUEUED),
        (
            RenditionRow,
            RenditionRow.lease_until,
            lease,
            farthest.rendition_lease,
            RenditionRow.state == RenditionState.RUNNING,
        ),
        (
            RenditionRow,
            RenditionRow.next_try_at,
            wait,
            farthest.retry,
            RenditionRow.state == RenditionState.WAITING,
        ),
        (
            RenditionRow,
            RenditionRow.republish_at,
            wait,
            farthest.republish,
            RenditionRow.state == RenditionState.QUEUED,
        ),
        (
            transfer,
            transfer.lease_until,
            lease,
            farthest.send_lease,
            transfer.state == TransferState.SENDING,
        ),
        (
            transfer,
            transfer.next_try_at,
            wait,
            farthest.delivery,
            transfer.state == TransferState.DUE,
        ),
        (
            transfer,
            transfer.next_try_at,
            wait,
            farthest.proof,
            (transfer.state == TransferState.SENT) & (transfer.proof == ""),
        ),
        (DestinationRow, DestinationRow.next_try_at, wait, farthest.delivery, None),
        (DestinationRow, DestinationRow.probe_until, lease, farthest.proof, None),
        (
            commitment,
            commitment.lease_until,
            lease,
            farthest.proof,
            commitment.state == CommitmentState.ASKING,
        ),
        (
            commitment,
            commitment.next_try_at,
            wait,
            farthest.delivery,
            commitment.state == CommitmentState.DUE,
        ),
        (
            commitment,
            commitment.next_try_at,
            lease,
            farthest.report,
            commitment.state == CommitmentState.ASKED,
        ),
        (
            CommitmentRequestRow,
            CommitmentRequestRow.next_try_at,
            wait,
            farthest.answer,
            CommitmentRequestRow.state == AnswerState.DUE,
        ),
        # the quiet time begins with these
        (
            SeriesRow,
            SeriesRow.last_received_at,
            wait,
            _NOW,
            SeriesRow.state == SeriesState.RECEIVING,
        ),
        (SeriesRow, SeriesRow.last_filed_at, wait, _NOW, SeriesRow.state == SeriesState.RECEIVING),
        (AssociationRow, AssociationRow.ended_at, wait, _NOW, AssociationRow.id.in_(receiving)),
    )
    found = []
    for table, column, is_lease, longest, state in kinds:
        which = column > now + 2 * longest + SLACK
        which = which if state is None else which & state
        found.append((table, column, longest if is_lease else _NOW, which))
    return found
