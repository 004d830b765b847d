"""`sentinode demo`: the main job on embedded defaults, shown from the door to the PACS."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from cli.context import clock_time, console
from cli.findings import findings_table
from cli.work import series_table

if TYPE_CHECKING:
    from core.domain import Job
    from core.ledger import Ledger
    from core.ledger.views import JobLife
    from core.settings import Settings

_PACS = "DEMOPACS"
_SENDER = "DEMOMODALITY"
_TIMEOUT_SECONDS = 150.0
_POLL_SECONDS = 0.2


def demo(
    study: Annotated[
        Path | None, typer.Option(help="A folder with real DICOM files; default: a phantom.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for what comes back.")] = Path("demo-out"),
) -> None:
    """Send a study through the node and show what comes back. Nothing to install or start."""
    from core.settings import load
    from core.store import Store
    from node.bootstrap.ledger import ready_ledger

    out = out.absolute()
    with tempfile.TemporaryDirectory(prefix="sentinode-demo-") as scratch_name:
        scratch = Path(scratch_name)
        source = study or _phantom(scratch / "phantom")
        port, pacs_port = _free_ports(2)
        config = scratch / "sentinode.toml"
        config.write_text(_settings(scratch / "data", port, pacs_port), encoding="utf-8")
        settings = load(config)
        received = out / "pacs"
        console.print(f"Starting the node on port {port} and a small PACS on port {pacs_port} …")
        log = out / "node.log"
        with _pacs(received, pacs_port) as arrivals, _node(config, log) as node:
            _wait_for_door(settings, node)
            _send(source, settings)
            ledger = ready_ledger(settings)
            job = _wait(ledger, node, log)
            with ledger.read() as work:
                life = work.views.job_life(job.id)
                decisions = {
                    series.series_instance_uid: work.views.route_decisions(
                        series.series_instance_uid
                    )
                    for series in life.study.series
                }
                associations = work.views.associations(life.job.series_instance_uids[0])
            store = Store(settings.store_url)
            picture = _keep_picture(life, store, out)
            console.print(series_table(job.study_instance_uid, life.study.series, decisions))
            console.print(_timeline(life, associations[0].began_at, arrivals))
            console.print(findings_table(life.findings))
            _paths(received, picture, log)
            got = _kinds(received)
    expected = {"SEG", "SR"} if any(item.present for item in life.findings) else {"SR"}
    if job.state != "done" or not expected <= got or (study is None and "SEG" not in got):
        console.print("[red]The demo did not come through.[/red] See the log above.")
        raise typer.Exit(1)
    console.print(
        "[green]The PACS has the results.[/green] Not for clinical use without validation."
    )


def _phantom(folder: Path) -> Path:
    from cli.phantom import write_phantom_study

    console.print("Input: a FLAIR-like brain phantom made by code (no real patient).")
    write_phantom_study(folder, random_uids=True)
    return folder


def _settings(data: Path, port: int, pacs_port: int) -> str:
    return f"""
