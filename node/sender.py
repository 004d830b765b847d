"""The sender: what is due goes out, in order, until the destination has it.

One association carries all that is due for a destination. Every attempt and status is kept.
A destination that is away waits with exponential backoff and jitter, and gets everything when
it is back. One that takes no object of a SOP class gets another object in its place, if one can
be made; that is remembered, so that the next object is not offered in vain.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from pydicom.dataset import Dataset

from core import clock
from core.domain import Transfer
from core.errors import PeerError, StoreError
from core.identifiers import DicomAddress
from core.ledger import Ledger
from core.lifecycle import TransferState
from core.settings import Settings
from core.sopclasses import name_of
from core.store import Store
from node.scu import NoContextError, ObjectUnreadableError, associate, contexts_for, read_object
from node.scu import store as c_store

log = structlog.get_logger()

_LEASE = timedelta(seconds=120)
_JITTER = 0.2
_BATCH = 100
_MOST_DESTINATIONS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a C-STORE status means for a transfer (PS3.4 Table B.2-1, PS3.7 Annex C).

    Attributes:
        trouble: the destination is in trouble, perhaps over this very object: stop here, and
            let others go first the next time.
        refusal: the destination answered with an error; after some of them it is final.
        sop_class: the destination takes no object of this SOP class.
    """

    state: TransferState
    message: str
    trouble: bool = False
    refusal: bool = False
    sop_class: bool = False


def judge(status: int, comment: str) -> Verdict:
    """Judge a status: success and warnings are delivered, out of resources comes again."""
    text = f"0x{status:04X}" + (f" {comment}" if comment else "")
    if status == 0x0000:
        return Verdict(TransferState.SENT, "success")
    if status in {0x0001, 0x0107, 0x0116} or 0xB000 <= status <= 0xBFFF:
        return Verdict(TransferState.SENT, f"stored with a warning: {text}")
    if status == 0x0111:  # Duplicate SOP Instance: an answer of earlier was lost on the way
        return Verdict(TransferState.SENT, f"the destination has it already: {text}")
    if 0xA700 <= status <= 0xA7FF:
        return Verdict(TransferState.DUE, f"out of resources: {text}", trouble=True)
    if status in {0x0122, 0x0124}:
        sop_class = status == 0x0122
        what = "SOP class not supported" if sop_class else "sender not allowed"
        return Verdict(TransferState.REFUSED, f"{what}: {text}", sop_class=sop_class)
    return Verdict(TransferState.DUE, f"refused: {text}", refusal=True)


def backoff(failures: int, first: float, longest: float, spread: float) -> timedelta:
    """Wait before the next try: doubling, with jitter; `spread` is in 0 to 1."""
    seconds = min(first * 2 ** min(failures, 30), longest)
    return timedelta(seconds=seconds * (1 + _JITTER * (2 * spread - 1)))


