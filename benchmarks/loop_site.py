"""The node, the PACS and the studies of loop_bench.py."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import InstanceAvailabilityNotification  # type: ignore[attr-defined]
from sqlalchemy import text

from cli.phantom import write_phantom_study
from core.ledger import Ledger
from core.settings import Settings, load

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.peers import SmallPacs, free_port, small_pacs, storescu
from support.torture.processes import Process, role_process

MODEL = "mr-flair-glioma"
SLICES, SHAPE = 24, (256, 256)
DIFFERENT = 6  # heads; every study is one of them under new UIDs

CONFIG = """
[web]
enabled = false
[node]
host = "127.0.0.1"
port = {port}
[storage]
data = "{data}"
min_free_mb = 1
[services]
availability = true
[completeness]
quiet_seconds = {quiet}
[worker]
device = "{device}"
threads = {threads}
[logs]
json_lines = true
[[peers]]
name = "mr1"
ae_title = "MR1"
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs_port}
archive = true
[[routes]]
name = "brain-flair"
model = "mr-flair-glioma"
match = {{ Modality = "MR" }}
"""


@dataclass(frozen=True, slots=True)
class Study:
    """A study on disk."""

    uid: str
    series_uid: str
    paths: tuple[Path, ...]


class Studies:
    """Makes studies: a few heads, each as often as wanted under new UIDs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._heads = [
            write_phantom_study(
                folder / f"head{seed}", seed=seed, slices=SLICES, shape=SHAPE, series=("FLAIR",)
            ).files("FLAIR")
            for seed in range(DIFFERENT)
        ]
        self._count = 0

    @property
    def heads(self) -> list[tuple[Path, ...]]:
        """The files of each head."""
        return self._heads

    def make(self, count: int) -> list[Study]:
        """So many studies that no node has seen."""
        return [self._one() for _ in range(count)]

    def _one(self) -> Study:
        number, self._count = self._count, self._count + 1
        folder = self._folder / f"study{number}"
        folder.mkdir()
        study, series, frame = generate_uid(), generate_uid(), generate_uid()
        paths = []
        for source in self._heads[number % DIFFERENT]:
            dataset = pydicom.dcmread(source)
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
            dataset.FrameOfReferenceUID = frame
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            dataset.PatientID = dataset.AccessionNumber = f"LOOP{number}"
            paths.append(folder / source.name)
            dataset.save_as(paths[-1], enforce_file_format=True)
        return Study(str(study), str(series), tuple(paths))


@dataclass
class Loop:
    """A running node with its PACS; `arrived` has the moment of each study's last object."""

    settings: Settings
    ledger: Ledger
    arrived: dict[str, dict[str, float]] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def note(self, dataset: Dataset) -> int:
        """An object came."""
        with self._changed:
            study = self.arrived.setdefault(str(dataset.StudyInstanceUID), {})
            study[str(dataset.Modality)] = time.monotonic()
            self._changed.notify_all()
        return 0x0000

    def wait_for(self, studies: Sequence[Study], seconds: float) -> float:
        """Wait until the report, the last of its objects, of every study is there.

        Returns the moment at which the last one came.

        Raises:
            TimeoutError: it did not come.
        """

        def all_here() -> bool:
            return all("SR" in self.arrived.get(study.uid, {}) for study in studies)

        with self._changed:
            if not self._changed.wait_for(all_here, seconds):
                lacking = sum("SR" not in self.arrived.get(study.uid, {}) for study in studies)
                raise TimeoutError(f"{lacking} of {len(studies)} results did not come")
            return max(max(self.arrived[study.uid].values()) for study in studies)

    def life(self, study: Study) -> dict[str, Any]:
        """The job's row of a study."""
        query = text("SELECT * FROM job WHERE study_instance_uid = :uid AND state = 'done'")
        with self.ledger.engine.connect() as connection:
            return dict(connection.execute(query, {"uid": study.uid}).mappings().one())

    def send_quickly(self, studies: Sequence[Study]) -> None:
        """With DCMTK, which takes little of the cores that are measured."""
        for study in studies:
            told = storescu(self.settings.node.port, list(study.paths))
            if told.returncode:
                raise RuntimeError(told.stderr)

    def send_timed(self, study: Study) -> float:
        """Over one association; returns the moment of the last response."""
        datasets = [pydicom.dcmread(path) for path in study.paths]
        ae = AE("MR1")
        ae.add_requested_context(datasets[0].SOPClassUID, datasets[0].file_meta.TransferSyntaxUID)
        association = ae.associate("127.0.0.1", self.settings.node.port, ae_title="SENTINODE")
        for dataset in datasets:
            status = association.send_c_store(dataset).get("Status")
            if status != 0x0000:
                raise RuntimeError(f"an image was answered {status}")
        last = time.monotonic()
        association.release()
        return last

    def notify(self, study: Study) -> None:
        """Tell which images there will be (Instance Availability Notification, PS3.4 Annex R)."""
        images = [pydicom.dcmread(path, stop_before_pixels=True) for path in study.paths]
        content, series = Dataset(), Dataset()
        content.ReferencedPerformedProcedureStepSequence = []
        content.StudyInstanceUID = study.uid
        series.SeriesInstanceUID = study.series_uid
        series.ReferencedSOPSequence = []
        for image in images:
            item = Dataset()
            item.ReferencedSOPClassUID = image.SOPClassUID
            item.ReferencedSOPInstanceUID = image.SOPInstanceUID
            item.InstanceAvailability = "ONLINE"
            item.RetrieveAETitle = "MR1"
            series.ReferencedSOPSequence.append(item)
        content.ReferencedSeriesSequence = [series]
        ae = AE("MR1")
        ae.add_requested_context(InstanceAvailabilityNotification)
        association = ae.associate("127.0.0.1", self.settings.node.port, ae_title="SENTINODE")
        status, _ = association.send_n_create(
            content, InstanceAvailabilityNotification, generate_uid()
        )
        association.release()
        if status.get("Status") != 0x0000:
            raise RuntimeError(f"the notification was answered {status.get('Status')}")


@contextmanager
def running(
    folder: Path, *, workers: int, threads: int, quiet: float, device: str = "cpu"
) -> Iterator[Loop]:
    """A node with so many workers, each one process with `threads` threads of torch."""
    folder.mkdir()
    with ExitStack() as opened:
        pacs: SmallPacs = opened.enter_context(small_pacs())
        config = folder / "sentinode.toml"
        values = {"port": free_port(), "data": folder / "data", "pacs_port": pacs.port}
        config.write_text(
            CONFIG.format(**values, quiet=quiet, threads=threads, device=device), encoding="utf-8"
        )
        settings = load(config)
        ledger = Ledger(settings.ledger_url)
        ledger.upgrade()
        opened.callback(ledger.close)
        loop = Loop(settings, ledger)
        pacs.status = loop.note
        names = ["broker", "scp", "intake", "dispatch", "send", *["worker"] * workers]
        processes: list[Process] = []
        for number, name in enumerate(names):
            process = role_process("loop", config, name, folder / f"{number}-{name}.log")
            opened.callback(process.kill)
            process.start()
            processes.append(process)
        door = folder / "1-scp.log"
        deadline = time.monotonic() + 60
        while "door_open" not in door.read_text(errors="replace"):
            if time.monotonic() > deadline or not all(item.alive for item in processes):
                raise TimeoutError(f"the node did not start: see {folder}")
            time.sleep(0.1)
        yield loop
    shutil.rmtree(folder, ignore_errors=True)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
