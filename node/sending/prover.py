"""Proof of delivery: storage commitment where it is offered, else a query, else the status.

Recorded for each object (docs/decisions/0017). What is found missing is sent again.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import structlog

from core.domain import Commitment, Transfer
from core.errors import PeerError
from core.identifiers import DicomAddress
from core.ledger import Ledger
from core.ledger.circuits import Passage
from core.lifecycle import Proof
from core.settings import Settings
from node.dimse.messages import CommitReport
from node.dimse.scu import NoContextError, associate
from node.sending.commit import (
    Listener,
    commit_contexts,
    request,
)
from node.sending.judge import backoff
from node.sending.readback import find_contexts, listed

log = structlog.get_logger()

_LEASE = timedelta(seconds=120)
_MOST_IN_A_COMMITMENT = 500
_MOST_LOOKS = 500
# So long a report is waited for on the association of the question.
_LINGER_SECONDS = 2.0
_MOST_ASKED = 3
# So often the association may break at a question; with the waits that is some ten minutes.
_MOST_BROKEN = 8
# Not listed so often: sent again, once; and as often after that: its status must do.
_MISSES = 3
_NEITHER = "it is not known to hold it: only its answer to C-STORE says so"
# PS3.7 Annex C: the destination may do later what it did not do now
_PASSING = (0x0110, 0x0213)
# PS3.7 Annex C: it has no such service, instance or action, or not for us; all else is about
# this one question
_NOT_OFFERED = (0x0112, 0x0117, 0x0118, 0x0119, 0x0122, 0x0123, 0x0124, 0x0211)
# PS3.3 Table C.14-1, duplicate transaction UID: it took the question the last time
_TAKEN_BEFORE = 0x0131
_WARNING = range(0xB000, 0xC000)


class _Answer(StrEnum):
    """What a destination answered to the question for storage commitment."""

    ASKED = "asked"
    NOT_NOW = "not now"
    NOT_OFFERED = "not offered"


class Prover:
    """Asks destinations whether they have what they were sent."""

    def __init__(
        self, settings: Settings, ledger: Ledger, owner: str, now: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._owner = owner
        self._now = now

    def serve(self, name: str) -> int:
        """Ask a destination for all that is to be proved; how many objects were looked for.

        Raises:
            LedgerError: SQL is away.
        """
        now = self._now()
        with self._ledger.write() as work:
            passage = work.circuits.enter(name, self._owner, now + _LEASE, now)
        if passage == Passage.CLOSED:
            return 0
        try:
            asked = self._prove(name)
        except PeerError as error:
            self._trouble(name, error)
            return 0
        with self._ledger.write() as work:
            if asked and passage == Passage.PROBE:
                work.circuits.well(name, self._now(), took=False)
            else:
                work.circuits.leave(name, self._owner)
        return asked

    def _trouble(self, name: str, error: PeerError) -> None:
        with self._ledger.write() as work:
            wait = self._wait(work.circuits.get(name).failures)
            work.circuits.failed(name, str(error), self._now() + wait)
        log.warning(
            "destination_in_trouble",
            destination=name,
            error=str(error),
            next_try_seconds=round(wait.total_seconds(), 1),
        )

    def _prove(self, name: str) -> int:
        peer = self._settings.peer(name)
        address = peer.address if peer else None
        asked = 0
        if peer is not None and address is not None and peer.commit and self._commits(name):
            with self._ledger.write() as work:
                late = work.commitments.overdue(name, self._now(), _MOST_ASKED)
            asked += self._ask_for_commitment(name, address)
        else:
            with self._ledger.write() as work:
                late = work.commitments.abandon(name, "it is not asked for", self._now())
        for transaction, what in late:
            log.warning(
                "commitment_not_reported", destination=name, transaction=transaction, reason=what
            )
        # what is only gathered waits for its commitment, unless it was learned that none comes
        gathered = peer is not None and peer.commit and self._commits(name)
        while transfers := self._to_look_for(name, asked_before=gathered):
            asked += len(transfers)
            if peer is not None and peer.find and address is not None:
                self._read_back(name, address, transfers)
            else:
                with self._ledger.write() as work:
                    ids = [item.id for item in transfers]
                    work.proofs.settle(ids, Proof.STATUS, self._now())
        return asked

    def _commits(self, name: str) -> bool:
        """Whether the destination offers storage commitment, as far as is known."""
        since = self._now() - timedelta(hours=self._settings.delivery.relearn_hours)
        with self._ledger.read() as work:
            return work.circuits.get(name).commits(since)

    def _to_look_for(self, name: str, *, asked_before: bool) -> list[Transfer]:
        now = self._now()
        with self._ledger.write() as work:
            return work.proofs.to_look_for(
                name, now, now + _LEASE, _MOST_LOOKS, asked_before=asked_before
            )

    def _ask_for_commitment(self, name: str, address: DicomAddress) -> int:
        """Ask for all that is due over one association, and stay a moment for the reports."""
        commitment = self._next_commitment(name)
        if commitment is None:
            return 0
        listener = Listener(lambda report: self._take(name, report))
        own, timeout = self._settings.node.ae_title, self._settings.delivery.timeout
        asked = 0
        waiting: set[str] = set()
        talking = False
        try:
            with associate(
                own, address, commit_contexts(), timeout, listener.handlers
            ) as association:
                listener.serve(association)
                talking = True
                while commitment is not None:
                    status = request(association, commitment)
                    asked += len(commitment.instances)
                    transaction = commitment.transaction_uid
                    answer = self._judge(commitment, status)
                    commitment = None
                    if answer == _Answer.ASKED:
                        waiting.add(transaction)
                    if answer != _Answer.NOT_OFFERED:
                        commitment = self._next_commitment(name)
                listener.wait_for(waiting, _LINGER_SECONDS)
        except NoContextError:
            if commitment is not None:
                self._not_offered(commitment, "the destination does not offer it")
        except PeerError as error:
            if commitment is None:  # all was asked; how it ended does not matter
                return asked
            if talking:  # it is there, and breaks off at the question; it may take images
                self._broken(commitment, error)
                return asked
            with self._ledger.write() as work:
                at = self._now() + self._wait(0)
                work.commitments.ask_again(
                    commitment.id, self._owner, str(error), at, answered=False
                )
            raise
        return asked

    def _broken(self, commitment: Commitment, error: PeerError) -> None:
        """The association broke at the question: after some times another proof takes its place."""
        now = self._now()
        with self._ledger.write() as work:
            if commitment.attempts + 1 < _MOST_BROKEN:
                at = now + self._wait(commitment.attempts)
                work.commitments.ask_again(
                    commitment.id, self._owner, str(error), at, answered=True
                )
            else:
                work.commitments.give_up(commitment.id, self._owner, str(error), now)
        log.warning(
            "commitment_not_taken",
            destination=commitment.destination,
            transaction=commitment.transaction_uid,
            reason=str(error),
        )

    def _next_commitment(self, name: str) -> Commitment | None:
        now = self._now()
        with self._ledger.write() as work:
            if work.circuits.get(name).paused:
                return None
            while found := work.commitments.claim(name, self._owner, now + _LEASE, now):
                if found.instances:
                    return found
                work.commitments.give_up(found.id, self._owner, "nothing left to ask for", now)
            return work.commitments.gather(
                name, self._owner, now + _LEASE, now, _MOST_IN_A_COMMITMENT
            )

    def _judge(self, commitment: Commitment, status: int) -> _Answer:
        """Write down what the destination answered to the question."""
        now = self._now()
        about = {"destination": commitment.destination, "transaction": commitment.transaction_uid}
        if status in {0, _TAKEN_BEFORE} or status in _WARNING:
            until = now + timedelta(seconds=self._settings.delivery.commit_seconds)
            with self._ledger.write() as work:
                work.commitments.asked(commitment.id, self._owner, until)
                if work.circuits.get(commitment.destination).commitment != "yes":
                    work.circuits.commitment_learned(commitment.destination, True, now)
            log.info("commitment_asked", **about, objects=len(commitment.instances))
            return _Answer.ASKED
        said = f"it answered 0x{status:04X} to the question"
        if status in _NOT_OFFERED:
            self._not_offered(commitment, said)
            return _Answer.NOT_OFFERED
        with self._ledger.write() as work:
            if status in _PASSING and commitment.attempts + 1 < _MOST_ASKED:
                at = now + self._wait(commitment.attempts)
                work.commitments.ask_again(commitment.id, self._owner, said, at, answered=True)
            else:
                work.commitments.give_up(commitment.id, self._owner, said, now)
        log.warning("commitment_not_taken", **about, reason=said)
        return _Answer.NOT_NOW

    def _not_offered(self, commitment: Commitment, reason: str) -> None:
        """Learn it; the next proof takes its place, for these objects and those that come."""
        now = self._now()
        with self._ledger.write() as work:
            work.commitments.give_up(commitment.id, self._owner, reason, now)
            work.circuits.commitment_learned(commitment.destination, False, now)
        log.warning(
            "commitment_not_offered",
            destination=commitment.destination,
            transaction=commitment.transaction_uid,
            reason=reason,
        )

    def _take(self, name: str, report: CommitReport) -> None:
        """Write down a report that came on the association of the question.

        Raises:
            LedgerError: SQL is away.
        """
        with self._ledger.write() as work:
            known = work.commitments.report(
                report.transaction_uid, report.committed, report.failed, self._now()
            )
        log.info(
            "commitment_reported",
            destination=name,
            transaction=report.transaction_uid,
            committed=len(report.committed),
            failed=len(report.failed),
            known=known,
        )

    def _read_back(self, name: str, address: DicomAddress, transfers: Sequence[Transfer]) -> None:
        """Ask which of these the destination lists, series by series."""
        own, timeout = self._settings.node.ae_title, self._settings.delivery.timeout
        series = itertools.groupby(sorted(transfers, key=_series_of), key=_series_of)
        left = {item.id: item for item in transfers}
        try:
            with associate(own, address, find_contexts(), timeout) as association:
                for (study_uid, series_uid), members in series:
                    sent = list(members)
                    uids = {item.sop_instance_uid for item in sent}
                    there = listed(association, study_uid, series_uid, uids)
                    self._settle(name, sent, there)
                    for item in sent:
                        del left[item.id]
        except PeerError as error:
            self._not_answered(list(left.values()), error)
            if error.retry:
                raise

    def _settle(self, name: str, sent: Sequence[Transfer], there: set[str]) -> None:
        found = [item.id for item in sent if item.sop_instance_uid in there]
        missing = [item for item in sent if item.sop_instance_uid not in there]
        now = self._now()
        with self._ledger.write() as work:
            work.proofs.settle(found, Proof.FOUND, now)
            lost = {}
            for item in missing:
                misses = item.proof_tries + 1
                if misses == _MISSES:
                    lost[item.id] = f"the destination did not list it, asked {misses} times"
                elif misses >= 2 * _MISSES:
                    note = f"sent twice, and not listed by its query; {_NEITHER}"
                    work.proofs.settle([item.id], Proof.STATUS, now, note)
                else:
                    work.proofs.look_again([item.id], now + self._look(misses), missed=True)
            first = timedelta(seconds=self._settings.delivery.retry_seconds)
            again = work.proofs.send_again(lost, now, first, missed=True)
        if found:
            log.info("objects_listed", destination=name, objects=len(found))
        for item in missing:
            log.warning(
                "object_not_listed",
                destination=name,
                sop_instance_uid=item.sop_instance_uid,
                times=item.proof_tries + 1,
                sent_again=bool(again and item.id in lost),
            )

    def _not_answered(self, transfers: Sequence[Transfer], error: PeerError) -> None:
        """The query fails: after some times the status must do. Who is down is waited for."""
        now = self._now()
        with self._ledger.write() as work:
            for item in transfers:
                tries = item.proof_tries + (not error.retry)
                if tries >= 2 * _MISSES:
                    note = f"its query failed ({error}); {_NEITHER}"
                    work.proofs.settle([item.id], Proof.STATUS, now, note)
                else:
                    at = now + self._look(tries)
                    work.proofs.look_again([item.id], at, missed=not error.retry)
        if not error.retry:
            log.warning("query_failed", destination=transfers[0].destination, error=str(error))

    def _look(self, misses: int) -> timedelta:
        """Before the next look: threefold after each miss, from the start when sent again."""
        seconds = self._settings.delivery.proof_seconds
        return timedelta(seconds=seconds * 3 ** (misses % _MISSES))

    def _wait(self, failures: int) -> timedelta:
        delivery = self._settings.delivery
        return backoff(
            failures,
            delivery.retry_seconds,
            delivery.retry_max_seconds,
            random.random(),  # noqa: S311 - jitter, no secret
        )


def _series_of(transfer: Transfer) -> tuple[str, str]:
    return transfer.study_instance_uid, transfer.series_instance_uid
