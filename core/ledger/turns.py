"""When a transfer's turn has come: its time, and what must be at the destination before it.

A Key Object refers to the other objects of its job, and one that rejects the objects of an
earlier analysis must not leave a destination with nothing (IHE IOCM): both wait. What a job made
of images that a route passes on comes after those images.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, case, exists, func, select
from sqlalchemy.orm import aliased

from core.domain import ResultKind, Transfer
from core.lifecycle import RENDITION_OPEN, TRANSFER_OPEN, TransferState
from core.schema import RenditionRow, ResultRow, TransferRow

ORDER = (ResultKind.SEG, ResultKind.SC, ResultKind.SR, ResultKind.KO, ResultKind.REJECTION)
_REFERRED = (ResultKind.SEG, ResultKind.SC, ResultKind.SR)
_THERE = (TransferState.SENT, TransferState.COMMITTED)


def in_order() -> tuple[Any, ...]:
    """ORDER BY: the oldest first; of one moment the originals, then what others refer to.

    For a query that outer-joins `ResultRow` to `TransferRow`.
    """
    rank = {kind.value: place for place, kind in enumerate(ORDER)}
    kind = case(rank, value=ResultRow.kind, else_=len(ORDER))
    return (
        TransferRow.created_at,
        func.coalesce(TransferRow.job_id, ""),
        kind,
        func.coalesce(ResultRow.part, 0),
        TransferRow.id,
    )


def ready(now: datetime) -> ColumnElement[bool]:
    """Due and its turn has come, or in the hands of a sender that died.

    For a query that outer-joins `ResultRow` to `TransferRow`.
    """
    return _in_hand_of_nobody(TransferRow, now) & _turn(now)


def _in_hand_of_nobody(row: Any, now: datetime) -> ColumnElement[bool]:
    in_time = row.next_try_at.is_(None) | (row.next_try_at <= now)
    due = (row.state == TransferState.DUE) & in_time
    abandoned = (row.state == TransferState.SENDING) & (row.lease_until < now)
    found: ColumnElement[bool] = due | abandoned
    return found


def _turn(now: datetime) -> ColumnElement[bool]:
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

    after_its_job = (
        ResultRow.kind.not_in((ResultKind.KO, ResultKind.REJECTION))
        | ((ResultRow.kind == ResultKind.KO) & ~any_other(under_way))
        | (
            (ResultRow.kind == ResultKind.REJECTION)
            & ~any_other(missing)
            & any_other(other.state.in_(_THERE))
        )
    )
    return TransferRow.instance_id.is_not(None) | (after_its_job & ~_an_original_goes_first(now))


def _an_original_goes_first(now: datetime) -> ColumnElement[bool]:
    """Whether an image of the study is on its way to the same destination.

    One that waits after a failed try holds nothing up (docs/decisions/0008).
    """
    image = aliased(TransferRow)
    going = _in_hand_of_nobody(image, now) | (image.state == TransferState.SENDING)
    return exists().where(
        image.study_instance_uid == TransferRow.study_instance_uid,
        image.destination == TransferRow.destination,
        image.instance_id.is_not(None),
        going,
    )


def what_it_waits_for(transfer: Transfer, others: Iterable[Transfer]) -> str:
    """Why an object that is due has not gone, where another object of its job is the reason.

    Args:
        transfer: one transfer of a job.
        others: all transfers of the job.
    """
    late = (ResultKind.KO, ResultKind.REJECTION)
    if transfer.state != TransferState.DUE or transfer.kind not in late:
        return ""
    referred = [
        item
        for item in others
        if item.destination == transfer.destination and item.kind in _REFERRED
    ]
    on_the_way = sorted({item.kind for item in referred if item.state in TRANSFER_OPEN})
    if on_the_way:
        return f"waits until the destination has {', '.join(on_the_way)}"
    if transfer.kind == ResultKind.KO:
        return ""
    final = (TransferState.REFUSED, TransferState.FAILED)
    lost = {item.kind for item in referred if item.state in final and not item.class_refused}
    if lost:
        return (
            f"waits: the destination did not take the new {', '.join(sorted(lost))}, so the "
            "earlier objects stay valid there; `sentinode retry JOB` sends it again"
        )
    if not any(item.state in _THERE for item in referred):
        return "waits: the destination has none of the new objects, so the earlier ones stay valid"
    return ""
