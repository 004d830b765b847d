"""Evidence in the ledger, and what the dispatcher makes of it, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from support.instances import T0, association, incoming, mr_slice
from support.peers import wait_for

from core.domain import Association, JobEvent, Result, ResultKind
from core.errors import PeerError
from core.identifiers import DicomAddress
from core.ledger import Ledger, facts
from core.ledger.evidence import Evidence
from core.lifecycle import EvidenceSource, JobState, SeriesState, TransferState
from core.modelspec import find_specs
from core.settings import Settings
from node.deciding.dispatch import Dispatcher
from node.deciding.priority import STAT
from node.spool.notices import Notice, NoticeDesk, NoticeKind, read_notice, write_notice
from node.spool.receiver import ReceiverSpool

SECOND = timedelta(seconds=1)
STUDY, SERIES = "1.2.3", "1.2.3.4"
PEERS: list[dict[str, Any]] = [
    {"name": "mr1", "ae_title": "MR1", "host": "127.0.0.1", "port": 104, "find": True},
    {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 105, "archive": True},
    {"name": "desk", "ae_title": "DESK", "host": "127.0.0.1", "port": 106},
]
ROUTES: list[dict[str, Any]] = [
    {"name": "brain", "model": "mr-flair-glioma", "match": {"Modality": "MR"}},
    {"name": "copy", "forward": ["desk", "mr1"], "match": {"Modality": "MR"}},
]


class World:
    """A ledger, a dispatcher with a clock of its own, and a sender that counts as told."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.ledger, self.now = ledger, T0
        self.published: list[str] = []
        self.counts: list[int | None] = []
        self.asked = 0
        self.dispatcher = Dispatcher(
            settings,
            ledger,
            find_specs(()),
            lambda job, queue: self.published.append(job),
            lambda: self.now,
            self.count,
        )

    def count(
        self, calling_ae: str, peer: DicomAddress, series: Sequence[tuple[str, str]]
    ) -> Mapping[str, int]:
        self.asked += 1
        told = self.counts.pop(0) if len(self.counts) > 1 else (self.counts or [None])[0]
        if told is None:
            raise PeerError("it does not answer")
        return {uid: told for _, uid in series}

    def receive(self, *numbers: int, name: str = "a1", **attributes: Any) -> list[str]:
        uids = []
        with self.ledger.write() as work:
            for number in numbers:
                attributes.setdefault("SeriesInstanceUID", SERIES)
                uid = f"{attributes['SeriesInstanceUID']}.{number}"
                dataset = mr_slice(number, SOPInstanceUID=uid, **attributes)
                work.filing.file(
                    incoming(
                        dataset,
                        digest=f"{number:064d}",
                        received_at=self.now,
                        association=replace(association(name), began_at=self.now),
                    ),
                    self.now,
                )
                uids.append(uid)
        return uids

    def end(self, name: str = "a1", how: str = "released") -> None:
        with self.ledger.write() as work:
            work.filing.end_association(replace(association(name), ended_at=self.now, end=how))

    def note(self, source: EvidenceSource, **values: Any) -> bool:
        known = Evidence(source, "1.9", self.now, STUDY, SERIES, "MR1")
        with self.ledger.write() as work:
            return work.evidence.note(replace(known, **values))

    def pass_time(self, seconds: float) -> int:
        self.now += seconds * SECOND
        return self.dispatcher.step()

    def answered(self) -> None:
        """Wait for the answers that are on their way."""
        asker = self.dispatcher._asker
        wait_for(lambda: all(future.done() for future, _ in asker._running.values()))

    @property
    def state(self) -> SeriesState:
        with self.ledger.read() as work:
            return work.series.get(SERIES).state

    @property
    def decision(self) -> str:
        with self.ledger.read() as work:
            return work.series.get(SERIES).decision


