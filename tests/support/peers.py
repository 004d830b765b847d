"""Real peers and small ones: DCMTK, Orthanc, a receiver of our own; and waiting."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import TCPServer
from typing import Any

import pytest
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from node.dimse.contexts import accepted

# Without it DCMTK's programs wait for delayed acknowledgements, 20 objects a second.
DCMTK_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


def require_program(name: str, *folders: str) -> str:
    """The path of a program that a test needs: skipped here, failed in CI when it is missing."""
    for folder in folders or ("/usr/bin", "/usr/sbin", str(Path(sys.executable).parent)):
        path = Path(folder) / name
        if path.is_file():
            return str(path)
    message = f"{name} is not installed (see .ci/run)"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


# Below the ports that the kernel gives to outgoing connections, so that none takes one of these.
_PORTS = range(20_000, 32_000)
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on. Test processes side by side have each their own ports."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = len(_PORTS) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    mine = _PORTS[process * share : (process + 1) * share]
    while True:
        port = random.choice(mine)
        with socket.socket() as item, suppress(OSError):
            if port not in _given:
                item.bind(("127.0.0.1", port))
                _given.add(port)
                return port


def wait_for(what: Callable[[], Any], seconds: float = 60.0, message: str = "") -> Any:
    """Wait until `what` gives something true, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"not within {seconds} s: {message or what}")


@dataclass
class SmallPacs:
    """A receiver that keeps what it gets, and answers as told."""

    port: int
    received: list[Any] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    syntaxes: list[str] = field(default_factory=list)
    status: int | Callable[[Any], int] = 0x0000
    associations: int = 0

    def uids(self) -> list[str]:
        """SOP Instance UIDs in order of arrival."""
        return [str(item.SOPInstanceUID) for item in self.received]

    def classes(self) -> list[str]:
        """SOP Class UIDs in order of arrival."""
        return [str(item.SOPClassUID) for item in self.received]


@contextmanager
def small_pacs(
    port: int | None = None,
    *,
    ae_title: str = "PACS",
    refuse_classes: tuple[str, ...] = (),
    accept_classes: tuple[str, ...] | None = None,
    implicit_only: bool = False,
    check_called: bool = False,
    abort_at: str = "",
) -> Iterator[SmallPacs]:
    """Run a `SmallPacs` on loopback.

    Args:
        port: a free one, if none is given.
        ae_title: its own.
        refuse_classes: SOP classes that it accepts no presentation context for.
        accept_classes: the only ones that it does; default: all that we know.
        implicit_only: whether Implicit VR Little Endian is all that it reads.
        check_called: whether it rejects associations to another AE title.
        abort_at: SOP class of the object at which it breaks the association off.
    """
    pacs = SmallPacs(port or free_port())

    def on_store(event: evt.Event) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        pacs.syntaxes.append(str(event.context.transfer_syntax))
        pacs.calls.append(str(dataset.SOPInstanceUID))
        if dataset.SOPClassUID == abort_at:
            event.assoc.abort()
            return 0xC000
        status = pacs.status(dataset) if callable(pacs.status) else pacs.status
        if status == 0x0000 or 0xB000 <= status <= 0xBFFF:
            pacs.received.append(dataset)
        return status

    def on_established(event: evt.Event) -> None:
        pacs.associations += 1

    ae = AE(ae_title=ae_title)
    ae.require_called_aet = check_called
    ae.supported_contexts = [
        item
        for item in accepted()
        if str(item.abstract_syntax) not in refuse_classes
        and (accept_classes is None or str(item.abstract_syntax) in accept_classes)
    ]
    if implicit_only:
        for item in ae.supported_contexts:
            item.transfer_syntax = [ImplicitVRLittleEndian]
    server = ae.make_server(
        ("127.0.0.1", pacs.port),
        evt_handlers=[(evt.EVT_C_STORE, on_store), (evt.EVT_ESTABLISHED, on_established)],
        server_class=ThreadedAssociationServer,
    )
    # as `AE.start_server` does, but it ends at once: the default looks every half second
    serving = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    serving.start()
    try:
        yield pacs
    finally:
        TCPServer.shutdown(server)  # its own also looks for itself among those of start_server
        server.server_close()
        serving.join()


@dataclass
class Orthanc:
    """A running Orthanc."""

    ae_title: str
    port: int
    http_port: int

    def get(self, path: str) -> Any:
        """GET a path of its REST interface."""
        url = f"http://127.0.0.1:{self.http_port}{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            body = answer.read()
        return json.loads(body) if path.count("/file") == 0 else body

    def instances(self, modality: str) -> list[str]:
        """Orthanc's ids of the instances of a modality."""
        found = []
        for series in self.get("/series"):
            content = self.get(f"/series/{series}")
            if content["MainDicomTags"].get("Modality") == modality:
                found += content["Instances"]
        return found


@contextmanager
def orthanc(folder: Path, *, ae_title: str = "ORTHANC") -> Iterator[Orthanc]:
    """Run Orthanc on loopback with its data in `folder`."""
    program = require_program("Orthanc")
    server = Orthanc(ae_title, free_port(), free_port())
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "Name": "test",
        "StorageDirectory": str(folder / "db"),
        "DicomAet": ae_title,
        "DicomPort": server.port,
        "HttpPort": server.http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": True,
        "OverwriteInstances": False,
        "Plugins": [],
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(config))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(path)], stdout=log, stderr=log)
    try:
        wait_for(lambda: _answers(server), 30, "Orthanc is ready")
        yield server
    finally:
        process.terminate()
        process.wait(20)


def _answers(server: Orthanc) -> bool:
    try:
        return bool(server.get("/system"))
    except OSError:
        return False


def storescu(
    port: int, paths: list[Path], *, called: str = "SENTINODE", calling: str = "MR1"
) -> Any:
    """Send files with DCMTK's storescu."""
    program = require_program("storescu", "/usr/bin")
    return subprocess.run(
        [program, "-R", "-aet", calling, "-aec", called, "127.0.0.1", str(port)]
        + ["+sd", "+r"] * any(path.is_dir() for path in paths)
        + [str(path) for path in paths],
        env=DCMTK_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class RunningNode:
    """`sentinode up` as its own process, as a hospital runs it."""

    def __init__(self, config: Path, log: Path, *, roles: str = "") -> None:
        self.config, self._log_path, self._roles = config, log, roles
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        command = [sys.executable, "-m", "cli", "--config", str(self.config), "up"]
        if self._roles:
            command += ["--roles", self._roles]
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def stop(self) -> int:
        """End it as an administrator does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def role_pid(self, data: Path, role: str) -> int:
        """The process id of a role."""
        path = data / "run" / f"{role}.pid"
        wait_for(lambda: path.exists() and path.read_text().strip(), 30, f"{path} is written")
        return int(path.read_text())

    @property
    def log(self) -> str:
        """What it logged so far."""
        return self._log_path.read_text(errors="replace")


def which(name: str) -> str | None:
    """Whether a program is on the PATH."""
    return shutil.which(name)
