"""Asking the sender how many images a series has (C-FIND), as evidence of wholeness.

For peers with `find = true`, after their association ended: Number of Series Related Instances
(0020,1209), PS3.4 Section C.3.4. A PACS that forwards while it receives answers with what it
has so far; so only a count that was given twice, `ask_seconds` apart, and that equals what
arrived, is evidence that the series is whole. One that is larger says that more is to come.
A peer that does not answer, or does not know the key, gives no evidence, and the timer goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog
from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from core import clock
from core.errors import PeerError
from core.identifiers import DicomAddress
from core.ledger import Ledger
from core.ledger.evidence import Evidence
from core.ledger.facts import SeriesFacts
from core.lifecycle import EvidenceSource
from core.settings import Peer, Settings
from node.dimse.contexts import STUDY_ROOT_FIND, UNCOMPRESSED
from node.dimse.scu import associate

log = structlog.get_logger()

_TIMEOUT = 10.0  # seconds; whoever answers more slowly is no help
_LONGEST_WAIT = timedelta(seconds=60)
_MOST_AT_ONCE = 100  # series asked over one association
_MOST_PEERS = 16  # asked at the same time
_PENDING = frozenset({0xFF00, 0xFF01})  # PS3.4 Table C.4-1
_SUCCESS = 0x0000
# What pynetdicom and pydicom raise when an association breaks or an answer is no data set.
_BROKEN = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, OSError)

# (study, series) pairs in, count by series out
Counter = Callable[[str, DicomAddress, Sequence[tuple[str, str]]], Mapping[str, int]]


@dataclass(slots=True)
class _Question:
    """What is asked about one series, as long as nothing of it changes."""

    peer: Peer
    facts: SeriesFacts
    next_at: datetime
    wait: timedelta
    asking: bool = False
    first: tuple[int, datetime] | None = None


class Asker:
    """Asks senders in threads of its own; the dispatcher is never held up.

    Args:
        count: the question itself; raises PeerError when the peer gives no answer.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        now: Callable[[], datetime] = clock.now,
        count: Counter | None = None,
    ) -> None:
        self._calling_ae = settings.node.ae_title
        self._peers = {peer.ae_title: peer for peer in settings.peers if peer.find}
        self._apart = timedelta(seconds=settings.completeness.ask_seconds)
        self._ledger = ledger
        self._now = now
        self._count = count or series_counts
        self._questions: dict[str, _Question] = {}
        self._running: dict[str, tuple[Future[tuple[datetime, Mapping[str, int]]], list[str]]] = {}
        self._silent: set[str] = set()
        self._pool: ThreadPoolExecutor | None = None

    def consider(self, facts: SeriesFacts, now: datetime) -> None:
        """Ask about a series from now on, if its sender may be asked and has ended sending."""
        uid, peer = facts.series_instance_uid, self._peers.get(facts.sender)
        if peer is None or facts.open_associations or facts.last_ended_at is None:
            self._questions.pop(uid, None)
            return
        known = self._questions.get(uid)
        if known is None or known.facts.revision != facts.revision:
            # the lists of UIDs are not needed here, and may be long
            light = replace(facts, held=frozenset(), study_held=frozenset(), evidence=())
            self._questions[uid] = _Question(peer, light, now, self._apart)

    def drop(self, series_instance_uid: str) -> None:
        """Ask no more about a series."""
        self._questions.pop(series_instance_uid, None)

    def keep(self, series_instance_uids: Iterable[str]) -> None:
        """Ask no more about any but these."""
        if self._questions:
            wanted = set(series_instance_uids)
            self._questions = {k: v for k, v in self._questions.items() if k in wanted}

    def step(self) -> int:
        """Note what was answered and ask what is due; returns how many answers said something.

        Raises:
            LedgerError: SQL is away; the answers are asked for again.
        """
        if not self._questions and not self._running:
            return 0
        said = sum(self._harvest(ae_title) for ae_title in list(self._running))
        now = self._now()
        due: dict[str, list[str]] = {}
        for uid, question in self._questions.items():
            if not question.asking and question.next_at <= now:
                due.setdefault(question.peer.ae_title, []).append(uid)
        for ae_title, uids in due.items():
            if ae_title not in self._running:
                self._ask(ae_title, uids[:_MOST_AT_ONCE])
        return said

    def close(self) -> None:
        """Ask nothing more; answers that are on their way are not waited for."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, ae_title: str, uids: list[str]) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_MOST_PEERS, thread_name_prefix="asker")
        address = self._peers[ae_title].address
        assert address is not None  # the settings see to it
        wanted = []
        for uid in uids:
            question = self._questions[uid]
            question.asking = True
            wanted.append((question.facts.study_instance_uid, uid))
        self._running[ae_title] = self._pool.submit(self._asked, address, wanted), uids

    def _asked(
        self, address: DicomAddress, wanted: Sequence[tuple[str, str]]
    ) -> tuple[datetime, Mapping[str, int]]:
        # what the peer gets after this moment the count may lack
        began = self._now()
        return began, self._count(self._calling_ae, address, wanted)

    def _harvest(self, ae_title: str) -> int:
        future, uids = self._running[ae_title]
        if not future.done():
            return 0
        del self._running[ae_title]
        questions = {uid: item for uid in uids if (item := self._questions.get(uid)) is not None}
        for question in questions.values():
            question.asking = False
        try:
            began, counts = future.result()
        except PeerError as error:
            self._no_answer(ae_title, questions.values(), str(error))
            return 0
        self._silent.discard(ae_title)
        said = [
            evidence
            for uid, question in questions.items()
            if (evidence := self._learn(question, counts.get(uid), began)) is not None
        ]
        if said:
            with self._ledger.write() as work:
                for evidence in said:
                    work.evidence.note(evidence)
        return len(said)

    def _no_answer(self, ae_title: str, questions: Iterable[_Question], reason: str) -> None:
        now = self._now()
        for question in questions:
            self._wait(question, now)
            question.first = None
        if ae_title not in self._silent:  # told once, not at every try
            self._silent.add(ae_title)
            log.warning("sender_not_counting", peer=ae_title, reason=reason)

    def _learn(self, question: _Question, count: int | None, began: datetime) -> Evidence | None:
        """What an answer comes to; None where it says nothing yet."""
        first, facts = question.first, question.facts
        if count is None:
            question.first = None
            self._wait(question, began)
            return None
        said = Evidence(
            EvidenceSource.COUNT,
            question.peer.ae_title,
            began,
            facts.study_instance_uid,
            facts.series_instance_uid,
            question.peer.ae_title,
            count=count,
        )
        if first is None or first[0] != count:
            question.first = (count, began)
            question.next_at = began + self._apart
            # asked once: it may hold back, and proves nothing
            return _once(said) if count > facts.instances else None
        if began - first[1] < self._apart:
            question.next_at = first[1] + self._apart
            return None
        self._wait(question, began)
        if count < facts.instances:
            return None
        # both answers were given after this moment
        return replace(said, at=first[1])

    def _wait(self, question: _Question, now: datetime) -> None:
        question.next_at = now + question.wait
        question.wait = min(question.wait * 2, max(_LONGEST_WAIT, self._apart))


def series_counts(
    calling_ae: str, peer: DicomAddress, series: Sequence[tuple[str, str]]
) -> Mapping[str, int]:
    """How many images the peer has of each series; one that it does not tell is left out.

    Args:
        series: pairs of Study and Series Instance UID.

    Raises:
        PeerError: the peer is away, does not offer C-FIND, or fails.
    """
    context = build_context(STUDY_ROOT_FIND, list(UNCOMPRESSED))
    counts: dict[str, int] = {}
    with associate(calling_ae, peer, [context], _TIMEOUT) as association:
        for study_uid, series_uid in series:
            try:
                count = _count_of(association, peer, study_uid, series_uid)
            except _BROKEN as error:
                raise PeerError(f"{peer}: no readable answer to C-FIND: {error}") from error
            if count is not None:
                counts[series_uid] = count
    return counts


def _once(said: Evidence) -> Evidence:
    """A statement of its own, so that it does not take the place of one that was asked twice."""
    return replace(said, key=f"{said.key}?", final=False)


def _count_of(
    association: Association, peer: DicomAddress, study_uid: str, series_uid: str
) -> int | None:
    """The peer's number of images of one series; None where it does not tell."""
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID = study_uid
    query.SeriesInstanceUID = series_uid
    query.NumberOfSeriesRelatedInstances = None
    count = None
    for status, answer in association.send_c_find(query, STUDY_ROOT_FIND):
        if "Status" not in status:
            raise PeerError(f"{peer}: no answer to C-FIND")
        if status.Status in _PENDING and answer is not None:
            number = answer.get("NumberOfSeriesRelatedInstances")
            if answer.get("SeriesInstanceUID") == series_uid and number is not None:
                count = int(number)
        elif status.Status != _SUCCESS:
            raise PeerError(f"{peer}: C-FIND answered 0x{status.Status:04X}")
    return count
