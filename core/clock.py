"""The one place that asks for the time. Everything else takes `now` as an argument."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The present moment, in UTC, with its time zone."""
    return datetime.now(UTC)