@pytest.fixture
def world(make_settings: Callable[..., Settings], ledger: Ledger) -> Iterator[World]:
    settings = make_settings(
        peers=PEERS,
        routes=ROUTES,
        completeness={"quiet_seconds": 5, "force_seconds": 60, "ask_seconds": 3},
    )
    made = World(settings, ledger)
    yield made
    made.dispatcher.close()


def test_evidence_starts_a_series_at_once_and_says_so(world: World) -> None:
    uids = world.receive(1, 2, 3)
    assert world.pass_time(0.1) == 0
    world.note(EvidenceSource.MPPS, uids=frozenset(uids))
    assert world.pass_time(0.1) > 0  # the association is still open
    assert world.state == SeriesState.WHOLE
    assert world.decision == "3 of 3 images: all that the performed procedure step of MR1 lists"
    (job_id,) = world.published
    with world.ledger.read() as work:
        job = work.views.job(job_id)
        assert job.expected == 3
        assert job.sender == "MR1"
        assert job.size == 300


def test_announced_images_that_never_come_end_as_incomplete(world: World) -> None:
    uids = world.receive(1, 2, 3)
    world.end()
    world.note(EvidenceSource.AVAILABILITY, uids=frozenset([*uids, "1.2.3.4.9"]))
    for _ in range(6):
        assert world.pass_time(9.9) == 0
    assert world.state == SeriesState.RECEIVING
    assert world.pass_time(0.7) > 0
    assert world.decision.startswith("incomplete: 3 of 4 images")
    with world.ledger.read() as work:
        assert work.views.job(world.published[0]).expected == 4


def test_a_late_image_makes_a_new_job_and_the_history_stays_readable(world: World) -> None:
    uids = world.receive(1, 2, 3)
    world.end()
    world.note(EvidenceSource.MPPS, uids=frozenset([*uids, f"{SERIES}.4"]))
    world.pass_time(61)
    (first,) = world.published
    with world.ledger.write() as work:
        claimed = work.jobs.claim(first, "w:1", world.now + 60 * SECOND, world.now)
        assert claimed is not None
        result = Result(
            ResultKind.SEG, "results/1", "d", 10, "1.2.840.10008.5.1.4.1.1.66.4", "2.25.1", "2.25.2"
        )
        work.jobs.finish(first, "w:1", JobState.DONE, world.now, results=[result])
    world.now += 10 * SECOND
    world.receive(4, name="a2")
    world.pass_time(0.1)
    assert world.state == SeriesState.WHOLE  # what was announced is there now: no waiting
    second = world.published[-1]
    assert second != first
    with world.ledger.read() as work:
        old, new = work.views.job_life(first), work.views.job_life(second)
        # done is done: what it made stays, is still sent, and is what the new one succeeds
        assert old.job.state == JobState.DONE
        assert [item.state for item, _ in old.transfers] == [TransferState.DUE]
        assert work.jobs.earlier(second)[0] == 2
        assert [item.sop_instance_uid for item in work.jobs.earlier(second)[1]] == ["2.25.1"]
        assert (old.job.expected, new.job.expected) == (4, 4)
        assert len(work.jobs.instances_of(first)) == 3
        assert len(work.jobs.instances_of(second)) == 4
        assert "made for 4 instances" in _notes(new.events)
    assert "4 of 4 images" in world.decision


def test_a_late_image_before_the_job_ran_supersedes_it(world: World) -> None:
    uids = world.receive(1, 2)
    world.note(EvidenceSource.COMMITMENT, series_instance_uid="", uids=frozenset(uids))
    world.end()
    world.pass_time(0.1)
    (first,) = world.published
    world.receive(3, name="a2")
    world.end("a2")
    assert world.pass_time(4.8) == 0  # nobody listed it: the quiet time decides
    world.pass_time(0.3)
    with world.ledger.read() as work:
        old = work.views.job(first)
        assert old.state == JobState.SUPERSEDED
        assert world.published[-1] in old.reason
    assert "nothing came for" in world.decision


