"""Delivery to one destination: what is due goes out in order, over one association if it can.

Objects are claimed few at a time and read from their files while they are sent, so that neither
many nor large ones cost memory. Every attempt and status is kept. One that takes no object of a
SOP class gets another object in its place, if one can be made; originals go out unchanged or not
at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    UltrasoundImageStorage,
)
from pynetdicom.association import Association

from core.domain import Transfer
from core.errors import PeerError, StoreError
from core.ledger import Ledger
from core.ledger.circuits import Passage
from core.ledger.transfers import SEND_LEASE
from core.lifecycle import TransferState
from core.settings import Settings
from core.store import Store
from node.dimse.contexts import RESULT_CLASSES
from node.dimse.scu import (
    Head,
    NoContextError,
    ObjectUnreadableError,
    associate,
    contexts_for,
    head_of,
    store_file,
)
from node.sending.judge import Verdict, judge, judge_store
from node.sending.outcomes import BATCH, Outcomes, Visit

log = structlog.get_logger()

_BATCH_BYTES = 256 << 20
# Proposed to every destination: who accepts none of these is no storage destination just now.
_COMMON = frozenset(
    Head(str(uid), str(ExplicitVRLittleEndian))
    for uid in (
        *RESULT_CLASSES,
        CTImageStorage,
        MRImageStorage,
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        UltrasoundImageStorage,
        PositronEmissionTomographyImageStorage,
    )
)


@dataclass(frozen=True, slots=True)
class _Ready:
    transfer: Transfer
    head: Head


class Delivery:
    """Serves destinations, each in the thread that asks for it."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        store: Store,
        owner: str,
        now: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._store = store
        self._outcomes = Outcomes(settings, ledger, owner, now)
        self._owner = owner
        self._now = now
        self._visits: dict[int, Visit] = {}
        self._lock = threading.Lock()
        self._kept_at = now()

    def serve(self, name: str) -> int:
        """Deliver what is due at a destination; how many objects it took.

        Raises:
            LedgerError: SQL is away.
        """
        now = self._now()
        with self._ledger.write() as work:
            passage = work.circuits.enter(name, self._owner, now + SEND_LEASE, now)
        if passage == Passage.CLOSED:
            return 0
        visit = Visit(name, probing=passage == Passage.PROBE)
        with self._lock:
            self._visits[id(visit)] = visit
        try:
            batch = self._claim(visit)
            while batch and not visit.trouble:
                batch = self._over_one_association(visit, batch)
        finally:
            with self._lock:
                del self._visits[id(visit)]
            self._end(visit)
        return visit.delivered

    def keep_leases(self) -> None:
        """Renew the leases of what is under way; to be called often.

        Raises:
            LedgerError: SQL is away.
        """
        now = self._now()
        if now - self._kept_at < SEND_LEASE / 3:
            return
        self._kept_at = now
        with self._lock:
            visits = list(self._visits.values())
        ids = [item for visit in visits for item in list(visit.left)]
        ids += [item.id for visit in visits for item, _, _ in list(visit.sent)]
        with self._ledger.write() as work:
            work.transfers.renew_all(ids, self._owner, now + SEND_LEASE)
            for visit in visits:
                if visit.probing:
                    work.circuits.keep(visit.name, self._owner, now + SEND_LEASE)

    def _claim(self, visit: Visit) -> list[_Ready]:
        """Take what is due and can be sent; what cannot is settled here."""
        while True:
            self._outcomes.write_sent(visit)
            now = self._now()
            with self._ledger.write() as work:
                if work.circuits.get(visit.name).paused:
                    return []
                transfers = work.transfers.claim(
                    visit.name,
                    self._owner,
                    now + SEND_LEASE,
                    now,
                    1 if visit.probing else BATCH,
                    most_bytes=_BATCH_BYTES,
                )
                known = {}
                if transfers and self._settings.delivery.fallback:
                    known = work.renditions.known_to_be_refused(
                        visit.name, transfers, self._outcomes.since()
                    )
            visit.left.update({transfer.id: transfer for transfer in transfers})
            peer = self._settings.peer(visit.name)
            ready = []
            for transfer in transfers:
                refused = known.get(transfer.id)
                if peer is None or peer.address is None:
                    what = f"no peer {visit.name!r} to send to in the settings"
                    self._outcomes.record(
                        visit, transfer, Verdict(TransferState.FAILED, what), None
                    )
                elif transfer.refusals >= self._settings.delivery.max_refusals:
                    final = Verdict(TransferState.REFUSED, transfer.message)
                    self._outcomes.record(visit, transfer, final, transfer.status, tried=False)
                elif refused is not None:
                    how = f"not offered; refused at {refused.at:%Y-%m-%d %H:%M} UTC: {refused.how}"
                    self._outcomes.note_refusal(visit, transfer, how, None, tried=False)
                elif (head := self._head(visit, transfer)) is not None:
                    ready.append(_Ready(transfer, head))
            if ready or not transfers:
                return ready

    def _head(self, visit: Visit, transfer: Transfer) -> Head | None:
        """What the object is; one that cannot be read fails alone."""
        if transfer.instance is not None:
            return Head(transfer.sop_class_uid, transfer.instance.transfer_syntax_uid)
        try:
            with self._store.open(transfer.store_key) as stream:
                return head_of(stream)
        except StoreError as error:
            verdict = judge_store(error)
        except ObjectUnreadableError as error:
            verdict = Verdict(TransferState.FAILED, str(error))
        self._outcomes.record(visit, transfer, verdict, None)
        return None

    def _over_one_association(self, visit: Visit, batch: list[_Ready]) -> list[_Ready]:
        """Send over one association as long as there is something due that it can carry.

        What we make and the most usual images are proposed as well: who accepts something else,
        and not an object's class, means it; who accepts nothing at all is no storage
        destination at the moment, and waits like one that is down.

        Returns:
            What is due and needs another association.
        """
        peer = self._settings.peer(visit.name)
        address = peer.address if peer else None
        assert address is not None  # else nothing would be ready
        heads = {item.head for item in batch}
        own, timeout = self._settings.node.ae_title, self._settings.delivery.timeout
        try:
            with associate(own, address, contexts_for(heads | _COMMON), timeout) as association:
                while batch:
                    for item in batch:
                        self._send(visit, association, item)
                        if visit.trouble or not association.is_established:
                            return []
                    if visit.probing:  # it is well: nobody else needs to wait any longer
                        self._well(visit)
                    batch = self._claim(visit)
                    if not {item.head for item in batch} <= heads:
                        return batch
        except PeerError as error:
            visit.trouble = str(error)
            if isinstance(error, NoContextError):
                visit.trouble = f"{address} accepts no object of any kind at the moment"
            if visit.left:  # no association: the attempt is kept with the first that is due
                first = visit.left[next(iter(visit.left))]
                verdict = Verdict(TransferState.DUE, visit.trouble)
                self._outcomes.record(visit, first, verdict, None)
        return []

    def _send(self, visit: Visit, association: Association, item: _Ready) -> None:
        """Send one object and settle what became of it."""
        transfer = item.transfer
        with self._ledger.read() as work:
            mine = work.transfers.is_held_by(transfer.id, self._owner)
        if not mine:  # held by an identity conflict since we claimed it
            del visit.left[transfer.id]
            return
        status: int | None = None
        try:
            with self._store.as_file(transfer.store_key) as path:
                status, comment = store_file(
                    association, path, item.head, unchanged=transfer.instance is not None
                )
            visit.answered = True
            verdict = judge(status, comment)
        except StoreError as error:
            verdict = judge_store(error)
        except ObjectUnreadableError as error:
            verdict = Verdict(TransferState.FAILED, str(error))
        except NoContextError as error:
            visit.answered = True
            unchanged = "" if transfer.result else "; originals go out unchanged"
            verdict = Verdict(TransferState.REFUSED, f"{error}{unchanged}", sop_class=True)
        except PeerError as error:
            verdict = Verdict(TransferState.DUE, str(error), trouble=True)
        except Exception as error:  # whatever it is, it is this object's: the others must go on
            association.abort()
            log.exception("object_trouble", sop_instance_uid=transfer.sop_instance_uid)
            what = f"{type(error).__name__} while it was sent"
            verdict = Verdict(TransferState.DUE, what, refusal=True)
        if verdict.state == TransferState.SENT and status is not None:
            self._outcomes.took(visit, transfer, status, verdict)
        else:
            self._outcomes.record(visit, transfer, verdict, status)
        if verdict.trouble:
            visit.trouble = verdict.message

    def _well(self, visit: Visit) -> None:
        with self._ledger.write() as work:
            work.circuits.well(visit.name, self._now(), took=visit.delivered > 0)
        visit.probing = False
        log.info("destination_well", destination=visit.name)

    def _end(self, visit: Visit) -> None:
        """Note how the destination did, and give back what was claimed but not tried."""
        self._outcomes.write_sent(visit)
        name, now = visit.name, self._now()
        pause = timedelta()
        with self._ledger.write() as work:
            for transfer in visit.left:
                work.transfers.let_go(transfer, self._owner, visit.trouble)
            if visit.trouble:
                pause = self._outcomes.wait(
                    0 if visit.delivered else work.circuits.get(name).failures
                )
                work.circuits.failed(name, visit.trouble, now + pause)
            elif visit.answered:
                work.circuits.well(name, now, took=visit.delivered > 0)
            elif visit.probing:
                work.circuits.leave(name, self._owner)
        if visit.trouble:
            log.warning(
                "destination_in_trouble",
                destination=name,
                error=visit.trouble,
                next_try_seconds=round(pause.total_seconds(), 1),
            )
