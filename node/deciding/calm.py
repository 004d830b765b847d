"""Since when the ledger was there all the time: only then is a silent worker to blame."""

from __future__ import annotations

from datetime import datetime, timedelta


class Calm:
    """Notes each time that the ledger answered; a gap of half a lease breaks the calm."""

    def __init__(self, lease: timedelta) -> None:
        self._lease = lease
        self._last: datetime | None = None
        self._since: datetime | None = None

    def note(self, now: datetime) -> None:
        """The ledger answered at this moment."""
        gap = self._last is None or not timedelta() <= now - self._last <= self._lease / 2
        if gap or self._since is None:
            self._since = now
        self._last = now

    def lasts(self, now: datetime) -> bool:
        """Whether it is calm for longer than a lease, so that a living worker had renewed it."""
        return self._since is not None and now - self._since > self._lease