def _notes(events: Sequence[JobEvent]) -> str:
    return "; ".join(item.note for item in events)


def test_statements_in_any_order_and_twice_come_to_the_same(world: World) -> None:
    uids = world.receive(1, 2)

    def performed(series: dict[str, list[str]] | None, final: bool, seconds: float) -> None:
        study = STUDY if series == {} else ""
        with world.ledger.write() as work:
            work.evidence.performed("1.7", "MR1", study, series, final, T0 + seconds * SECOND)

    # the end of the step is filed before its beginning: another association, another folder
    performed({SERIES: uids}, True, 2)
    performed({}, False, 0)
    performed({SERIES: uids[:1]}, False, 1)
    performed({SERIES: uids}, True, 2)
    with world.ledger.read() as work:
        said = work.evidence.of_study(STUDY)
    assert all(item.final for item in said)
    assert {item.study_instance_uid for item in said} == {STUDY}
    assert [item.uids for item in said if item.series_instance_uid] == [frozenset(uids)]
    assert world.pass_time(0.1) > 0


def test_a_step_in_progress_holds_back_until_it_is_completed(world: World) -> None:
    uids = world.receive(1, 2)
    world.end()
    with world.ledger.write() as work:
        work.evidence.performed("1.7", "MR1", STUDY, {"1.2.3.5": []}, False, world.now)
    assert world.pass_time(30) == 0
    with world.ledger.write() as work:  # the series had been named in between
        work.evidence.performed("1.7", "MR1", "", {SERIES: uids}, False, world.now)
    assert world.pass_time(0.1) == 0
    with world.ledger.write() as work:
        work.evidence.performed("1.7", "MR1", "", None, True, world.now)
    assert world.pass_time(0.1) > 0
    assert "2 of 2 images" in world.decision


def test_a_commitment_finds_its_study_when_the_images_come(world: World) -> None:
    uids = [f"{SERIES}.1", f"{SERIES}.2", "1.2.8.1.1"]
    with world.ledger.write() as work:
        work.evidence.committing("1.5", "MR1", uids, world.now)
        assert work.evidence.has_unplaced(world.now)
    world.receive(1, 2)
    world.receive(1, name="b1", StudyInstanceUID="1.2.8", SeriesInstanceUID="1.2.8.1")
    world.end()
    world.end("b1")
    assert world.pass_time(0.1) > 0
    assert world.pass_time(3) > 0  # of the other study it lists one image: more may follow
    with world.ledger.read() as work:
        assert not work.evidence.has_unplaced(world.now)
        assert work.series.get(SERIES).state == SeriesState.WHOLE
        assert work.series.get("1.2.8.1").state == SeriesState.WHOLE
        (one,) = work.evidence.of_study(STUDY)
        (other,) = work.evidence.of_study("1.2.8")
        assert (one.uids, other.uids) == (frozenset(uids[:2]), frozenset(uids[2:]))
        assert work.evidence.study_of(SERIES) == STUDY
        assert work.evidence.study_of("1.2.9") is None


def test_a_commitment_over_two_studies_holds_neither_back_for_the_other(world: World) -> None:
    uids = [f"{SERIES}.1", f"{SERIES}.2", "1.2.8.1.1", "1.2.8.1.2"]
    with world.ledger.write() as work:
        work.evidence.committing("1.5", "MR1", uids, world.now)
    world.receive(1, 2)
    world.end()
    assert world.pass_time(0.3) == 0  # who knows whose the other two are
    world.receive(1, name="b1", StudyInstanceUID="1.2.8", SeriesInstanceUID="1.2.8.1")
    assert world.pass_time(0.3) == 0
    world.receive(2, name="b1", StudyInstanceUID="1.2.8", SeriesInstanceUID="1.2.8.1")
    world.end("b1")
    assert world.pass_time(0.3) > 0
    with world.ledger.read() as work:
        for uid in (SERIES, "1.2.8.1"):
            series = work.series.get(uid)
            assert (series.state, series.decided_by) == (SeriesState.WHOLE, "commitment")
            assert series.expected == 2
        assert not work.evidence.has_unplaced(world.now)


