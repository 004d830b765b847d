"""Transfers: what is due where, claimed with a lease, every attempt kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import ColumnElement, Select, delete, select, update
from sqlalchemy.orm import Session

from core.domain import Instance, Transfer
from core.errors import IllegalMoveError, NotFoundError
from core.ledger.circuits import resting
from core.ledger.jobs import HELD_REASON, HELD_REMEDY
from core.ledger.rows import insert_many_unless_there, transfer_value
from core.ledger.turns import in_order, ready
from core.lifecycle import TRANSFER_MOVES, RenditionState, TransferState
from core.schema import (
    InstanceRow,
    JobRow,
    RefusedClassRow,
    RenditionRow,
    ResultRow,
    SeriesRow,
    StudyRow,
    TransferAttemptRow,
    TransferRow,
)

# A sender that is silent so long has died.
SEND_LEASE = timedelta(seconds=20)

Rows = Select[TransferRow, ResultRow | None, InstanceRow | None]


def with_objects() -> Rows:
    """SELECT transfers with what each sends: a result or an instance."""
    rows = (
        select(TransferRow, ResultRow, InstanceRow)
        .outerjoin(ResultRow, ResultRow.id == TransferRow.result_id)
        .outerjoin(InstanceRow, InstanceRow.id == TransferRow.instance_id)
    )
    return cast("Rows", rows)  # an outer join may give None, which SQLAlchemy's types do not say


class Transfers:
    """Claims transfers for a sender and records what became of them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def forward(
        self,
        route: str,
        study_instance_uid: str,
        instances: Sequence[Instance],
        destinations: Sequence[str],
        now: datetime,
    ) -> int:
        """Make originals due at destinations; once for each version of an instance.

        In a study with an identity conflict they begin paused, as its results do.

        Returns:
            How many transfers are new.
        """
        study = self._session.scalars(
            select(StudyRow)
            .where(StudyRow.study_instance_uid == study_instance_uid)
            .with_for_update(key_share=True)
            .execution_options(populate_existing=True)
        ).one()
        kept = self._session.scalars(
            select(InstanceRow.id)
            .join(SeriesRow, SeriesRow.series_instance_uid == InstanceRow.series_instance_uid)
            .where(
                SeriesRow.study_instance_uid == study_instance_uid, InstanceRow.gone_at.is_(None)
            )
        )
        there = set(kept)  # retention may have removed the others
        rows = [
            {
                "instance_id": instance.id,
                "route": route,
                "study_instance_uid": study_instance_uid,
                "destination": destination,
                "state": TransferState.PAUSED if study.conflict else TransferState.DUE,
                "attempts": 0,
                "refusals": 0,
                "created_at": now,
                "message": HELD_REASON if study.conflict else "",
                "class_refused": False,
                "proof": "",
                "proof_tries": 0,
            }
            for destination in destinations
            for instance in instances
            if instance.id in there
        ]
        return insert_many_unless_there(self._session, TransferRow, rows)

    def destinations_due(self, now: datetime) -> list[str]:
        """Destinations with something due that nothing keeps from being served; only reads."""
        names = self._session.scalars(
            select(TransferRow.destination)
            .where(
                TransferRow.state.in_((TransferState.DUE, TransferState.SENDING)),
                TransferRow.destination.not_in(resting(now)),
            )
            .distinct()
        ).all()
        return sorted(name for name in names if self._first_ready(name, now) is not None)

    def _first_ready(self, destination: str, now: datetime) -> int | None:
        return self._session.scalar(
            select(TransferRow.id)
            .outerjoin(ResultRow, ResultRow.id == TransferRow.result_id)
            .where(TransferRow.destination == destination, ready(now))
            .limit(1)
        )

    def claim(
        self,
        destination: str,
        owner: str,
        until: datetime,
        now: datetime,
        limit: int = 100,
        *,
        most_bytes: int | None = None,
    ) -> list[Transfer]:
        """Take what is due for a destination under a lease, in the order of `turns.in_order`.

        At most `limit` objects, and no more than fit `most_bytes`; but always the first.
        """
        rows = self._session.execute(
            with_objects()
            .where(TransferRow.destination == destination, ready(now))
            .order_by(*in_order())
            .limit(limit)
            .with_for_update(skip_locked=True, of=TransferRow)
        ).all()
        claimed: list[Transfer] = []
        size = 0
        for row, result, instance in rows:
            before = transfer_value(row, result, instance)
            size += before.size
            if claimed and most_bytes is not None and size > most_bytes:
                break
            row.state = TransferState.SENDING
            row.lease_owner, row.lease_until = owner, until
            claimed.append(transfer_value(row, result, instance))
        return claimed

    def renew_all(self, ids: Collection[int], owner: str, until: datetime) -> None:
        """Renew the leases of those that are still the owner's."""
        self._session.execute(
            update(TransferRow)
            .where(
                TransferRow.id.in_(ids),
                TransferRow.state == TransferState.SENDING,
                TransferRow.lease_owner == owner,
            )
            .values(lease_until=until)
        )

    def is_held_by(self, transfer_id: int, owner: str) -> bool:
        """Whether a claimed transfer is still the owner's: not held, not taken over."""
        row = self._session.get_one(TransferRow, transfer_id, populate_existing=True)
        return row.state == TransferState.SENDING and row.lease_owner == owner

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
        proof: str = "",
        refusal: bool = False,
        class_refused: bool = False,
        tried: bool = True,
    ) -> bool:
        """Write down one attempt; False when the transfer is no longer the caller's.

        The attempt is kept in any case: the destination may have the object. Not `tried` is
        what was known to be refused before. Of one that is sent, `proof` says how that is known;
        where it is empty, `next_try_at` says when it is to be looked for.
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
            row.proof, row.proved_at = proof, now if proof else None
            row.commitment_id = None
        return True

    def let_go(self, transfer_id: int, owner: str, message: str) -> None:
        """Give a claimed transfer back that was not tried, and say why."""
        row = self._locked(transfer_id)
        if row.state == TransferState.SENDING and row.lease_owner == owner:
            row.state, row.message = TransferState.DUE, message
            row.lease_owner = row.lease_until = None

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
        count = self._offer_again(TransferRow.job_id == job_id)
        self._session.execute(
            update(RenditionRow)
            .where(RenditionRow.job_id == job_id, RenditionRow.state == RenditionState.FAILED)
            .values(state=RenditionState.WAITING, next_try_at=None, attempts=0, deaths=0, reason="")
        )
        return count

    def send_study_again(self, study_instance_uid: str, destination: str = "") -> int:
        """Make refused and failed transfers of a study due, its originals too; how many.

        Raises:
            NotFoundError: there is no such study.
            IllegalMoveError: the study is held by an identity conflict.
        """
        study = self._session.scalars(
            select(StudyRow)
            .where(StudyRow.study_instance_uid == study_instance_uid)
            .with_for_update(key_share=True)
            .execution_options(populate_existing=True)
        ).one_or_none()
        if study is None:
            raise NotFoundError(f"no study {study_instance_uid}")
        if study.conflict:
            raise IllegalMoveError(
                f"study {study_instance_uid} is held: {HELD_REASON}", remedy=HELD_REMEDY
            )
        which = TransferRow.study_instance_uid == study_instance_uid
        if destination:
            which &= TransferRow.destination == destination
        return self._offer_again(which)

    def _offer_again(self, which: ColumnElement[bool]) -> int:
        rows = self._session.execute(
            with_objects()
            .where(which, TransferRow.state.in_((TransferState.REFUSED, TransferState.FAILED)))
            .with_for_update(of=TransferRow)
        ).all()
        count = 0
        for row, result, instance in rows:
            sent = result or instance
            if sent is not None and sent.gone_at is not None:
                continue  # something else took its place there, and it was removed
            if row.class_refused and result is not None:
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
        return count

    @staticmethod
    def make_due(row: TransferRow) -> None:
        """Let a refused or failed transfer be tried again from the beginning."""
        row.state, row.next_try_at, row.refusals = TransferState.DUE, None, 0
        row.class_refused, row.proof_tries = False, 0

    def _locked(self, transfer_id: int) -> TransferRow:
        return self._session.scalars(
            select(TransferRow)
            .where(TransferRow.id == transfer_id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one()
