"""A node with a day behind it, for pictures of its pages: real work on phantoms, then trouble.

The models in the box analyse phantoms that Orthanc then holds. What cannot be waited for (a job
that runs, one that failed, a destination that is down) is written into the ledger.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from pydicom.dataset import Dataset

from core import clock
from core.ledger import Ledger
from core.ledger.jobs import NewJob
from core.lifecycle import JOB_OPEN, JobState
from core.settings import load
from support import lifelike, phantoms
from support.instances import incoming, mr_slice
from support.peers import RunningNode, free_port, orthanc, storescu, wait_for
from support.phantoms import PATIENTS, Patient, Study
from support.web import Site, encoded, serving

CONFIG = """
[node]
host = "127.0.0.1"
port = {port}
[web]
port = {web}
[storage]
data = "{data}"
min_free_mb = {least}
[completeness]
quiet_seconds = 2
[[peers]]
name = "mr1"
ae_title = "MR1"
[[peers]]
name = "workstation"
ae_title = "VIEWER"
query = true
worklist = true
[[peers]]
name = "pacs"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {pacs}
archive = true
[[peers]]
name = "research"
ae_title = "RESEARCH"
host = "127.0.0.1"
port = {nobody}
"""
ROUTES = {
    "mr-flair-glioma": '["MR"]\nSeriesDescription = { regex = "(?i)flair" }',
    "us-breast": '["US"]',
    "cxr-tb": '["CR", "DX"]',
    "pet-suv": '["PT"]',
    "ct-density": '["CT"]',
}
_FAULTS = (
    (JobState.FAILED, "the device ran out of memory (12.1 GB wanted, 8.0 GB there)",
     "Lower worker.batch_size, or give the route to a queue with a larger device; then retry."),
    (JobState.QUARANTINED, "three workers died with this job",
     "See the worker's log of 03:12; retry with a worker of its own."),
    (JobState.NOT_APPLICABLE, "it looks like none of the training images (distance 41, at most 24)",
     ""),
    (JobState.FAILED, "the weights do not fit their checksum", "Install the package again."),
)  # fmt: skip


@contextmanager
def empty_site(folder: Path) -> Iterator[Site]:
    """Nothing came yet."""
    with _site(folder, least=1) as made:
        yield made


@contextmanager
def full_site(folder: Path) -> Iterator[Site]:
    """A day of work; the folder keeps it, so that the second time is quick."""
    config = folder / "sentinode.toml"
    if not (folder / "done").exists():
        _spend_a_day(folder)
        (folder / "done").touch()
        with _over(config) as made:
            _add_lines(made)
    with _over(config) as made:
        yield made


@contextmanager
def troubled_site(folder: Path) -> Iterator[Site]:
    """Jobs failed, a destination is down, another paused, the disk is full, patients disagree."""
    with _site(folder, least=10_000_000) as made:
        for number in range(6):
            state, reason, remedy = _FAULTS[number % len(_FAULTS)]
            _add(made, number, state, reason=reason, remedy=remedy)
        held = _add(made, 7, None)
        other = mr_slice(9, StudyInstanceUID=held, PatientID="PHANTOM-OTHER", PatientName="X^Y")
        _file(made, [other], timedelta(minutes=2))
        _add(made, 8, None, name="Phantom-With-A-Very-Long-Family-Name^Maximiliane^Alexandra")
        now = clock.now()
        with made.ledger.write() as work:
            for tries in range(4):
                work.circuits.failed(
                    "pacs", "connection refused (127.0.0.1)", now + timedelta(minutes=2**tries)
                )
            work.circuits.pause("research", True)
        yield made


@contextmanager
def _site(folder: Path, least: int) -> Iterator[Site]:
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "sentinode.toml"
    _configure(config, least, free_port())
    with _over(config) as made:
        yield made


@contextmanager
def _over(config: Path) -> Iterator[Site]:
    settings = load(config)
    ledger = Ledger(settings.ledger_url)
    ledger.upgrade()
    try:
        with serving(settings, ledger) as made:
            yield made
    finally:
        ledger.close()


def _configure(config: Path, least: int, pacs: int) -> None:
    values = {"port": free_port(), "web": free_port(), "nobody": free_port(), "pacs": pacs}
    text = CONFIG.format(data=config.parent / "data", least=least, **values)
    for name, match in ROUTES.items():
        text += f'[[routes]]\nname = "{name}"\nmodel = "{name}"\ndestinations = ["pacs"]\n'
        text += f"[routes.match]\nModality = {match}\n"
    config.write_text(text)


def _spend_a_day(folder: Path) -> None:
    config = folder / "sentinode.toml"
    with orthanc(folder / "orthanc") as pacs:
        _configure(config, 1, pacs.port)
        settings = load(config)
        ledger = Ledger(settings.ledger_url)
        ledger.upgrade()
        node = RunningNode(config, folder / "node.log")
        node.start()
        try:
            wait_for(lambda: "door_open" in node.log, 60, "the door is open")
            for number, item in enumerate(_images(folder)):
                paths = phantoms.write(item, folder / "images" / f"{number:02d}")
                assert storescu(settings.node.port, paths).returncode == 0
            wait_for(lambda: _rests(ledger), 200, "all work is done")
        finally:
            node.stop()
            ledger.close()


def _rests(ledger: Ledger) -> bool:
    with ledger.read() as work:
        jobs = work.views.jobs()
        lives = [work.views.job_life(job.id) for job in jobs]
    sent = all(item.state == "sent" for life in lives for item, _ in life.transfers)
    return len(jobs) >= 7 and sent and not any(job.state in JOB_OPEN for job in jobs)


def _images(folder: Path) -> Iterator[list[Dataset]]:
    def study(seed: int, patient: Patient, accession: str) -> Study:
        return Study(seed=seed, patient=patient, accession_number=accession)

    yield lifelike.brain(folder / "brain").datasets
    yield lifelike.film(study=study(21, Patient("Phantom^Chest", "PHANTOM-C"), "A-0021")).datasets
    yield lifelike.scan(study=study(22, Patient("Phantom^Breast", "PHANTOM-U"), "A-0022")).datasets
    body = study(23, Patient("Phantom^Body", "PHANTOM-X"), "A-0023")
    yield phantoms.pet(body).datasets
    yield phantoms.ct("plain", body).datasets
    yield phantoms.us("RGB", 12, study(24, PATIENTS["chinese"], "A-0024")).datasets
    yield phantoms.cr(study(25, PATIENTS["japanese"], "A-0025")).datasets


def _add_lines(made: Site) -> None:
    """More lines of the worklist, in every state."""
    states = [JobState.DONE] * 24 + [JobState.CANCELLED, JobState.NOT_APPLICABLE, JobState.FAILED]
    for number, state in enumerate(states, start=10):
        reason = {JobState.CANCELLED: "by operator", JobState.NOT_APPLICABLE: _FAULTS[2][1]}
        told = {"reason": reason.get(state, "")}
        if state == JobState.FAILED:
            told = {"reason": _FAULTS[0][1], "remedy": _FAULTS[0][2]}
        _add(made, number, state, **told)
    for number in (40, 41, 42, 43):
        _add(made, number, JobState.RUNNING if number == 40 else None)
    arriving = [
        mr_slice(n, **_of(50), SOPInstanceUID=f"{_of(50)['SeriesInstanceUID']}.{n}")
        for n in range(1, 10)
    ]
    _file(made, arriving, timedelta(seconds=4))


def _of(number: int, name: str = "") -> dict[str, str]:
    study = f"1.2.826.0.1.77.{number}"
    return {
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"{study}.1",
        "PatientID": f"PHANTOM-{number:03d}",
        "PatientName": name or f"Phantom^{random.Random(number).choice(_GIVEN)}",
        "AccessionNumber": f"A-{number:04d}",
        "StudyDescription": random.Random(number).choice(_STUDIES),
        "StudyDate": f"{clock.now():%Y%m%d}",
    }


_GIVEN = ("Ada", "Bo", "Chiara", "Dag", "Emre", "Fumiko", "Grete", "Hao", "Ines", "Jorge")
_STUDIES = ("MR Head", "MR Brain with contrast", "MR Neuro tumour follow-up", "MR Schaedel nativ")


def _file(made: Site, images: list[Dataset], ago: timedelta) -> None:
    with made.ledger.write() as work:
        for image in images:
            content = encoded(image)
            key = f"instances/{image.SOPInstanceUID}"
            made.store.put_bytes(key, content)
            at = clock.now() - ago
            one = incoming(image, store_key=key, size=len(content), received_at=at)
            work.filing.file(one, at)


def _add(made: Site, number: int, state: JobState | None, *, name: str = "", **told: str) -> str:
    """A study with a job in a state; None is one that waits."""
    values = _of(number, name)
    chosen = random.Random(number)
    ago = timedelta(seconds=chosen.uniform(30, 3600 * (1 if number >= 40 else 9)))
    _file(made, [mr_slice(n, **values) for n in (1, 2, 3)], ago)
    began = clock.now() - ago + timedelta(seconds=8)
    series = values["SeriesInstanceUID"]
    with made.ledger.write() as work:
        revision = work.series.get(series).revision
        work.series.mark_whole(series, revision, "quiet for 8 s, and no gap", began)
        job = work.jobs.create(
            NewJob(
                values["StudyInstanceUID"], (series,), tuple(work.series.instances(series)),
                "mr-flair-glioma", "mr-flair-glioma", "1.0.0", "gpu", ("pacs",), sender="MR1",
                priority=10 if number % 9 == 5 else 0,
            ),
            began,
        )  # fmt: skip
        assert job is not None
    if state is None:
        return values["StudyInstanceUID"]
    with made.ledger.write() as work:
        work.jobs.to_publish(began, timedelta(seconds=20))
    began += timedelta(seconds=chosen.uniform(0.1, 4))
    with made.ledger.write() as work:
        work.jobs.claim(job, "gpu-1:4711", clock.now() + timedelta(minutes=5), began)
    if state == JobState.CANCELLED:
        with made.ledger.write() as work:
            work.jobs.cancel(job, "operator", began)
    elif state != JobState.RUNNING:
        ended = began + timedelta(seconds=chosen.uniform(4, 19))
        with made.ledger.write() as work:
            work.jobs.finish(job, "gpu-1:4711", state, ended, **told)
    return values["StudyInstanceUID"]
