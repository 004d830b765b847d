"""Archives that are asked: DCMTK's dcmqrscp, and Orthanc that knows us."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from core.errors import PeerError
from core.identifiers import AETitle, DicomAddress
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

    def put(self, datasets: Iterable[Dataset]) -> None:
        """Store phantoms in it, by DCMTK's storescu."""
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
                *(program, "-R", "-aet", "MR1", "-aec", self.ae_title),
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


def _listens(archive: Archive) -> bool:
    try:
        echo("TEST", archive.address, 5)
    except PeerError:
        return False
    return True
