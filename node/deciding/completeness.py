"""Is the series whole? A pure function of facts in the ledger and the time.

So any number of nodes may ask, and a restart forgets nothing. What was said about the images
(`node.deciding.evidence`) decides before any timer; `docs/decisions/0015-evidence.md` says why so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from core.ledger.facts import SeriesFacts
from core.lifecycle import EvidenceSource
from core.settings import CompletenessSettings
from node.deciding.evidence import Verdict, weigh


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a series is whole, and why, for a person to read.

    Attributes:
        source: which kind of evidence decided, or, while it is not whole, holds it back.
        expected: how many images there should be, where anybody said so.
        incomplete: it is whole because nobody waits longer; more was announced than came.
        ask_again_at: earliest time at which the answer can change by itself; None while it
            waits for something to happen.
    """

    whole: bool
    reason: str
    ask_again_at: datetime | None = None
    source: EvidenceSource = EvidenceSource.QUIET
    expected: int | None = None
    incomplete: bool = False


def decide(facts: SeriesFacts, now: datetime, settings: CompletenessSettings) -> Decision:
    """Decide by the first source that speaks; if none does, by the quiet time.

    Evidence that lists what has arrived decides at once. Evidence that says more is to come
    holds the series back, at the latest until `force_seconds` after its last image.
    """
    said = weigh(facts, now, settings)
    if said is not None and said.whole:
        return Decision(True, said.reason, source=said.source, expected=said.expected)
    if said is not None:
        return _held_back(facts, said, now, settings)
    return _by_time(facts, now, settings)


def _held_back(
    facts: SeriesFacts, said: Verdict, now: datetime, settings: CompletenessSettings
) -> Decision:
    if said.until is not None:  # it decides by itself in a moment
        return Decision(False, said.reason, said.until, said.source, said.expected)
    due = _last_image(facts) + timedelta(seconds=settings.force_seconds)
    if _filed_by(facts, now) < due:
        return Decision(False, said.reason, due, said.source, said.expected)
    reason = f"incomplete: {said.reason}, and nothing came for {settings.force_seconds:g} s"
    return Decision(
        True, reason, source=EvidenceSource.FORCE, expected=said.expected, incomplete=True
    )


def _by_time(facts: SeriesFacts, now: datetime, settings: CompletenessSettings) -> Decision:
    """The quiet time after the last association that sent images of the series.

    An association without an end was broken off; its sender may try again, so the wait is
    longer. One that stays open holds the series back, but not for ever.
    """
    # filed late, after an outage, counts from the filing: more may still lie in the spool
    quiet_since = _last_image(facts)
    if facts.open_associations or facts.last_ended_at is None:
        force = quiet_since + timedelta(seconds=settings.force_seconds)
        open_ones = f"{facts.open_associations} association(s) still open"
        if _filed_by(facts, now) < force:
            return Decision(False, open_ones, force)
        return Decision(
            True,
            f"{_images(facts.instances)}; {open_ones}, but nothing came for "
            f"{settings.force_seconds:g} s",
            source=EvidenceSource.FORCE,
        )
    broken = facts.last_end != "released"
    quiet = settings.broken_quiet_seconds if broken else settings.quiet_seconds
    quiet_since = max(facts.last_ended_at, quiet_since)
    due = quiet_since + timedelta(seconds=quiet)
    how = "was released" if not broken else f"ended ({facts.last_end})"
    if now < due:
        return Decision(False, f"quiet since the association {how}, not yet {quiet:g} s", due)
    if _filed_by(facts, now) < due:
        return Decision(
            False,
            f"quiet since the association {how}, but what was received since may not be filed yet",
            due,
        )
    waited = (now - quiet_since).total_seconds()
    return Decision(
        True,
        f"{_images(facts.instances)}; nothing came for {waited:.1f} s after the association {how} "
        f"(quiet time {quiet:g} s)",
    )


def _last_image(facts: SeriesFacts) -> datetime:
    return max(facts.last_received_at, facts.last_filed_at)


def _filed_by(facts: SeriesFacts, now: datetime) -> datetime:
    """Up to when it is known what came: a timer counts only so far."""
    return now if facts.backlog_before is None else min(now, facts.backlog_before)


def _images(number: int) -> str:
    return f"{number} image{'' if number == 1 else 's'}"
