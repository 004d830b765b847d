"""Webhooks: told once, again until taken, signed, and nothing of a patient."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.instances import T0, incoming
from support.web import url_of

from core.ledger import Ledger
from core.ledger.jobs import NewJob
from core.lifecycle import JobState
from core.settings import Settings
from node.keeping.disk import Disk, Level
from node.notices import watch
from node.notices.post import SIGNATURE, Poster, sign
from node.notices.watch import Watch

SECOND = timedelta(seconds=1)


class Receiver:
    """A web server that keeps what it is told; `status` is what it answers."""

    def __init__(self) -> None:
        self.status = 200
        self.told: list[tuple[dict[str, str], dict[str, Any], bytes]] = []
        kept = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                kept.told.append((dict(self.headers), json.loads(content), content))
                self.send_response(kept.status)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def events(self) -> list[str]:
        return [body["event"] for _, body, _ in self.told]


@pytest.fixture
def hook() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


class World:
    """A node with a webhook and a clock that we turn."""

    def __init__(
        self, ledger: Ledger, make: Callable[..., Settings], hook: Receiver, **notice: Any
    ) -> None:
        self.now = T0
        self.ledger = ledger
        notices = [{"name": "ops", "url": hook.url, **notice}]
        self.settings = make(notices=notices, ledger={"url": url_of(ledger)})
        self.watch = Watch(self.settings, ledger, "node-1", self.clock)
        self.poster = Poster(self.settings, ledger, self.clock)
        self.step()  # what was before is past

    def clock(self) -> datetime:
        return self.now

    def step(self) -> None:
        self.watch.step()
        self.poster.step()

    def fail_a_job(self, series: str = "1.2.3.4") -> str:
        with self.ledger.write() as work:
            work.filing.file(incoming(), self.now)
        with self.ledger.write() as work:
            instances = tuple(work.series.instances(series))
            new = NewJob("1.2.3", (series,), instances, "r", "m", "1.0.0", "cpu", ("pacs",))
            job_id = work.jobs.create(new, self.now)
            assert job_id is not None
            work.jobs.to_publish(self.now, 20 * SECOND)
        with self.ledger.write() as work:
            assert work.jobs.claim(job_id, "w:1", self.now + 30 * SECOND, self.now)
        with self.ledger.write() as work:
            reason = "PatientName is Phantom^Test"  # should a reason ever quote one
            work.jobs.finish(job_id, "w:1", JobState.FAILED, self.now, reason=reason)
        return job_id

    def trouble(self, failures: int) -> None:
        with self.ledger.write() as work:
            for _ in range(failures):
                work.circuits.failed("pacs", "away", self.now)


@pytest.fixture
def world(
    ledger: Ledger, make_settings: Callable[..., Settings], hook: Receiver
) -> Iterator[World]:
    made = World(ledger, make_settings, hook, secret="s3cret")
    yield made
    made.poster.close()


def test_a_failed_job_is_told_once_signed_and_without_the_patient(
    world: World, hook: Receiver
) -> None:
    job = world.fail_a_job()
    other = Watch(world.settings, world.ledger, "node-2", world.clock)
    for _ in range(3):
        world.step()
        other.step()
    ((headers, body, content),) = hook.told
    assert (body["event"], body["job"], body["state"]) == ("job_failed", job, "failed")
    assert body["node"] == "SENTINODE"
    assert b"Phantom" not in content
    assert b"PHANTOM" not in content
    moment, _, signature = headers[SIGNATURE].partition(",")
    assert signature == f"v1={sign('s3cret', moment.removeprefix('t='), content)}"


def test_it_is_told_again_until_it_is_taken(world: World, hook: Receiver) -> None:
    hook.status = 503
    world.fail_a_job()
    world.step()
    assert hook.events == ["job_failed"]
    world.step()
    assert len(hook.told) == 1  # not before its time
    world.now += 6 * SECOND
    hook.status = 302  # where it points to is not followed
    world.step()
    assert len(hook.told) == 2
    world.now += 60 * SECOND
    hook.status = 204
    world.step()
    world.now += timedelta(hours=2)
    world.step()
    assert len(hook.told) == 3


def test_it_is_given_up_after_a_day(world: World, hook: Receiver) -> None:
    hook.status = 500
    world.fail_a_job()
    world.step()
    world.now += timedelta(hours=25)
    world.step()
    world.now += timedelta(hours=25)
    world.step()
    assert len(hook.told) == 2


def test_a_destination_is_told_down_once_and_well_once(world: World, hook: Receiver) -> None:
    world.trouble(1)
    world.step()
    assert hook.events == []  # once is no news
    world.trouble(5)
    for _ in range(3):
        world.step()
    assert hook.events == ["destination_down"]
    # another process, begun since, knows what was said
    world.watch = Watch(world.settings, world.ledger, "node-1", world.clock)
    world.step()
    assert hook.events == ["destination_down"]
    with world.ledger.write() as work:
        work.circuits.well("pacs", world.now)
    for _ in range(2):
        world.step()
    assert hook.events == ["destination_down", "destination_well"]
    world.trouble(3)
    world.step()
    assert hook.events[2:] == ["destination_down"]


def test_a_disk_is_told_low_and_well(
    world: World, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = Level.LOW

    def disks(_: Settings) -> list[Disk]:
        return [Disk(("spool", "store"), Path("/x"), 100, 1000, level)]

    monkeypatch.setattr(watch, "disks", disks)
    world.step()
    world.step()
    level = Level.WELL
    world.step()
    assert hook.events == ["disk_low", "disk_well"]
    assert hook.told[0][1]["holds"] == ["spool", "store"]


def test_only_what_is_wanted_is_told(
    ledger: Ledger, make_settings: Callable[..., Settings], hook: Receiver
) -> None:
    world = World(ledger, make_settings, hook, events=["destination_well"])
    world.fail_a_job()
    world.trouble(4)
    world.step()
    assert hook.events == []
    with ledger.write() as work:
        work.circuits.well("pacs", world.now)
    world.step()
    assert hook.events == ["destination_well"]
    assert SIGNATURE not in hook.told[0][0]
    world.poster.close()


def test_a_receiver_that_is_away_holds_nobody_up(world: World, hook: Receiver) -> None:
    hook.server.server_close()
    world.fail_a_job()
    world.step()
    with world.ledger.read() as work:
        assert work.notices.last(("job_failed",), "job:")[0] == "job_failed"
