"""What was said about a series, held against what has arrived. A pure function.

The sources are asked in their order (`core.lifecycle.EvidenceSource`); the first that has
something to say about the series decides or holds back. A source that lists fewer images than
have arrived knows less than we do: it decides nothing, and the next one is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.ledger.evidence import Evidence
from core.ledger.facts import SeriesFacts
from core.lifecycle import EvidenceSource
from core.settings import CompletenessSettings

# The order in which they are asked.
SOURCES = (
    EvidenceSource.REQUEST,
    EvidenceSource.MPPS,
    EvidenceSource.AVAILABILITY,
    EvidenceSource.COMMITMENT,
    EvidenceSource.COUNT,
)
# A step that was begun so long ago and never ended was forgotten by its machine.
LONGEST_STEP = timedelta(hours=24)

_NAMES = {
    EvidenceSource.REQUEST: "the request",
    EvidenceSource.MPPS: "the performed procedure step",
    EvidenceSource.AVAILABILITY: "the availability notification",
    EvidenceSource.COMMITMENT: "the storage commitment request",
    EvidenceSource.COUNT: "the sender's own count",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one source comes to.

    Attributes:
        whole: all that it announces has arrived; otherwise it holds the series back.
        reason: for a person, with numbers.
        expected: how many images the series should have, where that is known.
        until: when it decides by itself, if nothing comes until then.
    """

    source: EvidenceSource
    whole: bool
    reason: str
    expected: int | None = None
    until: datetime | None = None


def weigh(facts: SeriesFacts, now: datetime, settings: CompletenessSettings) -> Verdict | None:
    """What the first source says that speaks about the series; None when none does."""
    for source in SOURCES:
        said = [
            item
            for item in facts.evidence
            if item.source == source and item.speaks and _counts(item, facts, now)
        ]
        verdict = _count(facts, said) if source is EvidenceSource.COUNT else _listed(facts, said)
        if verdict is None:
            continue
        more = _may_go_on(facts, source, said) if verdict.whole else None
        return verdict if more is None else _settled(facts, verdict, more, now, settings)
    return None


def goes_before_count(source: EvidenceSource) -> bool:
    """Whether what a source says makes it useless to ask for the sender's own count."""
    return source in SOURCES[: SOURCES.index(EvidenceSource.COUNT)]


def wants_stat(facts: SeriesFacts) -> bool:
    """Whether anybody asked for the series or its study first of all."""
    return any(item.stat for item in facts.evidence)


def _listed(facts: SeriesFacts, said: Sequence[Evidence]) -> Verdict | None:
    """A source that lists instances, or says how many; what it says of the series goes first."""
    of_series = [item for item in said if item.series_instance_uid]
    of_study = [item for item in said if not item.series_instance_uid]
    return (
        _running(facts, of_series)
        or _of_series(facts, of_series)
        or _running(facts, of_study)
        or _of_study(facts, of_study)
    )


def _running(facts: SeriesFacts, said: Sequence[Evidence]) -> Verdict | None:
    """Somebody is not done yet."""
    going_on = [item for item in said if not item.final]
    if not going_on:
        return None
    running = max(going_on, key=lambda item: (item.count or 0, item.at, item.key))
    what = "series" if running.series_instance_uid else "study"
    number = facts.instances
    reason = f"{number} image{'' if number == 1 else 's'} so far; {_who(running)} for the {what} "
    return Verdict(running.source, False, reason + "is still in progress", running.count)


def _of_series(facts: SeriesFacts, said: Sequence[Evidence]) -> Verdict | None:
    """Held against the images of the series."""
    if not said:
        return None
    who, source = _who(said[-1]), said[-1].source
    listed = frozenset[str]().union(*(item.uids or () for item in said))
    if listed:
        everything = len(listed | facts.held)
        if missing := len(listed - facts.held):
            return Verdict(
                source,
                False,
                f"{len(facts.held)} of {everything} images; {missing} that {who} lists "
                f"{'is' if missing == 1 else 'are'} missing",
                everything,
            )
        if facts.held == listed:
            return Verdict(
                source, True, f"{_of(everything, everything)}: all that {who} lists", everything
            )
        return None
    return _against(source, who, facts.instances, _most(said), expected=_most(said))


