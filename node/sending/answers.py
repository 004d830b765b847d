"""Answers to storage commitment requests: N-EVENT-REPORT on a new association (PS3.4 J.3.3).

A request is answered once, for all of its instances. What is not here yet is waited for a moment,
for modalities ask as soon as they have sent; what is on its way to an archive that may commit to
it is waited for as long as that archive may take. A peer that does not take the report is told
again, with waits that double, for a day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import build_context, build_role

from core import clock
from core.errors import PeerError
from core.ledger import Ledger
from core.ledger.commit_requests import (
    CLASS_CONFLICT,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    CommitRequest,
    Standing,
)
from core.settings import Peer, Settings
from core.store import Store
from node.dimse.contexts import COMMITMENT, COMMITMENT_INSTANCE
from node.dimse.scu import associate
from node.servants import Servants

log = structlog.get_logger()

# PS3.4 Table J.3-2, Event Type ID
_ALL_COMMITTED, _FAILURES_EXIST = 1, 2

# Images may arrive, or be filed, a moment after the request for them.
ARRIVE_WITHIN = timedelta(seconds=60)
GIVE_UP_AFTER = timedelta(days=1)
_LEASE = timedelta(seconds=300)
_MOST_AT_ONCE = 20
_SHORTEST_LOOK, _LONGEST_LOOK = timedelta(seconds=0.5), timedelta(seconds=30)
_LONGEST_RETRY = timedelta(hours=1)

_REASONS = {
    Standing.ABSENT: NO_SUCH_INSTANCE,
    Standing.OTHER_CLASS: CLASS_CONFLICT,
    Standing.COMING: PROCESSING_FAILURE,
    Standing.UNSAFE: PROCESSING_FAILURE,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What we say to a request: Failure Reason (0008,1197) of each instance that is not safe."""

    request: CommitRequest
    failed: Mapping[str, int]


