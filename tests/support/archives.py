"""Archives that are asked: DCMTK's dcmqrscp, and Orthanc that knows us."""

from __future__ import annotations

import json
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom import AE, evt

from core.errors import PeerError
from core.identifiers import AETitle, DicomAddress
from node.dimse.contexts import (
    COMMITMENT,
    COMMITMENT_INSTANCE,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
)
from node.dimse.scu import echo
from support.peers import DCMTK_ENVIRONMENT, Orthanc, free_port, orthanc, require_program, wait_for
from support.queries import part10


@dataclass
class Archive:
    """A running archive."""

    ae_title: str
    port: int
    folder: Path

    @property
    def address(self) -> DicomAddress:
        """Where it listens."""
        return DicomAddress(AETitle(self.ae_title), "127.0.0.1", self.port)

    def put(self, datasets: Iterable[Dataset], *options: str) -> None:
        """Store phantoms in it, by DCMTK's storescu with these options."""
        folder = self.folder / "out"
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for dataset in datasets:
            path = folder / f"{dataset.SOPInstanceUID}.dcm"
            path.write_bytes(part10(dataset))
            paths.append(str(path))
        program = require_program("storescu", "/usr/bin")
        subprocess.run(
            [
                *(program, *options, "-R", "-aet", "MR1", "-aec", self.ae_title),
                *("127.0.0.1", str(self.port), *paths),
            ],
            env=DCMTK_ENVIRONMENT,
            check=True,
            capture_output=True,
            timeout=120,
        )
        for path in paths:
            Path(path).unlink()


@contextmanager
def dcmqrscp(folder: Path, known: dict[str, int], *, ae_title: str = "DCMQR") -> Iterator[Archive]:
    """Run DCMTK's archive on loopback.

    Args:
        known: AE titles that it sends to by C-MOVE, with their ports.
    """
    program = require_program("dcmqrscp", "/usr/bin")
    port = free_port()
    database = folder / "db"
    database.mkdir(parents=True)
    hosts = [f"h{to} = ({ae}, 127.0.0.1, {to})" for ae, to in known.items()]
    config = folder / "dcmqrscp.cfg"
    config.write_text(
        "\n".join(
            [
                f"NetworkTCPPort = {port}",
                "MaxPDUSize = 131072",
                "MaxAssociations = 16",
                "HostTable BEGIN",
                *hosts,
                "HostTable END",
                "VendorTable BEGIN",
                "VendorTable END",
                "AETable BEGIN",
                f"{ae_title} {database} RW (200, 1024mb) ANY",
                "AETable END",
                "",
            ]
        )
    )
    archive = Archive(ae_title, port, folder)
    with (folder / "dcmqrscp.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-c", str(config), str(port)],
            stdout=log,
            stderr=log,
            env=DCMTK_ENVIRONMENT,
            cwd=folder,
        )
    try:
        wait_for(lambda: _listens(archive), 30, "dcmqrscp listens")
        yield archive
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def orthanc_archive(folder: Path, known: dict[str, int]) -> Iterator[tuple[Archive, Orthanc]]:
    """Run Orthanc on loopback, with those that may ask it and that it sends to."""
    with orthanc(folder) as server:
        for ae, port in known.items():
            request = urllib.request.Request(
                f"http://127.0.0.1:{server.http_port}/modalities/{ae}",
                data=json.dumps({"AET": ae, "Host": "127.0.0.1", "Port": port}).encode(),
                method="PUT",
            )
            with urllib.request.urlopen(request, timeout=10):
                pass
        yield Archive(server.ae_title, server.port, folder), server


