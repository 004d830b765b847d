"""One run: modalities send, faults come at seeded moments, then everything settles."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from queue import Queue

from sqlalchemy.exc import SQLAlchemyError

from support.torture.faults import KINDS, Kind, Scene
from support.torture.modality import Modality, Wish
from support.torture.patients import Series
from support.torture.site import MODALITIES, Site, wait_until

_MOST_TRIES = 4
_HURRY_SECONDS = 0.7
_FAULTS_AT_ONCE = 3

UNSETTLED = {
    "series still receiving": "SELECT count(*) FROM series WHERE state = 'receiving'",
    "jobs still open": "SELECT count(*) FROM job WHERE state IN ('waiting', 'queued', 'running')",
    "transfers still open": "SELECT count(*) FROM transfer WHERE state IN ('due', 'sending')",
    "renditions still open": "SELECT count(*) FROM rendition"
    " WHERE state IN ('waiting', 'queued', 'running')",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of it.

    Attributes:
        kinds: names of kinds of faults; each `times` times.
        acknowledged: least number of acknowledged images.
        gap_seconds: mean time between the beginnings of two faults.
        images: least and most images of a series.
        most_undelivered: studies on their way at which modalities wait.
        settle_seconds: longest wait for the end.
        minutes: no fault begins later than that.
    """

    times: int
    acknowledged: int
    kinds: tuple[str, ...] = tuple(kind.name for kind in KINDS)
    gap_seconds: float = 2.0
    images: tuple[int, int] = (6, 24)
    most_undelivered: int = 25
    settle_seconds: float = 240.0
    minutes: float = 9.0


@dataclass
class Told:
    """What happened.

    Attributes:
        hits, misses: by kind of fault.
        took: seconds of every try, by kind of fault.
        troubles: faults that never hit, and what did not come back.
        died_unasked: processes that ended by themselves and were started again.
        unsettled: what was still open when the waiting was over.
    """

    hits: Counter[str] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)
    took: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    troubles: list[str] = field(default_factory=list)
    died_unasked: list[str] = field(default_factory=list)
    seconds: float = 0.0
    settled_after: float = 0.0
    unsettled: list[str] = field(default_factory=list)


