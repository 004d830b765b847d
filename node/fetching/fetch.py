"""Fetching old studies from a peer: found day by day, one after the other, throttled, resumable.

What is here already is left out, so the ledger itself is what an order that was cut off goes on
from; the journal spares it the search, and keeps what failed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from core import clock
from core.errors import LedgerError, PeerError
from core.identifiers import AETitle, DicomAddress
from core.ledger import Ledger
from core.settings import Settings
from node.dimse.scu import associate
from node.fetching.criteria import Criteria, Span
from node.fetching.find import TooManyError, find_contexts
from node.fetching.inbox import Inbox
from node.fetching.journal import Journal
from node.fetching.retrieve import Outcome, get, move, requests_for, services
from node.fetching.search import MOST_ANSWERS, FoundSeries, FoundStudy, Search
from node.fetching.stopping import AnsweredNoError, BrokenOffError, StoppedError
from node.fetching.throttle import Throttle

_FIND_SECONDS = 60.0  # for each answer to a query
_TRIES = 3  # of a study whose transfer broke off
_FIRST_WAIT, _LONGEST_WAIT = 2.0, 60.0  # seconds, between tries at a peer that is away
T = TypeVar("T")


class How(StrEnum):
    """How objects come."""

    AUTO = "auto"
    GET = "get"
    MOVE = "move"


class State(StrEnum):
    """What came of a study."""

    FETCHED = "fetched"
    HERE = "here"
    FAILED = "failed"
    UNSAID = "unsaid"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be fetched, and how.

    Attributes:
        except_study: this one is left out (the one whose priors are fetched).
        timeout: for each answer to a retrieval, seconds.
        patience: a peer that is away is waited for so long, seconds.
        limit: most studies of one call; 0: all.
        most_answers: a day with more studies than this is asked for hour by hour.
    """

    peer: DicomAddress
    criteria: Criteria
    span: Span
    how: How = How.AUTO
    except_study: str = ""
    timeout: float = 600.0
    patience: float = 300.0
    limit: int = 0
    most_answers: int = MOST_ANSWERS


@dataclass(slots=True)
class Report:
    """How far an order is.

    Attributes:
        day: that is worked on, YYYYMMDD.
        waits: why nothing moves now; else empty.
        failed: study UIDs, or days that could not be asked for, with the reason.
        over: whether it came to its end, or `limit` ended it.
    """

    days: int = 0
    days_done: int = 0
    day: str = ""
    found: int = 0
    fetched: int = 0
    objects: int = 0
    here: int = 0
    unsaid: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    waits: str = ""
    over: bool = False


Tell = Callable[[Report], None]


def choose(settings: Settings, peer: DicomAddress, how: How) -> How:
    """How objects come from a peer: by C-GET where it offers that, else by C-MOVE to our door.

    Raises:
        PeerError: it is away, or does not offer what is needed.
    """
    offered = services(settings.node.ae_title, peer, _FIND_SECONDS)
    if "find" not in offered:
        raise _not_offered(peer, "C-FIND")
    if how is How.AUTO:
        how = How.GET if "get" in offered else How.MOVE
    if how.value not in offered:
        raise _not_offered(peer, f"C-{how.value.upper()}")
    if how is How.MOVE:
        check_may_send(settings, peer)
    return how


def check_may_send(settings: Settings, peer: DicomAddress) -> None:
    """See that our door takes what a peer sends us by C-MOVE.

    Raises:
        PeerError: it would be refused.
    """
    senders = {item.ae_title for item in settings.peers if item.send}
    if not settings.node.accept_unknown and str(peer.ae_title) not in senders:
        error = PeerError(
            f"our door takes nothing of {peer.ae_title}",
            remedy="Add it to [[peers]] with send = true, or use C-GET.",
        )
        error.retry = False
        raise error


