"""Retention: what is old enough goes, and when the store is too full the oldest goes first.

By age: images, results, whole studies from the ledger. By space: images only. What must stay is
asked of the ledger each time (`core.ledger.kept`). Any number of nodes may run it.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from core import clock
from core.errors import StoreError
from core.ledger import Ledger, Work
from core.ledger.forgetting import Place, Step
from core.ledger.kept import Kept
from core.ledger.retention import Cursor, Page, Portion
from core.settings import Settings
from core.store import Store

log = structlog.get_logger()

_GB = 1 << 30
_PAGE = 100
# In one step; the next one goes on from there, so that what must stay keeps nothing else waiting.
_PAGES = 50
# Bytes are deleted under the writer's lock of SQLite: not many at once.
_DELETED_AT_ONCE = 20


@dataclass(slots=True)
class Tally:
    """How many objects of one kind may go, and how many bytes they have."""

    objects: int = 0
    size: int = 0

    def add(self, objects: int, size: int) -> None:
        """Count some more."""
        self.objects += objects
        self.size += size


@dataclass(slots=True)
class Report:
    """What a run of retention let go, or would.

    Attributes:
        by_age: images that are older than retention.originals_days.
        by_space: images that go because the store holds more than retention.max_store_gb.
        results: results that are older than retention.results_days.
        studies: studies whose rows leave the ledger now.
        leaving: studies whose bytes go now; their rows follow an hour later.
        kept: why how many series, jobs and studies that are old enough stay.
        over: bytes that the store holds above retention.max_store_gb after all this.
        deleted: keys that were deleted from the store.
    """

    by_age: Tally = field(default_factory=Tally)
    by_space: Tally = field(default_factory=Tally)
    results: Tally = field(default_factory=Tally)
    studies: int = 0
    leaving: int = 0
    kept: Counter[Kept] = field(default_factory=Counter)
    over: int = 0
    deleted: int = 0

    @property
    def moved(self) -> int:
        """How much was done."""
        objects = self.by_age.objects + self.by_space.objects + self.results.objects
        return objects + self.studies + self.leaving + self.deleted


class Retention:
    """Lets old things go."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        store: Store,
        now: Callable[[], datetime] = clock.now,
        stop: threading.Event | None = None,
    ) -> None:
        self._settings = settings.retention
        self._ledger = ledger
        self._store = store
        self._now = now
        self._stop = stop or threading.Event()
        self._committing = frozenset(peer.name for peer in settings.peers if peer.commit)
        self._cursors: dict[str, Cursor | None] = {}
        self._place: Place | None = None
        self._told_over: object = None

    @property
    def wanted(self) -> bool:
        """Whether the settings ever let anything go."""
        limits = (
            self._settings.originals_days,
            self._settings.results_days,
            self._settings.ledger_days,
            self._settings.max_store_gb,
        )
        return any(limit is not None for limit in limits)

    def step(self) -> int:
        """Let go what may go now; returns how much was done.

        Raises:
            LedgerError: SQL is away.
            StoreError: the store is away; what was let go is deleted later.
        """
        report = self.run()
        if report.moved:
            log.info(
                "retention_ran",
                originals=report.by_age.objects + report.by_space.objects,
                results=report.results.objects,
                megabytes=(report.by_age.size + report.by_space.size + report.results.size) >> 20,
                studies=report.studies,
            )
        self._tell_over(report)
        return report.moved

    def run(self, *, dry: bool = False) -> Report:
        """Let go what may go, and delete it; `dry`: only count.

        Raises:
            LedgerError: SQL is away.
            StoreError: the store is away.
        """
        report = Report()
        now = self._now()
        trouble: list[StoreError] = []
        if not dry:
            # what a run before this one let go and did not delete
            report.deleted += self._delete(trouble)
        if (before := _ago(now, self._settings.originals_days)) is not None:
            self._originals(before, now, report, dry=dry)
        if (before := _ago(now, self._settings.results_days)) is not None:
            self._results(before, now, report, dry=dry)
        if self._settings.max_store_gb is not None:
            self._space(int(self._settings.max_store_gb * _GB), now, report, dry=dry)
        if (before := _ago(now, self._settings.ledger_days)) is not None:
            self._studies(before, now, report, dry=dry)
        if not dry:
            report.deleted += self._delete(trouble)
        if trouble:
            raise trouble[0]
        return report

    def _originals(self, before: datetime, now: datetime, report: Report, *, dry: bool) -> None:
        def page_of(work: Work, after: Cursor | None) -> Page:
            return work.retention.originals(before, after)

        going = self._going("originals", page_of, _kept_originals, report.kept, whole=dry)
        for portion in going:
            gone = portion.objects, portion.size
            if not dry:
                with self._ledger.write() as work:
                    gone = work.retention.let_originals_go(portion, before, self._committing, now)
            report.by_age.add(*gone)

    def _results(self, before: datetime, now: datetime, report: Report, *, dry: bool) -> None:
        def page_of(work: Work, after: Cursor | None) -> Page:
            return work.retention.results(before, after)

        for portion in self._going("results", page_of, _kept_results, report.kept, whole=dry):
            gone = portion.objects, portion.size
            if not dry:
                with self._ledger.write() as work:
                    gone = work.retention.let_results_go(portion, before, self._committing, now)
            report.results.add(*gone)

    def _space(self, most: int, now: datetime, report: Report, *, dry: bool) -> None:
        with self._ledger.read() as work:
            holds = work.retention.holdings().size
        if dry:
            holds -= report.by_age.size + report.results.size
        if holds <= most:
            return
        counted = _ago(now, self._settings.originals_days) if dry else None
        kept: Counter[Kept] = Counter()

        def page_of(work: Work, after: Cursor | None) -> Page:
            return work.retention.originals(None, after)

        for portion in self._going("space", page_of, _kept_originals, kept, whole=True):
            if counted is not None and portion.newest < counted:
                continue  # goes by its age
            gone = portion.objects, portion.size
            if not dry:
                with self._ledger.write() as work:
                    gone = work.retention.let_originals_go(portion, None, self._committing, now)
            report.by_space.add(*gone)
            holds -= gone[1]
            if holds <= most:
                return
        report.over = holds - most
        report.kept += kept

    def _studies(self, before: datetime, now: datetime, report: Report, *, dry: bool) -> None:
        after = None if dry else self._place
        for number in itertools.count(1):
            with self._ledger.read() as work:
                studies = work.forgetting.studies(before, after, _PAGE)
            for _, uid in studies:
                if self._stop.is_set():
                    return
                with self._ledger.read() as work:
                    done: Step | Kept | None = work.forgetting.kept(uid, self._committing)
                if done is None and dry:
                    report.studies += 1
                elif done is None:
                    with self._ledger.write() as work:
                        done = work.forgetting.step(uid, before, self._committing, now)
                if isinstance(done, Kept):
                    report.kept[done] += 1
                report.studies += done is Step.ROWS
                report.leaving += done is Step.BYTES
            after = studies[-1] if len(studies) == _PAGE else None
            if after is None or (number >= _PAGES and not dry):
                break
        if dry:
            return
        self._place = after
        with self._ledger.write() as work:
            work.forgetting.forget_requests(before)
            work.forgetting.forget_orders(before)
            work.evidence.forget(before)

    def _going(
        self,
        what: str,
        page_of: Callable[[Work, Cursor | None], Page],
        kept_of: Callable[[Work, Sequence[Portion], Collection[str]], dict[str, Kept]],
        kept: Counter[Kept],
        *,
        whole: bool = False,
    ) -> Iterator[Portion]:
        """The portions that may go, page by page; what must stay is counted.

        A long list is taken up where the last step left it, but a `whole` one from its beginning
        to its end.
        """
        after = None if whole else self._cursors.get(what)
        seen: set[str] = set()
        for number in itertools.count(1):
            with self._ledger.read() as work:
                page = page_of(work, after)
                new = [item for item in page.portions if item.key not in seen]
                reasons = kept_of(work, new, self._committing) if new else {}
            seen.update(item.key for item in new)
            kept.update(reasons.values())
            for portion in new:
                if self._stop.is_set():
                    return
                if portion.key not in reasons:
                    yield portion
            after = page.after
            if not whole:
                self._cursors[what] = after
            if after is None or (number >= _PAGES and not whole):
                return

    def _delete(self, trouble: list[StoreError]) -> int:
        """Delete from the store what was let go, a few keys at a time.

        A key that cannot be deleted ends this, and is added to `trouble`; it keeps nothing else
        from being let go.
        """
        count = 0
        with self._ledger.read() as work:
            more = work.retention.pending() > 0
        while more and not self._stop.is_set():
            failed = False
            with self._ledger.write() as work:
                keys, deleted = work.retention.to_remove(_DELETED_AT_ONCE), []
                for key in keys:
                    try:
                        self._store.delete(key)
                        deleted.append(key)
                    except StoreError as error:
                        trouble.append(error)
                        failed = True
                work.retention.removed(deleted)
                # so that they do not stand in the way of the others for ever
                work.retention.put_last(set(keys).difference(deleted), self._now())
            count += len(deleted)
            more = bool(keys) and not failed
        return count

    def _tell_over(self, report: Report) -> None:
        """Say once that the store is too full and why nothing more may go."""
        why = frozenset(report.kept) if report.over else None
        if why == self._told_over:
            return
        self._told_over = why
        if report.over:
            log.warning(
                "store_over_limit",
                over_mb=report.over >> 20,
                max_store_gb=self._settings.max_store_gb,
                kept={reason.value: number for reason, number in report.kept.items()},
            )


def _kept_originals(
    work: Work, portions: Sequence[Portion], committing: Collection[str]
) -> dict[str, Kept]:
    return work.retention.kept_originals(portions, committing)


def _kept_results(
    work: Work, portions: Sequence[Portion], committing: Collection[str]
) -> dict[str, Kept]:
    return work.retention.kept_results(portions, committing)


def _ago(now: datetime, days: float | None) -> datetime | None:
    return None if days is None else now - timedelta(days=days)
