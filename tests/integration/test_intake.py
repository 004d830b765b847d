"""Intake: from a spool with real files into store and ledger, whatever happened before."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Container
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from sqlalchemy import event
from support.instances import T0, association, incoming, mr_slice
from support.ledgers import new_ledger

from core.domain import Association, IncomingInstance
from core.equipment import MODEL_NAME
from core.errors import LedgerError
from core.ledger import Ledger
from core.lifecycle import SeriesState
from core.settings import Settings
from core.store import Store
from node.filing.incoming import IncomingReader
from node.filing.intake import Intake
from node.spool.heads import ReceivedInstance
from node.spool.receiver import ReceiverSpool


class Spooler:
    """Writes into a spool as the door does."""

    def __init__(self, folder: Path) -> None:
        self.spool = ReceiverSpool(folder, 0)
        self._number = 0

    def add(
        self, dataset: Dataset, sender: Association, syntax: str = ExplicitVRLittleEndian
    ) -> Path:
        self._number += 1
        buffer = pydicom.filebase.DicomBytesIO()
        dataset.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
        data = buffer.getvalue()
        begin = (
            132
            + 12
            + int(
                pydicom.dcmread(
                    pydicom.filebase.DicomBytesIO(data)
                ).file_meta.FileMetaInformationGroupLength
            )
        )
        instance = ReceivedInstance(
            str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), syntax, sender, T0
        )
        return self.spool.write(instance, self._number, data[begin:])

    def end(self, sender: Association, how: str = "released") -> None:
        self.spool.end(
            Association(
                sender.id,
                sender.calling_ae,
                sender.called_ae,
                sender.peer_address,
                sender.began_at,
                T0 + timedelta(seconds=1),
                how,
            )
        )


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


@pytest.fixture
def spooler(settings: Settings) -> Spooler:
    return Spooler(settings.spool)


@pytest.fixture
def intake(settings: Settings, ledger: Ledger) -> Intake:
    return Intake(settings.spool, Store(settings.store_url), ledger)


def test_instances_are_filed_and_the_spool_is_emptied(
    settings: Settings, ledger: Ledger, spooler: Spooler, intake: Intake
) -> None:
    sender = association()
    slices = [mr_slice(number) for number in range(1, 121)]
    for item in slices:
        spooler.add(item, sender)
    assert sum(intake.step() for _ in range(3)) == 120
    store = Store(settings.store_url)
    with ledger.read() as work:
        assert work.series.receiving()[0].open_associations == 1
        found = work.series.instances("1.2.3.4")
    assert [item.sop_instance_uid for item in found] == [str(x.SOPInstanceUID) for x in slices]
    stored = pydicom.dcmread(store.open(found[0].store_key))
    assert stored.PixelData == slices[0].PixelData
    assert not list(settings.spool.glob("*/*/*.dcm"))
    spooler.end(sender)
    intake.step()
    with ledger.read() as work:
        (facts,) = work.series.receiving()
        assert (facts.open_associations, facts.last_end) == (0, "released")
    assert not list(settings.spool.glob("*/a1"))


def test_a_receiver_that_died_leaves_a_broken_off_association(
    settings: Settings, ledger: Ledger, spooler: Spooler, intake: Intake
) -> None:
    spooler.add(mr_slice(), association())
    partial = spooler.spool.folder / "a1" / "000002.part"
    partial.write_bytes(b"half an image")
    spooler.spool.close()  # what the kernel does when the process is killed
    assert intake.step() == 1
    with ledger.read() as work:
        (facts,) = work.series.receiving()
        assert (facts.open_associations, facts.last_end) == (0, "broken off")
    assert list(settings.spool.iterdir()) == []


def test_the_spool_waits_while_sql_is_away(
    settings: Settings, ledger: Ledger, spooler: Spooler, intake: Intake
) -> None:
    spooler.add(mr_slice(), association())
    away = Ledger("postgresql+psycopg://nobody@127.0.0.1:1/none?connect_timeout=1")
    with pytest.raises(LedgerError):
        Intake(settings.spool, Store(settings.store_url), away).step()
    assert len(list(settings.spool.glob("*/*/*.dcm"))) == 1
    assert intake.step() == 1
    with ledger.read() as work:
        assert work.views.counts()["instances"] == 1


def test_a_crash_between_commit_and_cleaning_up_files_nothing_twice(
    settings: Settings,
    ledger: Ledger,
    spooler: Spooler,
    intake: Intake,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spooler.add(mr_slice(), association())

    def crash(path: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            intake.step()
    assert intake.step() == 1
    with ledger.read() as work:
        assert work.views.counts()["instances"] == 1


def test_a_file_that_is_none_is_kept_aside_and_stops_nothing(
    settings: Settings,
    ledger: Ledger,
    spooler: Spooler,
    intake: Intake,
    capfd: pytest.CaptureFixture[str],
) -> None:
    spooler.add(mr_slice(), association())
    (spooler.spool.folder / "a1" / "000009.dcm").write_bytes(b"not DICOM")
    assert intake.step() == 1
    assert [item.name for item in (settings.spool / "unreadable").iterdir()] == ["a1-000009.dcm"]
    assert "instance_unreadable" in capfd.readouterr().err
    spooler.end(association())
    intake.step()
    with ledger.read() as work:
        assert work.series.receiving()[0].open_associations == 0


def test_the_same_image_in_another_encoding_is_stored_once(
    ledger: Ledger, spooler: Spooler, intake: Intake
) -> None:
    dataset = mr_slice()
    dataset.RequestAttributesSequence = [Dataset()]
    dataset.RequestAttributesSequence[0].ScheduledProcedureStepID = "S1"
    spooler.add(dataset, association())
    spooler.add(dataset, association(), ImplicitVRLittleEndian)
    intake.step()
    with ledger.read() as work:
        assert work.views.counts()["instances"] == 1


def test_the_digest_sees_every_change(spooler: Spooler) -> None:
    def digest(dataset: Dataset) -> str:
        return IncomingReader().read(spooler.add(dataset, association())).digest

    dataset = mr_slice(SOPInstanceUID="1.2.3.4.5")
    first = digest(dataset)
    assert digest(dataset) == first
    dataset.PixelData = bytes([dataset.PixelData[0] ^ 1]) + dataset.PixelData[1:]
    changed = digest(dataset)
    dataset.RequestAttributesSequence = [Dataset()]
    with_empty_item = digest(dataset)
    dataset.RequestAttributesSequence = []
    assert len({first, changed, with_empty_item, digest(dataset)}) == 4


def test_results_of_any_sentinode_are_recognised(
    ledger: Ledger, spooler: Spooler, intake: Intake
) -> None:
    purpose, equipment = Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "109102", "DCM"
    purpose.CodeMeaning = "Processing Equipment"
    equipment.Manufacturer = "Sentinode"
    equipment.ManufacturerModelName = MODEL_NAME
    equipment.PurposeOfReferenceCodeSequence = [purpose]
    spooler.add(mr_slice(ContributingEquipmentSequence=[equipment]), association())
    intake.step()
    with ledger.read() as work:
        assert work.series.get("1.2.3.4").state == SeriesState.OWN


def test_identity_is_never_logged(
    spooler: Spooler, intake: Intake, capfd: pytest.CaptureFixture[str]
) -> None:
    spooler.add(mr_slice(PatientName="Secret^Name", PatientID="SECRETID"), association())
    spooler.add(mr_slice(PatientName="Other^Secret", PatientID="SECRET2"), association())
    intake.step()
    log = capfd.readouterr().err
    assert "identity_conflict" in log
    assert "ecret" not in log
    assert "SECRET" not in log


def test_a_killed_receiver_lets_its_lock_go(settings: Settings, tmp_path: Path) -> None:
    """The lock is the kernel's: `kill -9` frees it, and a living receiver holds it."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from node.spool.receiver import ReceiverSpool\n"
        "spool = ReceiverSpool(Path(sys.argv[1]), 0); print(spool.folder, flush=True)\n"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(settings.spool)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        ledger = new_ledger(tmp_path / "l.db")
        intake = Intake(settings.spool, Store(settings.store_url), ledger)
        intake.step()
        assert folder.is_dir()
        os.kill(process.pid, 9)
        process.wait()
        intake.step()
        assert not folder.exists()


