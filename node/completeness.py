"""Is the series whole? A pure function of facts in the ledger and the time.

So any number of nodes may ask, and a restart forgets nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from core.ledger.series import SeriesFacts
from core.settings import CompletenessSettings


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a series is whole, and why, for a person to read.

    Attributes:
        ask_again_at: earliest time at which the answer can change by itself; None while it
            waits for something to happen.
    """

    whole: bool
    reason: str
    ask_again_at: datetime | None = None


def decide(facts: SeriesFacts, now: datetime, settings: CompletenessSettings) -> Decision:
    """Decide by the quiet time after the last association that sent images of the series.

    An association without an end was broken off; its sender may try again, so the wait is
    longer.
    """
    if facts.open_associations:
        return Decision(False, f"{facts.open_associations} association(s) still open")
    if facts.last_ended_at is None:
        return Decision(False, "no association has ended yet")
    broken = facts.last_end != "released"
    quiet = settings.broken_quiet_seconds if broken else settings.quiet_seconds
    # filed late, after an outage, counts from the filing: more may still lie in the spool
    quiet_since = max(facts.last_ended_at, facts.last_received_at, facts.last_filed_at)
    due = quiet_since + timedelta(seconds=quiet)
    how = "was released" if not broken else f"ended ({facts.last_end})"
    if now < due:
        return Decision(False, f"quiet since the association {how}, not yet {quiet:g} s", due)
    waited = (now - quiet_since).total_seconds()
    return Decision(
        True,
        f"{facts.instances} images; nothing came for {waited:.1f} s after the association {how} "
        f"(quiet time {quiet:g} s)",
    )
