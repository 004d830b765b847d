"""Dispatch: decides that series are whole, makes jobs, publishes them, heals lost ones.

All truth is in the ledger; any number of dispatchers may run side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from core import clock
from core.domain import Job
from core.errors import QueueError
from core.ledger import Ledger, Work
from core.ledger.jobs import NewJob
from core.lifecycle import JobState
from core.modelspec import ModelSpec
from core.settings import Settings
from node.completeness import decide
from node.routing import evaluate

log = structlog.get_logger()

_BROKER_AWAY_RETRY = timedelta(seconds=1)
_BROKER_AWAY_LONGEST = timedelta(seconds=15)
_MOST_PUBLISHED = 200


class Dispatcher:
    """Turns whole series into queued jobs.

    `publish` sends a job's id to a queue, and raises QueueError when the broker is away.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        specs: dict[str, ModelSpec],
        publish: Callable[[str, str], None],
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._specs = specs
        self._publish = publish
        self._now = now
        self._republish = timedelta(seconds=settings.queue.republish_seconds)
        self._lease = timedelta(seconds=settings.jobs.lease_seconds)
        self._broker_failures = 0
        self._broker_retry_at: datetime | None = None
        self._last_step: datetime | None = None
        self._calm_since: datetime | None = None

    def step(self) -> int:
        """Do what is due; returns how many series and jobs were moved.

        Raises:
            LedgerError: SQL is away.
        """
        now = self._now()
        with self._ledger.read() as work:
            facts = work.series.receiving()
            has_jobs = work.jobs.has_work(now)
        self._note_calm(now)
        moved = 0
        for item in facts:
            decision = decide(item, now, self._settings.completeness)
            if decision.whole:
                with self._ledger.write() as work:
                    uid, revision = item.series_instance_uid, item.revision
                    if work.series.mark_whole(uid, revision, decision.reason, now):
                        self._route(work, uid, revision, now)
                        moved += 1
                        has_jobs = True
        if has_jobs:
            moved += self._publish_due(now)
        return moved

    def _route(self, work: Work, series_uid: str, revision: int, now: datetime) -> None:
        """Evaluate the routes for a whole series and make its jobs."""
        series = work.series.get(series_uid)
        instances = tuple(work.series.instances(series_uid))
        decisions = evaluate(self._settings.routes, series)
        work.series.explain(series_uid, revision, decisions)
        made = []
        for route, decision in zip(self._settings.routes, decisions, strict=True):
            if not decision.matched or route.model is None:
                continue
            job_id = work.jobs.create(
                NewJob(
                    study_instance_uid=series.study_instance_uid,
                    series_instance_uids=(series_uid,),
                    instances=instances,
                    route=route.name,
                    model=route.model,
                    model_version=self._specs[route.model].version,
                    queue=self._settings.queue_of(route),
                    destinations=self._settings.destinations(route),
                ),
                now,
            )
            if job_id is not None:
                made.append(job_id)
        log.info(
            "series_whole",
            series=series_uid,
            instances=len(instances),
            reason=series.decision,
            routes=[item.route for item in decisions if item.matched],
            jobs=made,
        )

    def _note_calm(self, now: datetime) -> None:
        """Since when the ledger answered without a gap: only then can a worker be blamed."""
        gap = self._last_step is None or now - self._last_step > self._lease / 2
        if gap or self._calm_since is None:
            self._calm_since = now
        self._last_step = now

    def _publish_due(self, now: datetime) -> int:
        broker_away = self._broker_retry_at is not None and now < self._broker_retry_at
        blame = self._calm_since is not None and now - self._calm_since > self._lease
        with self._ledger.write() as work:
            for job_id, state in work.jobs.expire(now, blame=blame):
                level = log.error if state == JobState.QUARANTINED else log.warning
                level("job_lease_expired", job=job_id, state=str(state))
            # one job is enough to find out whether the broker is back
            limit = 1 if self._broker_failures else _MOST_PUBLISHED
            jobs = [] if broker_away else work.jobs.to_publish(now, self._republish, limit)
        # after the commit: a worker that is faster than we are must find the job queued
        for number, job in enumerate(jobs):
            try:
                self._publish(job.id, job.queue)
            except QueueError as error:
                self._put_back(jobs[number:], str(error), now)
                break
            self._broker_failures, self._broker_retry_at = 0, None
            log.info("job_published", job=job.id, queue=job.queue, model=job.model)
        return len(jobs)

    def _put_back(self, jobs: list[Job], error: str, now: datetime) -> None:
        if not self._broker_failures:  # told once, not at every try
            log.warning("broker_away", jobs=len(jobs), error=error, remedy=QueueError.remedy)
        wait = min(_BROKER_AWAY_RETRY * 2**self._broker_failures, _BROKER_AWAY_LONGEST)
        self._broker_failures = min(self._broker_failures + 1, 10)
        self._broker_retry_at = now + wait
        with self._ledger.write() as work:
            for job in jobs:
                work.jobs.publish_failed(job.id, now + wait, now)