def test_a_value_that_sql_does_not_take_stops_nothing_else(
    settings: Settings,
    ledger: Ledger,
    spooler: Spooler,
    intake: Intake,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    real = IncomingReader.read

    def read(self: IncomingReader, path: Path, known: Container[str] = ()) -> IncomingInstance:
        found = real(self, path, known)
        # NOT NULL is refused by both databases
        return replace(found, digest=None) if path.name == "000002.dcm" else found

    for number in (1, 2, 3):
        spooler.add(mr_slice(number), association())
    monkeypatch.setattr(IncomingReader, "read", read)
    assert intake.step() == 2
    assert len(list((settings.spool / "unreadable").iterdir())) == 1
    assert "instance_unfilable" in capfd.readouterr().err
    with ledger.read() as work:
        assert work.views.counts()["instances"] == 2


def test_a_receiver_that_is_just_starting_is_never_taken_for_dead(
    settings: Settings, intake: Intake
) -> None:
    """Intake looks at every moment of a receiver's beginning; every file must be filed."""
    stop = threading.Event()
    looking = threading.Thread(target=lambda: [intake.step() for _ in iter(stop.is_set, True)])
    looking.start()
    try:
        for _ in range(40):
            spool = ReceiverSpool(settings.spool, 0)
            assert (spool.folder / "lock").exists()
            spool.close()
    finally:
        stop.set()
        looking.join()
    while intake.step() or [item for item in settings.spool.iterdir() if item.is_dir()]:
        pass


def test_nothing_is_said_to_be_filed_that_lies_in_the_spool(
    ledger: Ledger, spooler: Spooler, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage: the quiet time must not count past the oldest image that waits."""
    monkeypatch.setattr("node.filing.intake._TURN", 2)
    paths = [spooler.add(mr_slice(number), association()) for number in range(1, 6)]
    for number, path in enumerate(paths):
        at = (T0 + timedelta(seconds=number)).timestamp()
        os.utime(path, (at, at))
    seen = []
    for _ in range(4):
        monkeypatch.setattr("node.filing.intake._NOTE_EVERY", timedelta(0))
        intake.step()
        with ledger.read() as work:
            seen.append(work.watermarks.filed_before())
    # images 3 and 5 were the oldest that waited; then none waits, and time goes on
    assert seen[:2] == [T0 + timedelta(seconds=2), T0 + timedelta(seconds=4)]
    assert seen[1] < seen[2] < seen[3]


@pytest.mark.parametrize("call", ["fdatasync", "rename"])
def test_an_image_that_the_disk_is_slow_to_take_is_not_passed(
    ledger: Ledger, spooler: Spooler, intake: Intake, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """It was received, and cannot be seen: nobody may say that nothing came meanwhile."""
    monkeypatch.setattr("node.filing.intake._NOTE_EVERY", timedelta(0))
    spooler.add(mr_slice(1), association())
    intake.step()
    begun, go_on = threading.Event(), threading.Event()
    real = getattr(os, call)

    def slow(*args: Any, **named: Any) -> None:
        begun.set()
        assert go_on.wait(60)
        real(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, slow)
        adding = threading.Thread(target=spooler.add, args=(mr_slice(2), association()))
        adding.start()
        try:
            assert begun.wait(60)
            received = datetime.now(UTC)
            for _ in range(2):
                assert intake.step() == 0
                with ledger.read() as work:
                    assert (work.watermarks.filed_before() or T0) <= received
            intake.close()  # somebody else may go on with it; it is not signed off
            with ledger.read() as work:
                assert work.watermarks.filed_before() is not None
        finally:
            go_on.set()
            adding.join(60)
    assert intake.step() == 1
    intake.step()
    with ledger.read() as work:
        assert (work.watermarks.filed_before() or T0) > received


def test_the_slowest_living_intake_counts_and_one_that_signed_off_does_not(
    ledger: Ledger, intake: Intake, spooler: Spooler
) -> None:
    spooler.add(mr_slice(), association())
    intake.step()
    with ledger.write() as work:
        work.watermarks.note("other", "other:/spool", T0, T0)
    with ledger.read() as work:
        assert work.watermarks.filed_before() == T0
        later = work.watermarks.filed_before(T0 + timedelta(seconds=1))
        assert later is not None
        assert later > T0
        assert work.watermarks.silent(T0 + timedelta(seconds=1)) == ["other:/spool"]
    intake.close()
    with ledger.read() as work:
        assert work.watermarks.filed_before() == T0


def test_an_idle_intake_writes_nothing(ledger: Ledger, intake: Intake) -> None:
    for _ in range(3):
        intake.step()
    with ledger.read() as work:
        assert work.watermarks.filed_before() is None


def test_an_association_stays_while_a_notice_lies_in_it(
    ledger: Ledger, spooler: Spooler, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = association()
    folder = spooler.add(mr_slice(), sender).parent
    (folder / "notice-000001.json").write_text("{}")
    spooler.end(sender)
    desk = intake._notices
    monkeypatch.setattr(desk, "file", lambda _: 0)
    intake.step()
    assert folder.is_dir()
    with ledger.read() as work:
        assert work.series.receiving()[0].open_associations == 1
    monkeypatch.undo()
    intake.step()  # one that cannot be read goes to the shelf
    assert not folder.exists()
    with ledger.read() as work:
        assert work.series.receiving()[0].open_associations == 0


def test_images_of_many_associations_are_filed_together(
    ledger: Ledger, spooler: Spooler, intake: Intake
) -> None:
    """A sender may use one association for each image: one commit for all of them."""
    for number in range(1, 31):
        spooler.add(mr_slice(number), association(f"a{number}"))
        spooler.end(association(f"a{number}"))
    commits = []
    event.listen(ledger.engine, "commit", commits.append)
    assert intake.step() == 30
    assert len(commits) < 10
    with ledger.read() as work:
        assert work.series.receiving()[0].open_associations == 0
        assert len(work.series.instances("1.2.3.4")) == 30


def test_many_at_once_come_to_the_same_as_one_by_one(ledger: Ledger) -> None:
    """New ones, duplicates, new versions, versions put back, conflicts: in one batch or not."""
    slices = [mr_slice(number, SOPInstanceUID=f"1.2.3.4.{number}") for number in (1, 2, 3)]
    other = mr_slice(9, SOPInstanceUID="1.2.3.4.2", PatientID="OTHER")
    a, b = "a" * 64, "b" * 64
    batch = [
        incoming(slices[0], digest=a),
        incoming(slices[0], digest=a, name="a2"),
        incoming(slices[0], digest=b),
        incoming(slices[1], digest=a),
        incoming(slices[0], digest=a),
        incoming(other, digest=b),
        incoming(slices[2], digest=a),
    ]

    def filed(study: str, *, together: bool) -> list[object]:
        moved = [
            replace(
                item,
                sop_instance_uid=f"{study}.{item.sop_instance_uid}",
                series_instance_uid=f"{study}.1",
                study_instance_uid=study,
                identity={**item.identity, "StudyInstanceUID": study},
            )
            for item in batch
        ]
        with ledger.write() as work:
            if together:
                found = work.filing.file_many(moved, T0)
            else:
                found = [work.filing.file(item, T0) for item in moved]
        with ledger.read() as work:
            kept = work.series.instances(f"{study}.1")
            revision = work.series.get(f"{study}.1").revision
            conflicts = [item for item in work.conflicts.open() if study in item.study_instance_uid]
        return [
            [(item.outcome, item.conflicts) for item in found],
            sorted((item.sop_instance_uid[len(study) :], item.digest) for item in kept),
            revision,
            [(item.keyword, item.earlier, item.later) for item in conflicts],
        ]

    assert filed("9.1", together=True) == filed("9.2", together=False)
