"""Storage commitments that we ask destinations for (PS3.4 Annex J), and what they report.

A commitment is a row with a transaction UID before anybody is asked, so that a report finds it
whatever happens to the sender. It is asked under a lease; one whose report does not come is
asked again under the same UID, then given up, and another proof takes its place. A report that
comes later still counts.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.domain import Commitment
from core.errors import IllegalMoveError
from core.ledger.proofs import Proofs, unproved
from core.ledger.transfers import with_objects
from core.lifecycle import COMMITMENT_MOVES, CommitmentState, Proof, TransferState
from core.schema import CommitmentRow, InstanceRow, ResultRow, TransferRow

_RESEND = timedelta(seconds=5)
# PS3.3 Table C.14-1, Failure Reason (0008,1197)
_FAILURES = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0119: "class-instance conflict",
    0x0122: "referenced SOP class not supported",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}


class Commitments:
    """Makes, claims and ends storage commitments."""

    def __init__(self, session: Session, proofs: Proofs) -> None:
        self._session = session
        self._proofs = proofs

    def gather(
        self, destination: str, owner: str, until: datetime, now: datetime, limit: int
    ) -> Commitment | None:
        """Make one of what was sent and is to be proved, in the caller's hands; None if nothing."""
        ids = self._session.scalars(
            select(TransferRow.id)
            .where(
                TransferRow.destination == destination,
                unproved(),
                TransferRow.next_try_at <= now,
                TransferRow.commitment_id.is_(None),
            )
            .order_by(TransferRow.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        ).all()
        if not ids:
            return None
        row = CommitmentRow(
            # PS3.5 Section B.2: derived from a UUID
            transaction_uid=f"2.25.{uuid.uuid4().int}",
            destination=destination,
            state=CommitmentState.ASKING,
            attempts=0,
            created_at=now,
            asked_at=now,
            lease_owner=owner,
            lease_until=until,
            message="",
        )
        self._session.add(row)
        self._session.flush()
        self._session.execute(
            update(TransferRow)
            .where(TransferRow.id.in_(ids))
            .values(commitment_id=row.id, next_try_at=None)
        )
        return self._value(row)

    def claim(
        self, destination: str, owner: str, until: datetime, now: datetime
    ) -> Commitment | None:
        """Take one that is due, or whose sender died while it asked; None if there is none."""
        in_time = CommitmentRow.next_try_at.is_(None) | (CommitmentRow.next_try_at <= now)
        due = (CommitmentRow.state == CommitmentState.DUE) & in_time
        left = (CommitmentRow.state == CommitmentState.ASKING) & (CommitmentRow.lease_until < now)
        row = self._session.scalars(
            select(CommitmentRow)
            .where(CommitmentRow.destination == destination, due | left)
            .order_by(CommitmentRow.id)
            .limit(1)
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        ).one_or_none()
        if row is None:
            return None
        row.state, row.asked_at, row.next_try_at = CommitmentState.ASKING, now, None
        row.lease_owner, row.lease_until = owner, until
        return self._value(row)

    def asked(self, commitment_id: int, owner: str, report_until: datetime) -> bool:
        """The destination took the question; False when it is no longer the caller's."""
        row = self._mine(commitment_id, owner)
        if row is None:
            return False
        _move(row, CommitmentState.ASKED)
        row.attempts, row.next_try_at = row.attempts + 1, report_until
        return True

    def ask_again(
        self, commitment_id: int, owner: str, message: str, at: datetime, *, answered: bool
    ) -> bool:
        """It could not be asked, or (`answered`) the destination cannot do it now.

        Returns:
            False when it is no longer the caller's.
        """
        row = self._mine(commitment_id, owner)
        if row is None:
            return False
        _move(row, CommitmentState.DUE)
        row.attempts += answered
        row.message, row.next_try_at = message, at
        return True

    def give_up(self, commitment_id: int, owner: str, message: str, now: datetime) -> bool:
        """The destination does not commit; another proof is looked for at once."""
        row = self._mine(commitment_id, owner)
        if row is None:
            return False
        self._fail(row, message, now)
        return True

    def overdue(self, destination: str, now: datetime, most_attempts: int) -> list[tuple[str, str]]:
        """Move those whose report did not come: asked again, or given up after some times.

        Returns:
            (transaction UID, what follows) of each.
        """
        rows = self._session.scalars(
            select(CommitmentRow)
            .where(
                CommitmentRow.destination == destination,
                CommitmentRow.state == CommitmentState.ASKED,
                CommitmentRow.next_try_at <= now,
            )
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        ).all()
        moved = []
        for row in rows:
            if row.attempts < most_attempts:
                _move(row, CommitmentState.DUE)
                row.message, row.next_try_at = "no report; asked again", None
            else:
                self._fail(row, f"no report after it was asked {row.attempts} times", now)
            moved.append((row.transaction_uid, row.message))
        return moved

    def abandon(self, destination: str, message: str, now: datetime) -> list[tuple[str, str]]:
        """Give up all that are open: the destination is not asked for commitment any more.

        Returns:
            (transaction UID, why) of each.
        """
        rows = self._session.scalars(
            select(CommitmentRow)
            .where(
                CommitmentRow.destination == destination,
                CommitmentRow.state.in_((CommitmentState.DUE, CommitmentState.ASKED))
                | (
                    (CommitmentRow.state == CommitmentState.ASKING)
                    & (CommitmentRow.lease_until < now)
                ),
            )
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        ).all()
        for row in rows:
            self._fail(row, message, now)
        return [(row.transaction_uid, message) for row in rows]

    def by_hand(self, transaction_uid: str, destination: str, now: datetime) -> None:
        """Note that somebody asks by hand, so that a report to our door is known.

        No transfer belongs to it and nothing is due: it stands as one whose report did not come.
        """
        self._session.add(
            CommitmentRow(
                transaction_uid=transaction_uid,
                destination=destination,
                state=CommitmentState.FAILED,
                attempts=1,
                created_at=now,
                asked_at=now,
                message="asked by hand; no report yet",
            )
        )

    def reported(self, transaction_uid: str) -> str | None:
        """What a report said in short; None as long as there is none."""
        row = self._session.scalar(
            select(CommitmentRow).where(CommitmentRow.transaction_uid == transaction_uid)
        )
        return row.message if row is not None and row.state == CommitmentState.REPORTED else None

    def report(
        self,
        transaction_uid: str,
        committed: Sequence[str],
        failed: Mapping[str, int],
        now: datetime,
    ) -> bool:
        """Write down what a destination reported (PS3.4 Section J.3.3).

        What it committed to is committed, what it failed is sent again, and what it does not
        speak of is proved in another way. The same report once more changes nothing.

        Args:
            committed: SOP Instance UIDs.
            failed: SOP Instance UID → Failure Reason (0008,1197).

        Returns:
            False when no commitment has that transaction UID.
        """
        commitment_id = self._session.scalar(
            select(CommitmentRow.id).where(CommitmentRow.transaction_uid == transaction_uid)
        )
        if commitment_id is None:
            return False
        uids = self._uids_of(commitment_id)
        reasons = {
            transfer: _reason(failed[uid])
            for transfer, uid in uids.items()
            if uid in failed and uid not in committed
        }
        self._proofs.lock_studies(reasons)
        row = self._locked(commitment_id)
        self._proofs.send_again(reasons, now, _RESEND)
        row.attempts += row.state == CommitmentState.ASKING  # it came before the answer to us
        if row.state != CommitmentState.REPORTED:
            _move(row, CommitmentState.REPORTED)
        row.answered_at, row.next_try_at = now, None
        row.message = f"{len(committed)} committed, {len(failed)} failed"
        done = {transfer for transfer, uid in uids.items() if uid in set(committed)}
        for transfer in self._transfers(commitment_id):
            if transfer.state != TransferState.SENT:
                continue
            if transfer.id in done:
                transfer.state, transfer.next_try_at = TransferState.COMMITTED, None
                transfer.proof, transfer.proved_at = Proof.COMMITMENT, now
            elif transfer.proof == "":
                transfer.next_try_at = now
        return True

    def _fail(self, row: CommitmentRow, message: str, now: datetime) -> None:
        _move(row, CommitmentState.FAILED)
        row.message, row.next_try_at = message, None
        for transfer in self._transfers(row.id):
            if transfer.state == TransferState.SENT and transfer.proof == "":
                transfer.next_try_at = now
                transfer.message = f"{transfer.message}; no storage commitment: {message}"

    def _uids_of(self, commitment_id: int) -> dict[int, str]:
        rows = self._session.execute(
            select(TransferRow.id, ResultRow.sop_instance_uid, InstanceRow.sop_instance_uid)
            .outerjoin(ResultRow, ResultRow.id == TransferRow.result_id)
            .outerjoin(InstanceRow, InstanceRow.id == TransferRow.instance_id)
            .where(TransferRow.commitment_id == commitment_id)
        )
        return {transfer: result or instance for transfer, result, instance in rows}

    def _transfers(self, commitment_id: int) -> Sequence[TransferRow]:
        return self._session.scalars(
            select(TransferRow)
            .where(TransferRow.commitment_id == commitment_id)
            .order_by(TransferRow.id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).all()

    def _value(self, row: CommitmentRow) -> Commitment:
        objects = self._session.execute(
            with_objects()
            .where(TransferRow.commitment_id == row.id, unproved())
            .order_by(TransferRow.id)
        ).all()
        sent = [result or instance for _, result, instance in objects]
        return Commitment(
            id=row.id,
            transaction_uid=row.transaction_uid,
            destination=row.destination,
            attempts=row.attempts,
            # two versions of one instance are one object to the destination
            instances=tuple(
                dict.fromkeys((item.sop_class_uid, item.sop_instance_uid) for item in sent if item)
            ),
        )

    def _locked(self, commitment_id: int) -> CommitmentRow:
        return self._session.scalars(
            select(CommitmentRow)
            .where(CommitmentRow.id == commitment_id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one()

    def _mine(self, commitment_id: int, owner: str) -> CommitmentRow | None:
        row = self._locked(commitment_id)
        if row.state != CommitmentState.ASKING or row.lease_owner != owner:
            return None
        return row


def _move(row: CommitmentRow, state: CommitmentState) -> None:
    if state not in COMMITMENT_MOVES[CommitmentState(row.state)]:
        raise IllegalMoveError(f"commitment {row.id} cannot go from {row.state} to {state}")
    row.state = state
    row.lease_owner = row.lease_until = None


def failure(code: int) -> str:
    """A Failure Reason (0008,1197) in words (PS3.3 Section C.14)."""
    return f"0x{code:04X} {_FAILURES.get(code, 'no reason that the standard knows')}"


def _reason(code: int) -> str:
    return f"the destination did not keep it (storage commitment: {failure(code)})"
