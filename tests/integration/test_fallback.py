"""What a destination gets in place of an object whose SOP class it refuses, with real peers.

How the alternatives look is tested elsewhere; here they are copies with another class, and it
matters what is made, how often, and where it goes.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from support.analyses import PROVENANCE, analysed, lesions, volume
from support.instances import T0, incoming, mr_slice
from support.peers import SmallPacs, free_port, small_pacs

from cli.context import console
from cli.work import print_life
from core import alternatives
from core.alternatives import LABEL_MAP_SEGMENTATION
from core.domain import Rendition, Result, ResultKind
from core.errors import LeaseLostError, QueueError, ResultError, StoreError
from core.identifiers import derived_uid
from core.ledger import Ledger
from core.ledger.jobs import NewJob
from core.ledger.views import JobLife
from core.lifecycle import JobState, RenditionState, TransferState
from core.settings import Settings
from core.store import Store
from node.deciding.renditions import RenditionDispatcher
from node.filing.incoming import is_own_result
from node.sending.sender import Sender
from workers import render
from workers.render import Renderer, make_alternative
from workers.results.capture import build_capture, single_captures
from workers.results.encode import to_bytes
from workers.results.keyobject import build_key_object, build_rejection
from workers.results.picture import draw_pages

S3D = str(Comprehensive3DSRStorage)
COMPREHENSIVE = str(ComprehensiveSRStorage)
ENHANCED = str(EnhancedSRStorage)
BASIC = str(BasicTextSRStorage)
SEG = str(SegmentationStorage)
MULTI = str(MultiFrameTrueColorSecondaryCaptureImageStorage)
SINGLE = str(SecondaryCaptureImageStorage)
KO = str(KeyObjectSelectionDocumentStorage)
SENT, REFUSED = TransferState.SENT, TransferState.REFUSED

# Where no query is asked that another test has not asked of both databases.
on_sqlite = pytest.mark.parametrize("ledger_server", ["sqlite"])


def fake_alternative(dataset: Dataset, sop_class_uid: str) -> list[Dataset]:
    """A copy in another class; of a capture one for each of two frames."""
    made = []
    for part in range(2 if sop_class_uid == SINGLE else 1):
        copy = deepcopy(dataset)
        copy.SOPClassUID = sop_class_uid
        copy.SOPInstanceUID = derived_uid(dataset.SOPInstanceUID, sop_class_uid, str(part))
        made.append(copy)
    return made


@dataclass
class World:
    """A ledger, two destinations, and a clock that we turn."""

    settings: Settings
    ledger: Ledger
    ports: tuple[int, int]
    now: datetime = T0
    jobs: int = 0
    published: list[int] = field(default_factory=list)
    sender: Sender = None  # type: ignore[assignment]

    def finish_job(
        self,
        *classes: tuple[ResultKind, str],
        state: JobState = JobState.DONE,
        destinations: tuple[str, ...] = ("pacs",),
    ) -> str:
        """A job that made an object of each class; the results are in the store."""
        self.jobs += 1
        store, results = Store(self.settings.store_url), []
        for part, (kind, sop_class) in enumerate(classes):
            dataset = mr_slice(rows=4, columns=4, SOPClassUID=sop_class)
            dataset.file_meta.MediaStorageSOPClassUID = sop_class
            buffer = BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            key, uid = f"r/{self.jobs}-{part}", str(dataset.SOPInstanceUID)
            store.put_bytes(key, buffer.getvalue())
            results.append(Result(kind, key, "0", 1, sop_class, uid, "1.2"))
        with self.ledger.write() as work:
            work.filing.file(incoming(mr_slice(self.jobs)), self.now)
            instances = tuple(work.series.instances("1.2.3.4"))
            new = NewJob("1.2.3", ("1.2.3.4",), instances, "r", "m", "1.0.0", "cpu", destinations)
            job_id = work.jobs.create(new, self.now)
            assert job_id
            work.jobs.to_publish(self.now, timedelta(seconds=20))
            assert work.jobs.claim(job_id, "w", self.now + timedelta(seconds=30), self.now)
            work.jobs.finish(job_id, "w", state, self.now, reason="x", results=results)
        return job_id

    def send(self) -> int:
        return self.sender.step(wait_seconds=30)

    def dispatch(self, publish: Callable[[int, str], None] | None = None) -> int:
        def note(rendition_id: int, queue: str) -> None:
            assert queue == "cpu"
            self.published.append(rendition_id)

        made = RenditionDispatcher(self.settings, self.ledger, publish or note, lambda: self.now)
        return made.step()

    def render(self) -> int:
        """Every worker's work; how many renditions were made."""
        renderer = Renderer(self.settings, self.ledger, Store(self.settings.store_url))
        waiting, self.published = self.published, []
        return sum(renderer.run(item) for item in waiting)

    def until_quiet(self) -> None:
        while self.send() + self.dispatch() + self.render() or self._due():
            pass

    def _due(self) -> list[str]:
        with self.ledger.read() as work:
            return work.transfers.destinations_due(self.now)

    def life(self, job_id: str) -> JobLife:
        with self.ledger.read() as work:
            return work.views.job_life(job_id)

    def states(self, job_id: str, destination: str = "pacs") -> list[tuple[str, TransferState]]:
        return [
            (item.sop_class_uid, item.state)
            for item, _ in self.life(job_id).transfers
            if item.destination == destination
        ]

    def message(self, job_id: str, place: int = 0) -> str:
        return self.life(job_id).transfers[place][0].message


