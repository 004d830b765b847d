"""A clock that was set back: what would wait for the old time is told the new one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from core import clock
from core.ledger import Ledger
from core.ledger.jobs import LONGEST_REPUBLISH
from core.ledger.moments import Farthest
from core.ledger.transfers import SEND_LEASE
from core.settings import Settings

log = structlog.get_logger()

_LOOK_EVERY = timedelta(seconds=30)
_LONGEST_RETRY = timedelta(minutes=5)  # of jobs, renditions and of what is sent again
_PROOF_LEASE = timedelta(minutes=5)
_LONGEST_ANSWER = timedelta(hours=1)


class ClockWatch:
    """Looks now and then, and at once when the clock of this machine went back."""

    def __init__(
        self, settings: Settings, ledger: Ledger, now: Callable[[], datetime] = clock.now
    ) -> None:
        self._ledger = ledger
        self._now = now
        self._farthest = farthest_of(settings)
        self._looked_at: datetime | None = None

    def step(self) -> int:
        """Pull moments in that lie too far ahead; how many.

        Raises:
            LedgerError: SQL is away.
        """
        now = self._now()
        last = self._looked_at
        if last is not None and timedelta() <= now - last < _LOOK_EVERY:
            return 0
        with self._ledger.read() as work:
            found = work.moments.too_far(self._farthest, now)
        count = 0
        if found:
            with self._ledger.write() as work:
                count = work.moments.pull_in(self._farthest, now)
            log.warning("clock_set_back", moments=count)
        self._looked_at = now
        return count


def farthest_of(settings: Settings) -> Farthest:
    """How far ahead a moment lies that is written under these settings, at most."""
    lease = timedelta(seconds=settings.jobs.lease_seconds)
    republish = timedelta(seconds=settings.queue.republish_seconds)
    delivery = settings.delivery
    longest = timedelta(seconds=max(delivery.retry_seconds, delivery.retry_max_seconds))
    return Farthest(
        job_lease=lease,
        rendition_lease=2 * lease,
        republish=max(republish, LONGEST_REPUBLISH),
        retry=max(_LONGEST_RETRY, timedelta(seconds=settings.jobs.retry_seconds)),
        send_lease=SEND_LEASE,
        # an object waits twice as long as its destination, and a fifth of jitter comes on top
        delivery=max(2.4 * longest, _LONGEST_RETRY),
        proof=max(_PROOF_LEASE, timedelta(seconds=9 * delivery.proof_seconds)),
        report=timedelta(seconds=delivery.commit_seconds),
        answer=_LONGEST_ANSWER,
    )
