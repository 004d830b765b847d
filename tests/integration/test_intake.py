"""Intake: from a spool with real files into store and ledger, whatever happened before."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from support.instances import T0, association, mr_slice

from core.domain import Association, IncomingInstance
from core.equipment import MODEL_NAME
from core.errors import LedgerError
from core.ledger import Ledger
from core.lifecycle import SeriesState
from core.settings import Settings
from core.store import Store
from node import intake as intake_module
from node.incoming import content_digest
from node.intake import Intake
from node.spool import ReceivedInstance, ReceiverSpool


class Spooler:
    """Writes into a spool as the door does."""

    def __init__(self, folder: Path) -> None:
        self.spool = ReceiverSpool(folder, 0)
        self._number = 0

    def add(
        self, dataset: Dataset, sender: Association, syntax: str = ExplicitVRLittleEndian
    ) -> None:
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
        self.spool.write(instance, self._number, data[begin:])

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


def test_the_digest_sees_every_change(tmp_path: Path) -> None:
    def digest(dataset: Dataset) -> str:
        path = tmp_path / "x.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return content_digest(pydicom.dcmread(path), ExplicitVRLittleEndian)

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
        "import sys, time; from pathlib import Path; from node.spool import ReceiverSpool\n"
        "spool = ReceiverSpool(Path(sys.argv[1]), 0); print(spool.folder, flush=True)\n"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(settings.spool)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        ledger = Ledger(f"sqlite:///{tmp_path / 'l.db'}")
        ledger.upgrade()
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
    real = intake_module.read_incoming

    def read(path: Path) -> IncomingInstance:
        found = real(path)
        # NOT NULL is refused by both databases
        return replace(found, digest=None) if path.name == "000002.dcm" else found

    for number in (1, 2, 3):
        spooler.add(mr_slice(number), association())
    monkeypatch.setattr(intake_module, "read_incoming", read)
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
