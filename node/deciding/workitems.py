"""Workitems that were ordered become jobs; what happens to jobs is told to who subscribed.

An order waits until every instance that it lists is here. Then its route's job is made, or the
one that is there already is taken: the same input by the same model is computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from pydicom.dataset import Dataset

from core import clock
from core.domain import Instance
from core.errors import IllegalMoveError
from core.ledger import Ledger, Work
from core.ledger.jobs import NewJob
from core.ledger.queries.paging import Place
from core.lifecycle import JobState
from core.modelspec import ModelSpec
from core.settings import Route, Settings
from core.workitems import InputSeries, Workitem, WorkitemState
from node.deciding.priority import LOW, STAT, priority_of
from node.deciding.routing import evaluate
from node.worklist.ups import events
from node.worklist.ups.content import Describer

log = structlog.get_logger()

_ASKED = {"HIGH": STAT, "LOW": LOW}
_LOOK_EVERY = timedelta(seconds=0.5)
_MOST_ORDERS, _MOST_EVENTS = 200, 500
# ids grow, but a transaction with a smaller one may be committed after one with a larger
_LOOK_BACK = 200
_STRAGGLERS = timedelta(seconds=60)


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
        self._describer = Describer.of(settings)
        self._offered = any(peer.worklist for peer in settings.peers)
        self._looked_at: datetime | None = None
        self._place: Place = Place()  # orders are looked at in turn
        self._seen: set[int] = set()

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
            waiting, after = work.workitems.to_begin(self._place, _MOST_ORDERS)
            complete = work.workitems.complete(waiting)
        self._place = after or Place()
        moved = 0
        for item in complete:
            with self._ledger.write() as work:
                if work.workitems.hold(item):
                    moved += self._make(work, item, now)
        return moved

    def _make(self, work: Work, item: Workitem, now: datetime) -> int:
        """Begin a workitem that `hold` has locked."""
        here = {part: work.workitems.here(part) for part in item.inputs}
        if not all(_complete(part, found) for part, found in here.items()):
            return 0
        try:
            _same_patient(work, item)
            if item.outside:
                if not work.workitems.ready(item.uid, now):
                    return 0
            else:
                self._bind(work, item, self._new_job(work, item, here), now)
        except IllegalMoveError as error:
            return self._refuse(work, item, str(error), now)
        self._tell(work, work.workitems.find(item.uid), now)
        return 1

    def _bind(self, work: Work, item: Workitem, new: NewJob, now: datetime) -> None:
        job_id, is_new = _job_for(work, new, item.ordered_by, now)
        if not work.workitems.bind(item.uid, job_id, now):
            earlier = work.workitems.order_of(job_id)
            raise IllegalMoveError(f"the same was ordered before, as workitem {earlier}")
        log.info("workitem_begun", workitem=item.uid, job=job_id, new=is_new)

    def _new_job(
        self, work: Work, item: Workitem, here: dict[InputSeries, list[Instance]]
    ) -> NewJob:
        """What is to be done for an order.

        Raises:
            IllegalMoveError: its route is gone, or does not say which of its series to take.
        """
        route = self._routes.get(item.route)
        if route is None or route.model is None:
            raise IllegalMoveError(f"there is no route {item.route!r} any more")
        chosen = _choose(work, route, here)
        series = work.series.get(chosen.series_instance_uid)
        instances = tuple(here[chosen])
        asked = _ASKED.get(item.priority)
        by_route = priority_of(route, series.attributes, self._settings.jobs)
        return NewJob(
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
        )

    def _refuse(self, work: Work, item: Workitem, reason: str, now: datetime) -> int:
        before, after = WorkitemState.SCHEDULED, WorkitemState.CANCELED
        if not work.workitems.end(item.uid, before, after, reason, now):
            return 0
        log.warning("workitem_not_begun", workitem=item.uid, reason=reason)
        self._tell(work, work.workitems.find(item.uid), now)
        return 1

    def _follow(self, now: datetime) -> int:
        """Tell the subscribers what happened to jobs since the last look, of whichever node."""
        with self._ledger.read() as work:
            followed = work.subscriptions.followed()
            if followed is None:
                self._seen.clear()
                return 0
            listened_to = work.subscriptions.any()
            read, at = followed
            steps = work.workitems.job_events(max(0, read - _LOOK_BACK), _MOST_EVENTS + _LOOK_BACK)
        if not listened_to:
            with self._ledger.write() as work:
                work.subscriptions.stop_following()
            return 0
        if not self._seen:  # what a node before this one has told
            long_ago = at - _STRAGGLERS
            self._seen = {step.id for step in steps if step.id <= read and step.at < long_ago}
        news = [step for step in steps if step.id not in self._seen]
        if not news:
            return 0
        with self._ledger.write() as work:
            for job_id in dict.fromkeys(step.job_id for step in news):
                item = work.workitems.of_job(job_id)
                if item is not None:
                    self._tell(work, item, now)
            last = max(step.id for step in news)
            work.subscriptions.follow(last, now)
        self._seen |= {step.id for step in news}
        self._seen = {number for number in self._seen if number > max(read, last) - _LOOK_BACK}
        return len(news)

    def _tell(self, work: Work, item: Workitem | None, now: datetime) -> None:
        if item is not None and work.subscriptions.any():
            whole = self._describer.dataset(item, now)
            events.tell(work, item, whole, now)


def _complete(part: InputSeries, found: list[Instance]) -> bool:
    return bool(found) and len(found) >= len({uid for _, uid in part.instances})


def _same_patient(work: Work, item: Workitem) -> None:
    """An order that names one patient and lists the images of another is never carried out.

    Raises:
        IllegalMoveError: the images are not those that were ordered.
    """
    for part in item.inputs:
        if work.series.get(part.series_instance_uid).study_instance_uid != part.study_instance_uid:
            uid = part.series_instance_uid
            raise IllegalMoveError(f"series {uid} is of another study than the order says")
    ordered = Dataset.from_json(dict(item.given)).get("PatientID") if item.given else None
    known = item.study.get("PatientID", "").strip()
    if ordered and known and str(ordered).strip() != known:
        raise IllegalMoveError("the order names another patient than the images")


def _job_for(work: Work, new: NewJob, actor: str, now: datetime) -> tuple[str, bool]:
    """The job of an order, and whether it is new.

    What was analysed already is the answer. What failed or was cancelled is done once more, as
    somebody asks for it.

    Raises:
        IllegalMoveError: it cannot be done again.
    """
    made = work.jobs.create(new, now)
    if made is not None:
        return made, True
    known = work.workitems.newest_job(new.route, new.series_instance_uids[0])
    if known is None:
        raise IllegalMoveError("another job took the place of the one that was ordered")
    job_id, state = known
    if state not in {JobState.FAILED, JobState.CANCELLED}:
        return job_id, False
    return work.jobs.rerun(job_id, actor, now, model_version=new.model_version), True


def _choose(work: Work, route: Route, here: dict[InputSeries, list[Instance]]) -> InputSeries:
    """The one series of the input that a route's model reads.

    Raises:
        IllegalMoveError: none of them, or several.
    """
    if len(here) == 1:  # who ordered exactly this one wants it, whatever the route's conditions
        return next(iter(here))
    fit = []
    for part in here:
        series = work.series.get(part.series_instance_uid)
        (answer,) = evaluate([route], series)
        if answer.matched:
            fit.append(part)
    if len(fit) != 1:
        raise IllegalMoveError(
            f"{len(here)} series are listed and {len(fit)} fit route {route.name}: list one"
        )
    return fit[0]
