"""Originals that a route passes on, and destinations that are down or paused, with real peers."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, evt
from pynetdicom.pdu import P_DATA_TF
from support.instances import T0, incoming, mr_slice
from support.peers import free_port, small_pacs, wait_for
from typer.testing import CliRunner

from cli import app
from cli.work import delivered_table
from core.domain import Result, ResultKind, Transfer
from core.ledger import Ledger
from core.ledger.circuits import Passage
from core.ledger.jobs import NewJob
from core.ledger.rows import transfer_value
from core.ledger.transfers import with_objects
from core.lifecycle import JobState, TransferState
from core.schema import TransferRow
from core.settings import Settings
from core.store import Store
from node.dimse.contexts import VERIFICATION
from node.dimse.scu import Head, associate, contexts_for, store_file
from node.sending.sender import Sender

on_sqlite = pytest.mark.parametrize("ledger_server", ["sqlite"])
SENT, DUE, REFUSED = TransferState.SENT, TransferState.DUE, TransferState.REFUSED
MINUTE = timedelta(minutes=1)


@dataclass
class World:
    """A ledger, a destination, and a clock that we turn."""

    settings: Settings
    ledger: Ledger
    port: int
    now: datetime = T0
    sender: Sender = None  # type: ignore[assignment]

    def another_sender(self) -> Sender:
        store = Store(self.settings.store_url)
        return Sender(self.settings, self.ledger, store, lambda: self.now)

    def receive(self, datasets: list[Dataset]) -> list[bytes]:
        """File images and pass them on; the bytes of their files."""
        store, files = Store(self.settings.store_url), []
        for number, dataset in enumerate(datasets):
            dataset.file_meta.SourceApplicationEntityTitle = "PRIVATE"
            buffer = BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            files.append(buffer.getvalue())
            item = incoming(
                dataset,
                digest=f"{number:064}",
                size=len(buffer.getvalue()),
                transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
            )
            store.put_bytes(item.store_key, buffer.getvalue())
            with self.ledger.write() as work:
                work.filing.file(item, self.now)
        with self.ledger.write() as work:
            instances = work.series.instances("1.2.3.4")
            work.transfers.forward("r", "1.2.3", instances, ["pacs"], self.now)
        return files

    def finish_job(self, kinds: tuple[ResultKind, ...] = (ResultKind.SEG, ResultKind.SR)) -> str:
        """A job on what was received, with an object of each kind."""
        store, results = Store(self.settings.store_url), []
        for kind in kinds:
            dataset = mr_slice(rows=4, columns=4, SOPClassUID=SegmentationStorage)
            dataset.file_meta.MediaStorageSOPClassUID = SegmentationStorage
            buffer = BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            store.put_bytes(f"r/{kind}", buffer.getvalue())
            uid = str(dataset.SOPInstanceUID)
            results.append(Result(kind, f"r/{kind}", "0", 1, str(SegmentationStorage), uid, "1.2"))
        with self.ledger.write() as work:
            instances = tuple(work.series.instances("1.2.3.4"))
            new = NewJob("1.2.3", ("1.2.3.4",), instances, "r", "m", "1.0.0", "cpu", ("pacs",))
            job_id = work.jobs.create(new, self.now)
            assert job_id
            work.jobs.to_publish(self.now, timedelta(seconds=20))
            work.jobs.claim(job_id, "w", self.now + MINUTE, self.now)
            work.jobs.finish(job_id, "w", JobState.DONE, self.now, results=results)
        return job_id

    def step(self) -> int:
        return self.sender.step(wait_seconds=60)

    def transfers(self) -> list[Transfer]:
        with self.ledger.read() as work:
            rows = work.transfers._session.execute(with_objects().order_by(TransferRow.id))
            return [transfer_value(*row) for row in rows]

    def states(self) -> list[TransferState]:
        return [item.state for item in self.transfers()]


@pytest.fixture
def world(ledger: Ledger, make_settings: Callable[..., Settings]) -> World:
    port = free_port()
    peer = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port}
    settings = make_settings(peers=[peer], delivery={"timeout": 10, "max_refusals": 3})
    made = World(settings, ledger, port)
    made.sender = made.another_sender()
    return made


def images(count: int, **attributes: Any) -> list[Dataset]:
    return [mr_slice(number, rows=4, columns=4, **attributes) for number in range(1, count + 1)]


def jpeg(number: int) -> Dataset:
    """An image whose pixels nobody looks at, in a compressed transfer syntax."""
    dataset = mr_slice(number, rows=4, columns=4)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" + b"0" * 99 + b"\xff\xd9"])
    dataset["PixelData"].VR = "OB"
    return dataset


def data_set(file: bytes) -> bytes:
    """What of a file goes out: all after its File Meta Information (PS3.10 Section 7.1)."""
    length = int.from_bytes(file[140:144], "little")
    return file[144 + length :]


def test_originals_go_out_byte_for_byte_and_before_the_results(world: World) -> None:
    got: list[tuple[str, bytes]] = []

    def on_store(event: evt.Event) -> int:
        got.append((str(event.context.transfer_syntax), event.encoded_dataset(False)))
        return 0x0000

    # odd lengths and undefined ones: what a library would write anew would not be the same
    odd = images(2, ImageComments="x" * 7)
    odd[0].ReferencedImageSequence = [Dataset()]
    odd[0]["ReferencedImageSequence"].is_undefined_length = True
    files = world.receive([*odd, jpeg(3)])
    world.finish_job()
    ae = AE(ae_title="PACS")
    ae.add_supported_context(MRImageStorage, [ExplicitVRLittleEndian])
    ae.add_supported_context(MRImageStorage, [ExplicitVRLittleEndian, JPEG2000Lossless])
    ae.add_supported_context(SegmentationStorage, [ExplicitVRLittleEndian])
    server = ae.start_server(
        ("127.0.0.1", world.port), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)]
    )
    try:
        assert world.step() == 5
    finally:
        server.shutdown()
    assert [content for _, content in got[:3]] == [data_set(file) for file in files]
    assert [syntax for syntax, _ in got[:3]] == [
        *[str(ExplicitVRLittleEndian)] * 2,
        str(JPEG2000Lossless),
    ]
    assert all(b"PRIVATE" not in content for _, content in got)
    assert {item.proof for item in world.transfers()} == {"status"}


@on_sqlite
def test_an_original_whose_syntax_is_not_taken_is_refused_with_the_reason(world: World) -> None:
    world.receive(images(2))
    with small_pacs(world.port, implicit_only=True) as pacs:
        assert world.step() == 0
        assert pacs.calls == []
    assert world.states() == [REFUSED] * 2
    message = world.transfers()[0].message
    assert "Explicit VR Little Endian" in message
    assert "originals go out unchanged" in message
    with world.ledger.write() as work:
        assert work.transfers.send_study_again("1.2.3", "other") == 0
        assert work.transfers.send_study_again("1.2.3", "pacs") == 2
    with small_pacs(world.port):
        assert world.step() == 2


@on_sqlite
def test_an_original_in_trouble_does_not_hold_up_the_results(world: World) -> None:
    world.receive(images(1))
    world.finish_job()
    with small_pacs(world.port, abort_at=str(MRImageStorage)) as pacs:
        assert world.step() == 0
        for _ in range(3):
            world.now += timedelta(seconds=8)
            world.step()
        assert pacs.classes() == [str(SegmentationStorage)] * 2
    assert world.states() == [DUE, SENT, SENT]


@on_sqlite
def test_originals_of_a_held_study_wait(world: World) -> None:
    world.receive(images(1))
    stray = incoming(mr_slice(9, SeriesInstanceUID="1.2.3.9", PatientID="X"))
    with world.ledger.write() as work:
        for study in work.filing.file(stray, world.now).studies_in_conflict:
            work.conflicts.hold(study, world.now)
        later = work.series.instances("1.2.3.9")
        assert work.transfers.forward("r", "1.2.3", later, ["pacs"], world.now) == 1
    assert world.states() == [TransferState.PAUSED] * 2
    with small_pacs(world.port) as pacs:
        assert world.step() == 0
        assert pacs.calls == []


@on_sqlite
def test_many_objects_go_over_one_association_few_at_a_time(world: World) -> None:
    world.receive(images(40))
    claims: list[int] = []
    with small_pacs(world.port) as pacs:
        pacs.status = lambda _: claims.append(world.states().count(TransferState.SENDING)) or 0
        assert world.step() == 40
        assert pacs.associations == 1
        assert pacs.uids() == [item.sop_instance_uid for item in world.transfers()]
    assert max(claims) <= 16


@on_sqlite
def test_a_large_object_costs_no_memory(world: World, tmp_path: Path) -> None:
    size = 48 << 20
    large = mr_slice(rows=4, columns=4)
    large.PixelData = bytes(size)
    path = tmp_path / "large.dcm"
    large.save_as(path, enforce_file_format=True)
    del large
    head = Head(str(MRImageStorage), str(ExplicitVRLittleEndian))
    got: list[int] = []

    def on_store(event: evt.Event) -> int:
        got.append(event.request.DataSet.seek(0, 2))
        return 0x0000

    gate = threading.Event()

    def hold_back(event: evt.Event) -> None:
        """The receiver, whose memory is measured as well, reads nothing for a while."""
        if isinstance(event.pdu, P_DATA_TF):
            gate.wait(60)

    ae = AE(ae_title="PACS")
    ae.add_supported_context(MRImageStorage, [ExplicitVRLittleEndian])
    server = ae.start_server(
        ("127.0.0.1", world.port),
        block=False,
        evt_handlers=[(evt.EVT_C_STORE, on_store), (evt.EVT_PDU_RECV, hold_back)],
    )
    address = world.settings.peers[0].address
    assert address is not None
    answers: list[int] = []

    def send() -> None:
        with associate("US", address, contexts_for([head]), 60) as association:
            answers.append(store_file(association, path, head)[0])

    tracemalloc.start()
    sending = threading.Thread(target=send)
    try:
        sending.start()
        threading.Event().wait(2.0)  # an unbounded queue would hold the whole object by then
        current, _ = tracemalloc.get_traced_memory()
        gate.set()
        sending.join(120)
    finally:
        tracemalloc.stop()
        gate.set()
        server.shutdown()
    assert answers == [0]
    assert got[0] > size
    assert current < size // 2


def test_while_it_is_down_one_sender_tries_one_object(world: World) -> None:
    world.receive(images(5))
    assert world.step() == 0
    attempts = [item.attempts for item in world.transfers()]
    assert attempts == [1, 0, 0, 0, 0]
    others = [world.another_sender() for _ in range(3)]
    assert sum(sender.step(wait_seconds=30) for sender in others) == 0
    assert [item.attempts for item in world.transfers()] == attempts  # its wait is not over
    world.now += MINUTE
    gate, calls = threading.Event(), list[str]()

    def slow(dataset: Dataset) -> int:
        calls.append(str(dataset.SOPInstanceUID))
        return 0 * gate.wait(30)

    with small_pacs(world.port) as pacs:
        pacs.status = slow
        for sender in (*others, world.sender):
            sender.step()
        wait_for(lambda: calls)
        for sender in (*others, world.sender):
            sender.step(wait_seconds=0.2)
        assert (pacs.associations, len(calls)) == (1, 1)
        assert world.states().count(TransferState.SENDING) == 1
        gate.set()
        wait_for(lambda: [s.step() for s in others] and set(world.states()) == {SENT})
        assert sorted(calls) == sorted(item.sop_instance_uid for item in world.transfers())
    with world.ledger.read() as work:
        assert work.circuits.get("pacs").failures == 0
    for sender in others:
        sender.close()


def test_a_probe_has_one_owner_until_it_ends_or_its_lease_does(ledger: Ledger) -> None:
    def enter(owner: str, now: datetime) -> Passage:
        with ledger.write() as work:
            return work.circuits.enter("pacs", owner, now + MINUTE, now)

    assert enter("a", T0) == enter("b", T0) == Passage.FREE
    with ledger.write() as work:
        work.circuits.failed("pacs", "away", T0 + MINUTE)
    assert enter("a", T0) == Passage.CLOSED
    later = T0 + MINUTE
    assert [enter("a", later), enter("b", later)] == [Passage.PROBE, Passage.CLOSED]
    with ledger.write() as work:
        work.circuits.leave("pacs", "b")  # not its own
    assert enter("b", later) == Passage.CLOSED
    assert enter("b", later + MINUTE) == Passage.PROBE  # a died
    with ledger.write() as work:
        work.circuits.failed("pacs", "away", later + 2 * MINUTE)
    assert enter("c", later + MINUTE) == Passage.CLOSED
    assert enter("c", later + 2 * MINUTE) == Passage.PROBE
    with ledger.write() as work:
        work.circuits.well("pacs", later)
        assert work.circuits.all()[0].last_success_at == later
    assert enter("a", later) == enter("b", later) == Passage.FREE


@on_sqlite
def test_who_takes_nothing_but_echoes_for_a_while_gets_everything_later(world: World) -> None:
    world.receive(images(1))
    job = world.finish_job((ResultKind.SEG,))
    with small_pacs(world.port, accept_classes=(str(VERIFICATION),)):
        for _ in range(8):
            assert world.step() == 0
            world.now += 10 * MINUTE
    assert world.states() == [DUE, DUE]
    assert "no object of any kind at the moment" in world.transfers()[0].message
    with small_pacs(world.port) as pacs:
        assert world.step() == 2
        assert len(pacs.uids()) == 2
    with world.ledger.read() as work:
        assert work.views.job_life(job).refused == ()


@on_sqlite
def test_an_object_that_cannot_be_sent_harms_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.receive(images(3))
    poison = world.transfers()[0].sop_instance_uid
    whole = Store.as_file

    def as_file(self: Store, key: str) -> Any:
        if poison in key:
            raise ZeroDivisionError("a defect")
        return whole(self, key)

    monkeypatch.setattr(Store, "as_file", as_file)
    with small_pacs(world.port):
        for _ in range(6):
            world.step()
            world.now += 10 * MINUTE
    assert world.states() == [REFUSED, SENT, SENT]
    assert "ZeroDivisionError" in world.transfers()[0].message


@on_sqlite
def test_an_administrator_pauses_a_destination_and_sees_what_waits(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "sentinode.toml"
    config.write_text(
        f'[ledger]\nurl = "{world.ledger.url}"\n[[peers]]\nname = "pacs"\nae_title = "PACS"\n'
        f'host = "127.0.0.1"\nport = {world.port}\n'
    )
    world.receive(images(2))

    def say(*words: str) -> Any:
        return CliRunner().invoke(app, ["--config", str(config), *words])

    assert "paused" in say("pause", "pacs").output
    assert say("pause", "nobody").exit_code != 0
    with small_pacs(world.port) as pacs:
        pacs.status = 0xB000
        assert world.step() == 0
        with world.ledger.read() as work:
            assert work.circuits.get("pacs").paused
        assert "goes on" in say("resume", "pacs").output
        assert world.step() == 2
    assert "0 object(s)" in say("resend", "1.2.3").output
    with world.ledger.read() as work:
        (part,) = work.views.delivered("1.2.3")
    assert (part.count, part.kind, part.status, part.proof) == (2, "IMAGE", 0xB000, "status")
    assert delivered_table((part,)).row_count == 1


@on_sqlite
def test_a_rejection_says_what_it_waits_for(world: World) -> None:
    with world.ledger.write() as work:
        work.filing.file(incoming(), world.now)
    job = world.finish_job((ResultKind.SR, ResultKind.REJECTION))

    def waits() -> str:
        with world.ledger.read() as work:
            life = work.views.job_life(job)
        return life.transfers[1][0].waits_for

    assert waits() == "waits until the destination has SR"
    with small_pacs(world.port) as pacs:
        pacs.status = 0xC123
        for _ in range(4):
            world.step()
            world.now += 10 * MINUTE
        assert "did not take the new SR" in waits()
        pacs.status = 0
        with world.ledger.write() as work:
            assert work.transfers.send_again(job) == 1
        assert world.step() == 2
    assert waits() == ""


@on_sqlite
def test_a_file_goes_out_as_it_is_read(world: World, tmp_path: Path) -> None:
    """What the sender hands out can be read by others."""
    path = tmp_path / "a.dcm"
    mr_slice(rows=4, columns=4).save_as(path, enforce_file_format=True)
    head = Head(str(MRImageStorage), str(ExplicitVRLittleEndian))
    address = world.settings.peers[0].address
    assert address is not None
    with small_pacs(world.port) as pacs:
        with associate("US", address, contexts_for([head]), 30) as association:
            assert store_file(association, path, head) == (0, "")
        assert Dataset(pacs.received[0]) == Dataset(dcmread(path))