class Sender:
    """Delivers results to their destinations."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        store: Store,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._store = store
        self._now = now
        self._owner = f"sender:{uuid.uuid4().hex}"
        self._pool = ThreadPoolExecutor(max_workers=_MOST_DESTINATIONS_AT_ONCE)
        self._serving: dict[str, Future[int]] = {}

    def step(self, *, wait_seconds: float = 0.0) -> int:
        """Begin to deliver what is due; returns how many objects were delivered since.

        Destinations are served side by side, each by itself: one that is slow does not hold up
        the others. With `wait_seconds` the step waits so long for those it serves.

        Raises:
            LedgerError: SQL is away.
        """
        with self._ledger.read() as work:
            names = work.transfers.destinations_due(self._now())
        for name in names:
            if name not in self._serving:
                self._serving[name] = self._pool.submit(self._serve, name)
        if wait_seconds:
            wait(self._serving.values(), wait_seconds)
        ended = {name: future for name, future in self._serving.items() if future.done()}
        for name in ended:
            del self._serving[name]
        return sum(future.result() for future in ended.values())

    def close(self) -> None:
        """Let what is under way come to its end."""
        self._pool.shutdown(wait=True)

    def _serve(self, name: str) -> int:
        transfers = self._claim(name)
        if not transfers:
            return 0
        peer = self._settings.peer(name)
        address = peer.address if peer else None
        if address is None:
            unknown = Verdict(TransferState.FAILED, f"no peer {name!r} to send to in the settings")
            for transfer in transfers:
                self._record(transfer, unknown, None)
            return 0
        ready = self._load(transfers)
        left = {transfer.id: transfer for transfer, _ in ready}
        delivered, trouble = 0, ""
        try:
            for transfer, status, verdict in self._deliver(address, ready):
                del left[transfer.id]
                self._record(transfer, verdict, status)
                delivered += verdict.state == TransferState.SENT
                if verdict.trouble:
                    trouble = verdict.message
                    break
        except NoContextError as error:
            for transfer in left.values():
                self._refuse(transfer, error)
            left.clear()
        except PeerError as error:
            trouble = str(error)
            if left:  # no association: the attempt is kept with the first that is due
                first = left.pop(next(iter(left)))
                self._record(first, Verdict(TransferState.DUE, trouble), None)
        self._after(name, list(left.values()), trouble, delivered)
        return delivered

    def _claim(self, name: str) -> list[Transfer]:
        """Take what is due; what the destination is known to refuse goes straight on."""
        now = self._now()
        with self._ledger.write() as work:
            transfers = work.transfers.claim(name, self._owner, now + _LEASE, now, _BATCH)
            known = {}
            if transfers and self._settings.delivery.fallback:
                known = work.renditions.known_to_be_refused(name, transfers, self._since())
        offered = []
        for transfer in transfers:
            refused = known.get(transfer.id)
            if refused is None:
                offered.append(transfer)
            else:
                how = f"not offered; refused at {refused.at:%Y-%m-%d %H:%M} UTC: {refused.how}"
                self._note_refusal(transfer, how, None, tried=False)
        return offered

    def _load(self, transfers: list[Transfer]) -> list[tuple[Transfer, Dataset]]:
        """Read the objects; one that cannot be read fails alone."""
        ready = []
        for transfer in transfers:
            try:
                dataset = read_object(self._store.get(transfer.result.store_key))
            except StoreError as error:
                self._record(transfer, Verdict(TransferState.DUE, str(error), refusal=True), None)
            except ObjectUnreadableError as error:
                self._record(transfer, Verdict(TransferState.FAILED, str(error)), None)
            else:
                ready.append((transfer, dataset))
        return ready

    def _deliver(
        self, address: DicomAddress, ready: list[tuple[Transfer, Dataset]]
    ) -> Iterator[tuple[Transfer, int | None, Verdict]]:
        """Send over one association, and yield what became of each as it is known.

        Raises:
            PeerError: the destination is away, or the association broke.
        """
        if not ready:
            return
        contexts = contexts_for([dataset for _, dataset in ready])
        timeout = self._settings.delivery.timeout
        with associate(self._settings.node.ae_title, address, contexts, timeout) as association:
            for transfer, dataset in ready:
                with self._ledger.write() as work:
                    now = self._now()
                    if not work.transfers.renew(transfer.id, self._owner, now + _LEASE):
                        continue  # held by an identity conflict since we claimed it
                try:
                    status, comment = c_store(association, dataset)
                except NoContextError as error:
                    refused = Verdict(TransferState.REFUSED, str(error), sop_class=True)
                    yield transfer, None, refused
                except PeerError as error:
                    yield transfer, None, Verdict(TransferState.DUE, str(error), trouble=True)
                    return
                else:
                    yield transfer, status, judge(status, comment)

    def _refuse(self, transfer: Transfer, error: NoContextError) -> None:
        """No context was accepted at all: what was said to the one of this object."""
        sop_class = transfer.result.sop_class_uid
        said = error.answers.get(sop_class, "no context accepted")
        how = f"the destination does not accept {name_of(sop_class)} ({said})"
        self._note_refusal(transfer, how, None)

    def _note_refusal(
        self, transfer: Transfer, how: str, status: int | None, *, tried: bool = True
    ) -> None:
        """Remember that the destination takes no such object, and want another one for it."""
        with self._ledger.write() as work:
            instead = work.renditions.refuse(
                transfer,
                self._owner,
                self._now(),
                how=how,
                since=self._since(),
                status=status,
                fallback=self._settings.delivery.fallback,
                tried=tried,
            )
        about = {
            "job": transfer.job_id,
            "kind": str(transfer.result.kind),
            "sop_instance_uid": transfer.result.sop_instance_uid,
            "destination": transfer.destination,
        }
        log.warning("object_refused", **about, reason=how)
        if instead is not None and instead.target is not None:
            log.info("fallback_wanted", **about, sop_class=name_of(instead.target))
        elif instead is not None:
            log.warning("no_fallback", **about, reason=instead.message)

    def _since(self) -> datetime:
        """What was refused before this time is offered again."""
        return self._now() - timedelta(hours=self._settings.delivery.relearn_hours)

    def _record(self, transfer: Transfer, verdict: Verdict, status: int | None) -> None:
        if verdict.sop_class:
            self._note_refusal(transfer, verdict.message, status)
            return
        delivery = self._settings.delivery
        now = self._now()
        with self._ledger.write() as work:
            state, next_try_at = verdict.state, None
            if verdict.trouble:
                # longer than the destination's own wait: should it be the object's fault, the
                # others are delivered in between
                next_try_at = now + 2 * self._wait(transfer.attempts)
            if verdict.refusal:
                refusals = work.transfers.refusals(transfer.id)
                if refusals + 1 >= delivery.max_refusals:
                    state = TransferState.REFUSED
                else:
                    next_try_at = now + self._wait(refusals)
            work.transfers.record(
                transfer.id,
                self._owner,
                state,
                now,
                status=status,
                message=verdict.message,
                next_try_at=next_try_at,
                refusal=verdict.refusal,
            )
            if state == TransferState.SENT:
                work.refusals.forget(transfer.destination, [transfer.result.sop_class_uid])
        level = log.info if state == TransferState.SENT else log.warning
        level(
            "object_sent" if state == TransferState.SENT else "object_not_sent",
            job=transfer.job_id,
            kind=str(transfer.result.kind),
            sop_instance_uid=transfer.result.sop_instance_uid,
            destination=transfer.destination,
            state=str(state),
            message=verdict.message,
        )

    def _after(self, name: str, rest: list[Transfer], trouble: str, delivered: int) -> None:
        """Note how the destination did, and give back what was claimed but not tried."""
        now = self._now()
        with self._ledger.write() as work:
            for transfer in rest:
                work.transfers.let_go(transfer.id, self._owner, trouble)
            if trouble:
                pause = self._wait(0 if delivered else work.transfers.failures(name))
                work.transfers.destination_failed(name, trouble, now + pause)
            elif delivered:
                work.transfers.destination_well(name, now)
        if trouble:
            log.warning(
                "destination_in_trouble",
                destination=name,
                error=trouble,
                next_try_seconds=round(pause.total_seconds(), 1),
            )

    def _wait(self, failures: int) -> timedelta:
        delivery = self._settings.delivery
        return backoff(
            failures,
            delivery.retry_seconds,
            delivery.retry_max_seconds,
            random.random(),  # noqa: S311 - jitter, no secret
        )