def test_commitments_whose_images_never_come_do_not_stand_in_the_way(world: World) -> None:
    with world.ledger.write() as work:
        work.evidence.committing("1.5", "MR1", [f"{SERIES}.1", f"{SERIES}.2"], world.now)
        for number in range(250):
            work.evidence.committing(f"1.6.{number}", "MR1", [f"1.7.{number}"], world.now)
    world.receive(1, 2)
    world.end()
    for _ in range(10):
        if world.pass_time(0.3):
            break
    assert "all 2 that it lists" in world.decision


def test_every_series_has_its_turn_however_many_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "MOST_AT_ONCE", 3)
    for number in range(1, 12):
        uid = f"1.2.3.{number}"
        world.note(EvidenceSource.REQUEST, key=uid, series_instance_uid=uid, count=1 + number % 2)
        world.receive(1, SeriesInstanceUID=uid)
    with world.ledger.read() as work:
        assert len(work.facts.standing()) == 11
    world.pass_time(0.3)
    with world.ledger.read() as work:
        waiting = {item.series_instance_uid for item in work.facts.standing()}
    assert waiting == {f"1.2.3.{number}" for number in range(1, 12, 2)}


def test_what_was_said_of_a_study_that_never_came_is_forgotten(world: World) -> None:
    world.receive(1)
    world.note(EvidenceSource.REQUEST, key="1.1", count=1)
    world.note(
        EvidenceSource.REQUEST, key="1.2", study_instance_uid="1.8", series_instance_uid="", count=1
    )
    with world.ledger.write() as work:
        assert work.evidence.forget(T0) == 0
        assert work.evidence.forget(T0 + SECOND) == 1
        assert len(work.evidence.of_study(STUDY)) == 1


def test_a_request_for_the_whole_study_waits_for_its_last_series(world: World) -> None:
    world.note(EvidenceSource.REQUEST, key=STUDY, series_instance_uid="", count=3, stat=True)
    world.receive(1, 2)
    assert world.pass_time(6) == 0
    world.receive(1, SeriesInstanceUID="1.2.3.5")
    assert world.pass_time(0.1) > 0
    with world.ledger.read() as work:
        assert work.series.get("1.2.3.5").state == SeriesState.WHOLE
        jobs = [work.views.job(job_id) for job_id in world.published]
    assert len(jobs) == 2
    assert {job.priority for job in jobs} == {STAT}


def test_images_are_passed_on_and_never_back_to_who_sent_them(world: World) -> None:
    world.receive(1, 2)
    world.end()
    assert world.pass_time(5.1) > 0
    with world.ledger.read() as work:
        due = work.transfers.destinations_due(world.now)
    assert due == ["desk"]
    with world.ledger.write() as work:
        claimed = work.transfers.claim("desk", "s:1", world.now + 60 * SECOND, world.now)
    assert [item.sop_instance_uid for item in claimed] == [f"{SERIES}.1", f"{SERIES}.2"]


def test_the_senders_own_count_twice_equal(world: World) -> None:
    world.counts = [3]
    world.receive(1, 2, 3)
    world.pass_time(0.1)
    assert world.asked == 0  # not while it sends
    world.end()
    world.pass_time(0.1)
    world.answered()
    world.pass_time(0.1)
    assert world.state == SeriesState.RECEIVING
    world.pass_time(2.9)
    world.answered()
    world.pass_time(0.1)  # the second answer becomes evidence
    world.pass_time(0.1)
    assert world.asked == 2
    assert world.state == SeriesState.WHOLE
    assert "the sender's own count of MR1" in world.decision


