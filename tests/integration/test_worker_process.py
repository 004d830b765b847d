"""A real worker: Celery, its computing child, a real broker, and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.instances import T0, incoming, mr_slice
from support.packages import write_threshold

from core import clock
from core.domain import Job
from core.ledger import Ledger
from core.ledger.jobs import NewJob
from core.lifecycle import JobState
from core.processes import PARENT_VARIABLE
from core.queue import make_app, ping, ping_workers, publish, socket_path
from core.settings import Settings, load
from core.store import Store

SECOND = timedelta(seconds=1)
PATIENCE = 60.0

# The worker as it is, but for an analysis that never ends and never looks whether it should.
WORKER = """
import os, sys, time
from pathlib import Path
import workers.board, workers.pipeline
from core import logs
from core.processes import die_with_parent
from core.settings import load
from workers.app import run_worker

def analyse(*args, job_id, **kwargs):
    (Path(sys.argv[2]) / job_id).write_text(str(os.getpid()))
    while True:
        time.sleep(60)

workers.pipeline.analyse = analyse
workers.board.Watch.__init__.__kwdefaults__["grace"] = 0.5
settings = load(Path(sys.argv[1]))
logs.configure(settings.logs, "worker")
die_with_parent()
run_worker(settings)
"""

SETTINGS = """
[storage]
data = "data"
[jobs]
lease_seconds = 600
[worker]
device = "cpu"
stop_seconds = 1
[models]
folders = ["zoo"]
"""


def until(what: Callable[[], Any]) -> Any:
    """Wait for something that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (value := what()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
    return value


class Site:
    """A ledger, a broker and a worker, each where `sentinode up` would have it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "sentinode.toml"
        self.config.write_text(SETTINGS)
        self.marks = folder / "marks"
        self.marks.mkdir()
        write_threshold(folder / "zoo", "patient", limits={"seconds": 3600})
        write_threshold(folder / "zoo", "hasty", limits={"seconds": 0.5})
        self.settings: Settings = load(self.config)
        self.ledger = Ledger(self.settings.ledger_url)
        self.ledger.upgrade()
        self.app = make_app(self.settings)
        environment = os.environ | {PARENT_VARIABLE: str(os.getpid())}
        self.broker = subprocess.Popen(
            [sys.executable, "-m", "cli", "--config", str(self.config), "broker"], env=environment
        )
        until(socket_path(self.settings).exists)
        until(self._broker_answers)
        self.worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(self.config), str(self.marks)], env=environment
        )

    def _broker_answers(self) -> bool:
        ping(self.app)
        return True

    def close(self) -> None:
        for process in (self.worker, self.broker):
            if process.poll() is None:
                process.kill()
            process.wait()
        self.ledger.close()
        self.app.close()

    def queue(self, number: int, model: str) -> str:
        series = f"1.2.3.{number}"
        with self.ledger.write() as work:
            image = incoming(mr_slice(number, SeriesInstanceUID=series))
            Store(self.settings.store_url).put_bytes(image.store_key, b"an image")
            work.filing.file(image, T0)
            new = NewJob(
                "1.2.3", (series,), tuple(work.series.instances(series)), "r", model, "1.0.0",
                "cpu", (),
            )  # fmt: skip
            job_id = work.jobs.create(new, clock.now())
            assert job_id is not None
        self.publish()
        return job_id

    def publish(self) -> None:
        with self.ledger.write() as work:
            jobs = work.jobs.to_publish(clock.now(), 600 * SECOND)
        for job in jobs:
            publish(self.app, job.id, job.queue)

    def job(self, job_id: str) -> Job:
        with self.ledger.read() as work:
            return work.views.job(job_id)

    def computing(self, job_id: str) -> int:
        """The process that computes a job, once it does."""
        mark = self.marks / job_id
        pid = int(until(lambda: mark.exists() and mark.read_text()))
        mark.unlink()
        return pid


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def test_a_worker_s_deaths_and_ends(site: Site) -> None:
    """Leases last ten minutes here: nothing waits for one to run out."""
    # a child that dies gives its job back at once, and is blamed for it
    killed = site.queue(1, "patient")
    os.kill(site.computing(killed), signal.SIGKILL)
    died = time.monotonic()
    until(lambda: site.job(killed).state == JobState.WAITING)
    print(f"given back {time.monotonic() - died:.2f} s after the death")
    assert site.job(killed).deaths == 1
    site.publish()
    os.kill(site.computing(killed), signal.SIGKILL)
    until(lambda: site.job(killed).state == JobState.QUARANTINED)

    # the next one is not held up; it hangs, so its process is ended and it is not tried again
    hung = site.queue(2, "hasty")
    pid = site.computing(hung)
    until(lambda: site.job(hung).state == JobState.FAILED)
    assert "longer than 0.5 s" in site.job(hung).reason
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)

    # a worker of this machine answers under its name
    names = until(lambda: ping_workers(site.app, here=True))
    assert [name.partition("@")[0] for name in names] == [f"sentinode-{site.worker.pid}"]

    # a worker that is stopped gives its job back, which is no death
    stopped = site.queue(3, "patient")
    site.computing(stopped)
    site.worker.terminate()
    until(lambda: site.job(stopped).state == JobState.WAITING)
    job = site.job(stopped)
    assert (job.deaths, job.attempt) == (0, 1)
    assert "stopped" in job.reason