def _of_study(facts: SeriesFacts, said: Sequence[Evidence]) -> Verdict | None:
    """Held against the images of the whole study: who said it did not name the series."""
    if not said:
        return None
    who, source = _who(said[-1]), said[-1].source
    alone = facts.study_series == 1
    listed = frozenset[str]().union(*(item.uids or () for item in said))
    if listed:
        everything, arrived = len(listed | facts.study_held), len(facts.study_held)
        expected = everything if alone else None
        if missing := len(listed - facts.study_held):
            return Verdict(
                source,
                False,
                f"{arrived} of {everything} images of the study; {missing} that {who} lists "
                f"{'is' if missing == 1 else 'are'} missing",
                expected,
            )
        if facts.held <= listed:
            number = len(facts.held)
            return Verdict(
                source,
                True,
                f"{_of(number, number)}: {who} lists them, and all {len(listed)} that it lists "
                "have arrived",
                number,
            )
        return None
    count = _most(said)
    verdict = _against(
        source, who, len(facts.study_held), count, expected=count if alone else None, of="the study"
    )
    if verdict is not None and verdict.whole:
        return Verdict(source, True, verdict.reason, facts.instances)
    return verdict


def _count(facts: SeriesFacts, said: Sequence[Evidence]) -> Verdict | None:
    """The sender's own count: it may grow, so it proves something only after the sending ended.

    One that was asked before the last image came, or only once (not final), proves nothing;
    but if it is larger than what arrived, more is to come.
    """
    if not said:
        return None
    latest = max(said, key=lambda item: (item.at, item.final, item.count or 0))
    count, who = latest.count or 0, _who(latest)
    if count > facts.instances:
        return _against(latest.source, who, facts.instances, count, expected=count)
    ended = facts.last_ended_at if not facts.open_associations else None
    if not latest.final or ended is None or count < facts.instances:
        return None
    if latest.at < max(ended, facts.last_received_at):
        return None
    return _against(latest.source, who, facts.instances, count, expected=count)


def _against(
    source: EvidenceSource,
    who: str,
    arrived: int,
    count: int,
    *,
    expected: int | None,
    of: str = "",
) -> Verdict | None:
    """A number held against a number; None where it is smaller than what arrived."""
    where = f" of {of}" if of else ""
    if arrived < count:
        reason = f"{_of(arrived, count)}{where}, by {who}"
        return Verdict(source, False, reason, expected)
    if arrived == count:
        return Verdict(source, True, f"{_of(count, count)}{where}, by {who}", expected)
    return None


def _counts(item: Evidence, facts: SeriesFacts, now: datetime) -> bool:
    """Whether a statement is about what is being sent now.

    A step that was never ended counts for a day. A list that was there when the series was
    found complete says nothing of images that are sent again.
    """
    if not item.final:
        return item.at > now - LONGEST_STEP
    return facts.complete_at is None or item.at > facts.complete_at


def _may_go_on(facts: SeriesFacts, source: EvidenceSource, said: Sequence[Evidence]) -> str | None:
    """Why more may follow although all that is listed has arrived; None where nothing may.

    A sender may ask for commitment while it sends, and a notification may come for each image
    or each few (PS3.4 Section R.3.2.1.2 has no rule when it is to come).
    """
    if facts.open_associations and facts.complete_at is not None:
        return "it is being sent again, and the association is still open"
    if source not in {EvidenceSource.COMMITMENT, EvidenceSource.AVAILABILITY}:
        return None
    if max(len(item.uids or ()) for item in said) == 1:
        return "it tells of one image at a time"
    if facts.open_associations and (source is EvidenceSource.COMMITMENT or len(said) > 1):
        return "its association is still open"
    return None


def _settled(
    facts: SeriesFacts, verdict: Verdict, more: str, now: datetime, settings: CompletenessSettings
) -> Verdict:
    """Wait a moment for the next part."""
    until = facts.last_received_at + timedelta(seconds=settings.ask_seconds)
    if now >= until:
        return verdict
    reason = f"{verdict.reason}; {more}, so more may follow"
    return Verdict(verdict.source, False, reason, verdict.expected, until)


def _who(item: Evidence) -> str:
    name = _NAMES[item.source]
    return f"{name} of {item.said_by}" if item.said_by else name


def _most(said: Sequence[Evidence]) -> int:
    return max(item.count or 0 for item in said)


def _of(number: int, of: int) -> str:
    return f"{number} of {of} image{'' if of == 1 else 's'}"
