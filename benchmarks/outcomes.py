"""What becomes of every file? Send whole folders through a running node and tell, file by file.

    python benchmarks/outcomes.py [FOLDER …] [--list FILE]

Without folders: the files that the package pydicom carries. Every file ends as analysed, not
applicable, failed, routed away, own, held or refused; "silent" and "crashed" would be faults.
A node of its own runs for each round, in a folder that is removed afterwards; files that share
a Study Instance UID (pydicom has one image in many encodings) go into different rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
import tomli_w
import torch
from pydicom.dataset import Dataset
from rich.console import Console
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.domain import IDENTITY_KEYWORDS
from core.errors import PeerError
from core.identifiers import AETitle, DicomAddress
from core.ledger import Ledger
from core.lifecycle import JOB_OPEN, SeriesState
from core.schema import InstanceRow, JobInstanceRow, JobRow, RouteDecisionRow, SeriesRow
from core.settings import load
from models.architectures.threshold import Threshold
from models.weights import save_weights
from node.dimse.scu import Head, associate, contexts_for, store_file

_PATIENCE_SECONDS = 240
_VOLUMES = ("CT", "MR", "PT", "NM")
_IMAGES = ("CR", "DX", "MG", "US", "XA", "RF", "OT", "SC", "ES", "XC", "GM", "SM", "OP", "IO")
_LESION = {"value": "52988006", "scheme": "SCT", "meaning": "Lesion"}


@dataclass
class Sent:
    """One file and what became of it."""

    path: Path
    name: str
    head: Dataset | None
    outcome: str = ""
    reason: str = ""


@dataclass
class Round:
    """Files whose studies do not meet."""

    files: list[Sent] = field(default_factory=list)
    folders: dict[str, Path] = field(default_factory=dict)

    def takes(self, sent: Sent) -> bool:
        study = _study(sent)
        home = self.folders.setdefault(study, sent.path.parent)
        if not study or sent.path in (item.path for item in self.files):
            return True
        same = [item for item in self.files if _study(item) == study]
        if home != sent.path.parent:
            return False
        identity = [str(sent.head.get(key, "")) for key in IDENTITY_KEYWORDS] if sent.head else []
        return all(
            item.head is not None
            and item.head.get("SOPInstanceUID") != sent.head.get("SOPInstanceUID")
            and [str(item.head.get(key, "")) for key in IDENTITY_KEYWORDS] == identity
            for item in same
        )


def main() -> int:
    """Send everything, print the table, then the counts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--list", type=Path, help="write every file's outcome to this file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rounds: list[Round] = []
    everything = list(_files(arguments.folders))
    for sent in everything:
        for known in rounds:
            if known.takes(sent):
                known.files.append(sent)
                break
        else:
            rounds.append(Round())
            rounds[-1].takes(sent)
            rounds[-1].files.append(sent)
    crashed = 0
    for number, known in enumerate(rounds, start=1):
        print(f"round {number} of {len(rounds)}: {len(known.files)} files", flush=True)
        crashed += _run(known)
    _print(everything)
    if arguments.list:
        lines = [f"{item.name}\t{item.outcome}\t{item.reason}\n" for item in everything]
        arguments.list.write_text("".join(lines), encoding="utf-8")
    counts = Counter(item.outcome for item in everything)
    silent = counts.get("silent", 0)
    print(json.dumps({"files": len(everything), **counts, "crashes": crashed, "silent": silent}))
    return 1 if crashed or silent else 0


def _files(folders: list[Path]) -> Iterator[Sent]:
    if not folders:
        folders = [Path(pydicom.__file__).parent / "data" / "test_files"]
    for folder in folders:
        for path in sorted(item for item in folder.rglob("*") if item.is_file()):
            if path.suffix in {".md", ".py", ".txt", ".json", ".zip", ".pyc"}:
                continue
            yield Sent(path, str(path.relative_to(folder)), _head(path))


def _head(path: Path) -> Dataset | None:
    try:
        head = pydicom.dcmread(path, stop_before_pixels=True)
        str(head.SOPClassUID), str(head.file_meta.TransferSyntaxUID)
    except Exception:  # noqa: BLE001 - broken on purpose, some of them
        return None
    return head


def _study(sent: Sent) -> str:
    return str(sent.head.get("StudyInstanceUID", "")) if sent.head is not None else ""


def _run(known: Round) -> int:
    """Send one round through a node; returns how many of its processes crashed."""
    with tempfile.TemporaryDirectory(prefix="outcomes-") as folder:
        config = _config(Path(folder))
        settings = load(config)
        log = Path(folder) / "log"
        with _node(config, log):
            _send(known, DicomAddress(AETitle("SENTINODE"), "127.0.0.1", settings.node.port))
            ledger = Ledger(settings.ledger_url)
            _wait(ledger, sum(not item.outcome for item in known.files))
            with Session(ledger.engine) as session:
                for sent in known.files:
                    if not sent.outcome:
                        _tell(session, sent)
        said = log.read_text(errors="replace")
        crashes = said.count("Traceback (most recent call last)")
        if crashes:
            print(said[said.index("Traceback") :][:3000])
        return crashes


def _config(folder: Path) -> Path:
    _package(folder / "models" / "bright-volumes", "bright-volumes", "volume", _VOLUMES)
    _package(folder / "models" / "bright-images", "bright-images", "image", _IMAGES)
    routes = [
        {"name": kind, "model": f"bright-{kind}", "match": {"Modality": list(modalities)}}
        for kind, modalities in (("volumes", _VOLUMES), ("images", _IMAGES))
    ]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "node": {"host": "127.0.0.1", "port": port, "accept_unknown": True},
        "storage": {"data": str(folder / "data"), "min_free_mb": 1},
        "completeness": {"quiet_seconds": 1, "broken_quiet_seconds": 1},
        "models": {"folders": [str(folder / "models")]},
        "routes": routes,
    }
    path = folder / "sentinode.toml"
    path.write_text(tomli_w.dumps(config), encoding="utf-8")
    return path


