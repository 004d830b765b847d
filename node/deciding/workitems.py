"""Workitems that were ordered become jobs; what happens to jobs is told to who subscribed.

An order waits until every instance that it lists is here. Then its route's job is made, or the
one that is there already is taken: the same input by the same model is computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import structlog

from core import clock
from core.domain import Instance
from core.ledger import Ledger, Work
from core.ledger.jobs import NewJob
from core.modelspec import ModelSpec
from core.settings import Route, Settings
from core.workitems import InputSeries, Workitem, WorkitemState
from node.deciding.priority import LOW, STAT, priority_of
from node.deciding.routing import evaluate
from node.worklist.ups import events
from node.worklist.ups.content import dataset_of

log = structlog.get_logger()

_ASKED = {"HIGH": STAT, "LOW": LOW}
_LOOK_EVERY = timedelta(seconds=0.5)
_MOST_ORDERS, _MOST_EVENTS = 200, 500
# ids grow, but a transaction with a smaller one may be committed after one with a larger
_LOOK_BACK = 200
_MOST_REMEMBERED = 10_000


class WorkitemDesk:
    """Begins what was ordered, and follows the life of all jobs."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        specs: dict[str, ModelSpec],
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._specs = specs
        self._now = now
        self._routes = {route.name: route for route in settings.routes}
        self._zone = ZoneInfo(settings.results.timezone) if settings.results.timezone else None
        self._offered = any(peer.worklist for peer in settings.peers)
        self._looked_at: datetime | None = None
        self._read: int | None = None
        self._seen: set[int] = set()
        self._said: dict[str, tuple[str, str]] = {}  # what was told last

    def step(self) -> int:
        """Do what is due; returns how many workitems were moved.

        Raises:
            LedgerError: SQL is away.
        """
        now = self._now()
        early = self._looked_at is not None and now < self._looked_at + _LOOK_EVERY
        if not self._offered or early:
            return 0
        self._looked_at = now
        return self._begin(now) + self._follow(now)

    def _begin(self, now: datetime) -> int:
        with self._ledger.read() as work:
            waiting = work.workitems.to_begin(_MOST_ORDERS)
        moved = 0
        for item in waiting:
            with self._ledger.read() as work:
                here = {part: work.workitems.here(part) for part in item.inputs}
            if all(_complete(part, found) for part, found in here.items()):
                with self._ledger.write() as work:
                    moved += self._make(work, item, here, now)
        return moved

    def _make(
        self,
        work: Work,
        item: Workitem,
        here: dict[InputSeries, list[Instance]],
        now: datetime,
    ) -> int:
        ready = work.workitems.ready(item.uid, now)
        if item.outside:
            if ready:
                self._tell(work, item.uid, now)
            return int(ready)
        route = self._routes.get(item.route)
        if route is None or route.model is None:
            return self._refuse(work, item, f"there is no route {item.route!r} any more", now)
        chosen = _choose(work, route, here)
        if isinstance(chosen, str):
            return self._refuse(work, item, chosen, now)
        series = work.series.get(chosen.series_instance_uid)
        instances = tuple(here[chosen])
        asked = _ASKED.get(item.priority)
        by_route = priority_of(route, series.attributes, self._settings.jobs)
        made = work.jobs.create(
            NewJob(
                study_instance_uid=chosen.study_instance_uid,
                series_instance_uids=(chosen.series_instance_uid,),
                instances=instances,
                route=route.name,
                model=route.model,
                model_version=self._specs[route.model].version,
                queue=self._settings.queue_of(route),
                destinations=self._settings.destinations(route),
                priority=by_route if asked is None else max(asked, by_route),
                size=sum(one.size for one in instances),
                sender=item.ordered_by,
                expected=len(chosen.instances) or None,
            ),
            now,
        )
        job_id = made or work.workitems.newest_job(route.name, chosen.series_instance_uid)
        if job_id is None or not work.workitems.bind(item.uid, job_id, now):
            return self._refuse(work, item, "the same was ordered before, or runs already", now)
        log.info("workitem_begun", workitem=item.uid, job=job_id, new=made is not None)
        self._tell(work, item.uid, now)
        return 1

    def _refuse(self, work: Work, item: Workitem, reason: str, now: datetime) -> int:
        before, after = WorkitemState.SCHEDULED, WorkitemState.CANCELED
        if not work.workitems.end(item.uid, before, after, reason, now):
            return 0
        log.warning("workitem_not_begun", workitem=item.uid, reason=reason)
        self._tell(work, item.uid, now)
        return 1

    def _follow(self, now: datetime) -> int:
        """Tell the subscribers what happened to jobs since the last look."""
        with self._ledger.read() as work:
            if self._read is None or not work.subscriptions.any():
                self._read = work.workitems.last_job_event()
                self._seen.clear()
                return 0
            after = max(0, self._read - _LOOK_BACK)
            steps = work.workitems.job_events(after, _MOST_EVENTS + _LOOK_BACK)
        if not self._seen:  # what was before the first look is no news
            self._seen = {number for number, _ in steps if number <= self._read}
        news = [(number, job) for number, job in steps if number not in self._seen]
        if not news:
            return 0
        with self._ledger.write() as work:
            for job_id in dict.fromkeys(job for _, job in news):
                item = work.workitems.of_job(job_id)
                if item is not None:
                    self._tell(work, item.uid, now)
        self._read = max(self._read, *(number for number, _ in news))
        self._seen |= {number for number, _ in news}
        self._seen = {number for number in self._seen if number > self._read - _LOOK_BACK}
        return len(news)

    def _tell(self, work: Work, uid: str, now: datetime) -> None:
        item = work.workitems.find(uid)
        if item is None:
            return
        said = (str(item.state), str(item.readiness))
        if self._said.get(uid) != said:  # a job is published and queued: both are SCHEDULED
            self._said.pop(uid, None)
            self._said[uid] = said
            if len(self._said) > _MOST_REMEMBERED:
                self._said.pop(next(iter(self._said)))
            whole = dataset_of(item, self._settings.node.ae_title, self._zone, now)
            events.tell(work, item, whole, now)


def _complete(part: InputSeries, found: list[Instance]) -> bool:
    return bool(found) and len(found) >= len({uid for _, uid in part.instances})


def _choose(work: Work, route: Route, here: dict[InputSeries, list[Instance]]) -> InputSeries | str:
    """The one series of the input that a route's model reads, or why there is none."""
    if len(here) == 1:  # who ordered exactly this one wants it, whatever the route's conditions
        return next(iter(here))
    fit = []
    for part in here:
        series = work.series.get(part.series_instance_uid)
        (answer,) = evaluate([route], series)
        if answer.matched:
            fit.append(part)
    if len(fit) == 1:
        return fit[0]
    return f"{len(here)} series are listed and {len(fit)} fit route {route.name}: list one"
