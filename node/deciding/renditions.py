"""Dispatch of renditions: publishes what is to be made in place of refused objects.

The same manners as for jobs: the ledger is the truth, a message is a wake-up, a lost one is sent
again, and a silent worker's lease runs out.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from core import clock
from core.errors import QueueError
from core.ledger import Ledger
from core.settings import Settings
from node.deciding.calm import Calm

log = structlog.get_logger()

_BROKER_AWAY_RETRY = timedelta(seconds=5)


class RenditionDispatcher:
    """Turns waiting renditions into queued ones.

    `publish` sends a rendition's id to a queue, and raises QueueError when the broker is away.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        publish: Callable[[int, str], None],
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._ledger = ledger
        self._publish = publish
        self._now = now
        self._republish = timedelta(seconds=settings.queue.republish_seconds)
        self._relearn = timedelta(hours=settings.delivery.relearn_hours)
        self._most_deaths = settings.jobs.max_attempts
        # of `workers.render`: twice a job's
        self._calm = Calm(timedelta(seconds=2 * settings.jobs.lease_seconds))

    def step(self) -> int:
        """Publish what is due; returns how many.

        Raises:
            LedgerError: SQL is away.
        """
        now = self._now()
        with self._ledger.read() as work:
            has_work = work.renditions.has_work(now)
        self._calm.note(now)
        if not has_work:
            return 0
        with self._ledger.write() as work:
            expired = work.renditions.expire(
                now,
                now - self._relearn,
                most_deaths=self._most_deaths,
                blame=self._calm.lasts(now),
            )
            for rendition_id, state in expired:
                log.warning("rendition_lease_expired", rendition=rendition_id, state=str(state))
            due = work.renditions.to_publish(now, self._republish)
        # after the commit: a worker that is faster than we are must find it queued
        for number, (rendition_id, queue) in enumerate(due):
            try:
                self._publish(rendition_id, queue)
            except QueueError:  # told by the dispatch of jobs, which asks the same broker
                self._put_back([item for item, _ in due[number:]], now)
                return number
            log.info("rendition_published", rendition=rendition_id, queue=queue)
        return len(due)

    def _put_back(self, ids: list[int], now: datetime) -> None:
        with self._ledger.write() as work:
            for rendition_id in ids:
                work.renditions.publish_failed(rendition_id, now + _BROKER_AWAY_RETRY)
