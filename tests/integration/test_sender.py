"""The sender against real receivers: order, retries, refusals, outages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, MRImageStorage, SegmentationStorage
from support.instances import T0, incoming, mr_slice
from support.peers import free_port, small_pacs, wait_for

from core.domain import Result, ResultKind
from core.ledger import Ledger, Work
from core.ledger.jobs import NewJob
from core.ledger.views import JobLife
from core.lifecycle import JobState, TransferState
from core.schema import TransferRow
from core.settings import Settings
from core.store import Store
from node.sending.judge import backoff
from node.sending.sender import Sender


@dataclass
class World:
    """A ledger with one finished job, and a clock that we turn."""

    settings: Settings
    ledger: Ledger
    job_id: str
    uids: list[str]
    port: int
    now: datetime = T0
    sender: Sender | None = None

    def step(self) -> int:
        if self.sender is None:
            self.sender = Sender(
                self.settings, self.ledger, Store(self.settings.store_url), lambda: self.now
            )
        return self.sender.step(wait_seconds=30)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def transfers(self) -> list[tuple[TransferState, str, int]]:
        with self.ledger.read() as work:
            life = work.views.job_life(self.job_id)
        return [(item.state, item.message, len(tries)) for item, tries in life.transfers]


@pytest.fixture
def world(ledger: Ledger, make_settings: Callable[..., Settings]) -> Iterator[World]:
    port = free_port()
    peers = [
        {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port, "archive": True}
    ]
    settings = make_settings(peers=peers, delivery={"timeout": 30, "max_refusals": 3})
    store = Store(settings.store_url)
    results, uids = [], []
    for kind in (ResultKind.SEG, ResultKind.SR):
        dataset = mr_slice(SOPClassUID=SegmentationStorage if kind == "SEG" else MRImageStorage)
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        buffer = BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        store.put_bytes(f"r/{kind}", buffer.getvalue())
        uid = str(dataset.SOPInstanceUID)
        uids.append(uid)
        results.append(Result(kind, f"r/{kind}", "0", 1, str(dataset.SOPClassUID), uid, "1.2"))
    results.append(Result(ResultKind.PICTURE, "r/p", "0", 1))
    with ledger.write() as work:
        work.filing.file(incoming(), T0)
        instances = tuple(work.series.instances("1.2.3.4"))
        job_id = work.jobs.create(
            NewJob("1.2.3", ("1.2.3.4",), instances, "r", "m", "1.0.0", "cpu", ("pacs",)), T0
        )
        assert job_id
        work.jobs.to_publish(T0, timedelta(seconds=20))
        work.jobs.claim(job_id, "w", T0 + timedelta(seconds=30), T0)
        work.jobs.finish(job_id, "w", JobState.DONE, T0, results=results)
    yield World(settings, ledger, job_id, uids, port)


def test_all_objects_go_in_order_over_one_association(world: World) -> None:
    with small_pacs(world.port) as pacs:
        assert world.step() == 2
        assert world.step() == 0
        assert pacs.uids() == world.uids
        assert pacs.associations == 1
    assert [state for state, _, _ in world.transfers()] == [TransferState.SENT] * 2


def test_a_pacs_that_was_down_for_hours_gets_everything_once(world: World) -> None:
    for _ in range(20):
        assert world.step() == 0
        world.later(400)  # more than the longest wait
    states = world.transfers()
    assert [state for state, _, _ in states] == [TransferState.DUE] * 2
    assert all("no connection" in message for _, message, _ in states)
    assert states[0][2] == 20  # every attempt is kept
    with small_pacs(world.port) as pacs:
        assert world.step() == 2
        assert pacs.uids() == world.uids


def test_while_it_waits_nothing_is_tried(world: World) -> None:
    world.step()
    world.later(1)
    world.step()
    assert world.transfers()[0][2] == 1


def test_out_of_resources_comes_again(world: World) -> None:
    with small_pacs(world.port) as pacs:
        pacs.status = 0xA700
        assert world.step() == 0
        assert len(pacs.calls) == 1  # the second object is spared
        pacs.status = 0x0000
        world.later(20)
        assert world.step() == 2
        assert pacs.uids() == world.uids


def test_an_object_at_which_the_pacs_breaks_off_does_not_hold_up_the_others(world: World) -> None:
    with small_pacs(world.port, abort_at=str(SegmentationStorage)) as pacs:
        world.step()
        for _ in range(3):
            world.later(8)  # the destination's wait is over, the object's own is not
            world.step()
        assert pacs.uids() == world.uids[1:]
    (state, _, tries), (second, _, _) = world.transfers()
    assert (state, second) == (TransferState.DUE, TransferState.SENT)
    assert tries >= 1
    with small_pacs(world.port) as well:
        world.later(1000)
        assert world.step() == 1
        assert well.uids() == world.uids[:1]


def test_a_destination_that_takes_none_of_our_classes_is_told_so(world: World) -> None:
    classes = (str(SegmentationStorage), str(MRImageStorage))
    with small_pacs(world.port, refuse_classes=classes):
        assert world.step() == 0
    assert [state for state, _, _ in world.transfers()] == [TransferState.REFUSED] * 2
    assert "does not accept Segmentation Storage" in world.transfers()[0][1]


def test_an_object_that_is_there_already_is_delivered(world: World) -> None:
    with small_pacs(world.port) as pacs:
        pacs.status = 0x0111
        assert world.step() == 2


def test_a_slow_destination_does_not_hold_up_a_quick_one(
    world: World, make_settings: Callable[..., Settings]
) -> None:
    port = free_port()
    slow = {"name": "slow", "ae_title": "SLOW", "host": "127.0.0.1", "port": port}
    quick = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": world.port}
    settings = make_settings(peers=[slow, quick], storage={"store": world.settings.store_url})
    with world.ledger.write() as work:
        life = work.views.job_life(world.job_id)
        insert_transfer(work, life, "slow")
    sender = Sender(settings, world.ledger, Store(settings.store_url), lambda: world.now)
    gate = threading.Event()
    with small_pacs(port, ae_title="SLOW") as slow_pacs, small_pacs(world.port) as pacs:
        slow_pacs.status = lambda _: 0 * gate.wait(20)
        sender.step()
        wait_for(lambda: (sender.step(), len(pacs.received) == 2)[1], 10)
        assert slow_pacs.received == []
        gate.set()
        wait_for(lambda: (sender.step(), len(slow_pacs.received) == 1)[1], 10)
    sender.close()


def insert_transfer(work: Work, life: JobLife, destination: str) -> None:
    """The same report to one more destination."""
    row = TransferRow(
        result_id=life.results[1].id,
        job_id=life.job.id,
        study_instance_uid=life.job.study_instance_uid,
        destination=destination,
        state=TransferState.DUE,
        created_at=T0,
    )
    work.transfers._session.add(row)


def test_who_reads_implicit_only_gets_the_same_data_set(world: World) -> None:
    """The bytes in the store stay as they are; the data set is encoded anew on its way out."""
    store = Store(world.settings.store_url)
    sent = dcmread(BytesIO(store.get("r/SEG")))
    item = Dataset()
    item.CodeValue, item.LongCodeValue, item.URNCodeValue = "1", "l" * 20, "urn:oid:1.2"
    item.ContextGroupVersion = "20260101000000.000000+0100"
    nested = Dataset()
    nested.ConceptCodeSequence = [item, Dataset()]
    nested.TextValue, nested.PersonName = "山" * 5, "Phantom^Test"
    sent.SpecificCharacterSet = "ISO_IR 192"
    sent.ContentSequence = [nested]
    sent.DimensionIndexPointer = 0x00200032
    sent.SmallestImagePixelValue, sent.RedPaletteColorLookupTableDescriptor = 3, [4, 0, 16]
    sent.FloatPixelPaddingValue, sent.SelectorFDValue = 0.25, [1.5, -2.25]
    sent.DisplayedAreaTopLeftHandCorner = [-3, 4]
    sent.ContentQualification = "RESEARCH"
    stored = BytesIO()
    sent.save_as(stored, enforce_file_format=True)
    store.put_bytes("r/SEG", stored.getvalue())
    with small_pacs(world.port, implicit_only=True) as pacs:
        assert world.step() == 2
    assert set(pacs.syntaxes) == {str(ImplicitVRLittleEndian)}
    got = pacs.received[0]
    assert Dataset(got) == Dataset(dcmread(BytesIO(stored.getvalue())))
    assert store.get("r/SEG") == stored.getvalue()


def test_a_warning_is_delivered_and_kept(world: World) -> None:
    with small_pacs(world.port) as pacs:
        pacs.status = 0xB000
        assert world.step() == 2
    state, message, _ = world.transfers()[0]
    assert state == TransferState.SENT
    assert "0xB000" in message


def test_an_error_is_tried_some_times_then_refused_and_sent_again_by_hand(world: World) -> None:
    with small_pacs(world.port) as pacs:
        pacs.status = lambda dataset: 0xC123 if dataset.Modality == "MR" else 0
        for _ in range(6):
            world.step()
            world.later(600)
        (state, message, tries), _ = world.transfers()
        assert (state, tries) == (TransferState.REFUSED, 3)
        assert "0xC123" in message
        pacs.status = 0x0000
        with world.ledger.write() as work:
            assert work.transfers.send_again(world.job_id) == 2
        assert world.step() == 2


def test_a_destination_without_seg_still_gets_the_report(world: World) -> None:
    with small_pacs(world.port, refuse_classes=(str(SegmentationStorage),)) as pacs:
        assert world.step() == 1
        assert pacs.uids() == world.uids[1:]
    (state, message, _), (second, _, _) = world.transfers()
    assert (state, second) == (TransferState.REFUSED, TransferState.SENT)
    assert "does not accept Segmentation Storage" in message


def test_a_destination_that_rejects_us_says_so(world: World) -> None:
    with small_pacs(world.port, ae_title="OTHER", check_called=True):
        world.step()
    state, message, _ = world.transfers()[0]
    assert state == TransferState.DUE
    assert "rejected the association" in message
    assert "alled AE title" in message


def test_a_bytes_loss_in_the_store_is_told_and_stops_nothing(world: World) -> None:
    Store(world.settings.store_url).put_bytes("r/SEG", b"rubbish")
    with small_pacs(world.port) as pacs:
        assert world.step() == 1
        assert pacs.uids() == world.uids[1:]
    assert world.transfers()[0][:1] == (TransferState.FAILED,)
    assert "not a DICOM file" in world.transfers()[0][1]


def test_bytes_that_are_gone_are_given_up_after_some_tries(world: World) -> None:
    Store(world.settings.store_url).delete("r/SEG")
    with small_pacs(world.port) as pacs:
        for number in range(4):
            assert world.step() == (number == 0)
            world.later(600)
        assert pacs.uids() == world.uids[1:]
    state, message, tries = world.transfers()[0]
    assert (state, tries) == (TransferState.FAILED, 3)
    assert "not in the store any more" in message
    assert "Send the study again" in message


def test_a_store_that_is_away_is_no_refusal_of_the_destination(
    world: World, tmp_path: Path
) -> None:
    folder = Store(world.settings.store_url).folder
    assert folder is not None
    folder.rename(tmp_path / "away")
    with small_pacs(world.port) as pacs:
        for _ in range(5):  # more often than a destination may refuse
            assert world.step() == 0
            assert world.step() == 0  # it is waited for, not tried at once
            world.later(600)
        assert {item[0] for item in world.transfers()} == {TransferState.DUE}
        assert [item[2] for item in world.transfers()] == [5, 5]
        (tmp_path / "away").rename(folder)
        assert world.step() == 2
        assert pacs.uids() == world.uids


def test_backoff_doubles_up_to_its_limit_with_jitter() -> None:
    waits = [backoff(n, 5, 300, 0.5).total_seconds() for n in range(8)]
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300]
    assert backoff(0, 5, 300, 0.0).total_seconds() == pytest.approx(4)
    assert backoff(1000, 5, 300, 1.0).total_seconds() == pytest.approx(360)
