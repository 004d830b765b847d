"""Which intakes are waited for: those that were heard of lately.

A minute of silence counts only while the ledger answered us: an outage of the database must not
look like the death of every intake (docs/decisions/0014-watermark.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog

log = structlog.get_logger()

SILENT = timedelta(seconds=60)
_GAP = timedelta(seconds=10)
# an intake writes nothing while nothing is received: give it time to be heard again
_TELL_AFTER = timedelta(seconds=5)


class Hearing:
    """Keeps since when the ledger answered without a gap, and which intakes were told silent."""

    def __init__(self) -> None:
        self._last: datetime | None = None
        self._calm_since: datetime | None = None
        self._silent_since: dict[str, datetime] = {}
        self._told: set[str] = set()

    def since(self, now: datetime) -> datetime | None:
        """Intakes last heard of before this moment are dead; None: wait for all of them.

        To be called whenever the ledger answered.
        """
        if self._last is None or self._calm_since is None or now - self._last > _GAP:
            self._calm_since = now
        self._last = now
        return now - SILENT if now - self._calm_since >= SILENT else None

    def tell(self, silent: Iterable[str], now: datetime) -> None:
        """Say once which intakes fell silent while images were being received."""
        places = set(silent)
        self._silent_since = {place: self._silent_since.get(place, now) for place in places}
        self._told &= places
        for place, since in self._silent_since.items():
            if place not in self._told and now - since >= _TELL_AFTER:
                self._told.add(place)
                log.warning(
                    "intake_silent",
                    intake=place,
                    remedy="Start `sentinode intake` there: what its spool holds waits.",
                )
