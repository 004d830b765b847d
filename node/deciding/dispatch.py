"""Dispatch: decides that series are whole and makes jobs; the publisher sends them out.

All truth is in the ledger; any number of dispatchers may run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from core import clock
from core.domain import Instance, Series
from core.ledger import Ledger, Work
from core.ledger.facts import MOST_AT_ONCE, SeriesFacts, Standing
from core.ledger.jobs import NewJob
from core.modelspec import ModelSpec
from core.settings import Route, Settings
from node.deciding.asking import Asker, Counter
from node.deciding.completeness import Decision, decide
from node.deciding.evidence import goes_before_count, wants_stat
from node.deciding.hearing import Hearing
from node.deciding.priority import STAT, priority_of
from node.deciding.publisher import Publisher
from node.deciding.routing import evaluate

log = structlog.get_logger()

_PLACE_EVERY = timedelta(seconds=0.2)


@dataclass(frozen=True, slots=True)
class _Seen:
    """Where a series stood when it was last decided about, and when to do so again."""

    marks: tuple[object, ...]
    ask_again_at: datetime | None


class Dispatcher:
    """Turns whole series into queued jobs.

    Args:
        publish: sends a job's id to a queue, and raises QueueError when the broker is away.
        count: asks a sender for its own count; default: C-FIND.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        specs: dict[str, ModelSpec],
        publish: Callable[[str, str], None],
        now: Callable[[], datetime] = clock.now,
        count: Counter | None = None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._specs = specs
        self._now = now
        self._publisher = Publisher(settings, ledger, publish, now)
        self._asker = Asker(settings, ledger, now, count)
        self._hearing = Hearing()
        self._seen: dict[str, _Seen] = {}
        self._placed_at: datetime | None = None
        self._place_before: int | None = None

    def step(self) -> int:
        """Do what is due; returns how many series and jobs were moved.

        Raises:
            LedgerError: SQL is away.
        """
        now = self._now()
        with self._ledger.read() as work:
            standing = work.facts.standing()
        heard_since = self._hearing.since(now)
        known = {item.series_instance_uid for item in standing}
        self._seen = {uid: seen for uid, seen in self._seen.items() if uid in known}
        self._asker.keep(known)
        due = [item for item in standing if self._is_due(item, now)]
        self._place(now)
        moved = 0
        for start in range(0, len(due), MOST_AT_ONCE):
            moved += self._decide(due[start : start + MOST_AT_ONCE], heard_since, now)
        self._asker.step()
        return moved + self._publisher.step()

    def close(self) -> None:
        """End the threads that ask senders."""
        self._asker.close()

    def _is_due(self, item: Standing, now: datetime) -> bool:
        """Whether the decision about a series can be another one than last time."""
        seen = self._seen.get(item.series_instance_uid)
        if seen is None or seen.marks != item.marks:
            return True
        return seen.ask_again_at is not None and seen.ask_again_at <= now

    def _place(self, now: datetime) -> None:
        """Now and then look whose images came that somebody asked us to commit to."""
        if self._placed_at is not None and now < self._placed_at + _PLACE_EVERY:
            return
        self._placed_at = now
        with self._ledger.read() as work:
            unplaced = work.evidence.has_unplaced(now)
        if unplaced:
            with self._ledger.write() as work:
                self._place_before = work.evidence.place(now, self._place_before)

    def _decide(self, due: Sequence[Standing], heard_since: datetime | None, now: datetime) -> int:
        marks = {item.series_instance_uid: item.marks for item in due}
        with self._ledger.read() as work:
            facts = work.facts.of(list(marks), heard_since)
            if heard_since is not None:
                self._hearing.tell(work.watermarks.silent(heard_since), now)
        moved = 0
        for item in facts:
            uid = item.series_instance_uid
            decision = decide(item, now, self._settings.completeness)
            if not decision.whole:
                self._seen[uid] = _Seen(marks[uid], decision.ask_again_at)
                if goes_before_count(decision.source):
                    self._asker.drop(uid)
                else:
                    self._asker.consider(item, now)
                continue
            self._asker.drop(uid)
            with self._ledger.write() as work:
                marked = work.series.mark_whole(
                    uid,
                    item.revision,
                    decision.reason,
                    now,
                    source=decision.source,
                    expected=decision.expected,
                    incomplete=decision.incomplete,
                )
                if marked:
                    self._route(work, item, decision, now)
                    moved += 1
        return moved

    def _route(self, work: Work, facts: SeriesFacts, decision: Decision, now: datetime) -> None:
        """Evaluate the routes for a whole series, make its jobs and pass its images on."""
        uid = facts.series_instance_uid
        series = work.series.get(uid)
        instances = tuple(work.series.instances(uid))
        decisions = evaluate(self._settings.routes, series)
        work.series.explain(uid, facts.revision, decisions)
        made, passed_on = [], 0
        for route, answer in zip(self._settings.routes, decisions, strict=True):
            if not answer.matched:
                continue
            if route.forward:
                passed_on += self._pass_on(work, route, series, instances, now)
            if route.model is None:
                continue
            job_id = work.jobs.create(
                NewJob(
                    study_instance_uid=series.study_instance_uid,
                    series_instance_uids=(uid,),
                    instances=instances,
                    route=route.name,
                    model=route.model,
                    model_version=self._specs[route.model].version,
                    queue=self._settings.queue_of(route),
                    destinations=self._settings.destinations(route),
                    priority=self._priority(route, series, facts),
                    size=sum(item.size for item in instances),
                    sender=facts.sender,
                    expected=decision.expected,
                ),
                now,
            )
            if job_id is not None:
                made.append(job_id)
        tell = log.warning if decision.incomplete else log.info
        tell(
            "series_whole",
            series=uid,
            instances=len(instances),
            expected=decision.expected,
            decided_by=str(decision.source),
            reason=decision.reason,
            routes=[item.route for item in decisions if item.matched],
            jobs=made,
            passed_on=passed_on,
        )

    def _priority(self, route: Route, series: Series, facts: SeriesFacts) -> int:
        priority = priority_of(route, series.attributes, self._settings.jobs)
        return max(priority, STAT) if wants_stat(facts) else priority

    def _pass_on(
        self,
        work: Work,
        route: Route,
        series: Series,
        instances: Sequence[Instance],
        now: datetime,
    ) -> int:
        """Make the original images due at other peers; never back to the one that sent them."""
        senders = work.series.senders(series.series_instance_uid)
        due = 0
        for name in route.forward:
            peer = self._settings.peer(name)
            assert peer is not None  # the settings see to it
            others = [item for item in instances if senders.get(item.id) != peer.ae_title]
            if others:
                due += work.transfers.forward(
                    route.name, series.study_instance_uid, others, (name,), now
                )
        return due
