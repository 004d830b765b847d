"""When a series is whole: laws that hold for any facts, and what each source of evidence does."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from support.instances import T0

from core.ledger.evidence import Evidence
from core.ledger.facts import SeriesFacts
from core.lifecycle import EvidenceSource
from core.settings import CompletenessSettings
from node.deciding.completeness import Decision, decide
from node.deciding.evidence import LONGEST_STEP, SOURCES, goes_before_count, wants_stat
from node.deciding.hearing import Hearing

SETTINGS = CompletenessSettings(
    quiet_seconds=5, broken_quiet_seconds=30, force_seconds=600, ask_seconds=3
)
SECOND = timedelta(seconds=1)
MOMENTS = st.floats(-100, 100).map(lambda seconds: T0 + seconds * SECOND)
WAITS = st.floats(0.1, 60)
ALL_SETTINGS = st.builds(
    CompletenessSettings,
    quiet_seconds=WAITS,
    broken_quiet_seconds=WAITS,
    force_seconds=st.floats(60, 600),
    ask_seconds=st.floats(0.1, 10),
)
ENDS = st.sampled_from(["released", "aborted", "broken off"])
UIDS = st.frozensets(st.integers(1, 6).map(lambda number: f"1.2.{number}"))
SERIES, STUDY = "1.2.3.4", "1.2.3"


@st.composite
def some_evidence(draw: st.DrawFn) -> Evidence:
    source = draw(st.sampled_from(SOURCES))
    listed = source is not EvidenceSource.COUNT and draw(st.booleans())
    broad = source in {EvidenceSource.REQUEST, EvidenceSource.MPPS, EvidenceSource.COMMITMENT}
    return Evidence(
        source=source,
        key=draw(st.sampled_from(["1.1", "1.2"])),
        at=draw(MOMENTS),
        study_instance_uid=STUDY,
        series_instance_uid="" if broad and draw(st.booleans()) else SERIES,
        said_by="MR1",
        final=draw(st.booleans()),
        uids=draw(UIDS) if listed else None,
        count=None if listed else draw(st.none() | st.integers(0, 8)),
    )


@st.composite
def some_facts(draw: st.DrawFn, *, silent: bool = False) -> SeriesFacts:
    open_associations = draw(st.integers(0, 3))
    ended = draw(st.booleans()) or not open_associations
    held = draw(UIDS.filter(bool))
    others = draw(UIDS)
    return SeriesFacts(
        series_instance_uid=SERIES,
        study_instance_uid=STUDY,
        revision=1,
        instances=draw(st.integers(1, 500)) if silent else len(held),
        last_received_at=draw(MOMENTS),
        last_filed_at=draw(MOMENTS),
        open_associations=open_associations,
        last_ended_at=draw(MOMENTS) if ended else None,
        last_end=draw(ENDS) if ended else None,
        evidence=() if silent else tuple(draw(st.lists(some_evidence(), max_size=4))),
        held=held,
        study_held=held | others,
        study_series=2 if others - held else 1,
        complete_at=draw(st.none() | MOMENTS),
    )


def facts(*said: Evidence, images: int = 20, **changes: object) -> SeriesFacts:
    held = frozenset(f"1.9.{number}" for number in range(images))
    known = SeriesFacts(
        SERIES,
        1,
        images,
        T0,
        T0,
        0,
        T0 + SECOND,
        "released",
        study_instance_uid=STUDY,
        evidence=said,
        held=held,
        study_held=held,
    )
    return replace(known, **changes)  # type: ignore[arg-type]


def says(source: EvidenceSource, **values: object) -> Evidence:
    known = Evidence(source, "1.1", T0, STUDY, SERIES, "MR1")
    return replace(known, **values)  # type: ignore[arg-type]


def listing(number: int) -> frozenset[str]:
    return frozenset(f"1.9.{item}" for item in range(number))


def at(seconds: float, known: SeriesFacts) -> Decision:
    return decide(known, T0 + seconds * SECOND, SETTINGS)


@given(some_facts(silent=True), MOMENTS, ALL_SETTINGS)
def test_an_open_association_holds_back_but_not_for_ever(
    known: SeriesFacts, now: datetime, settings: CompletenessSettings
) -> None:
    if known.open_associations:
        decision = decide(known, now, settings)
        force = max(known.last_received_at, known.last_filed_at) + (settings.force_seconds * SECOND)
        assert decision.whole == (now >= force)
        assert str(known.open_associations) in decision.reason
        assert not decision.incomplete  # nobody said that there is more


@given(some_facts(silent=True), MOMENTS, ALL_SETTINGS)
def test_without_evidence_never_whole_before_the_quiet_time(
    known: SeriesFacts, now: datetime, settings: CompletenessSettings
) -> None:
    if not known.open_associations and decide(known, now, settings).whole:
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
    if not decision.whole:
        assert decision.ask_again_at is not None, "nothing waits for ever"
        assert decision.ask_again_at > now
        assert decide(known, decision.ask_again_at, settings).whole
        assert not decide(known, decision.ask_again_at - SECOND / 1000, settings).whole


@given(some_facts(), MOMENTS, ALL_SETTINGS)
def test_a_series_is_whole_by_evidence_only_if_all_that_is_listed_is_there(
    known: SeriesFacts, now: datetime, settings: CompletenessSettings
) -> None:
    decision = decide(known, now, settings)
    if not decision.whole or decision.source in {EvidenceSource.QUIET, EvidenceSource.FORCE}:
        return
    of_this = [item for item in known.evidence if item.source == decision.source]
    assert any(item.speaks for item in of_this)
    for item in of_this:
        if item.series_instance_uid:
            assert (item.uids or frozenset()) <= known.held
            assert item.final or item.source is EvidenceSource.COUNT
    # and no earlier source says that more is to come
    for source in SOURCES[: SOURCES.index(decision.source)]:
        alone = replace(
            known, evidence=tuple(item for item in known.evidence if item.source == source)
        )
        assert decide(alone, T0 - 200 * SECOND, settings).source in {
            EvidenceSource.QUIET,  # it says nothing
        }


@given(some_facts(), MOMENTS, ALL_SETTINGS)
def test_the_order_in_which_things_were_said_does_not_matter(
    known: SeriesFacts, now: datetime, settings: CompletenessSettings
) -> None:
    one = decide(known, now, settings)
    other = decide(replace(known, evidence=known.evidence[::-1]), now, settings)
    assert (one.whole, one.source, one.expected) == (other.whole, other.source, other.expected)


@given(some_facts(), MOMENTS, st.floats(0, 100), ALL_SETTINGS)
def test_an_image_that_comes_later_never_makes_it_whole_sooner(
    known: SeriesFacts, now: datetime, later: float, settings: CompletenessSettings
) -> None:
    late = replace(known, last_received_at=known.last_received_at + later * SECOND)
    assert decide(known, now, settings).whole or not decide(late, now, settings).whole


def test_an_association_that_broke_off_is_waited_for_longer() -> None:
    assert at(20, facts()).whole
    for end in ("aborted", "broken off"):
        decision = at(20, facts(last_end=end))
        assert not decision.whole
        assert end in decision.reason
        assert decision.ask_again_at == T0 + 31 * SECOND


def test_a_person_reads_how_many_images_and_how_long_it_was_quiet() -> None:
    reason = at(11, facts()).reason
    assert "20 images" in reason
    assert "10.0 s" in reason
    assert "quiet time 5 s" in reason
    assert "was released" in reason


def test_what_may_still_lie_in_a_spool_is_waited_for() -> None:
    behind = facts(backlog_before=T0 + 2 * SECOND)
    decision = at(100, behind)
    assert not decision.whole
    assert "not be filed" in decision.reason
    assert at(100, facts(backlog_before=T0 + 6 * SECOND)).whole
    # evidence that lists the images needs no clock
    listed = says(EvidenceSource.REQUEST, uids=listing(20))
    assert at(1, facts(listed, backlog_before=T0 - SECOND)).whole


@pytest.mark.parametrize("source", SOURCES[:4])
def test_a_source_that_lists_what_arrived_decides_at_once(source: EvidenceSource) -> None:
    decision = at(1, facts(says(source, uids=listing(20))))
    assert decision.whole
    assert decision.source is source
    assert decision.expected == 20
    assert not decision.incomplete
    assert "20 of 20 images" in decision.reason
    assert "MR1" in decision.reason


@pytest.mark.parametrize(
    "source", [EvidenceSource.REQUEST, EvidenceSource.MPPS, EvidenceSource.AVAILABILITY]
)
def test_a_list_of_the_whole_series_decides_while_the_association_is_open(
    source: EvidenceSource,
) -> None:
    sending = facts(says(source, uids=listing(20)), open_associations=1, last_ended_at=None)
    assert at(0.01, sending).whole


def test_a_commitment_in_an_open_association_waits_for_the_next_part() -> None:
    sending = facts(
        says(EvidenceSource.COMMITMENT, uids=listing(20), series_instance_uid=""),
        open_associations=1,
        last_ended_at=None,
        last_end=None,
    )
    decision = at(1, sending)
    assert not decision.whole
    assert decision.ask_again_at == T0 + 3 * SECOND
    assert at(3, sending).whole
    assert at(1, replace(sending, open_associations=0, last_ended_at=T0)).whole


@pytest.mark.parametrize("source", [EvidenceSource.AVAILABILITY, EvidenceSource.COMMITMENT])
@pytest.mark.parametrize("open_associations", [0, 1])
def test_who_tells_of_one_image_at_a_time_may_tell_of_more(
    source: EvidenceSource, open_associations: int
) -> None:
    first = facts(says(source, uids=listing(1)), images=1, open_associations=open_associations)
    decision = at(1, first)
    assert not decision.whole
    assert "one image at a time" in decision.reason
    assert decision.ask_again_at == T0 + 3 * SECOND
    assert at(3, first).whole
    # a performed procedure step lists all there is
    assert at(1, facts(says(EvidenceSource.MPPS, uids=listing(1)), images=1)).whole


@pytest.mark.parametrize("source", SOURCES[:4])
def test_a_list_from_before_the_decision_says_nothing_of_images_sent_again(
    source: EvidenceSource,
) -> None:
    """Half of the images are new versions and half still the old ones: no volume."""
    old = says(source, uids=listing(20))
    again = facts(
        old, complete_at=T0, last_received_at=T0 + 60 * SECOND, last_ended_at=T0 + 60 * SECOND
    )
    decision = at(60.1, again)
    assert not decision.whole
    assert decision.source is EvidenceSource.QUIET
    # a list that came since then counts, but only when the sender is done
    new = replace(old, at=T0 + 59 * SECOND)
    assert at(60.1, replace(again, evidence=(new,))).whole
    sending = replace(again, evidence=(new,), open_associations=1, last_ended_at=None)
    assert not at(60.1, sending).whole
    assert at(63, sending).whole
    # what was found incomplete is completed by what the old list names
    assert at(60.1, replace(again, complete_at=None)).whole


def test_parts_of_one_source_are_put_together() -> None:
    first = says(EvidenceSource.AVAILABILITY, key="1.1", uids=listing(12))
    second = says(EvidenceSource.AVAILABILITY, key="1.2", uids=listing(20) - listing(12))
    assert at(1, facts(first, second)).whole
    assert not at(1, facts(first, second, open_associations=1)).whole
    assert not at(1, facts(first)).whole  # more has arrived than the first part lists


@pytest.mark.parametrize("source", SOURCES[:4])
@pytest.mark.parametrize("end", ["released", "broken off"])
def test_missing_images_hold_back_until_force(source: EvidenceSource, end: str) -> None:
    known = facts(says(source, uids=listing(20)), images=18, last_end=end)
    decision = at(100, known)
    assert not decision.whole
    assert decision.source is source
    assert "18 of 20 images" in decision.reason
    assert "2 that" in decision.reason
    assert decision.ask_again_at == T0 + 600 * SECOND
    forced = at(600, known)
    assert forced.whole
    assert forced.incomplete
    assert forced.source is EvidenceSource.FORCE
    assert forced.expected == 20
    assert forced.reason.startswith("incomplete: 18 of 20 images")


def test_a_step_that_goes_on_holds_the_study_back() -> None:
    running = says(EvidenceSource.MPPS, series_instance_uid="", final=False)
    known = facts(running)
    assert not at(100, known).whole
    assert "still in progress" in at(100, known).reason
    forced = at(600, known)
    assert forced.whole
    assert forced.incomplete
    assert forced.expected is None
    # another step of the same study does not hold back what its own step has listed
    done = says(EvidenceSource.MPPS, key="1.2", uids=listing(20))
    assert at(1, facts(running, done)).whole
    # nor does one that its machine forgot
    old = replace(running, at=T0 - LONGEST_STEP)
    assert at(20, facts(old)).source is EvidenceSource.QUIET
    assert at(20, facts(old)).whole


def test_a_source_that_knows_less_than_arrived_decides_nothing() -> None:
    stale = says(EvidenceSource.MPPS, uids=listing(19))
    assert not at(1, facts(stale)).whole
    assert at(20, facts(stale)).source is EvidenceSource.QUIET
    assert at(20, facts(stale)).whole
    # the next one that knows all decides
    full = says(EvidenceSource.COMMITMENT, uids=listing(20))
    assert at(1, facts(stale, full)).source is EvidenceSource.COMMITMENT
    few = says(EvidenceSource.REQUEST, count=10)
    assert not at(1, facts(few)).whole
    assert at(20, facts(few)).whole


def test_images_that_nobody_listed_beside_missing_ones() -> None:
    listed = says(EvidenceSource.MPPS, uids=listing(18) | {"1.8.1", "1.8.2"})
    decision = at(600, facts(listed))
    assert decision.reason.startswith("incomplete: 20 of 22 images; 2 that")
    assert decision.expected == 22


def test_the_first_source_that_speaks_decides() -> None:
    more = says(EvidenceSource.MPPS, uids=listing(25))
    enough = says(EvidenceSource.AVAILABILITY, uids=listing(20))
    request = says(EvidenceSource.REQUEST, count=20)
    assert not at(100, facts(enough, more)).whole
    assert at(1, facts(enough, more, request)).source is EvidenceSource.REQUEST


def test_a_list_of_the_study_counts_for_each_series_that_it_covers() -> None:
    listed = listing(20) | {"1.7.1", "1.7.2"}
    said = says(EvidenceSource.COMMITMENT, series_instance_uid="", uids=listed)
    half = facts(said, study_held=listing(20) | {"1.7.1"}, study_series=2)
    decision = at(100, half)
    assert not decision.whole
    assert "21 of 22 images of the study" in decision.reason
    assert decision.expected is None
    done = replace(half, study_held=listed)
    assert at(1, done).whole
    assert at(1, done).expected == 20
    # a series that it does not mention at all is left to the others
    assert not at(1, replace(done, held=frozenset({"1.6.1"}), instances=1)).whole


def test_a_count_of_the_study() -> None:
    said = says(EvidenceSource.REQUEST, series_instance_uid="", count=22)
    assert not at(100, facts(said)).whole
    assert at(100, facts(said)).expected == 22
    both = facts(said, study_held=listing(20) | {"1.7.1", "1.7.2"}, study_series=2)
    assert at(1, both).whole
    assert at(1, both).expected == 20


def test_the_senders_count_proves_something_only_after_it_ended() -> None:
    equal = says(EvidenceSource.COUNT, count=20, at=T0 + SECOND)
    assert at(2, facts(equal)).whole
    assert at(2, facts(equal)).source is EvidenceSource.COUNT
    assert not at(2, facts(equal, open_associations=1)).whole
    assert not at(2, facts(replace(equal, at=T0))).whole  # asked before the end
    assert not at(2, facts(replace(equal, final=False))).whole  # asked once
    assert not at(2, facts(replace(equal, count=19))).whole  # what it had so far
    more = at(100, facts(replace(equal, count=25, final=False)))
    assert not more.whole
    assert "20 of 25 images, by the sender's own count of MR1" in more.reason
    # an older answer does not outlive a newer one
    assert at(2, facts(equal, replace(equal, key="MR1?", count=25, final=False, at=T0))).whole


def test_who_wants_it_first_and_whom_it_makes_no_sense_to_ask() -> None:
    assert not wants_stat(facts())
    assert wants_stat(facts(says(EvidenceSource.REQUEST, stat=True)))
    assert not at(1, facts(says(EvidenceSource.REQUEST, stat=True))).whole
    assert goes_before_count(EvidenceSource.MPPS)
    assert not goes_before_count(EvidenceSource.COUNT)
    assert not goes_before_count(EvidenceSource.QUIET)


def test_an_intake_that_fell_silent_is_told_once_and_not_while_the_ledger_was_away() -> None:
    hearing, minute = Hearing(), 60 * SECOND
    assert hearing.since(T0) is None  # nobody was heard yet, so everybody is waited for
    for seconds in range(5, 65, 5):
        heard_since = hearing.since(T0 + seconds * SECOND)
    assert heard_since == T0 + minute - minute
    # the ledger was away for a minute: that nobody could write says nothing about the intakes
    assert hearing.since(T0 + 3 * minute) is None
    with capture_logs() as logs:
        for seconds in range(12):
            hearing.tell(["here:/spool"], T0 + seconds * SECOND)
        hearing.tell([], T0 + minute)
        for seconds in range(70, 73):
            hearing.tell(["here:/spool"], T0 + seconds * SECOND)
    assert [entry["event"] for entry in logs] == ["intake_silent"]