def _package(folder: Path, name: str, kind: str, modalities: tuple[str, ...]) -> None:
    """A model without a network: what is brighter than most of the foreground."""
    folder.mkdir(parents=True)
    checksum = save_weights(Threshold(1.5), folder / "weights.safetensors", torch.float32)
    spec = {
        "schema_version": 1,
        "name": name,
        "version": "1.0.0",
        "title": f"Bright regions of {kind}s",
        "intended_use": "trying files; not for clinical use",
        "licence": "Apache-2.0",
        "family": {"value": "123110", "scheme": "DCM", "meaning": "Artificial Intelligence"},
        "input": {"modality": list(modalities), "kind": kind},
        "preprocessing": [{"name": "standardise_foreground"}],
        "network": {"architecture": "threshold", "params": {"level": 1.5}},
        "weights": {"file": "weights.safetensors", "sha256": checksum},
        "output": {
            "labels": [{"channel": 0, "name": "bright", "category": _LESION, "type": _LESION}]
        },
        "training": {"data": "none", "licence": "none", "config": "none"},
    }
    (folder / "model.toml").write_text(tomli_w.dumps(spec), encoding="utf-8")


@contextmanager
def _node(config: Path, log: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "cli", "--config", str(config), "up"]
    with log.open("ab") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while "door_open" not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the node did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _send(known: Round, peer: DicomAddress) -> None:
    """One association for each study: what a study lacks must not hold up another."""
    studies: dict[str, list[Sent]] = {}
    for sent in known.files:
        studies.setdefault(_study(sent) or str(sent.path), []).append(sent)
    for files in studies.values():
        heads = [_negotiated(sent.head) for sent in files if sent.head is not None]
        if not heads:
            for sent in files:
                sent.outcome = "no DICOM file"
                sent.reason = "no SOP Class UID or File Meta: no sender could send it"
            continue
        try:
            with associate("TEST", peer, contexts_for(heads), 60) as association:
                for sent in files:
                    _send_one(sent, association)
        except PeerError as error:
            for sent in files:
                if not sent.outcome:
                    sent.outcome, sent.reason = "refused", str(error)


def _negotiated(head: Dataset) -> Head:
    return Head(str(head.SOPClassUID), str(head.file_meta.TransferSyntaxUID))


def _send_one(sent: Sent, association: object) -> None:
    if sent.head is None:
        sent.outcome, sent.reason = "no DICOM file", "no SOP Class UID or File Meta"
        return
    try:
        head = _negotiated(sent.head)
        status, comment = store_file(association, sent.path, head)  # type: ignore[arg-type]
    except PeerError as error:
        sent.outcome, sent.reason = "refused", str(error)
        return
    except Exception as error:  # noqa: BLE001 - the sender's own library cannot send it
        sent.outcome, sent.reason = "not sendable", f"{type(error).__name__}: {error}"[:120]
        return
    if status != 0:
        sent.outcome, sent.reason = "refused", f"0x{status:04X} {comment}"


def _wait(ledger: Ledger, expected: int) -> None:
    """Until every instance is filed, every series decided and every job ended."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with Session(ledger.engine) as session:
            filed = len(session.scalars(select(InstanceRow.id)).all())
            states = session.scalars(select(SeriesRow.state)).all()
            jobs = session.scalars(select(JobRow.state)).all()
        open_series = [state for state in states if state == SeriesState.RECEIVING]
        if filed >= expected and not open_series and not set(jobs) & set(JOB_OPEN):
            return
        time.sleep(0.3)
    print("some did not end in time")


def _tell(session: Session, sent: Sent) -> None:
    uid = str(sent.head.get("SOPInstanceUID", "")) if sent.head is not None else ""
    instance = session.scalars(
        select(InstanceRow).where(InstanceRow.sop_instance_uid == uid)
    ).first()
    if instance is None:
        sent.outcome, sent.reason = "silent", "answered 0x0000, but not in the ledger"
        return
    job = session.scalars(
        select(JobRow)
        .join(JobInstanceRow, JobInstanceRow.job_id == JobRow.id)
        .where(JobInstanceRow.instance_id == instance.id)
        .order_by(JobRow.created_at.desc())
    ).first()
    if job is not None:
        sent.outcome = "analysed" if job.state == "done" else job.state.replace("_", " ")
        sent.reason = job.reason
        return
    series = session.get(SeriesRow, instance.series_instance_uid)
    assert series is not None
    if series.state == SeriesState.OWN:
        sent.outcome, sent.reason = "own", "our own result"
        return
    reasons = session.scalars(
        select(RouteDecisionRow.reason).where(
            RouteDecisionRow.series_instance_uid == series.series_instance_uid
        )
    ).all()
    sent.outcome = "routed away" if reasons else "silent"
    sent.reason = reasons[0] if reasons else "no route decided"


def _print(everything: list[Sent]) -> None:
    table = Table("files", "outcome", "reason", "for example")
    groups: dict[tuple[str, str], list[Sent]] = {}
    for sent in everything:
        groups.setdefault((sent.outcome, sent.reason[:110]), []).append(sent)
    for (outcome, reason), files in sorted(groups.items(), key=lambda item: item[0]):
        table.add_row(str(len(files)), outcome, reason, files[0].name)
    Console(width=200).print(table)


if __name__ == "__main__":
    sys.exit(main())
