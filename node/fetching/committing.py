"""Asking a peer by hand whether it is responsible for objects (PS3.4 Annex J).

Its report is waited for on the association of the question. One that comes to our door instead is
filed by intake; the ledger then says how it turned out, as long as somebody waits.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from core import clock
from core.domain import Commitment
from core.identifiers import DicomAddress
from core.ledger import Ledger
from node.dimse.messages import CommitReport
from node.dimse.scu import associate
from node.fetching.find import meaning
from node.fetching.stopping import AnsweredNoError, StoppedError
from node.sending.commit import Listener, commit_contexts, request

_MOST_AT_ONCE = 1000  # objects of one transaction
_LOOK_SECONDS = 0.2
LINGER_SECONDS = 5.0  # that the association is kept open for the report
_TAKEN = frozenset({0x0000, 0x0131})  # PS3.7 Annex C: success; a duplicate transaction


@dataclass(slots=True)
class Answers:
    """What a peer said.

    Attributes:
        committed: SOP Instance UIDs that it is responsible for.
        failed: those that it is not, with Failure Reason (0008,1197).
        by_door: what reports to our door said, in short: they do not tell it object by object.
        open: objects of transactions without any report.
    """

    committed: list[str] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    by_door: list[str] = field(default_factory=list)
    open: int = 0


def ask_to_commit(
    calling_ae: str,
    peer: DicomAddress,
    ledger: Ledger,
    objects: Sequence[tuple[str, str]],
    wait_seconds: float,
    stop: threading.Event,
    *,
    timeout: float = 60.0,
    linger_seconds: float = LINGER_SECONDS,
) -> Answers:
    """Ask for storage commitment, and wait for what the peer reports.

    Args:
        objects: pairs of SOP class and SOP instance.
        wait_seconds: for all reports together.
        timeout: for each answer, seconds.
        linger_seconds: how much of the waiting is done on the association itself.

    Raises:
        PeerError: the peer is away, does not offer it, or breaks off.
        AnsweredNoError: it does not take the question.
        StoppedError: somebody asked to stop.
        LedgerError: SQL is away.
    """
    answers, lock = Answers(), threading.Lock()
    waiting: dict[str, int] = {}

    def take(report: CommitReport) -> None:
        with lock:
            waiting.pop(report.transaction_uid, None)
            answers.committed += report.committed
            answers.failed |= report.failed

    listener = Listener(take)
    deadline = time.monotonic() + wait_seconds
    unique = list(dict.fromkeys(objects))
    with associate(calling_ae, peer, commit_contexts(), timeout, listener.handlers) as association:
        listener.serve(association)
        for start in range(0, len(unique), _MOST_AT_ONCE):
            part = tuple(unique[start : start + _MOST_AT_ONCE])
            transaction = f"2.25.{uuid.uuid4().int}"
            with ledger.write() as work:
                work.commitments.by_hand(transaction, str(peer.ae_title), clock.now())
            with lock:
                waiting[transaction] = len(part)
            asked = Commitment(0, transaction, str(peer.ae_title), 0, part)
            status = request(association, asked)
            if status not in _TAKEN:
                raise AnsweredNoError(f"{peer} answered {meaning(status)}", status)
        stay = min(wait_seconds, linger_seconds)
        listener.wait_for(set(waiting), stay)
    _wait_for_door(ledger, answers, waiting, lock, deadline, stop)
    return answers


def _wait_for_door(
    ledger: Ledger,
    answers: Answers,
    waiting: dict[str, int],
    lock: threading.Lock,
    deadline: float,
    stop: threading.Event,
) -> None:
    """Look whether intake filed the reports that are still open."""
    while True:
        with lock:
            left = dict(waiting)
        with ledger.read() as work:
            for transaction in left:
                said = work.commitments.reported(transaction)
                if said is not None:
                    answers.by_door.append(said)
                    waiting.pop(transaction, None)
        answers.open = sum(waiting.values())
        if not waiting or time.monotonic() >= deadline:
            return
        if stop.wait(_LOOK_SECONDS):
            raise StoppedError("stopped")