def test_a_larger_count_holds_back_and_an_unchanged_sender_is_asked_less_often(
    world: World,
) -> None:
    world.counts = [2, 5, 5]
    world.receive(1, 2)
    world.end()
    for _ in range(100):
        world.pass_time(0.5)
        world.answered()
    assert world.state == SeriesState.RECEIVING
    assert 4 <= world.asked <= 9
    for _ in range(30):
        world.pass_time(0.5)
    assert world.decision.startswith("incomplete: 2 of 5 images")


def test_a_sender_that_does_not_answer_leaves_it_to_the_timer(world: World) -> None:
    world.counts = [None]
    world.receive(1, 2)
    world.end()
    world.pass_time(0.1)
    world.answered()
    world.pass_time(5)
    assert world.state == SeriesState.WHOLE
    assert "quiet time" in world.decision


def test_the_dispatcher_is_not_held_up_by_a_slow_sender(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    monkeypatch.setattr(
        world.dispatcher._asker, "_count", lambda *_: go.wait(60) and {}, raising=True
    )
    world.receive(1)
    world.end()
    world.pass_time(0.1)
    try:
        world.pass_time(6)  # returns although nobody has answered
        assert world.state == SeriesState.WHOLE
    finally:
        go.set()


def test_the_news_of_a_step_in_any_order(ledger: Ledger) -> None:
    """Created, set twice, ended, and the end once more: 60 orders."""
    news = [(False, 0), (False, 1), (False, 2), (True, 3), (True, 3)]
    for number, order in enumerate(sorted(set(permutations(news)))):
        key = f"1.7.{number}"
        with ledger.write() as work:
            for final, seconds in order:
                uids = [f"1.4.{item}" for item in range(seconds)]
                work.evidence.performed(
                    key,
                    "MR1",
                    "" if seconds else STUDY,
                    {f"{key}.5": uids} if seconds else {},
                    final,
                    T0 + seconds * SECOND,
                )
            said = [item for item in work.evidence.of_study(STUDY) if item.key == key]
        assert all(item.final for item in said), order
        (of_series,) = [item for item in said if item.series_instance_uid]
        assert of_series.uids == frozenset({"1.4.0", "1.4.1", "1.4.2"}), order
        assert len(said) == 2


A, B, C = ["1.4.1"], ["1.4.1", "1.4.2"], ["1.4.3"]


@pytest.mark.parametrize(
    ("news", "expected"),
    [
        # it ends without a list: what it named while it ran holds
        ([({}, False), ({"5": B}, False), (None, True)], {"5": B}),
        ([({}, False), ({"5": A}, False), ({"5": B}, False), (None, True)], {"5": B}),
        ([({}, False), ({"5": A}, False), ({"6": C}, False), (None, True)], {"5": A, "6": C}),
        # it ends with one: nothing is to come of what it names no more
        ([({}, False), ({"5": A, "6": C}, False), ({"5": B}, True)], {"5": B}),
        ([({}, False), ({"5": A}, False), ({}, True)], {}),
    ],
    ids=["listed once", "listed twice", "two series", "another list", "an empty list"],
)
def test_a_list_is_not_lost_whenever_it_reaches_the_ledger(
    ledger: Ledger,
    news: list[tuple[dict[str, list[str]] | None, bool]],
    expected: dict[str, list[str]],
) -> None:
    """The notices of several receivers are filed in any order."""
    for number, order in enumerate(permutations(enumerate(news))):
        key = f"1.7.{number}"
        with ledger.write() as work:
            for second, (series, final) in order:
                work.evidence.performed(
                    key,
                    "MR1",
                    "" if second else STUDY,
                    None if series is None else {f"{key}.{uid}": v for uid, v in series.items()},
                    final,
                    T0 + second * SECOND,
                )
            said = [item for item in work.evidence.of_study(STUDY) if item.key == key]
        assert all(item.final for item in said), order
        found = {
            item.series_instance_uid.removeprefix(f"{key}."): sorted(item.uids)
            for item in said
            if item.uids
        }
        assert found == expected, order
        assert not any(item.speaks for item in said if not item.series_instance_uid)


# ---- notices: from the door's spool into the ledger


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[ReceiverSpool]:
    made = ReceiverSpool(tmp_path / "spool", 0)
    yield made
    made.close()


def notice(kind: NoticeKind, content: dict[str, Any], at: datetime = T0) -> Notice:
    return Notice(kind, association(), at, content)


def test_notices_are_filed_once_and_nothing_unreadable_is_thrown_away(
    ledger: Ledger, spool: ReceiverSpool
) -> None:
    step = {"uid": "1.7", "status": "COMPLETED", "study": STUDY, "final": True}
    good = notice(NoticeKind.MPPS, {**step, "series": {SERIES: ["1.4.1"]}})
    path = write_notice(spool, good)
    assert read_notice(path) == good
    listed = {"uid": "1.8", "study": STUDY, "series": {SERIES: ["1.4.1", "1.4.2"]}}
    write_notice(spool, notice(NoticeKind.AVAILABILITY, listed))
    bad = write_notice(spool, notice(NoticeKind.AVAILABILITY, {**listed, "study": "no UID"}))
    torn = path.parent / "notice-999999.json"
    torn.write_text("{")
    assert NoticeDesk(ledger).file(path.parent) == 2
    assert NoticeDesk(ledger).file(path.parent) == 0
    with ledger.read() as work:
        said = work.evidence.of_study(STUDY)
    assert {item.source for item in said} == {EvidenceSource.MPPS, EvidenceSource.AVAILABILITY}
    kept = sorted(item.name for item in (spool.folder.parent / "unreadable").iterdir())
    assert kept == [f"a1-{bad.name}", "a1-notice-999999.json"]
    assert not list(path.parent.glob("notice-*"))


def test_notices_wait_while_sql_is_away(spool: ReceiverSpool) -> None:
    listed = {"uid": "1.8", "study": STUDY, "series": {SERIES: ["1.4.1"]}}
    path = write_notice(spool, notice(NoticeKind.AVAILABILITY, listed))
    away = Ledger("postgresql+psycopg://nobody@127.0.0.1:1/none?connect_timeout=1")
    with pytest.raises(Exception, match="away"):
        NoticeDesk(away).file(path.parent)
    assert path.exists()


def test_a_request_and_a_report_of_commitment_reach_their_desks(
    ledger: Ledger, spool: ReceiverSpool
) -> None:
    request = {"transaction": "1.5", "instances": [["1.2.840.10008.5.1.4.1.1.4", f"{SERIES}.1"]]}
    path = write_notice(spool, notice(NoticeKind.COMMIT_REQUEST, request))
    report = {"transaction": "1.6", "committed": ["1.4.1"], "failed": {"1.4.2": 0x0112}}
    write_notice(spool, notice(NoticeKind.COMMIT_REPORT, report))
    assert NoticeDesk(ledger).file(path.parent) == 2  # the report is of no commitment of ours
    assert not list((spool.folder.parent).glob("unreadable/*"))
    with ledger.read() as work:
        assert work.evidence.has_unplaced(T0)


def test_a_name_is_never_used_twice(spool: ReceiverSpool) -> None:
    names = set()
    for _ in range(3):
        path = write_notice(spool, notice(NoticeKind.COMMIT_REPORT, {"transaction": "1.6"}))
        names.add(path.name)
        assert json.loads(path.read_text())["kind"] == "commit-report"
        path.unlink()  # intake was quick
    assert len(names) == 3


def test_an_association_with_notices_only_has_a_folder_of_its_own(spool: ReceiverSpool) -> None:
    other = Association("a9", "CT1", "SENTINODE", "127.0.0.1:1", T0)
    content = {"transaction": "1.6", "committed": [], "failed": {}}
    path = write_notice(spool, Notice(NoticeKind.COMMIT_REPORT, other, T0, content))
    assert path.parent.name == "a9"
