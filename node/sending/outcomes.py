"""What became of an object, written down: sent, refused, to be tried again; and what follows."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from core.counters import count
from core.domain import Transfer
from core.ledger import Ledger, Work
from core.lifecycle import Proof, TransferState
from core.settings import Settings
from core.sopclasses import name_of
from node.sending.judge import Verdict, backoff

log = structlog.get_logger()

# Claimed, and of originals written down as sent, at once.
BATCH = 16
# Sent objects of one association are asked for together a little later.
_GATHER = timedelta(seconds=2)


@dataclass(slots=True)
class Visit:
    """One time that a destination is served.

    Attributes:
        probing: it was down, and this is the one try that anybody makes.
        left: what was claimed and not tried, by id.
        sent: what was taken and is not written down yet.
        answered: whether it answered anything, so that it is not down.
        trouble: why it cannot go on.
    """

    name: str
    probing: bool
    left: dict[int, Transfer] = field(default_factory=dict)
    sent: list[tuple[Transfer, int, Verdict]] = field(default_factory=list)
    delivered: int = 0
    answered: bool = False
    trouble: str = ""


class Outcomes:
    """Writes down how the objects of a visit fared, each as soon as it is known."""

    def __init__(
        self, settings: Settings, ledger: Ledger, owner: str, now: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._owner = owner
        self._now = now

    def took(self, visit: Visit, transfer: Transfer, status: int, verdict: Verdict) -> None:
        """The destination has it. Originals are written down some at a time."""
        visit.sent.append((transfer, status, verdict))
        del visit.left[transfer.id]
        visit.delivered += 1
        if transfer.result is not None or len(visit.sent) >= BATCH:
            self.write_sent(visit)

    def write_sent(self, visit: Visit) -> None:
        """Write down what was taken since the last time."""
        if not visit.sent:
            return
        now = self._now()
        with self._ledger.write() as work:
            work.proofs.lock_studies([transfer.id for transfer, _, _ in visit.sent])
            proof, look_at = self._proof(work, visit.name, now)
            for transfer, status, verdict in visit.sent:
                work.transfers.record(
                    transfer.id,
                    self._owner,
                    TransferState.SENT,
                    now,
                    status=status,
                    message=verdict.message,
                    next_try_at=look_at,
                    proof=proof,
                )
            classes = {transfer.sop_class_uid for transfer, _, _ in visit.sent}
            work.refusals.forget(visit.name, classes)
        for transfer, _, verdict in visit.sent:
            count("sentinode_objects_sent", transfer.destination, "sent")
            log.info("object_sent", **_about(transfer), message=verdict.message)
        visit.sent = []

    def _proof(self, work: Work, name: str, now: datetime) -> tuple[str, datetime | None]:
        """How it is known that an object arrived, or when that is looked for."""
        peer = self._settings.peer(name)
        if peer is not None and peer.commit and work.circuits.get(name).commits(self.since()):
            return "", now + _GATHER
        if peer is not None and peer.find:
            return "", now + timedelta(seconds=self._settings.delivery.proof_seconds)
        return Proof.STATUS, None

    def record(
        self,
        visit: Visit,
        transfer: Transfer,
        verdict: Verdict,
        status: int | None,
        *,
        tried: bool = True,
    ) -> None:
        """Write down an attempt that did not deliver."""
        if verdict.sop_class and transfer.result is not None:
            self.note_refusal(visit, transfer, verdict.message, status)
            return
        now = self._now()
        state, next_try_at = verdict.state, None
        if verdict.trouble:
            # longer than the destination's own wait: should it be the object's fault, the
            # others are delivered in between
            next_try_at = now + 2 * self.wait(transfer.attempts)
        if verdict.refusal:
            next_try_at = now + self.wait(transfer.refusals)
            if transfer.refusals + 1 >= self._settings.delivery.max_refusals:
                state = TransferState.FAILED if verdict.ours else TransferState.REFUSED
                next_try_at = None
        elif verdict.ours:
            next_try_at = now + self.wait(transfer.attempts)
        with self._ledger.write() as work:
            work.transfers.record(
                transfer.id,
                self._owner,
                state,
                now,
                status=status,
                message=verdict.message,
                next_try_at=next_try_at,
                refusal=verdict.refusal,
                tried=tried,
            )
        visit.left.pop(transfer.id, None)
        count("sentinode_objects_sent", transfer.destination, "not sent")
        log.warning(
            "object_not_sent", **_about(transfer), state=str(state), message=verdict.message
        )

    def note_refusal(
        self,
        visit: Visit,
        transfer: Transfer,
        how: str,
        status: int | None,
        *,
        tried: bool = True,
    ) -> None:
        """Remember that the destination takes no such object, and want another one for it."""
        with self._ledger.write() as work:
            instead = work.renditions.refuse(
                transfer,
                self._owner,
                self._now(),
                how=how,
                since=self.since(),
                status=status,
                fallback=self._settings.delivery.fallback,
                tried=tried,
            )
        visit.left.pop(transfer.id, None)
        about = _about(transfer)
        count("sentinode_objects_sent", transfer.destination, "refused")
        log.warning("object_refused", **about, reason=how)
        if instead is not None and instead.target is not None:
            log.info("fallback_wanted", **about, sop_class=name_of(instead.target))
        elif instead is not None:
            log.warning("no_fallback", **about, reason=instead.message)

    def since(self) -> datetime:
        """What was refused before this time is offered again."""
        return self._now() - timedelta(hours=self._settings.delivery.relearn_hours)

    def wait(self, failures: int) -> timedelta:
        """Before the next try after so many failures."""
        delivery = self._settings.delivery
        return backoff(
            failures,
            delivery.retry_seconds,
            delivery.retry_max_seconds,
            random.random(),  # noqa: S311 - jitter, no secret
        )


def _about(transfer: Transfer) -> dict[str, str]:
    return {
        "job": transfer.job_id,
        "kind": transfer.kind,
        "sop_instance_uid": transfer.sop_instance_uid,
        "destination": transfer.destination,
    }