class Fetcher:
    """Carries one order out.

    Args:
        stop: ends it at the next step; a request that runs is cancelled.
        tell: is told how far it is.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        order: Order,
        stop: threading.Event,
        tell: Tell = lambda _: None,
    ) -> None:
        self._settings, self._ledger, self._order = settings, ledger, order
        self._stop, self._tell = stop, tell
        self.report = Report()

    def plan(self) -> Iterator[tuple[FoundStudy, int]]:
        """What would be fetched: each study with how many of its series are missing here.

        Raises:
            PeerError: the peer is away or refuses.
            StoppedError: somebody asked to stop.
        """
        for day in self._days():
            studies, why = self._patiently(partial(self._search, day))
            if why:
                self.report.failed.append((day, why))
            for study in studies:
                self._found(study)
                yield study, self._patiently(partial(self._missing, study))
            self.report.days_done += 1
        self.report.over = True

    def run(self, journal: Journal, throttle: Throttle) -> Report:
        """Fetch; what is done is in the journal, so that the next call goes on.

        Args:
            throttle: says when the next study may begin.

        Raises:
            PeerError: the peer is away for longer than the order's patience, or refuses.
            StoppedError: somebody asked to stop.
            SentinodeError: the journal cannot be written.
        """
        line: dict[str, Any]
        days, done = self._recall(journal)
        how = self._patiently(lambda: choose(self._settings, self._order.peer, self._order.how))
        begun = 0
        for day in self._days():
            if day not in days:
                days[day], why = self._patiently(partial(self._search, day))
                found = [_written(item) for item in days[day]]
                journal.note({"day": day, "asked": _today(), "studies": found})
                if why:
                    line = {"study": day, "state": State.FAILED.value, "why": why}
                    journal.note(line)
                    self._count(line)
                for study in days[day]:
                    self._found(study)
            for study in days[day]:
                if study.uid in done or study.uid == self._order.except_study:
                    continue
                missing, classes = self._patiently(partial(self._needed, study, how))
                if not missing:
                    line = {"study": study.uid, "state": _idle(study)}
                else:
                    if self._order.limit and begun >= self._order.limit:
                        return self.report
                    throttle.wait()
                    begun += 1
                    line = self._fetch(study, missing, classes, how)
                journal.note(line)
                self._count(line)
            self.report.days_done += 1
            self._tell(self.report)
        journal.forget()
        self.report.over = True
        return self.report

    def waits(self, reason: str) -> None:
        """What the throttle tells."""
        self.report.waits = reason
        self._tell(self.report)

    def _days(self) -> Iterator[str]:
        days = list(self._order.span.days())
        self.report.days = len(days)
        for day in days:
            self.report.day = day
            self._tell(self.report)
            yield day

    @contextmanager
    def _asking(self) -> Iterator[Search]:
        order = self._order
        calling = self._settings.node.ae_title
        with associate(calling, order.peer, find_contexts(), _FIND_SECONDS) as association:
            yield Search(association, order.peer, order.criteria, self._stop, order.most_answers)

    def _search(self, day: str) -> tuple[list[FoundStudy], str]:
        """The studies of a day; or why they cannot be listed, where others still can."""
        try:
            with self._asking() as search:
                return search.studies(day), ""
        except TooManyError as error:
            return [], f"{error} in an hour; name more to look for"

    def _found(self, study: FoundStudy) -> None:
        self.report.found += 1
        self.report.unsaid += study.unsaid
        self._tell(self.report)

    def _needed(
        self, study: FoundStudy, how: How
    ) -> tuple[tuple[FoundSeries, ...], Collection[str]]:
        """The series that are not here, and the SOP classes to expect of them."""
        missing, doubtful = self._compare(study)
        asked = missing and how is How.GET
        if not doubtful and not asked:
            return missing, ()
        with self._asking() as search:
            missing += self._short(search, study, doubtful)
            return missing, search.classes(study.uid) if missing and how is How.GET else ()

    def _missing(self, study: FoundStudy) -> int:
        """How many of its series are not here."""
        missing, doubtful = self._compare(study)
        if not doubtful:
            return len(missing)
        with self._asking() as search:
            return len(missing) + len(self._short(search, study, doubtful))

    def _compare(self, study: FoundStudy) -> tuple[tuple[FoundSeries, ...], dict[FoundSeries, int]]:
        """Series that are not here; and of those whose size the peer does not tell, how many
        images are here."""
        uids = [item.uid for item in study.series]
        with self._ledger.read() as work:
            held, own = work.backlog.held(uids), work.backlog.own(uids)
        others = [item for item in study.series if item.uid not in own]
        missing = tuple(
            item
            for item in others
            if held.get(item.uid, 0) < (1 if item.images is None else item.images)
        )
        return missing, {
            item: held[item.uid] for item in others if item.images is None and item.uid in held
        }

    def _short(
        self, search: Search, study: FoundStudy, doubtful: dict[FoundSeries, int]
    ) -> tuple[FoundSeries, ...]:
        """Those of which the peer lists more images than are here."""
        return tuple(
            item for item, have in doubtful.items() if search.count(study.uid, item.uid) > have
        )

    def _fetch(
        self,
        study: FoundStudy,
        missing: tuple[FoundSeries, ...],
        classes: Collection[str],
        how: How,
    ) -> dict[str, Any]:
        """Retrieve what is missing of one study; what came of it, as the journal keeps it."""
        everything = self._order.criteria.any_series and not study.others
        whole = everything and len(missing) == len(study.series)
        questions = requests_for(study.uid, () if whole else [item.uid for item in missing], ())
        counts = [item.images for item in missing]
        expected = None if None in counts else sum(filter(None, counts))
        why, sent = "", 0
        for _ in range(_TRIES):
            try:
                outcome, sent = self._patiently(
                    partial(
                        retrieve,
                        self._settings,
                        self._order.peer,
                        questions,
                        how,
                        classes,
                        self._order.timeout,
                        self._stop,
                    ),
                    broken=False,
                )
                why = outcome.why
                if not why and not sent and (how is How.GET or outcome.counted):
                    why = "the peer sent nothing"
                elif not why and expected is not None and 0 < sent < expected:
                    why = f"{sent} of {expected} objects came"
                break
            except BrokenOffError as error:
                why = str(error)
                self._stop.wait(_FIRST_WAIT)
            except AnsweredNoError as error:
                why = str(error) + (f" {error.remedy}" if error.remedy else "")
                break
        state = State.FAILED if why else State.FETCHED
        return {"study": study.uid, "state": state.value, "objects": sent, "why": why}

    def _patiently(self, action: Callable[[], T], *, broken: bool = True) -> T:
        """Do something with the peer; wait for one, or for SQL, that is away, and tell so.

        Args:
            broken: also when it broke off in the middle.
        """
        wait, waited = _FIRST_WAIT, 0.0
        while True:
            if self._stop.is_set():
                raise StoppedError("stopped")
            try:
                result = action()
            except (PeerError, LedgerError) as error:
                passes = error.retry and (broken or not isinstance(error, BrokenOffError))
                if not passes or waited >= self._order.patience:
                    raise
                self.waits(str(error))
                self._stop.wait(wait)
                waited, wait = waited + wait, min(wait * 2, _LONGEST_WAIT)
                continue
            if waited:
                self.waits("")
            return result

    def _recall(self, journal: Journal) -> tuple[dict[str, list[FoundStudy]], set[str]]:
        """What earlier calls found and did; counted into the report."""
        days: dict[str, list[FoundStudy]] = {}
        done: set[str] = set()
        for line in journal.lines:
            if "day" in line:
                if line["asked"] <= line["day"]:
                    continue  # the day was not over: it may have more by now
                days[line["day"]] = [_read(item) for item in line["studies"]]
                for study in days[line["day"]]:
                    self._found(study)
            elif "study" in line:
                done.add(line["study"])
                self._count(line)
        return days, done

    def _count(self, line: dict[str, Any]) -> None:
        report, state = self.report, State(line["state"])
        report.fetched += state is State.FETCHED
        report.here += state is State.HERE
        report.objects += line.get("objects", 0)
        if state is State.FAILED:
            report.failed.append((line["study"], line["why"]))
        self._tell(report)


def retrieve(
    settings: Settings,
    peer: DicomAddress,
    questions: list[Any],
    how: How,
    classes: Collection[str],
    timeout: float,
    stop: threading.Event,
    tell: Callable[[Outcome], None] | None = None,
) -> tuple[Outcome, int]:
    """Have objects sent to this node; the peer's count, and how many came as far as is known.

    Args:
        how: by C-GET or C-MOVE.
        timeout: for each answer, seconds.

    Raises:
        PeerError: the peer is away, refuses, or breaks off.
        StoppedError: `stop` was set.
    """
    own = settings.node.ae_title
    if how is How.MOVE:
        outcome = move(own, peer, questions, AETitle(own), timeout, stop=stop, tell=tell)
        return outcome, outcome.sent
    with Inbox(settings, peer) as inbox:
        outcome = get(
            own,
            peer,
            questions,
            classes,
            timeout,
            inbox.handlers,
            inbox.opened,
            stop=stop,
            tell=tell,
        )
        if inbox.refused:
            reasons = "; ".join(sorted(set(inbox.refused.values())))
            outcome.why = f"{len(inbox.refused)} were not taken here: {reasons}"
        return outcome, inbox.kept


def _today() -> str:
    return f"{clock.now().astimezone():%Y%m%d}"


def _idle(study: FoundStudy) -> str:
    return (State.HERE if study.series else State.UNSAID).value


def _not_offered(peer: DicomAddress, service: str) -> PeerError:
    error = PeerError(f"{peer} does not offer {service} (Study Root)", remedy="")
    error.retry = False
    return error


def _written(study: FoundStudy) -> dict[str, Any]:
    return {
        "uid": study.uid,
        "day": study.day,
        "series": [[item.uid, item.modality, item.images] for item in study.series],
        "others": study.others,
        "unsaid": study.unsaid,
    }


def _read(line: dict[str, Any]) -> FoundStudy:
    series = tuple(FoundSeries(*item) for item in line["series"])
    return FoundStudy(line["uid"], line["day"], series, line["others"], line["unsaid"])