class FakeArchive:
    """An archive of pynetdicom that does as it is told.

    Attributes:
        keys_told: the keys of each C-FIND, in order.
        retrieved: the level and the keys of each C-GET and C-MOVE.
        find_status: answers a C-FIND with this, if it is not 0.
        retrieve_status: the same for a C-GET or C-MOVE.
        abort_after: breaks a C-GET off after so many objects, so many times (`aborts`).
        before_object: called before each object of a C-GET goes out.
        obeys: whether it heeds C-CANCEL.
        counts: whether it tells how many images a series has.
        committed: SOP Instance UIDs that it is responsible for; None: it offers no commitment.
        reports: whether it reports at all, which it does on the association of the question.
    """

    def __init__(self, objects: Iterable[Dataset] = (), ae_title: str = "FAKE") -> None:
        self.objects = list(objects)
        self.ae_title = ae_title
        self.port = free_port()
        self.keys_told: list[dict[str, str]] = []
        self.retrieved: list[dict[str, str]] = []
        self.find_status = self.retrieve_status = 0
        self.abort_after, self.aborts = 0, 0
        self.before_object: Callable[[int], None] = lambda _: None
        self.offers = (STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE)
        self.obeys = True
        self.counts = True
        self.committed: set[str] | None = None
        self.reports = True
        self._reporting: list[threading.Thread] = []

    @property
    def address(self) -> DicomAddress:
        """Where it listens."""
        return DicomAddress(AETitle(self.ae_title), "127.0.0.1", self.port)

    @contextmanager
    def running(self) -> Iterator[FakeArchive]:
        """As long as it listens."""
        ae = AE(ae_title=self.ae_title)
        ae.network_timeout = ae.dimse_timeout = 60
        for uid in self.offers:
            ae.add_supported_context(uid)
        ae.add_supported_context(MRImageStorage, scu_role=True, scp_role=True)
        if self.committed is not None:
            ae.add_supported_context(COMMITMENT)
        server = ae.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[
                (evt.EVT_C_FIND, self._find),
                (evt.EVT_C_GET, self._get),
                (evt.EVT_C_MOVE, self._get),
                (evt.EVT_N_ACTION, self._commit),
            ],
        )
        try:
            yield self
        finally:
            server.shutdown()
            for thread in self._reporting:
                thread.join(30)

    def _commit(self, event: evt.Event) -> tuple[int, None]:
        asked = event.action_information
        if self.reports:
            thread = threading.Thread(target=self._report, args=(event.assoc, asked))
            self._reporting.append(thread)
            thread.start()
        return 0x0000, None

    def _report(self, association: Any, asked: Dataset) -> None:
        report = Dataset()
        report.TransactionUID = asked.TransactionUID
        report.ReferencedSOPSequence, report.FailedSOPSequence = [], []
        for item in asked.ReferencedSOPSequence:
            if str(item.ReferencedSOPInstanceUID) in (self.committed or ()):
                report.ReferencedSOPSequence.append(item)
            else:
                item.FailureReason = 0x0112
                report.FailedSOPSequence.append(item)
        kind = 2 if report.FailedSOPSequence else 1
        association.send_n_event_report(report, kind, COMMITMENT, COMMITMENT_INSTANCE)

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        asked = event.identifier
        self.keys_told.append(_texts(asked))
        if self.find_status:
            yield self.find_status, None
            return
        for answer in self._answers(asked):
            if event.is_cancelled and self.obeys:
                yield 0xFE00, None
                return
            yield 0xFF00, answer

    def _answers(self, asked: Dataset) -> Iterator[Dataset]:
        level = asked.QueryRetrieveLevel
        unique = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID"}
        seen: set[str] = set()
        for item in self._matching(asked):
            uid = str(item[unique.get(level, "SOPInstanceUID")].value)
            if uid in seen:
                continue
            seen.add(uid)
            answer = Dataset()
            answer.QueryRetrieveLevel = level
            for element in asked:
                if element.keyword in item and element.keyword != "SpecificCharacterSet":
                    answer.add(item[element.keyword])
            series = [o for o in self.objects if o.SeriesInstanceUID == item.SeriesInstanceUID]
            if level == "SERIES" and self.counts:
                answer.NumberOfSeriesRelatedInstances = len(series)
            yield answer

    def _matching(self, asked: Dataset) -> list[Dataset]:
        names = (
            "StudyInstanceUID",
            "SeriesInstanceUID",
            "SOPInstanceUID",
            "StudyDate",
            "PatientID",
        )
        wanted = {name: str(asked.get(name) or "") for name in names}
        hours = str(asked.get("StudyTime") or "")[:2]
        return [
            item
            for item in self.objects
            if all(not value or str(item.get(name)) == value for name, value in wanted.items())
            and str(item.StudyTime).startswith(hours)
        ]

    def _get(self, event: evt.Event) -> Iterator[Any]:
        moving = event.event is evt.EVT_C_MOVE
        self.retrieved.append(_texts(event.identifier))
        if moving:
            yield ("127.0.0.1", self.port)  # to itself: nobody looks where it goes
        found = self._matching(event.identifier)
        if self.retrieve_status:
            yield 1
            yield self.retrieve_status, None
            return
        yield len(found)
        for number, item in enumerate(found):
            self.before_object(number)
            if event.is_cancelled and self.obeys:
                yield 0xFE00, None
                return
            if self.aborts and number == self.abort_after:
                self.aborts -= 1
                event.assoc.abort()
                return
            yield 0xFF00, item


def _texts(dataset: Dataset) -> dict[str, str]:
    return {element.keyword: str(element.value or "") for element in dataset}


def _listens(archive: Archive) -> bool:
    try:
        echo("TEST", archive.address, 5)
    except PeerError:
        return False
    return True