class Answerer:
    """Answers what peers asked us to commit to."""

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
        self._committing = frozenset(peer.name for peer in settings.peers if peer.commit)
        self._servants = Servants(self._serve)

    def step(self, *, wait_seconds: float = 0.0) -> int:
        """Begin what is due; returns how many requests were answered since.

        With `wait_seconds` the step waits so long for those it serves.

        Raises:
            LedgerError: SQL is away.
            StoreError: the store is away.
        """
        with self._ledger.read() as work:
            due = work.commit_requests.peers_due(self._now())
        self._servants.begin(due)
        return self._servants.ended(wait_seconds)

    def close(self) -> None:
        """Let what is under way come to its end."""
        self._servants.close()

    def _serve(self, ae_title: str) -> int:
        now = self._now()
        with self._ledger.write() as work:
            requests = work.commit_requests.claim(ae_title, now, now + _LEASE, _MOST_AT_ONCE)
        answers = [answer for item in requests if (answer := self._decide(item)) is not None]
        if not answers:
            return 0
        peer = next((item for item in self._settings.peers if item.ae_title == ae_title), None)
        return self._tell(peer, ae_title, answers)

    def _decide(self, request: CommitRequest) -> Answer | None:
        """What to say; None where it is too early. A yes is written down here."""
        now = self._now()
        with self._ledger.read() as work:
            found = work.commit_requests.look(
                request.instances,
                self._committing,
                kept_for_ever=keeps_for_ever(self._settings),
                forwarded=forwards_to_archive(self._settings),
            )
        standing = dict(found.standing)
        for uid, key in found.store_keys.items():
            if not self._store.exists(key):
                log.error("bytes_missing", sop_instance_uid=uid, key=key)
                standing[uid] = Standing.UNSAFE
        age = now - request.received_at
        if self._is_early(set(standing.values()), age):
            at = now + min(max(age / 4, _SHORTEST_LOOK), _LONGEST_LOOK)
            with self._ledger.write() as work:
                work.commit_requests.try_again(request.id, "waits for instances", at, tried=False)
            return None
        safe = [uid for uid, item in standing.items() if item == Standing.SAFE]
        with self._ledger.write() as work:
            promised = work.commit_requests.promise(safe, now)
        failed = {uid: _REASONS[item] for uid, item in standing.items() if item != Standing.SAFE}
        failed |= {uid: PROCESSING_FAILURE for uid in safe if uid not in promised}
        return Answer(request, failed)

    def _is_early(self, standing: set[Standing], age: timedelta) -> bool:
        longest = timedelta(seconds=self._settings.delivery.commit_seconds)
        return (Standing.ABSENT in standing and age < ARRIVE_WITHIN) or (
            Standing.COMING in standing and age < longest
        )

    def _tell(self, peer: Peer | None, ae_title: str, answers: Sequence[Answer]) -> int:
        """Report over one association; how many reports were taken."""
        address = peer.address if peer else None
        left = list(answers)
        told = 0
        try:
            if address is None:
                raise PeerError(f"no peer with AE title {ae_title}, host and port in the settings")
            own, timeout = self._settings.node.ae_title, self._settings.delivery.timeout
            context = build_context(COMMITMENT, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
            # we open the association and are the SCP on it (PS3.4 Section J.3.3.1)
            roles = [build_role(COMMITMENT, scp_role=True)]
            with associate(own, address, [context], timeout, roles=roles) as association:
                while left:
                    status = report(association, left[0])
                    answer = left.pop(0)
                    if status == 0x0000:
                        self._told(answer)
                        told += 1
                    else:
                        self._not_told(answer, f"it answered 0x{status:04X} to our report")
        except PeerError as error:
            for answer in left:
                self._not_told(answer, str(error))
        return told

    def _told(self, answer: Answer) -> None:
        count, failed = len(answer.request.instances), len(answer.failed)
        with self._ledger.write() as work:
            message = f"{count - failed} committed, {failed} failed"
            work.commit_requests.answered(answer.request.id, message, self._now())
        log.info("commitment_answered", **_about(answer.request), yes=count - failed, no=failed)

    def _not_told(self, answer: Answer, reason: str) -> None:
        request, now = answer.request, self._now()
        if now - request.received_at >= GIVE_UP_AFTER:
            with self._ledger.write() as work:
                work.commit_requests.give_up(request.id, reason)
            log.warning("commitment_not_answered", **_about(request), reason=reason, given_up=True)
            return
        first = timedelta(seconds=self._settings.delivery.retry_seconds)
        pause = min(first * 2 ** min(request.attempts, 16), _LONGEST_RETRY)
        with self._ledger.write() as work:
            work.commit_requests.try_again(request.id, reason, now + pause, tried=True)
        log.warning(
            "commitment_not_answered",
            **_about(request),
            reason=reason,
            next_try_seconds=pause.total_seconds(),
        )


def keeps_for_ever(settings: Settings) -> bool:
    """Whether what is in our store is durable and retention never touches it."""
    kept = settings.retention
    limits = (kept.originals_days, kept.ledger_days, kept.max_store_gb)
    return settings.storage.fsync and all(limit is None for limit in limits)


def forwards_to_archive(settings: Settings) -> bool:
    """Whether a route passes images on to a peer that is asked to commit to them."""
    committing = {peer.name for peer in settings.peers if peer.commit}
    return any(committing.intersection(route.forward) for route in settings.routes)


def can_commit(settings: Settings) -> bool:
    """Whether any request for storage commitment can be answered with yes."""
    return keeps_for_ever(settings) or forwards_to_archive(settings)


def report(association: Association, answer: Answer) -> int:
    """N-EVENT-REPORT: say what we are responsible for (PS3.4 Table J.3-2); returns the status.

    Raises:
        PeerError: the association broke, or the peer does not let us be its SCP.
    """
    content = Dataset()
    content.TransactionUID = answer.request.transaction_uid
    committed, failed = [], []
    for sop_class, uid in answer.request.instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        if uid in answer.failed:
            item.FailureReason = answer.failed[uid]
            failed.append(item)
        else:
            committed.append(item)
    if committed:
        content.ReferencedSOPSequence = committed
    if failed:
        content.FailedSOPSequence = failed
    event = _FAILURES_EXIST if failed else _ALL_COMMITTED
    try:
        status, _ = association.send_n_event_report(content, event, COMMITMENT, COMMITMENT_INSTANCE)
    except ValueError as error:
        raise PeerError(f"it does not take reports from us: {error}") from error
    except RuntimeError as error:
        raise PeerError(f"the association broke: {error}") from error
    if "Status" not in status:
        raise PeerError("the association broke, or no answer came to our report in time")
    return int(status.Status)


def _about(request: CommitRequest) -> dict[str, str]:
    return {"calling_ae": request.calling_ae, "transaction": request.transaction_uid}
