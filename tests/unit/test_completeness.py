"""When a series is whole: laws that hold for any facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from support.instances import T0

from core.ledger.series import SeriesFacts
from core.settings import CompletenessSettings
from node.completeness import decide

SETTINGS = CompletenessSettings(quiet_seconds=5, broken_quiet_seconds=30)
SECOND = timedelta(seconds=1)
MOMENTS = st.floats(-100, 100).map(lambda seconds: T0 + seconds * SECOND)
WAITS = st.floats(0.1, 60)
ALL_SETTINGS = st.builds(CompletenessSettings, quiet_seconds=WAITS, broken_quiet_seconds=WAITS)
ENDS = st.sampled_from(["released", "aborted", "broken off"])


@st.composite
def some_facts(draw: st.DrawFn) -> SeriesFacts:
    open_associations = draw(st.integers(0, 3))
    ended = draw(st.booleans()) or not open_associations
    return SeriesFacts(
        series_instance_uid="1.2",
        revision=1,
        instances=draw(st.integers(1, 500)),
        last_received_at=draw(MOMENTS),
        last_filed_at=draw(MOMENTS),
        open_associations=open_associations,
        last_ended_at=draw(MOMENTS) if ended else None,
        last_end=draw(ENDS) if ended else None,
    )


def facts(**changes: object) -> SeriesFacts:
    known = SeriesFacts("1.2", 1, 20, T0, T0, 0, T0 + SECOND, "released")
    return replace(known, **changes)  # type: ignore[arg-type]


@given(some_facts(), MOMENTS, ALL_SETTINGS)
def test_never_whole_while_an_association_is_open(
    known: SeriesFacts, now: datetime, settings: CompletenessSettings
) -> None:
    if known.open_associations:
        decision = decide(known, now, settings)
        assert not decision.whole
        assert decision.ask_again_at is None  # it waits for the end, not for the clock
        assert str(known.open_associations) in decision.reason


@given(some_facts(), MOMENTS, ALL_SETTINGS)
def test_never_whole_before_the_quiet_time(
    known: SeriesFacts, now: datetime, settings: CompletenessSettings
) -> None:
    if decide(known, now, settings).whole:
        assert known.last_ended_at is not None
        least = (
            settings.quiet_seconds
            if known.last_end == "released"
            else settings.broken_quiet_seconds
        )
        # a microsecond: what a datetime can tell
        almost = timedelta(seconds=least) - timedelta(microseconds=1)
        assert now - known.last_ended_at >= almost
        assert now - known.last_received_at >= almost
        assert now - known.last_filed_at >= almost


@given(some_facts(), MOMENTS, st.floats(0, 1000), ALL_SETTINGS)
def test_once_whole_always_whole_unless_something_happens(
    known: SeriesFacts, now: datetime, later: float, settings: CompletenessSettings
) -> None:
    if decide(known, now, settings).whole:
        assert decide(known, now + later * SECOND, settings).whole


@given(some_facts(), MOMENTS, ALL_SETTINGS)
def test_it_is_whole_at_the_moment_that_was_named_and_not_before(
    known: SeriesFacts, now: datetime, settings: CompletenessSettings
) -> None:
    decision = decide(known, now, settings)
    assert decision.reason
    if decision.ask_again_at is not None:
        assert decision.ask_again_at > now
        assert decide(known, decision.ask_again_at, settings).whole
        assert not decide(known, decision.ask_again_at - SECOND / 1000, settings).whole


@given(some_facts(), MOMENTS, st.floats(0, 100), ALL_SETTINGS)
def test_an_image_that_comes_later_never_makes_it_whole_sooner(
    known: SeriesFacts, now: datetime, later: float, settings: CompletenessSettings
) -> None:
    late = replace(known, last_received_at=known.last_received_at + later * SECOND)
    assert decide(known, now, settings).whole or not decide(late, now, settings).whole


def test_an_association_that_broke_off_is_waited_for_longer() -> None:
    now = T0 + 20 * SECOND
    assert decide(facts(), now, SETTINGS).whole
    for end in ("aborted", "broken off"):
        decision = decide(facts(last_end=end), now, SETTINGS)
        assert not decision.whole
        assert end in decision.reason
        assert decision.ask_again_at == T0 + 31 * SECOND


def test_a_person_reads_how_many_images_and_how_long_it_was_quiet() -> None:
    reason = decide(facts(instances=20), T0 + 11 * SECOND, SETTINGS).reason
    assert "20 images" in reason
    assert "10.0 s" in reason
    assert "quiet time 5 s" in reason
    assert "was released" in reason


def test_no_association_has_ended_yet() -> None:
    decision = decide(facts(last_ended_at=None, last_end=None), T0 + 1000 * SECOND, SETTINGS)
    assert not decision.whole