[node]
host = "127.0.0.1"
port = {port}
[storage]
data = "{data}"
min_free_mb = 100
[web]
enabled = false
[completeness]
quiet_seconds = 2
[[peers]]
name = "modality"
ae_title = "{_SENDER}"
[[peers]]
name = "pacs"
ae_title = "{_PACS}"
host = "127.0.0.1"
port = {pacs_port}
archive = true
[[routes]]
name = "brain-flair"
model = "mr-flair-glioma"
min_instances = 5
[routes.match]
Modality = "MR"
SeriesDescription = {{ regex = "(?i)flair" }}
"""


@contextmanager
def _pacs(folder: Path, port: int) -> Iterator[dict[str, datetime]]:
    """A small receiver that stands for the PACS; gives when each modality's object arrived."""
    from pynetdicom import AE, evt

    from core.clock import now
    from node.dimse.contexts import accepted

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.dcm"):
        old.unlink()
    arrivals: dict[str, datetime] = {}

    def on_store(event: evt.Event) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        path = folder / f"{dataset.Modality}-{dataset.SOPInstanceUID}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        arrivals[str(dataset.Modality)] = now()
        return 0x0000

    ae = AE(ae_title=_PACS)
    ae.supported_contexts = accepted()
    handlers = [(evt.EVT_C_STORE, on_store)]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)  # type: ignore[arg-type]
    assert server is not None
    try:
        yield arrivals
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _node(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`sentinode up` as its own process, its log in a file."""
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "cli", "--config", str(config), "up"]
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_door(settings: Settings, node: subprocess.Popen[bytes]) -> None:
    from core.errors import PeerError, SentinodeError
    from core.identifiers import AETitle, DicomAddress
    from node.dimse.scu import echo

    own = AETitle(settings.node.ae_title)
    address = DicomAddress(own, settings.node.host, settings.node.port)
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < deadline and node.poll() is None:
        try:
            echo(_SENDER, address, timeout=2)
        except PeerError:
            time.sleep(_POLL_SECONDS)
        else:
            return
    raise SentinodeError("the node did not open its door", remedy="See node.log.")


def _send(source: Path, settings: Settings) -> None:
    from cli.peers import send_files

    as_modality = settings.model_copy(
        update={"node": settings.node.model_copy(update={"ae_title": _SENDER})}
    )
    own = f"{settings.node.ae_title}@{settings.node.host}:{settings.node.port}"
    send_files(as_modality, own, [source])


def _wait(ledger: Ledger, node: subprocess.Popen[bytes], log: Path) -> Job:
    """Wait until a job ended and nothing is left to be sent.

    Raises:
        SentinodeError: it takes too long, the node ended, or no route took any series.
    """
    from core.errors import SentinodeError
    from core.lifecycle import JOB_OPEN, TRANSFER_OPEN

    deadline = time.monotonic() + _TIMEOUT_SECONDS
    with console.status("waiting for results …"):
        while time.monotonic() < deadline and node.poll() is None:
            with ledger.read() as work:
                jobs = work.views.jobs()
                lives = [work.views.job_life(job.id) for job in jobs]
                studies = work.views.studies()
            series = [item for found in studies for item in found.series]
            if lives and all(
                life.job.state not in JOB_OPEN
                and all(transfer.state not in TRANSFER_OPEN for transfer, _ in life.transfers)
                for life in lives
            ):
                return jobs[0]
            if series and not jobs and all(item.state == "whole" for item in series):
                raise SentinodeError(
                    "no route took any of the series",
                    remedy="The demo's route wants Modality MR and 'flair' in Series Description.",
                )
            time.sleep(_POLL_SECONDS)
    raise SentinodeError("no results in time", remedy=f"See {log}.")


def _timeline(life: JobLife, received: datetime, arrivals: dict[str, datetime]) -> Table:
    job = life.job
    whole = next(
        item.decided_at
        for item in life.study.series
        if item.series_instance_uid in job.series_instance_uids
    )
    sent = max((item.sent_at for item, _ in life.transfers if item.sent_at), default=None)
    steps = [
        ("received (first image)", received),
        ("whole", whole),
        ("queued", job.queued_at),
        ("inference began", job.started_at),
        ("inferred, SEG and SR made", job.finished_at),
        ("sent", sent),
        ("stored at the PACS", max(arrivals.values(), default=None)),
    ]
    table = Table(title="Timeline", title_justify="left")
    for name in ("step", "when", "after"):
        table.add_column(name)
    before: datetime | None = None
    for name, moment in steps:
        wait = f"{(moment - before).total_seconds():+.1f} s" if moment and before else ""
        table.add_row(name, clock_time(moment) or "–", wait)
        before = moment or before
    return table


def _keep_picture(life: JobLife, store: object, out: Path) -> Path | None:
    from core.store import Store

    assert isinstance(store, Store)
    for result in life.results:
        if result.kind == "PICTURE":
            path = out / "picture.png"
            path.write_bytes(store.get(result.store_key))
            return path
    return None


def _paths(received: Path, picture: Path | None, log: Path) -> None:
    for path in sorted(received.glob("*.dcm")):
        console.print(Text(f"PACS got  {path}"), soft_wrap=True)
    if picture is not None:
        console.print(Text(f"picture   {picture}"), soft_wrap=True)
    console.print(Text(f"log       {log}"), soft_wrap=True)


def _kinds(received: Path) -> set[str]:
    return {path.name.partition("-")[0] for path in received.glob("*.dcm")}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()
