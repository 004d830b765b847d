"""Phantoms through one running node, and all that came of it.

DCMTK sends, Sentinode analyses with two models that find what is bright, Orthanc receives.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.uid import ExplicitVRLittleEndian

from core.domain import Finding
from core.ledger import Ledger
from core.ledger.views import JobLife
from core.lifecycle import JOB_OPEN, TransferState
from core.settings import load
from support import packages, phantoms
from support.peers import (
    DCMTK_ENVIRONMENT,
    Orthanc,
    RunningNode,
    free_port,
    orthanc,
    require_program,
    storescu,
    wait_for,
)
from support.phantoms import Phantom

IMAGE_MODALITIES = ("CR", "DX", "MG", "US", "XA", "OT")
ABDOMEN = {"value": "818983003", "scheme": "SCT", "meaning": "Abdomen"}

CONFIG = """
[node]
host = "127.0.0.1"
port = {port}
[storage]
data = "{data}"
min_free_mb = 1
[completeness]
quiet_seconds = 1
broken_quiet_seconds = 1
[models]
folders = ["{zoo}"]
[logs]
level = "debug"
[[peers]]
name = "modality"
ae_title = "MR1"
[[peers]]
name = "pacs"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {pacs_port}
archive = true
"""
ROUTE = """
[[routes]]
name = "{model}"
model = "{model}"
[routes.match]
Modality = {modality}
"""
BRIGHT = {"bright-volumes": ("CT", "MR", "PT"), "bright-images": IMAGE_MODALITIES}


@dataclass(repr=False)
class Day:
    """What went in and what came out.

    Attributes:
        phantoms, sources: by name; the latter as files.
        lives: the jobs, by the phantom's name.
        objects: what Orthanc holds, by SOP Instance UID.
        log: the node's.
    """

    phantoms: dict[str, Phantom]
    sources: dict[str, list[Path]]
    lives: dict[str, JobLife]
    objects: dict[str, Path]
    log: str

    def lesions(self, name: str) -> list[Finding]:
        """What was found in a phantom."""
        return [item for item in self.lives[name].findings if item.present]

    def made(self, name: str, kind: str) -> list[Path]:
        """A phantom's objects of a kind, as Orthanc gave them back."""
        results = [item for item in self.lives[name].results if item.kind == kind]
        return [self.objects[item.sop_instance_uid] for item in results]


def spend_day(
    folder: Path,
    made: Mapping[str, Phantom],
    encodings: Mapping[str, str],
    routes: Mapping[str, Sequence[str]] = BRIGHT,
) -> Day:
    """All phantoms in, all results out; the node and the archive have ended then.

    `encodings` says, by the phantom's name, which of `phantoms.ENCODINGS` it travels in; `routes`
    which modalities go to which model: those that find what is bright, or those in the box.
    """
    zoo = folder / "zoo"
    # against a background that is noisy enough to be the volume's foreground too
    label = {"sided": True, "site": ABDOMEN}
    packages.write_threshold(zoo, "bright-volumes", level=3.0, label=label)
    # a phantom's image has two values: the brighter one alone is its foreground, at 0
    packages.write_threshold(
        zoo, "bright-images", kind="image", modality=IMAGE_MODALITIES, level=-3.0
    )
    native, encoded = folder / "native", folder / "encoded"
    sources = {}
    for number, (name, phantom) in enumerate(made.items()):
        datasets = phantom.datasets
        if name in encodings:
            datasets = [phantoms.encoded(item, encodings[name]) for item in datasets]
        syntax = datasets[0].file_meta.TransferSyntaxUID
        into = native if syntax == ExplicitVRLittleEndian else encoded
        written = phantoms.write(datasets, into / f"{number:02d}")
        # the checkers cannot read all syntaxes: they get what it was before it was encoded
        before = folder / "before" / f"{number:02d}"
        sources[name] = phantom.write(before) if name in encodings else written
    config = folder / "sentinode.toml"
    with orthanc(folder / "orthanc") as pacs:
        port = free_port()
        values = {"port": port, "data": folder / "data", "zoo": zoo, "pacs_port": pacs.port}
        rules = [
            ROUTE.format(model=name, modality=json.dumps(list(kinds)))
            for name, kinds in routes.items()
        ]
        config.write_text(CONFIG.format(**values) + "".join(rules))
        ledger = Ledger(load(config).ledger_url)
        ledger.upgrade()
        node = RunningNode(config, folder / "node.log")
        node.start()
        try:
            wait_for(lambda: "door_open" in node.log, 60, "the door is open")
            sent = storescu(port, [native])
            assert sent.returncode == 0, sent.stderr
            if encodings:
                dcmsend(port, encoded)
            names = {item.datasets[0].SeriesInstanceUID: name for name, item in made.items()}
            lives = wait_for(lambda: ended(ledger, names), 120, "all jobs are done and delivered")
            objects = fetch(pacs, folder / "objects")
        finally:
            stopped = node.stop()
            ledger.close()
    assert stopped == 0
    return Day(dict(made), sources, lives, objects, node.log)


def dcmsend(port: int, folder: Path) -> None:
    """Send files in the transfer syntaxes that they are in, which storescu does not."""
    program = require_program("dcmsend", "/usr/bin")
    command = [program, "-aet", "MR1", "-aec", "SENTINODE", "--decompress-never"]
    command += ["127.0.0.1", str(port), "+sd", "+r", str(folder)]
    subprocess.run(
        command, env=DCMTK_ENVIRONMENT, check=True, capture_output=True, text=True, timeout=60
    )


def ended(ledger: Ledger, names: dict[str, str]) -> dict[str, JobLife] | None:
    """The life of every phantom's job, once all of them have ended and all is delivered."""
    with ledger.read() as work:
        jobs = work.views.jobs()
        if len(jobs) < len(names) or any(job.state in JOB_OPEN for job in jobs):
            return None
        lives = [work.views.job_life(job.id) for job in jobs]
    transfers = [item for life in lives for item, _ in life.transfers]
    if any(item.state != TransferState.SENT for item in transfers):
        return None
    assert len(jobs) == len(names)
    return {names[life.job.series_instance_uids[0]]: life for life in lives}


def fetch(pacs: Orthanc, folder: Path) -> dict[str, Path]:
    """Everything that the archive holds, as files."""
    folder.mkdir()
    found = {}
    for number, instance in enumerate(pacs.get("/instances")):
        path = folder / f"{number:03d}.dcm"
        path.write_bytes(pacs.get(f"/instances/{instance}/file"))
        found[str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)] = path
    return found
