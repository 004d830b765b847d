"""Publishing: wakes workers up for jobs that are due, and heals lost ones.

All truth is in the ledger; any number of publishers may run side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from core import clock
from core.domain import Job
from core.errors import QueueError
from core.ledger import Ledger
from core.lifecycle import JobState
from core.settings import Settings
from node.deciding.calm import Calm

log = structlog.get_logger()

_BROKER_AWAY_RETRY = timedelta(seconds=1)
_BROKER_AWAY_LONGEST = timedelta(seconds=15)
_MOST_PUBLISHED = 200
# Where something has been queued so long, one message more goes to that queue as often.
_KNOCK = timedelta(seconds=60)


class Publisher:
    """Sends the ids of due jobs to the broker, and gives back jobs of workers that died.

    `publish` sends a job's id to a queue, and raises QueueError when the broker is away.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        publish: Callable[[str, str], None],
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._ledger = ledger
        self._publish = publish
        self._now = now
        self._republish = timedelta(seconds=settings.queue.republish_seconds)
        self._lease = timedelta(seconds=settings.jobs.lease_seconds)
        self._broker_failures = 0
        self._broker_retry_at: datetime | None = None
        self._knocked_at: datetime | None = None
        self._calm = Calm(self._lease)

    def step(self) -> int:
        """Publish what is due; returns how many jobs were published.

        Raises:
            LedgerError: SQL is away.
        """
        now = self._now()
        with self._ledger.read() as work:
            has_jobs = work.jobs.has_work(now)
        self._calm.note(now)
        published = self._publish_due(now) if has_jobs else 0
        self._knock(now)
        return published

    def _knock(self, now: datetime) -> None:
        """Wake up who may be idle although jobs wait: a broker lost all its messages.

        The waits between two messages for one job grow to an hour, or those of a weekend would
        fill the broker. One message for a whole queue does not, and any message gives a worker
        the best job.
        """
        if self._knocked_at is not None and timedelta() <= now - self._knocked_at < _KNOCK:
            return
        self._knocked_at = now
        with self._ledger.read() as work:
            waiting = work.jobs.left_waiting(now - _KNOCK)
        for queue, job_id in waiting:
            try:
                self._publish(job_id, queue)
            except QueueError:
                return  # told where jobs are published; the next knock comes

    def _publish_due(self, now: datetime) -> int:
        broker_away = self._broker_retry_at is not None and now < self._broker_retry_at
        blame = self._calm.lasts(now)
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