class Run:
    """Drives a site that was started."""

    def __init__(
        self, site: Site, plan: Plan, seed: int, say: Callable[[str], None] = print
    ) -> None:
        self._site, self._plan, self._seed, self._say = site, plan, seed, say
        self._rng = random.Random(seed)
        self._name = f"{seed}-{site.a.port}"  # another run sends other studies
        self._studies: list[list[Series]] = []
        self._lock = threading.Lock()
        self._faults_over = threading.Event()
        self._hurries = 0
        self._locks = {need: threading.Lock() for kind in KINDS for need in kind.needs}
        self._wishes: Queue[Wish] = Queue()
        self.told = Told()

    def run(self) -> Told:
        """All of it.

        Raises:
            TimeoutError: a part of the site did not come back after a fault.
        """
        began = time.monotonic()
        modalities = [
            Modality(
                title, self._seed + n, self._site.book, self._site.doors, self._next, self._wishes
            )
            for n, title in enumerate(MODALITIES)
        ]
        for modality in modalities:
            modality.start()
        self._inject(began + 60 * self._plan.minutes)
        self._faults_over.set()
        enough = self._plan.acknowledged
        wait_until(lambda: len(self._site.book.acknowledged) >= enough, 60 * self._plan.minutes)
        self._settle(modalities)
        self.told.seconds = time.monotonic() - began
        self.told.died_unasked = list(self._site.keeper.deaths)
        return self.told

    def _inject(self, until: float) -> None:
        todo = [kind for kind in KINDS if kind.name in self._plan.kinds] * self._plan.times
        self._rng.shuffle(todo)
        slots = threading.Semaphore(_FAULTS_AT_ONCE)
        began: list[Future[None]] = []
        with ThreadPoolExecutor(max_workers=_FAULTS_AT_ONCE) as pool:
            for number, kind in enumerate(todo, start=1):
                slots.acquire()
                if time.monotonic() > until:
                    self.told.troubles.append(f"out of time after {number - 1} faults")
                    slots.release()
                    break
                seed = self._rng.randrange(1 << 30)
                future = pool.submit(self._fault, kind, seed, until)
                future.add_done_callback(lambda _: slots.release())
                began.append(future)
                time.sleep(self._rng.uniform(0.2, 2 * self._plan.gap_seconds))
                if number % 10 == 0:
                    self._say(f"  {number} of {len(todo)} faults, {self._progress()}")
        for future in began:
            future.result()

    def _fault(self, kind: Kind, seed: int, until: float) -> None:
        scene = Scene(self._site, random.Random(seed), self._wishes, self._hurry)
        with ExitStack() as held:
            for need in sorted(kind.needs):  # always in one order: nobody waits in a circle
                held.enter_context(self._locks[need])
            for _ in range(_MOST_TRIES):
                began = time.monotonic()
                hit = kind.inject(scene)
                with self._lock:
                    (self.told.hits if hit else self.told.misses)[kind.name] += 1
                    self.told.took[kind.name].append(round(time.monotonic() - began, 1))
                if hit or time.monotonic() > until:
                    return
        with self._lock:
            self.told.troubles.append(f"{kind.name}: did not hit in {_MOST_TRIES} tries")

    def _next(self) -> list[Series] | None:
        """The next study, unless the node has enough to do or the run has enough."""
        book = self._site.book
        done = self._faults_over.is_set() and len(book.acknowledged) >= self._plan.acknowledged
        if done:
            return None
        if self._undelivered() > self._plan.most_undelivered:
            if not self._hurries:
                return None
            time.sleep(_HURRY_SECONDS)  # a fault waits for traffic: a little more, not a flood
        with self._lock:
            number = len(self._studies)
            rng = random.Random(f"{self._name}/{number}")
            study = [
                Series(self._name, number, n, rng.randint(*self._plan.images), rng.random() < 0.8)
                for n in range(1 if rng.random() < 0.8 else 2)
            ]
            self._studies.append(study)
        return study

    @contextmanager
    def _hurry(self) -> Iterator[None]:
        with self._lock:
            self._hurries += 1
        try:
            yield
        finally:
            with self._lock:
                self._hurries -= 1

    def _undelivered(self) -> int:
        """Studies without any result at the PACS yet."""
        at_pacs = {item.study_uid for item in list(self._site.pacs.kept.values())}
        with self._lock:
            return sum(1 for study in self._studies if study[0].study_uid not in at_pacs)

    def _progress(self) -> str:
        site = self._site
        return (
            f"{len(site.book.acknowledged)} images acknowledged, "
            f"{len(site.pacs.kept)} objects at the PACS, {self._undelivered()} studies on their way"
        )

    def _settle(self, modalities: Sequence[Modality]) -> None:
        """No more faults, no more studies: what is under way comes to its end, or is stuck."""
        began = time.monotonic()
        self._say(f"  settling: {self._progress()}")
        deadline = began + self._plan.settle_seconds
        for modality in modalities:
            modality.enough.set()
        for modality in modalities:
            modality.join(max(1.0, deadline - time.monotonic()))
            if modality.is_alive() or modality.failure is not None:
                self.told.troubles.append(f"modality {modality.name}: {modality.failure!r}")
                modality.give_up.set()
        for role in ("intake", "dispatch"):  # what the second node acknowledged lies in its spool
            self._site.b.roles[role].start()
        while time.monotonic() < deadline:
            self.told.unsettled = self._left()
            if not self.told.unsettled:
                # twice in a row: a moment between two steps looks settled too
                time.sleep(2.0)
                self.told.unsettled = self._left()
                if not self.told.unsettled:
                    break
            time.sleep(0.2)
        self.told.settled_after = time.monotonic() - began

    def _left(self) -> list[str]:
        site = self._site
        left = [f"{n} in the spool of {x.name}" for x in site.nodes if (n := x.spooled())]
        try:
            for what, question in UNSETTLED.items():
                count = site.sql.ask(question)[0][0]
                if count:
                    left.append(f"{count} {what}")
        except SQLAlchemyError as error:
            left.append(f"SQL does not answer: {error}")
        return left
