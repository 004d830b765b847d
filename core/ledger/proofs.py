"""Proof that a destination has what it was sent: who is to be asked, and what it said.

A transfer that is sent and whose `proof` is empty waits: for its time (`next_try_at`), or, where
that is empty too, for the report of the storage commitment that it is part of. What is lost is
sent again; in a study with an identity conflict it is held instead.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from core.domain import Transfer
from core.ledger.circuits import resting
from core.ledger.jobs import HELD_REASON
from core.ledger.rows import transfer_value
from core.ledger.transfers import with_objects
from core.lifecycle import CommitmentState, Proof, TransferState
from core.schema import CommitmentRow, StudyRow, TransferRow

_LONGEST_WAIT = timedelta(minutes=5)


def unproved() -> ColumnElement[bool]:
    """Sent, and it is not settled yet how it is known that it arrived."""
    return (TransferRow.state == TransferState.SENT) & (TransferRow.proof == "")


class Proofs:
    """Hands out what is to be looked for, and writes down what was found."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def destinations_due(self, now: datetime) -> list[str]:
        """Destinations that are to be asked for a proof now; only reads."""
        open_states = (CommitmentState.DUE, CommitmentState.ASKING, CommitmentState.ASKED)
        looks = select(TransferRow.destination).where(unproved(), TransferRow.next_try_at <= now)
        asks = select(CommitmentRow.destination).where(
            CommitmentRow.state.in_(open_states),
            CommitmentRow.next_try_at.is_(None) | (CommitmentRow.next_try_at <= now),
            CommitmentRow.lease_until.is_(None) | (CommitmentRow.lease_until < now),
        )
        names = set(self._session.scalars(looks.union(asks)))
        return sorted(names - set(self._session.scalars(resting(now))))

    def to_look_for(
        self,
        destination: str,
        now: datetime,
        until: datetime,
        limit: int,
        *,
        asked_before: bool = False,
    ) -> list[Transfer]:
        """What is to be looked for at a destination; nobody else gets it before `until`.

        With `asked_before` only what a storage commitment did not settle.
        """
        query = (
            with_objects()
            .where(
                TransferRow.destination == destination, unproved(), TransferRow.next_try_at <= now
            )
            .order_by(TransferRow.id)
            .limit(limit)
            .with_for_update(skip_locked=True, of=TransferRow)
        )
        if asked_before:
            query = query.where(TransferRow.commitment_id.is_not(None))
        found = []
        for row, result, instance in self._session.execute(query).all():
            row.next_try_at = until
            found.append(transfer_value(row, result, instance))
        return found

    def settle(self, ids: Collection[int], proof: Proof, now: datetime, note: str = "") -> None:
        """It is known now, as well as it will be; `note` is added to what a person reads."""
        for row in self._locked(ids):
            if row.state != TransferState.SENT:
                continue
            row.proof, row.proved_at, row.next_try_at = proof, now, None
            if note:
                row.message = f"{row.message}; {note}"

    def look_again(self, ids: Collection[int], at: datetime, *, missed: bool) -> None:
        """Not settled: ask again at `at`. `missed`: the destination did not list them."""
        for row in self._locked(ids):
            if row.state == TransferState.SENT and row.proof == "":
                row.proof_tries += missed
                row.next_try_at = at

    def send_again(
        self, reasons: dict[int, str], now: datetime, first_wait: timedelta, *, missed: bool = False
    ) -> int:
        """Let what the destination has not kept be sent again, after waits that double.

        Args:
            reasons: transfer id → why, for a person.
            first_wait: before the first repetition.
            missed: it was not listed, which `proof_tries` counts.

        Returns:
            How many are sent again.
        """
        held = self.lock_studies(reasons)
        count = 0
        for row in self._locked(reasons):
            if row.state != TransferState.SENT:
                continue
            row.proof_tries += missed
            row.message = reasons[row.id]
            row.next_try_at = now + min(first_wait * 2 ** min(row.refusals, 16), _LONGEST_WAIT)
            row.refusals += 1
            row.proof, row.commitment_id = "", None
            row.state = TransferState.DUE
            if row.study_instance_uid in held:
                row.state, row.message, row.next_try_at = TransferState.PAUSED, HELD_REASON, None
            count += 1
        return count

    def lock_studies(self, ids: Collection[int]) -> set[str]:
        """Lock the studies of transfers, before anything else and in one order, as everybody does.

        Returns:
            Those with an identity conflict.
        """
        studies = self._session.scalars(
            select(StudyRow)
            .where(
                StudyRow.study_instance_uid.in_(
                    select(TransferRow.study_instance_uid).where(TransferRow.id.in_(ids))
                )
            )
            .order_by(StudyRow.study_instance_uid)
            .with_for_update(key_share=True)
            .execution_options(populate_existing=True)
        )
        return {study.study_instance_uid for study in studies if study.conflict}

    def _locked(self, ids: Collection[int]) -> Sequence[TransferRow]:
        return self._session.scalars(
            select(TransferRow)
            .where(TransferRow.id.in_(ids))
            .order_by(TransferRow.id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).all()
