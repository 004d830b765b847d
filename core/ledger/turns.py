"""When a transfer's turn has come: its time, and what must be at the destination before it.

A Key Object refers to the other objects of its job, and one that rejects the objects of an
earlier analysis must not leave a destination with nothing (IHE IOCM): both wait.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, case, exists, select
from sqlalchemy.orm import aliased

from core.domain import ResultKind
from core.lifecycle import RENDITION_OPEN, TRANSFER_OPEN, TransferState
from core.schema import RenditionRow, ResultRow, TransferRow

ORDER = (ResultKind.SEG, ResultKind.SC, ResultKind.SR, ResultKind.KO, ResultKind.REJECTION)
_REFERRED = (ResultKind.SEG, ResultKind.SC, ResultKind.SR)
_THERE = (TransferState.SENT, TransferState.COMMITTED)


def in_order() -> tuple[Any, ...]:
    """ORDER BY: the oldest job first, and within a job what others refer to first."""
    rank = {kind.value: place for place, kind in enumerate(ORDER)}
    kind = case(rank, value=ResultRow.kind, else_=len(ORDER))
    return TransferRow.created_at, TransferRow.job_id, kind, ResultRow.part, TransferRow.id


def ready(now: datetime) -> ColumnElement[bool]:
    """Due and its turn has come, or in the hands of a sender that died.

    For a query that joins `ResultRow` to `TransferRow`.
    """
    in_time = TransferRow.next_try_at.is_(None) | (TransferRow.next_try_at <= now)
    due = (TransferRow.state == TransferState.DUE) & in_time
    abandoned = (TransferRow.state == TransferState.SENDING) & (TransferRow.lease_until < now)
    return (due | abandoned) & _turn()


def _turn() -> ColumnElement[bool]:
    other, theirs = aliased(TransferRow), aliased(ResultRow)
    making = exists().where(
        RenditionRow.id == other.rendition_id, RenditionRow.state.in_(RENDITION_OPEN)
    )
    under_way = other.state.in_(TRANSFER_OPEN) | (
        (other.state == TransferState.REFUSED) & other.class_refused & making
    )
    missing = under_way | ~(
        other.state.in_(_THERE) | ((other.state == TransferState.REFUSED) & other.class_refused)
    )

    def any_other(condition: ColumnElement[bool]) -> ColumnElement[bool]:
        """Whether it holds for an object that they refer to, at the same destination."""
        return (
            select(other.id)
            .join(theirs, theirs.id == other.result_id)
            .where(
                other.job_id == TransferRow.job_id,
                other.destination == TransferRow.destination,
                theirs.kind.in_(_REFERRED),
                condition,
            )
            .exists()
        )

    return (
        ResultRow.kind.not_in((ResultKind.KO, ResultKind.REJECTION))
        | ((ResultRow.kind == ResultKind.KO) & ~any_other(under_way))
        | (
            (ResultRow.kind == ResultKind.REJECTION)
            & ~any_other(missing)
            & any_other(other.state.in_(_THERE))
        )
    )
