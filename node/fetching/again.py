"""Analysing again what is here: the present routes and models, held against old series.

A series is analysed when a route takes it that never did, or whose last analysis was made by an
earlier version of its model; with `again` in any case. The new jobs have a low priority, so that
today's patients do not wait for them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from core import clock
from core.errors import IllegalMoveError
from core.ledger import Ledger, Work
from core.ledger.backlog import LastJob, OldSeries
from core.ledger.jobs import NewJob
from core.lifecycle import JobState
from core.modelspec import ModelSpec
from core.settings import Route, Settings
from node.deciding.priority import LOW, priority_of
from node.deciding.routing import evaluate
from node.fetching.criteria import Span
from node.fetching.journal import Journal
from node.fetching.stopping import StoppedError
from node.fetching.throttle import Throttle

_PAGE = 200
_OPEN = frozenset({JobState.WAITING, JobState.QUEUED, JobState.RUNNING, JobState.HELD})
_ANSWERED = frozenset({JobState.DONE, JobState.NOT_APPLICABLE})


class Step(StrEnum):
    """What is to be done with a series and a route."""

    NEW = "new"
    AGAIN = "again"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which series.

    Attributes:
        modalities, body_parts: one of them each; empty: any.
        routes: only these; empty: all that have a model.
        again: also what the present version of the model has analysed, or could not.
    """

    span: Span
    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    again: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be done with a series by a route, and why."""

    series: OldSeries
    route: Route
    step: Step
    why: str


@dataclass(slots=True)
class Done:
    """How far it is.

    Attributes:
        left: how many were left as they are, by reason.
        failed: series UIDs with the reason.
        waits: why nothing moves now; else empty.
        over: whether it came to its end, or a limit ended it.
    """

    looked: int = 0
    made: int = 0
    left: dict[str, int] = field(default_factory=dict)
    failed: list[tuple[str, str]] = field(default_factory=list)
    waits: str = ""
    over: bool = False


class Again:
    """Carries one selection out.

    Args:
        stop: ends it at the next step.
        tell: is told how far it is.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        specs: Mapping[str, ModelSpec],
        selection: Selection,
        stop: threading.Event,
        tell: Callable[[Done], None] = lambda _: None,
    ) -> None:
        self._settings, self._ledger, self._specs = settings, ledger, specs
        self._selection, self._stop, self._tell = selection, stop, tell
        self._routes = [
            route
            for route in settings.routes
            if route.model and (not selection.routes or route.name in selection.routes)
        ]
        self.done = Done()

    def plan(self) -> Iterator[Choice]:
        """What would be done, the newest studies first.

        Raises:
            StoppedError: somebody asked to stop.
            LedgerError: SQL is away.
        """
        for page in self._pages():
            with self._ledger.read() as work:
                choices = [choice for series in page for choice in self._choose(work, series)]
            self.done.looked += len(page)
            self._tell(self.done)
            for choice in choices:
                if self._stop.is_set():
                    raise StoppedError("stopped")
                yield choice
        self.done.over = True

    def run(self, throttle: Throttle, journal: Journal, actor: str, limit: int = 0) -> Done:
        """Make the jobs; what is made is in the journal, so that the next call goes on.

        Args:
            limit: most jobs of one call; 0: all.

        Raises:
            StoppedError: somebody asked to stop.
            LedgerError: SQL is away.
        """
        before = {(item["series"], item["route"]) for item in journal.lines if "series" in item}
        for choice in self.plan():
            key = (choice.series.series_instance_uid, choice.route.name)
            if key in before:
                self._leave("made by an earlier call")
                continue
            if choice.step is Step.LEAVE:
                self._leave(choice.why)
                continue
            if limit and self.done.made >= limit:
                self.done.over = False
                return self.done
            throttle.wait()
            self._make(choice, actor)
            journal.note({"series": key[0], "route": key[1]})
        journal.forget()
        return self.done

    def waits(self, reason: str) -> None:
        """What the throttle tells."""
        self.done.waits = reason
        self._tell(self.done)

    def _pages(self) -> Iterator[list[OldSeries]]:
        span, after = self._selection.span, None
        first = f"{span.first:%Y%m%d}" if span.first else ""
        last = f"{span.last:%Y%m%d}" if span.last else ""
        while True:
            with self._ledger.read() as work:
                page = work.backlog.old_series(
                    first, last, self._selection.modalities, after, _PAGE
                )
            if page:
                yield page
                end = page[-1]
                after = (end.study_date, end.study_instance_uid, end.series_instance_uid)
            if len(page) < _PAGE:
                return

    def _choose(self, work: Work, old: OldSeries) -> Iterator[Choice]:
        series = work.series.get(old.series_instance_uid)
        part = str(series.attributes.get("BodyPartExamined") or "").upper()
        if not _fits(part, self._selection.body_parts):
            return
        for route, answer in zip(self._routes, evaluate(self._routes, series), strict=True):
            if answer.matched:
                last = work.backlog.last_job(old.series_instance_uid, route.name)
                yield Choice(old, route, *self._judge(old, route, last))

    def _judge(self, old: OldSeries, route: Route, last: LastJob | None) -> tuple[Step, str]:
        hindrance = _hindrance(old, last)
        if hindrance:
            return Step.LEAVE, hindrance
        if last is None:
            return Step.NEW, "never analysed by this route"
        if last.model != route.model:
            return Step.NEW, f"analysed by {last.model}"
        if last.model_version != self._specs[last.model].version:
            return Step.AGAIN, f"analysed by version {last.model_version}"
        if self._selection.again:
            return Step.AGAIN, f"it is {last.state}"
        answered = last.state in _ANSWERED
        reason = "analysed by the present version" if answered else f"its job is {last.state}"
        return Step.LEAVE, reason

    def _make(self, choice: Choice, actor: str) -> None:
        uid, now = choice.series.series_instance_uid, clock.now()
        try:
            with self._ledger.write() as work:
                # it may have changed while we waited
                last = work.backlog.last_job(uid, choice.route.name)
                step, why = self._judge(choice.series, choice.route, last)
                if step is Step.LEAVE:
                    self._leave(why)
                    return
                if step is Step.AGAIN and last is not None:
                    version = self._specs[str(choice.route.model)].version
                    work.jobs.rerun(last.id, actor, now, model_version=version, most_priority=LOW)
                else:
                    self._new(work, choice, actor)
        except IllegalMoveError as error:
            self.done.failed.append((uid, f"{error} {error.remedy}".strip()))
        else:
            self.done.made += 1
        self._tell(self.done)

    def _new(self, work: Work, choice: Choice, actor: str) -> None:
        """A first job of a route that came after the series."""
        route, settings = choice.route, self._settings
        assert route.model is not None
        series = work.series.get(choice.series.series_instance_uid)
        instances = tuple(work.series.instances(series.series_instance_uid))
        made = work.jobs.create(
            NewJob(
                study_instance_uid=series.study_instance_uid,
                series_instance_uids=(series.series_instance_uid,),
                instances=instances,
                route=route.name,
                model=route.model,
                model_version=self._specs[route.model].version,
                queue=settings.queue_of(route),
                destinations=settings.destinations(route),
                priority=min(LOW, priority_of(route, series.attributes, settings.jobs)),
                size=sum(item.size for item in instances),
                expected=series.expected,
            ),
            clock.now(),
            actor=actor,
        )
        if made is None:
            raise IllegalMoveError("the same job was made before")

    def _leave(self, why: str) -> None:
        self.done.left[why] = self.done.left.get(why, 0) + 1


def _hindrance(old: OldSeries, last: LastJob | None) -> str:
    """Why nothing can be made of a series now; empty where it can."""
    if last is not None and last.state in _OPEN:
        return "its job is open"
    if old.conflict:
        return "an identity conflict holds its study"
    return "its images were removed; fetch it again" if old.gone else ""


def _fits(value: str, wanted: Collection[str]) -> bool:
    return not wanted or any(fnmatchcase(value, pattern) for pattern in wanted)
