"""Transfers: what is due where, claimed with a lease, every attempt kept."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from core.domain import Transfer
from core.errors import IllegalMoveError
from core.ledger.jobs import HELD_REASON, HELD_REMEDY
from core.ledger.rows import insert_unless_there, transfer_value
from core.ledger.turns import in_order, ready
from core.lifecycle import TRANSFER_MOVES, RenditionState, TransferState
from core.schema import (
    DestinationRow,
    JobRow,
    RefusedClassRow,
    RenditionRow,
    ResultRow,
    StudyRow,
    TransferAttemptRow,
    TransferRow,
)


class Transfers:
    """Claims transfers for a sender and records what became of them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def destinations_due(self, now: datetime) -> list[str]:
        """Destinations with something due that are not waiting out a failure; only reads."""
        names = self._session.scalars(
            select(TransferRow.destination)
            .join(ResultRow, ResultRow.id == TransferRow.result_id)
            .where(ready(now))
            .distinct()
        ).all()
        waiting = set(
            self._session.scalars(
                select(DestinationRow.name).where(DestinationRow.next_try_at > now)
            )
        )
        return sorted(set(names) - waiting)

    def claim(
        self, destination: str, owner: str, until: datetime, now: datetime, limit: int = 100
    ) -> list[Transfer]:
        """Take what is due for a destination under a lease, in the order of `turns.in_order`."""
        rows = self._session.execute(
            select(TransferRow, ResultRow)
            .join(ResultRow, ResultRow.id == TransferRow.result_id)
            .where(TransferRow.destination == destination, ready(now))
            .order_by(*in_order())
            .limit(limit)
            .with_for_update(skip_locked=True, of=TransferRow)
        ).all()
        claimed = []
        for row, result in rows:
            row.state = TransferState.SENDING
            row.lease_owner, row.lease_until = owner, until
            claimed.append(transfer_value(row, result))
        return claimed

    def renew(self, transfer_id: int, owner: str, until: datetime) -> bool:
        """Renew a lease; False when it is lost (held, or taken over by another sender)."""
        row = self._locked(transfer_id)
        if row.state != TransferState.SENDING or row.lease_owner != owner:
            return False
        row.lease_until = until
        return True

    def record(
        self,
        transfer_id: int,
        owner: str,
        state: TransferState,
        now: datetime,
        *,
        status: int | None,
        message: str,
        next_try_at: datetime | None = None,
        refusal: bool = False,
        class_refused: bool = False,
        tried: bool = True,
    ) -> bool:
        """Write down one attempt; False when the transfer is no longer the caller's.

        The attempt is kept in any case: the destination may have the object. Not `tried` is
        what was known to be refused before.
        """
        row = self._locked(transfer_id)
        if tried:
            self._session.add(
                TransferAttemptRow(transfer_id=transfer_id, at=now, status=status, message=message)
            )
            row.attempts += 1
        row.refusals += refusal
        if row.state != TransferState.SENDING or row.lease_owner != owner:
            return False
        assert state in TRANSFER_MOVES[TransferState.SENDING]
        row.state, row.status, row.message, row.next_try_at = state, status, message, next_try_at
        row.lease_owner = row.lease_until = None
        row.class_refused = class_refused
        if state == TransferState.SENT:
            row.sent_at = now
        return True

    def let_go(self, transfer_id: int, owner: str, message: str) -> None:
        """Give a claimed transfer back that was not tried, and say why."""
        row = self._locked(transfer_id)
        if row.state == TransferState.SENDING and row.lease_owner == owner:
            row.state, row.message = TransferState.DUE, message
            row.lease_owner = row.lease_until = None

    def refusals(self, transfer_id: int) -> int:
        """How often the destination answered this object with an error status."""
        return self._locked(transfer_id).refusals

    def send_again(self, job_id: str) -> int:
        """Make the refused and failed transfers of a job due; returns how many.

        A SOP class that a destination refused is offered again. So an alternative that it
        refused as well stays refused: it is looked for anew if the object itself is refused
        again. Alternatives that could not be made may be tried again too.

        Raises:
            IllegalMoveError: the study is held by an identity conflict.
        """
        # the study first, as `Renditions` does: two orders would be a deadlock
        study = self._session.scalars(
            select(StudyRow)
            .join(JobRow, JobRow.study_instance_uid == StudyRow.study_instance_uid)
            .where(JobRow.id == job_id)
            .with_for_update(key_share=True, of=StudyRow)
            .execution_options(populate_existing=True)
        ).one_or_none()
        if study is not None and study.conflict:
            raise IllegalMoveError(f"job {job_id} is held: {HELD_REASON}", remedy=HELD_REMEDY)
        rows = self._session.execute(
            select(TransferRow, ResultRow)
            .join(ResultRow, ResultRow.id == TransferRow.result_id)
            .where(
                TransferRow.job_id == job_id,
                TransferRow.state.in_((TransferState.REFUSED, TransferState.FAILED)),
            )
            .with_for_update(of=TransferRow)
        ).all()
        count = 0
        for row, result in rows:
            if row.class_refused:
                self._session.execute(
                    delete(RefusedClassRow).where(
                        RefusedClassRow.destination == row.destination,
                        RefusedClassRow.sop_class_uid == result.sop_class_uid,
                    )
                )
                if result.alternative_to is not None:
                    continue
            self.make_due(row)
            count += 1
        self._session.execute(
            update(RenditionRow)
            .where(RenditionRow.job_id == job_id, RenditionRow.state == RenditionState.FAILED)
            .values(state=RenditionState.WAITING, next_try_at=None, attempts=0, reason="")
        )
        return count

    @staticmethod
    def make_due(row: TransferRow) -> None:
        """Let a refused or failed transfer be tried again from the beginning."""
        row.state, row.next_try_at, row.refusals = TransferState.DUE, None, 0
        row.class_refused = False

    def failures(self, destination: str) -> int:
        """How often in a row a destination failed."""
        row = self._session.get(DestinationRow, destination)
        return row.failures if row else 0

    def destination_failed(self, name: str, error: str, next_try_at: datetime) -> None:
        """The destination as a whole is in trouble: wait until `next_try_at`."""
        row = self._destination(name)
        row.failures += 1
        row.next_try_at, row.last_error = next_try_at, error

    def destination_well(self, name: str, now: datetime) -> None:
        """The destination took something."""
        row = self._destination(name)
        row.failures, row.next_try_at, row.last_error = 0, None, ""
        row.last_success_at = now

    def _destination(self, name: str) -> DestinationRow:
        insert_unless_there(self._session, DestinationRow, name=name, failures=0, last_error="")
        return self._session.scalars(
            select(DestinationRow).where(DestinationRow.name == name).with_for_update()
        ).one()

    def _locked(self, transfer_id: int) -> TransferRow:
        return self._session.scalars(
            select(TransferRow)
            .where(TransferRow.id == transfer_id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one()
