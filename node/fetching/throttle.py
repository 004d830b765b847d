"""When the next study may begin: not too many a minute, and never ahead of what the node can do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.errors import LedgerError, StoreError
from core.ledger import Ledger
from core.settings import Settings
from node.fetching.stopping import StoppedError
from node.keeping.disk import Level, disks

_LOOK_SECONDS = 1.0
# Images that wait for intake; more are not asked for, as somebody must be filing them.
_MOST_SPOOLED = 2000

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast an order goes.

    Attributes:
        per_minute: studies or series begun in a minute.
        most_open: it goes on while fewer jobs and arriving series than these are open.
    """

    per_minute: float
    most_open: int


class Throttle:
    """Waits for its turn.

    Args:
        tell: is told why it waits, and an empty text when it goes on.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        pace: Pace,
        stop: threading.Event,
        tell: Tell = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
        look_seconds: float = _LOOK_SECONDS,
    ) -> None:
        self._settings, self._ledger, self._pace = settings, ledger, pace
        self._stop, self._tell, self._monotonic = stop, tell, monotonic
        self._look_seconds = look_seconds
        self._next = monotonic()

    def wait(self) -> None:
        """Return when the next may begin.

        Raises:
            StoppedError: somebody asked to stop.
        """
        told = ""
        while not self._stop.is_set():
            reason = self.reason()
            early = self._next - self._monotonic()
            if not reason and early <= 0:
                if told:
                    self._tell("")
                self._next = max(self._next, self._monotonic()) + 60 / self._pace.per_minute
                return
            if reason != told:
                told = reason
                self._tell(reason)
            self._stop.wait(self._look_seconds if reason else min(early, self._look_seconds))
        raise StoppedError("stopped")

    def reason(self) -> str:
        """Why nothing more should come now; empty where it may."""
        try:
            low = [disk for disk in disks(self._settings) if disk.level is not Level.WELL]
            with self._ledger.read() as work:
                jobs, series = work.backlog.in_hand()
        except (LedgerError, StoreError) as error:
            return str(error)
        if low:
            return f"{low[0].free_mb} MB free on the disk of {' and '.join(low[0].holds)}"
        if jobs + series >= self._pace.most_open:
            return f"{jobs} jobs and {series} arriving series are open"
        if spooled(self._settings.spool, _MOST_SPOOLED) >= _MOST_SPOOLED:
            return "images wait in the spool; is intake running?"
        return ""


def spooled(spool: Path, most: int) -> int:
    """How many images wait in the spool, counted up to `most`."""
    count = 0
    for _ in spool.glob("[!.]*/*/*.dcm"):
        count += 1
        if count >= most:
            break
    return count
