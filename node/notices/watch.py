"""Seeing that something happened that a webhook wants to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from core import clock
from core.ledger import Ledger, Work
from core.settings import Settings
from node.keeping.disk import Level, disks

# A destination that fails once is no news.
_FAILURES = 3
_FORGET_AFTER = timedelta(days=30)
_FORGET_EVERY = timedelta(hours=1)


@dataclass(slots=True)
class _Seen:
    """What was said last about destinations and disks, since this process began."""

    said: dict[str, str]
    forgotten_at: datetime | None = None


class Watch:
    """Writes down what targets want to know, once each, whichever node sees it."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        machine: str,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._machine = machine
        self._now = now
        self._seen = _Seen({})

    def step(self) -> int:
        """Look once; how many notices were made.

        Raises:
            LedgerError: the ledger is away.
            StoreError: a disk does not answer.
        """
        now = self._now()
        made = 0
        levels = {disk.holds: disk for disk in disks(self._settings)}
        with self._ledger.write() as work:
            made += self._jobs(work, now)
            made += self._destinations(work, now)
            for holds, disk in levels.items():
                about = f"disk:{self._machine}:{','.join(holds)}:"
                wrong = disk.level != Level.WELL
                body = {
                    "machine": self._machine,
                    "holds": list(holds),
                    "level": str(disk.level),
                    "free_mb": disk.free_mb,
                }
                made += self._turn(work, "disk_low", "disk_well", about, wrong, body, now)
            last = self._seen.forgotten_at
            if last is None or now - last > _FORGET_EVERY:
                self._seen.forgotten_at = now
                work.notices.forget(now - _FORGET_AFTER)
        return made

    def _jobs(self, work: Work, now: datetime) -> int:
        return sum(
            self._make(
                work,
                "job_failed",
                f"job:{end.event_id}",
                {
                    "job": end.job_id,
                    "state": str(end.state),
                    "route": end.route,
                    "model": end.model,
                    "at": end.at.isoformat(),
                },
                now,
            )
            for end in work.notices.bad_ends()
        )

    def _destinations(self, work: Work, now: datetime) -> int:
        made = 0
        for state in work.circuits.all():
            if 0 < state.failures < _FAILURES:
                continue
            body = {"destination": state.name, "failures": state.failures}
            about = f"destination:{state.name}:"
            wrong = state.failures > 0
            made += self._turn(
                work, "destination_down", "destination_well", about, wrong, body, now
            )
        return made

    def _turn(
        self,
        work: Work,
        bad: str,
        good: str,
        about: str,
        wrong: bool,
        body: dict[str, Any],
        now: datetime,
    ) -> int:
        """Say once that something went wrong, and once that it is well again."""
        event = bad if wrong else good
        if self._seen.said.get(about) == event:
            return 0
        written, number = work.notices.last((bad, good), about)
        before = self._seen.said.get(about) or written or good
        self._seen.said[about] = event
        if before == event:
            return 0
        # two nodes that see it at the same moment give it the same key
        return self._make(work, event, f"{about}{event}:{number}", body, now)

    def _make(self, work: Work, event: str, key: str, body: dict[str, Any], now: datetime) -> int:
        targets = [item.name for item in self._settings.notices if event in item.events]
        return work.notices.make(targets, event, key[:128], body, now)
