"""Renditions: what a destination gets in place of an object whose SOP class it refuses.

The chain is `core.alternatives`: the refused object's transfer points to the rendition that is
made for it; when that is done it is a result of its own, with transfers of its own. Should the
destination refuse that as well, the first transfer points to the next rendition. Each is always
made from the object itself, and once, however many destinations ask for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from core.alternatives import next_alternative
from core.domain import RefusedClass, Rendition, Result, ResultKind, Transfer
from core.errors import IllegalMoveError, LeaseLostError
from core.ledger.jobs import HELD_REASON, LONGEST_REPUBLISH
from core.ledger.refusals import Refusals
from core.ledger.rows import insert_unless_there, rendition_value, result_row
from core.ledger.transfers import Transfers
from core.lifecycle import RENDITION_MOVES, RenditionState, TransferState
from core.schema import JobRow, RenditionRow, ResultRow, StudyRow, TransferRow
from core.sopclasses import name_of


@dataclass(frozen=True, slots=True)
class Instead:
    """What follows for the destination.

    Attributes:
        target: SOP class of what it gets, or None when there is nothing more to offer.
        message: the same for a person.
    """

    target: str | None
    message: str


class Renditions:
    """Decides what is made instead, and moves it through its life."""

    def __init__(self, session: Session, transfers: Transfers, refusals: Refusals) -> None:
        self._session = session
        self._transfers = transfers
        self._refusals = refusals

    def refuse(
        self,
        transfer: Transfer,
        owner: str,
        now: datetime,
        *,
        how: str,
        since: datetime,
        status: int | None = None,
        fallback: bool = True,
        tried: bool = True,
    ) -> Instead | None:
        """Note that a destination takes no object of a transfer's class, and find another one.

        Args:
            transfer: of a result; nothing is made in place of an original.
            how: what the destination said.
            since: what it refused before this time does not count any more.
            status: of its answer to C-STORE, if it came to that.
            fallback: whether something else may be made.
            tried: whether the object was offered just now; else it was known before.

        Returns:
            None when the transfer is no longer the caller's; the class is remembered still.
        """
        self._lock_study(transfer.study_instance_uid)
        mine = self._transfers.record(
            transfer.id,
            owner,
            TransferState.REFUSED,
            now,
            status=status,
            message=how,
            class_refused=True,
            tried=tried,
        )
        if tried:
            self._refusals.learn(transfer.destination, transfer.sop_class_uid, how, now)
        if not mine or transfer.result is None:
            return None
        first = transfer.result.alternative_to or transfer.result.id
        return self._instead(
            self._session.get_one(ResultRow, first), transfer.destination, since, now, fallback
        )

    def known_to_be_refused(
        self, destination: str, transfers: Iterable[Transfer], since: datetime
    ) -> dict[int, RefusedClass]:
        """Transfers to a destination that need not be tried, by id: it gets something else.

        One for which there is nothing else is not among them: offering it costs little, and
        shows when the destination has learned to take it.
        """
        known = self._refusals.known(destination, since)
        found = {}
        for transfer in transfers:
            refused = known.get(transfer.sop_class_uid)
            if refused is None or transfer.result is None:
                continue
            first = transfer.result.alternative_to or transfer.result.id
            own_class = self._session.get_one(ResultRow, first).sop_class_uid
            if next_alternative(own_class, {own_class, *known}) is not None:
                found[transfer.id] = refused
        return found

    def has_work(self, now: datetime) -> bool:
        """Whether `to_publish` or `expire` would find anything; only reads."""
        condition = _due(now) | _lost(now) | _expired(now)
        return self._session.scalar(select(RenditionRow.id).where(condition).limit(1)) is not None

    def to_publish(
        self, now: datetime, republish: timedelta, limit: int = 200
    ) -> list[tuple[int, str]]:
        """Move what is due to queued, and take lost ones again; gives ids and queues.

        As `Jobs.to_publish`: what no worker took is published again after waits that double.
        """
        rows = self._session.scalars(
            select(RenditionRow)
            .where(_due(now) | _lost(now))
            .order_by(RenditionRow.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        ).all()
        for row in rows:
            if row.state == RenditionState.WAITING:
                _move(row, RenditionState.QUEUED)
                row.published = 0
            wait = min(republish * 2**row.published, max(republish, LONGEST_REPUBLISH))
            row.republish_at = now + wait
            row.published = min(row.published + 1, 16)
        return [(row.id, row.queue) for row in rows]

    def publish_failed(self, rendition_id: int, next_try_at: datetime) -> None:
        """The broker is away: it waits, unless somebody has it in hand, as a job does."""
        row = self._session.scalars(
            select(RenditionRow)
            .where(RenditionRow.id == rendition_id, RenditionRow.state == RenditionState.QUEUED)
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        ).one_or_none()
        if row is not None:
            _move(row, RenditionState.WAITING)
            row.next_try_at = next_try_at

    def expire(
        self, now: datetime, since: datetime, *, most_deaths: int, blame: bool = True
    ) -> list[tuple[int, RenditionState]]:
        """Give what a silent worker had back, or fail it when `most_deaths` fell silent over it.

        Other troubles are not counted here: they may pass. Without `blame` the death is not
        counted either, as in `Jobs.expire`.
        """
        ids = self._session.scalars(select(RenditionRow.id).where(_expired(now))).all()
        moved = []
        for rendition_id in ids:
            self._lock_study(self._study_of(rendition_id))
            row = self._locked(rendition_id)
            if row.state != RenditionState.RUNNING or row.lease_until is None:
                continue
            if row.lease_until >= now:
                continue
            row.deaths += blame
            row.attempts -= not blame
            if row.deaths >= most_deaths:
                self._fail(row, f"its worker fell silent {row.deaths} times", since, now)
            else:
                _move(row, RenditionState.WAITING)
                row.next_try_at, row.reason = None, "its worker fell silent; given back"
            moved.append((row.id, RenditionState(row.state)))
        return moved

    def claim(
        self, rendition_id: int, owner: str, until: datetime, now: datetime
    ) -> Rendition | None:
        """Take a queued rendition under a lease; None when it is not to be had."""
        claimed = self._session.execute(
            update(RenditionRow)
            .where(RenditionRow.id == rendition_id, RenditionRow.state == RenditionState.QUEUED)
            .values(
                state=RenditionState.RUNNING,
                lease_owner=owner,
                lease_until=until,
                attempts=RenditionRow.attempts + 1,
            )
            .returning(RenditionRow.id)
        ).first()
        if claimed is None:
            return None
        row, result, job = self._session.execute(
            select(RenditionRow, ResultRow, JobRow)
            .join(ResultRow, ResultRow.id == RenditionRow.result_id)
            .join(JobRow, JobRow.id == RenditionRow.job_id)
            .where(RenditionRow.id == rendition_id)
            .execution_options(populate_existing=True)
        ).one()
        return rendition_value(row, result, job)

    def heartbeat(self, rendition_id: int, owner: str, until: datetime) -> bool:
        """Renew a lease; False when it is lost."""
        row = self._locked(rendition_id)
        if row.state != RenditionState.RUNNING or row.lease_owner != owner:
            return False
        row.lease_until = until
        return True

    def finish(
        self, rendition_id: int, owner: str, results: Sequence[Result], now: datetime
    ) -> list[str]:
        """Keep what was made, and make its transfers due; gives their destinations.

        In a study with an identity conflict the transfers begin paused.

        Raises:
            LeaseLostError: the caller does not hold it any more; nothing was written.
        """
        self._lock_study(self._study_of(rendition_id))
        row = self._held_by(rendition_id, owner)
        self._session.add_all(result_row(row.job_id, result, now) for result in results)
        self._session.flush()
        _move(row, RenditionState.DONE)
        row.reason = ""
        waiting = self._waiting_for(row)
        for transfer in waiting:
            self._hand_out(row, transfer.destination, now)
        return sorted(transfer.destination for transfer in waiting)

    def give_back(self, rendition_id: int, owner: str, reason: str, next_try_at: datetime) -> None:
        """A passing trouble: it waits for its next attempt.

        Raises:
            LeaseLostError: the caller does not hold it any more.
        """
        row = self._held_by(rendition_id, owner)
        _move(row, RenditionState.WAITING)
        row.reason, row.next_try_at = reason, next_try_at

    def fail(
        self, rendition_id: int, owner: str, reason: str, since: datetime, now: datetime
    ) -> None:
        """It cannot be made: those who wait for it get what comes after it.

        Raises:
            LeaseLostError: the caller does not hold it any more.
        """
        self._lock_study(self._study_of(rendition_id))
        self._fail(self._held_by(rendition_id, owner), reason, since, now)

    def _fail(self, row: RenditionRow, reason: str, since: datetime, now: datetime) -> None:
        _move(row, RenditionState.FAILED)
        row.reason = reason
        self._session.flush()
        result = self._session.get_one(ResultRow, row.result_id)
        for transfer in self._waiting_for(row):
            self._instead(result, transfer.destination, since, now, fallback=True)

    def _instead(
        self, result: ResultRow, destination: str, since: datetime, now: datetime, fallback: bool
    ) -> Instead:
        """Point the transfer of `result` to the first rendition that the destination may take."""
        own_class = result.sop_class_uid
        transfer = self._session.scalars(
            select(TransferRow)
            .where(TransferRow.result_id == result.id, TransferRow.destination == destination)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one()
        if not transfer.class_refused:  # sent again by an administrator meanwhile
            return Instead(None, "the object itself is sent again")
        refused = {own_class, *self._refusals.known(destination, since)}
        failed: list[str] = []
        while fallback and (target := next_alternative(own_class, refused)) is not None:
            row = self._wanted(result, target, now)
            if row.state == RenditionState.FAILED:
                failed.append(f"{name_of(target)} cannot be made: {row.reason}")
                refused.add(target)
                continue
            transfer.rendition_id = row.id
            transfer.message = (
                f"does not accept {name_of(own_class)}; gets {name_of(target)} instead"
            )
            if row.state == RenditionState.DONE:
                self._hand_out(row, destination, now)
            return Instead(target, transfer.message)
        transfer.rendition_id = None
        transfer.message = "; ".join([self._nothing_more(result, destination, fallback), *failed])
        return Instead(None, transfer.message)

    def _nothing_more(self, result: ResultRow, destination: str, fallback: bool) -> str:
        own_class = result.sop_class_uid
        others = _all_alternatives(own_class)
        if others and not fallback:
            return f"does not accept {name_of(own_class)}; delivery.fallback is off"
        if others:
            names = ", ".join(name_of(uid) for uid in (own_class, *others))
            return f"accepts none of {names}"
        message = f"does not accept {name_of(own_class)}"
        if result.kind == ResultKind.SEG and self._gets_picture(result.job_id, destination):
            message += "; the picture shows the outlines"
        return message

    def _gets_picture(self, job_id: str, destination: str) -> bool:
        pictures = (
            select(TransferRow.id)
            .join(ResultRow, ResultRow.id == TransferRow.result_id)
            .where(
                TransferRow.job_id == job_id,
                TransferRow.destination == destination,
                ResultRow.kind == ResultKind.SC,
            )
            .limit(1)
        )
        return self._session.scalar(pictures) is not None

    def _wanted(self, result: ResultRow, target: str, now: datetime) -> RenditionRow:
        """The rendition of a result in a class; made where nobody asked for it before."""
        insert_unless_there(
            self._session,
            RenditionRow,
            result_id=result.id,
            job_id=result.job_id,
            sop_class_uid=target,
            queue=self._session.get_one(JobRow, result.job_id).queue,
            state=RenditionState.WAITING,
            attempts=0,
            deaths=0,
            published=0,
            created_at=now,
            reason="",
        )
        return self._session.scalars(
            select(RenditionRow)
            .where(RenditionRow.result_id == result.id, RenditionRow.sop_class_uid == target)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one()

    def _waiting_for(self, row: RenditionRow) -> Sequence[TransferRow]:
        return self._session.scalars(
            select(TransferRow)
            .where(
                TransferRow.rendition_id == row.id,
                TransferRow.state == TransferState.REFUSED,
                TransferRow.class_refused.is_(True),
            )
            .order_by(TransferRow.id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).all()

    def _hand_out(self, row: RenditionRow, destination: str, now: datetime) -> None:
        """Make what was made due at a destination."""
        study = self._session.get_one(StudyRow, self._study_of(row.id))
        results = self._session.scalars(
            select(ResultRow)
            .where(
                ResultRow.alternative_to == row.result_id,
                ResultRow.sop_class_uid == row.sop_class_uid,
            )
            .order_by(ResultRow.part)
        ).all()
        for result in results:
            made = insert_unless_there(
                self._session,
                TransferRow,
                result_id=result.id,
                job_id=row.job_id,
                study_instance_uid=study.study_instance_uid,
                destination=destination,
                state=TransferState.PAUSED if study.conflict else TransferState.DUE,
                attempts=0,
                refusals=0,
                proof="",
                proof_tries=0,
                route="",
                created_at=now,
                message=HELD_REASON if study.conflict else "",
                class_refused=False,
            )
            if made:
                continue
            # refused before, and asked for again: an administrator sent the object once more
            again = self._session.scalars(
                select(TransferRow)
                .where(
                    TransferRow.result_id == result.id,
                    TransferRow.destination == destination,
                    TransferRow.class_refused.is_(True),
                )
                .with_for_update()
            ).one_or_none()
            if again is not None:
                self._transfers.make_due(again)

    def _study_of(self, rendition_id: int) -> str:
        return self._session.scalars(
            select(JobRow.study_instance_uid)
            .join(RenditionRow, RenditionRow.job_id == JobRow.id)
            .where(RenditionRow.id == rendition_id)
        ).one()

    def _lock_study(self, study_instance_uid: str) -> None:
        """As intake does, before any transfer: a conflict found just now is seen, or sees us."""
        self._session.scalars(
            select(StudyRow)
            .where(StudyRow.study_instance_uid == study_instance_uid)
            .with_for_update(key_share=True)
            .execution_options(populate_existing=True)
        ).one()

    def _locked(self, rendition_id: int) -> RenditionRow:
        return self._session.scalars(
            select(RenditionRow)
            .where(RenditionRow.id == rendition_id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one()

    def _held_by(self, rendition_id: int, owner: str) -> RenditionRow:
        row = self._locked(rendition_id)
        if row.state != RenditionState.RUNNING or row.lease_owner != owner:
            raise LeaseLostError(f"rendition {rendition_id} is no longer ours: it is {row.state}")
        return row


def _move(row: RenditionRow, state: RenditionState) -> None:
    if state not in RENDITION_MOVES[RenditionState(row.state)]:
        raise IllegalMoveError(f"rendition {row.id} cannot go from {row.state} to {state}")
    row.state = state
    if state != RenditionState.RUNNING:
        row.lease_owner = row.lease_until = None


def _all_alternatives(sop_class_uid: str) -> list[str]:
    found: list[str] = []
    while (target := next_alternative(sop_class_uid, {sop_class_uid, *found})) is not None:
        found.append(target)
    return found


def _due(now: datetime) -> ColumnElement[bool]:
    in_time = RenditionRow.next_try_at.is_(None) | (RenditionRow.next_try_at <= now)
    return (RenditionRow.state == RenditionState.WAITING) & in_time


def _lost(now: datetime) -> ColumnElement[bool]:
    return (RenditionRow.state == RenditionState.QUEUED) & (RenditionRow.republish_at <= now)


def _expired(now: datetime) -> ColumnElement[bool]:
    return (RenditionRow.state == RenditionState.RUNNING) & (RenditionRow.lease_until < now)