@pytest.fixture
def world(
    ledger: Ledger, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> World:
    ports = free_port(), free_port()
    peers = [
        {"name": name, "ae_title": name.upper(), "host": "127.0.0.1", "port": port}
        for name, port in zip(("pacs", "other"), ports, strict=True)
    ]
    settings = make_settings(peers=peers, delivery={"timeout": 30})
    made = World(settings, ledger, ports)
    made.sender = Sender(settings, ledger, Store(settings.store_url), lambda: made.now)
    monkeypatch.setattr("core.clock.now", lambda: made.now)
    monkeypatch.setattr(render, "make_alternative", fake_alternative)
    return made


def without_fallback(world: World, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(
        peers=[peer.model_dump() for peer in world.settings.peers],
        delivery={"timeout": 30, "fallback": False},
    )
    world.sender = Sender(settings, world.ledger, Store(settings.store_url), lambda: world.now)


SR_JOB = (ResultKind.SR, S3D)


@on_sqlite
@pytest.mark.parametrize(
    ("accepted", "gets"),
    [
        ((COMPREHENSIVE,), COMPREHENSIVE),
        ((ENHANCED, BASIC), ENHANCED),
        ((BASIC,), BASIC),
    ],
)
def test_a_destination_gets_the_fullest_report_that_it_takes(
    world: World, accepted: tuple[str, ...], gets: str
) -> None:
    job = world.finish_job(SR_JOB)
    with small_pacs(world.ports[0], accept_classes=accepted) as pacs:
        world.until_quiet()
        assert pacs.classes() == [gets]
    states = world.states(job)
    assert states[0] == (S3D, REFUSED)
    assert states[-1] == (gets, SENT)
    assert all(state == REFUSED for _, state in states[:-1])
    assert "does not accept Comprehensive 3D SR Storage; gets" in world.message(job)


def test_who_takes_no_report_is_told_so_in_the_end_and_gets_the_rest(world: World) -> None:
    job = world.finish_job((ResultKind.SEG, SEG), (ResultKind.SC, SINGLE), SR_JOB)
    with small_pacs(world.ports[0], accept_classes=(SINGLE,)) as pacs:
        world.until_quiet()
        assert pacs.classes() == [SINGLE]
    by_class = dict(world.states(job))
    assert by_class.pop(SINGLE) == SENT
    assert set(by_class) == {SEG, S3D, COMPREHENSIVE, ENHANCED, BASIC}
    assert set(by_class.values()) == {REFUSED}
    assert world.message(job) == (
        "does not accept Segmentation Storage; the picture shows the outlines"
    )
    assert "accepts none of Comprehensive 3D SR Storage, Comprehensive SR" in world.message(job, 2)


def test_a_destination_that_answers_0122_is_understood_the_same(world: World) -> None:
    job = world.finish_job(SR_JOB)
    with small_pacs(world.ports[0]) as pacs:
        pacs.status = lambda dataset: 0 if dataset.SOPClassUID == ENHANCED else 0x0122
        world.until_quiet()
        assert pacs.classes() == [ENHANCED]
    life = world.life(job)
    assert [item.sop_class_uid for item in life.refused] == [COMPREHENSIVE, S3D]
    assert "0x0122" in life.refused[0].how
    assert life.transfers[0][0].status == 0x0122


def test_what_was_learned_spares_the_next_job_the_asking(world: World) -> None:
    with small_pacs(world.ports[0], accept_classes=(BASIC,)) as pacs:
        world.finish_job(SR_JOB)
        world.until_quiet()
        associations = pacs.associations
        job = world.finish_job(SR_JOB)
        world.until_quiet()
        assert pacs.classes() == [BASIC, BASIC]
        assert pacs.associations == associations + 1
    life = world.life(job)
    assert world.states(job) == [(S3D, REFUSED), (BASIC, SENT)]
    assert [len(attempts) for _, attempts in life.transfers] == [0, 1]


@on_sqlite
@pytest.mark.parametrize("hours", [23, 25])
def test_after_a_day_it_is_offered_again(world: World, hours: int) -> None:
    with small_pacs(world.ports[0], accept_classes=(COMPREHENSIVE,)):
        world.finish_job(SR_JOB)
        world.until_quiet()
    world.now += timedelta(hours=hours)
    with small_pacs(world.ports[0]) as pacs:
        world.finish_job(SR_JOB)
        world.until_quiet()
        assert pacs.classes() == [S3D if hours > 24 else COMPREHENSIVE]
    with world.ledger.read() as work:
        assert len(work.views.refused_classes(["pacs"])) == (0 if hours > 24 else 1)


def test_an_administrator_has_it_offered_again_at_once(world: World) -> None:
    job = world.finish_job(SR_JOB)
    with small_pacs(world.ports[0], accept_classes=(BASIC,)):
        world.until_quiet()
    with world.ledger.write() as work:
        assert work.transfers.send_again(job) == 1
    with small_pacs(world.ports[0]) as pacs:
        world.until_quiet()
        assert pacs.classes() == [S3D]
    assert world.states(job)[0] == (S3D, SENT)
    with world.ledger.read() as work:
        assert work.views.refused_classes(["pacs"]) == ()


@on_sqlite
def test_asked_again_and_refused_again_nothing_is_made_or_sent_twice(world: World) -> None:
    job = world.finish_job(SR_JOB)
    with small_pacs(world.ports[0], accept_classes=(COMPREHENSIVE,)) as pacs:
        world.until_quiet()
        with world.ledger.write() as work:
            assert work.transfers.send_again(job) == 1
        world.until_quiet()
        assert pacs.classes() == [COMPREHENSIVE]
    assert world.states(job) == [(S3D, REFUSED), (COMPREHENSIVE, SENT)]


@on_sqlite
def test_one_that_takes_a_lesser_class_than_before_gets_it_after_a_retry(world: World) -> None:
    job = world.finish_job(SR_JOB)
    with small_pacs(world.ports[0], accept_classes=(KO,)):
        world.until_quiet()
    assert {state for _, state in world.states(job)} == {REFUSED}
    with world.ledger.write() as work:
        assert work.transfers.send_again(job) == 1
    with small_pacs(world.ports[0], accept_classes=(ENHANCED,)) as pacs:
        world.until_quiet()
        assert pacs.classes() == [ENHANCED]


def test_what_was_made_for_one_destination_is_used_for_the_other(world: World) -> None:
    job = world.finish_job(SR_JOB, destinations=("pacs", "other"))
    with (
        small_pacs(world.ports[0], accept_classes=(COMPREHENSIVE,)) as pacs,
        small_pacs(world.ports[1], ae_title="OTHER", accept_classes=(COMPREHENSIVE,)) as other,
    ):
        world.until_quiet()
        assert pacs.uids() == other.uids()
        assert len(pacs.uids()) == 1
    assert len(world.life(job).renditions) == 1
    assert len(world.life(job).results) == 2


@on_sqlite
def test_a_destination_that_comes_later_needs_nothing_to_be_made(world: World) -> None:
    job = world.finish_job(SR_JOB, destinations=("pacs", "other"))
    with small_pacs(world.ports[0], accept_classes=(COMPREHENSIVE,)):
        world.until_quiet()  # the other one is down meanwhile
    world.now += timedelta(hours=1)
    with small_pacs(world.ports[1], ae_title="OTHER", accept_classes=(COMPREHENSIVE,)) as other:
        assert world.send() == 1  # refused, and what was made for the other one is there
        assert world.dispatch() == 0
        assert other.classes() == [COMPREHENSIVE]
    assert len(world.life(job).results) == 2


@on_sqlite
def test_a_capture_of_several_pages_becomes_single_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        alternatives, "ALTERNATIVES", {**alternatives.ALTERNATIVES, MULTI: (SINGLE,)}
    )
    job = world.finish_job((ResultKind.SC, MULTI))
    with small_pacs(world.ports[0], accept_classes=(SINGLE,)) as pacs:
        world.until_quiet()
        assert pacs.classes() == [SINGLE, SINGLE]
    made = [item for item in world.life(job).results if item.alternative_to is not None]
    assert [item.part for item in made] == [0, 1]
    assert len({item.store_key for item in made}) == 2
    assert {item.alternative_to for item in made} == {world.life(job).results[0].id}


@on_sqlite
def test_a_label_map_becomes_a_binary_segmentation(world: World) -> None:
    world.finish_job((ResultKind.SEG, LABEL_MAP_SEGMENTATION))
    with small_pacs(world.ports[0], refuse_classes=(LABEL_MAP_SEGMENTATION,)) as pacs:
        world.until_quiet()
        assert pacs.classes() == [SEG]


@on_sqlite
def test_by_setting_nothing_is_made_instead(
    world: World, make_settings: Callable[..., Settings]
) -> None:
    without_fallback(world, make_settings)
    job = world.finish_job(SR_JOB)
    with small_pacs(world.ports[0], accept_classes=(BASIC,)):
        world.until_quiet()
    assert world.states(job) == [(S3D, REFUSED)]
    assert world.message(job).endswith("delivery.fallback is off")
    assert world.life(job).renditions == ()


@on_sqlite
def test_an_alternative_that_cannot_be_made_gives_way_to_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_basic(dataset: Dataset, sop_class_uid: str) -> list[Dataset]:
        if sop_class_uid != BASIC:
            raise ResultError("does not fit")
        return fake_alternative(dataset, sop_class_uid)

    monkeypatch.setattr(render, "make_alternative", only_basic)
    job = world.finish_job(SR_JOB)
    with small_pacs(world.ports[0], refuse_classes=(S3D,)) as pacs:
        for _ in range(3):
            world.send()
            world.dispatch()
            world.render()
        world.send()
        assert pacs.classes() == [BASIC]
    renditions = world.life(job).renditions
    assert [item.state for item in renditions] == ["failed", "failed", "done"]
    assert renditions[0].reason == "does not fit"


@on_sqlite
def test_when_none_can_be_made_the_reasons_are_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(dataset: Dataset, sop_class_uid: str) -> list[Dataset]:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(render, "make_alternative", broken)
    job = world.finish_job((ResultKind.SEG, LABEL_MAP_SEGMENTATION))
    with small_pacs(world.ports[0], refuse_classes=(LABEL_MAP_SEGMENTATION,)):
        world.send()
        for _ in range(world.settings.jobs.max_attempts):
            assert world.dispatch() == 1
            assert world.render() == 0
            world.now += timedelta(minutes=10)
    assert "cannot be made: ZeroDivisionError: a defect" in world.message(job)
    with world.ledger.write() as work:
        work.transfers.send_again(job)
    assert world.life(job).renditions[0].state == RenditionState.WAITING


@on_sqlite
def test_a_store_that_is_away_delays_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.finish_job(SR_JOB)
    with small_pacs(world.ports[0], accept_classes=(COMPREHENSIVE,)) as pacs:
        world.send()
        world.dispatch()

        def away(*_: Any) -> bytes:
            raise StoreError("away")

        with monkeypatch.context() as patched:
            patched.setattr(Store, "get", away)
            assert world.render() == 0
        assert world.dispatch() == 0
        world.now += timedelta(seconds=10)
        world.until_quiet()
        assert pacs.classes() == [COMPREHENSIVE]


@on_sqlite
def test_an_object_whose_bytes_are_gone_is_given_up(world: World) -> None:
    rendition = wanted(world)
    Store(world.settings.store_url).delete(rendition.result.store_key)
    Store(world.settings.store_url).put_bytes(rendition.result.store_key + "x", b"another")
    for _ in range(world.settings.jobs.max_attempts):
        world.dispatch()
        assert world.render() == 0
        world.now += timedelta(hours=1)
    first, *_ = world.life(rendition.job_id).renditions
    assert first.state == RenditionState.FAILED
    assert "not in the store any more" in first.reason


def wanted(world: World) -> Rendition:
    """A rendition that waits, after a first refusal."""
    job = world.finish_job(SR_JOB)
    with small_pacs(world.ports[0], refuse_classes=(S3D,)):
        world.send()
    (rendition,) = world.life(job).renditions
    assert rendition.state == RenditionState.WAITING
    return rendition


def test_a_lost_message_is_published_again_and_an_absent_broker_waited_for(world: World) -> None:
    wanted(world)

    def away(*_: Any) -> None:
        raise QueueError("away")

    assert world.dispatch(away) == 0
    assert world.dispatch() == 0
    world.now += timedelta(seconds=6)
    assert world.dispatch() == 1
    assert world.dispatch() == 0
    world.now += timedelta(seconds=21)  # queue.republish_seconds is 20
    assert world.dispatch() == 1
    assert world.published == [world.published[0]] * 2
    assert world.render() == 1  # the message too many does no harm


def test_a_worker_that_falls_silent_loses_it_and_writes_nothing(world: World) -> None:
    item = wanted(world).id
    world.dispatch()
    with world.ledger.write() as work:
        assert work.renditions.claim(item, "a", world.now + timedelta(seconds=30), world.now)
        assert (
            work.renditions.claim(item, "b", world.now + timedelta(seconds=30), world.now) is None
        )
    world.now += timedelta(seconds=31)
    world.published = []
    assert world.dispatch() == 1
    late = Result(ResultKind.SR, "late", "0", 1, COMPREHENSIVE, "2.25.1", "1.2")
    with pytest.raises(LeaseLostError), world.ledger.write() as work:
        work.renditions.finish(item, "a", [late], world.now)
    assert world.render() == 1


@on_sqlite
@pytest.mark.parametrize("calm", [True, False])
def test_one_that_takes_every_worker_down_is_given_up(world: World, calm: bool) -> None:
    """Where the node itself was away at every silence, it is nobody's fault."""
    rendition = wanted(world)
    dispatcher = RenditionDispatcher(
        world.settings, world.ledger, lambda *_: None, lambda: world.now
    )
    for _ in range(world.settings.jobs.max_attempts):
        dispatcher.step()
        with world.ledger.write() as work:
            until = world.now + timedelta(seconds=30)
            assert work.renditions.claim(rendition.id, "a", until, world.now)
        for _ in range(10 if calm else 1):
            world.now += timedelta(seconds=10 if calm else 100)
            dispatcher.step()
    first, *_ = world.life(rendition.job_id).renditions
    assert first.state == ("failed" if calm else "queued")
    assert first.reason.startswith("its worker fell silent" + (" 3 times" if calm else "; given"))


@pytest.mark.parametrize("release", [True, False])
def test_an_identity_conflict_holds_what_is_made_meanwhile(world: World, release: bool) -> None:
    rendition = wanted(world)
    world.dispatch()
    stray = incoming(mr_slice(SeriesInstanceUID="1.2.3.9", PatientID="X"))
    with world.ledger.write() as work:
        for study in work.filing.file(stray, world.now).studies_in_conflict:
            work.conflicts.hold(study, world.now)
    if release:
        assert world.render() == 1
        assert world.states(rendition.job_id)[-1] == (COMPREHENSIVE, TransferState.PAUSED)
    with world.ledger.write() as work:
        work.conflicts.decide("1.2.3", release, "admin", world.now)
    world.render()
    with small_pacs(world.ports[0], refuse_classes=(S3D,)) as pacs:
        world.until_quiet()
        assert pacs.classes() == ([COMPREHENSIVE] if release else [])


def late_objects(world: World) -> str:
    return world.finish_job(
        (ResultKind.REJECTION, KO),
        (ResultKind.KO, KO),
        SR_JOB,
        (ResultKind.SC, SINGLE),
        (ResultKind.SEG, SEG),
    )


def kinds(world: World, job_id: str, pacs: SmallPacs) -> list[str]:
    by_uid = {item.sop_instance_uid: str(item.kind) for item in world.life(job_id).results}
    return [by_uid[uid] for uid in pacs.uids()]


def test_key_objects_come_after_what_they_refer_to(world: World) -> None:
    job = late_objects(world)
    with small_pacs(world.ports[0]) as pacs:
        world.until_quiet()
        assert kinds(world, job, pacs) == ["SEG", "SC", "SR", "KO", "REJECTION"]


def test_the_old_objects_are_rejected_only_when_the_new_ones_are_there(world: World) -> None:
    job = late_objects(world)
    with small_pacs(world.ports[0]) as pacs:
        pacs.status = lambda dataset: 0xC123 if dataset.SOPClassUID == S3D else 0
        for _ in range(8):
            world.send()
            world.now += timedelta(minutes=11)
        assert kinds(world, job, pacs) == ["SEG", "SC", "KO"]
        assert dict(world.states(job))[S3D] == REFUSED
        pacs.status = 0
        with world.ledger.write() as work:
            assert work.transfers.send_again(job) == 1
        world.until_quiet()
        assert kinds(world, job, pacs)[3:] == ["SR", "REJECTION"]


def test_a_rejection_waits_for_what_is_made_instead(world: World) -> None:
    job = late_objects(world)
    with small_pacs(world.ports[0], refuse_classes=(S3D, SEG)) as pacs:
        assert world.send() == 1
        assert world.send() == 0
        assert kinds(world, job, pacs) == ["SC"]
        world.until_quiet()
        assert kinds(world, job, pacs) == ["SC", "SR", "KO", "REJECTION"]


@on_sqlite
def test_objects_of_a_failed_job_are_kept_and_not_sent(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    job = world.finish_job(SR_JOB, state=JobState.FAILED)
    with small_pacs(world.ports[0]) as pacs:
        world.until_quiet()
        assert pacs.calls == []
    with console.capture() as shown:
        print_life(world.life(job), Store(world.settings.store_url))
    assert "kept, not sent" in " ".join(shown.get().split())


@on_sqlite
def test_a_person_sees_what_was_refused_and_what_is_sent_instead(world: World) -> None:
    job = world.finish_job(SR_JOB)
    with small_pacs(world.ports[0], accept_classes=(COMPREHENSIVE,)):
        world.until_quiet()
    with console.capture() as shown:
        print_life(world.life(job), Store(world.settings.store_url))
    text = " ".join(shown.get().split())
    assert "Made instead of refused objects" in text
    assert "SR (instead)" in text
    assert "pacs does not take Comprehensive 3D SR Storage" in text


@on_sqlite
def test_a_real_capture_becomes_real_single_ones_in_the_same_study(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "make_alternative", make_alternative)
    monkeypatch.setattr(
        alternatives, "ALTERNATIVES", {**alternatives.ALTERNATIVES, MULTI: (SINGLE,)}
    )
    capture = our_objects()[0]
    assert str(capture.SOPClassUID) == MULTI
    job = world.finish_job((ResultKind.SC, MULTI))
    Store(world.settings.store_url).put_bytes("r/1-0", to_bytes(capture))
    with small_pacs(world.ports[0], accept_classes=(SINGLE,), implicit_only=True) as pacs:
        world.until_quiet()
        assert pacs.classes() == [SINGLE] * int(capture.NumberOfFrames)
        assert {item.StudyInstanceUID for item in pacs.received} == {capture.StudyInstanceUID}
        assert all(is_own_result(item) for item in pacs.received)
    results = [item for item in world.life(job).results if item.alternative_to is not None]
    assert pacs.uids() == [item.sop_instance_uid for item in results]


def our_objects() -> list[Dataset]:
    """A capture of several pages, a Key Object, and one that rejects them."""
    boxes = [(slice(index, index + 1), slice(12, 20), slice(12, 20)) for index in range(12)]
    analysis = analysed(lesions(volume((12, 64, 48)), boxes))
    capture = build_capture(draw_pages(analysis, PROVENANCE), analysis, PROVENANCE)
    uid, series = str(capture.SOPInstanceUID), str(capture.SeriesInstanceUID)
    earlier = (Result(ResultKind.SC, "k", "0", 1, MULTI, uid, series),)
    rejection = build_rejection(replace(PROVENANCE, revision=2, earlier=earlier), analysis.source)
    assert rejection is not None
    return [capture, build_key_object(analysis, PROVENANCE, [capture]), rejection]


def test_captures_and_key_objects_that_come_back_are_known_as_ours() -> None:
    made = our_objects()
    for dataset in [*made, *single_captures(made[0])]:
        assert is_own_result(dcmread(BytesIO(to_bytes(dataset))))


def test_a_class_that_nobody_can_make_is_an_error() -> None:
    with pytest.raises(ResultError, match="MR Image Storage"):
        make_alternative(mr_slice(), "1.2.840.10008.5.1.4.1.1.4")
