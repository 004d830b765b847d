"""The commands that ask peers, with Orthanc, DCMTK's dcmqrscp and an archive that misbehaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from support.archives import Archive, FakeArchive, dcmqrscp, orthanc_archive
from support.console import run
from support.instances import mr_slice
from support.ledgers import new_ledger
from support.packages import write_spec
from support.peers import free_port, wait_for

from core.ledger import Ledger
from core.settings import Settings, load
from core.store import Store
from node.door.scp import Door
from node.fetching.criteria import criteria_of, span_of
from node.fetching.fetch import Fetcher, Order
from node.fetching.find import ask
from node.fetching.question import question_of
from node.fetching.stopping import StoppedError
from node.fetching.throttle import Pace, Throttle
from node.filing.intake import Intake

NODE_PORT = free_port()
STOPPED = 130


def study(number: int, day: str = "", series: int = 2, **attributes: Any) -> list[Dataset]:
    """A study of brain and knee series with two images each."""
    values = {"StudyDate": day or f"202401{number:02d}", "PatientID": f"P{number}"} | attributes
    return [
        mr_slice(
            image,
            rows=4,
            columns=4,
            StudyInstanceUID=f"1.2.{number}",
            SeriesInstanceUID=f"1.2.{number}.{one}",
            SOPInstanceUID=f"1.2.{number}.{one}.{image}",
            BodyPartExamined="BRAIN" if one == 1 else "KNEE",
            **values,
        )
        for one in range(1, series + 1)
        for image in (1, 2)
    ]


STUDIES = [image for number in (1, 2, 3) for image in study(number)]


@dataclass
class Site:
    """A node's folder, its ledger, and its intake when it is asked to work."""

    settings: Settings
    ledger: Ledger
    intake: Intake
    config: Path

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """A command with this site's settings."""
        return run("--config", str(self.config), *arguments)

    def file(self) -> dict[str, int]:
        """Let intake work; how many images each series has then."""
        while self.intake.step():
            pass
        return self.held()

    def held(self) -> dict[str, int]:
        """How many images each series has."""
        with self.ledger.read() as work:
            uids = [
                series.series_instance_uid
                for item in work.views.studies(100)
                for series in item.series
            ]
            return dict(work.backlog.held(uids))

    @property
    def orders(self) -> list[Path]:
        """The journals of orders that are not over."""
        return sorted((self.settings.data / "orders").glob("*.jsonl"))


@pytest.fixture
def make_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Site]]:
    monkeypatch.setenv("COLUMNS", "250")
    made: list[Ledger] = []

    def make(*peers: dict[str, Any], **sections: Any) -> Site:
        config = tmp_path / "sentinode.toml"
        content = {
            "node": {"host": "127.0.0.1", "port": NODE_PORT},
            "storage": {"min_free_mb": 1, "warn_free_mb": 1, "fsync": False},
            "peers": list(peers),
            **sections,
        }
        config.write_text(tomli_w.dumps(content))
        settings = load(config)
        ledger = new_ledger(settings.data / "ledger.db")
        made.append(ledger)
        settings.spool.mkdir(parents=True, exist_ok=True)
        intake = Intake(settings.spool, Store(settings.store_url), ledger)
        return Site(settings, ledger, intake, config)

    yield make
    for ledger in made:
        ledger.close()


@pytest.fixture(scope="module", params=["orthanc", "dcmqrscp"])
def archive(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp(request.param)
    known = {"SENTINODE": NODE_PORT}
    with contextlib.ExitStack() as stack:
        if request.param == "orthanc":
            made, _ = stack.enter_context(orthanc_archive(folder, known))
        else:
            made = stack.enter_context(dcmqrscp(folder, known))
        made.put(STUDIES)
        yield made


@pytest.fixture
def fake() -> Iterator[FakeArchive]:
    with FakeArchive(STUDIES).running() as made:
        yield made


def peer_of(archive: Archive | FakeArchive, **more: Any) -> dict[str, Any]:
    return {
        "name": "pacs",
        "ae_title": archive.ae_title,
        "host": "127.0.0.1",
        "port": archive.port,
        **more,
    }


@contextlib.contextmanager
def door_of(site: Site) -> Iterator[Door]:
    door = Door(site.settings)
    try:
        yield door
    finally:
        door.close(grace_seconds=5)


# with real archives


def test_find_says_what_a_peer_has(make_site: Callable[..., Site], archive: Archive) -> None:
    site = make_site(peer_of(archive))
    code, out, _ = site.run("find", "pacs", "StudyDate=20240102-20240103", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert (code, sorted(item["StudyInstanceUID"] for item in found)) == (0, ["1.2.2", "1.2.3"])
    code, out, _ = site.run("find", "pacs", "--level", "SERIES", "StudyInstanceUID=1.2.1")
    assert code == 0
    assert "2 match(es)" in out and "1.2.1.2" in out
    above = ("StudyInstanceUID=1.2.1", "SeriesInstanceUID=1.2.1.1")
    code, out, _ = site.run("find", "pacs", "--level", "IMAGE", *above, "--json")
    assert (code, len(out.splitlines())) == (0, 2)
    code, out, _ = site.run("find", "pacs", "--level", "PATIENT", "PatientID=P2", "--json")
    assert [json.loads(line)["PatientID"] for line in out.splitlines()] == ["P2"]
    # a peer that is in no settings is asked by its address
    code, out, err = site.run("find", str(archive.address), "StudyDate=20240102")
    assert (code, "1.2.2" in out) == (0, True), err


def test_get_files_what_comes_like_any_image(
    make_site: Callable[..., Site], archive: Archive
) -> None:
    site = make_site(peer_of(archive, send=False))
    code, out, err = site.run("get", "pacs", "1.2.1")
    assert (code, "4 object(s) into the spool" in out) == (0, True), err
    assert site.file() == {"1.2.1.1": 2, "1.2.1.2": 2}
    code, _, err = site.run("get", "pacs", "1.2.2", "--series", "1.2.2.2")
    assert code == 0, err
    series = ("--series", "1.2.2.1", "--instance", "1.2.2.1.2")
    assert site.run("get", "pacs", "1.2.2", *series)[0] == 0
    assert site.file() == {"1.2.1.1": 2, "1.2.1.2": 2, "1.2.2.2": 2, "1.2.2.1": 1}
    with site.ledger.read() as work:
        (came,) = work.views.associations("1.2.2.1")
    assert (came.calling_ae, came.called_ae, came.end) == (
        archive.ae_title,
        "SENTINODE",
        "released",
    )


def test_move_brings_a_study_to_our_door(make_site: Callable[..., Site], archive: Archive) -> None:
    site = make_site(peer_of(archive))
    with door_of(site):
        code, out, err = site.run("move", "pacs", "1.2.3")
    assert (code, "4 object(s) to SENTINODE" in out) == (0, True), err
    assert site.file() == {"1.2.3.1": 2, "1.2.3.2": 2}
    # our door is closed now: the peer cannot send
    code, _, err = site.run("move", "pacs", "1.2.3")
    assert code == 1 and "answered 0x" in err
    code, _, err = site.run("move", "pacs", "1.2.3", "--to", "NOBODY")
    assert code == 1 and "See that the peer has NOBODY as a destination" in err


def fetch(site: Site, *more: str) -> tuple[int, str, str]:
    days = ("--from", "2024-01-01", "--to", "2024-01-03", "--per-minute", "100000")
    return site.run("fetch", "pacs", *days, "--patience", "0", *more)


@pytest.mark.parametrize("how", ["get", "move"])
def test_fetch_brings_what_is_missing(
    make_site: Callable[..., Site], archive: Archive, how: str
) -> None:
    site = make_site(peer_of(archive))
    code, out, _ = fetch(site, "--dry-run", "--json")
    assert [json.loads(line)["missing"] for line in out.splitlines()] == [2, 2, 2]
    assert (code, site.held(), site.orders) == (0, {}, [])
    with door_of(site):
        code, out, err = fetch(site, "--how", how, "--modality", "MR")
    assert (code, "3 studies fetched (12 objects)" in out) == (0, True), out + err
    assert sum(site.file().values()) == 12
    assert site.orders == []
    code, out, _ = fetch(site, "--how", how)
    assert (code, "0 studies fetched (0 objects), 3 were here" in out) == (0, True)


def test_fetch_takes_only_series_of_a_body_part(
    make_site: Callable[..., Site], archive: Archive
) -> None:
    site = make_site(peer_of(archive))
    code, out, err = fetch(site, "--body-part", "BRAIN", "--json")
    report = json.loads(out)
    assert code == 0, err
    if archive.ae_title == "DCMQR":  # it does not know the key, and says nothing of it
        assert (report["fetched"], report["unsaid_series"]) == (0, 6)
        assert fetch(site, "--body-part", "BRAIN", "--unsaid")[0] == 0
        assert len(site.file()) == 6
    else:
        assert (report["fetched"], report["unsaid_series"]) == (3, 0)
        assert site.file() == {f"1.2.{number}.1": 2 for number in (1, 2, 3)}


def test_compressed_objects_come_as_they_are(
    make_site: Callable[..., Site], tmp_path: Path
) -> None:
    image = mr_slice(StudyInstanceUID="1.2.8", SeriesInstanceUID="1.2.8.1")
    image.compress(RLELossless)
    with orthanc_archive(tmp_path / "orthanc", {"SENTINODE": NODE_PORT}) as (archive, _):
        archive.put([image], "-xr")
        archive.put(study(8)[:1])
        site = make_site(peer_of(archive))
        code, out, err = site.run("get", "pacs", "1.2.8")
        assert (code, "2 object(s)" in out) == (0, True), err
        site.file()
    with site.ledger.read() as work:
        syntaxes = {item.transfer_syntax_uid for item in work.series.instances("1.2.8.1")}
    assert syntaxes == {str(RLELossless), str(ExplicitVRLittleEndian)}


def test_commit_by_orthanc_is_heard_at_our_door(
    make_site: Callable[..., Site], tmp_path: Path
) -> None:
    with orthanc_archive(tmp_path / "orthanc", {"SENTINODE": NODE_PORT}) as (archive, _):
        archive.put(study(1))
        site = make_site(peer_of(archive, commit=True))
        assert site.run("get", "pacs", "1.2.1")[0] == 0
        site.file()
        over = threading.Event()

        def file() -> None:
            while not over.wait(0.05):
                site.intake.step()

        working = threading.Thread(target=file)
        with door_of(site):
            working.start()
            try:
                code, out, err = site.run("commit", "pacs", "1.2.1")
            finally:
                over.set()
                working.join()
        assert (code, "4 committed, 0 failed" in out) == (0, True), out + err


# with one that misbehaves


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("find", "nobody"), "no peer is called 'nobody' (there is: pacs, mute)"),
        (("find", "mute"), "has no host and port"),
        (("find", "pacs", "Patient=X"), "no DICOM keyword"),
        (("find", "pacs", "--level", "WARD"), "'WARD' is no level"),
        (("find", "pacs", "--level", "SERIES"), "StudyInstanceUID must be named"),
        (("find", "pacs", "--root", "tree"), "neither study nor patient"),
        (("get", "pacs", "one"), "not a UID"),
        (("get", "pacs", "1.2", "1.3", "--series", "1.4"), "go with one study"),
        (("move", "pacs", "1.2", "--instance", "1.4"), "goes with one --series"),
        (("move", "pacs", "1.2", "--to", "far too long a title"), "not an AE title"),
        (("commit", "pacs", "1.2.99"), "nothing is here"),
        (("fetch", "pacs"), "of which days"),
        (("fetch", "pacs", "--days", "1", "--how", "mail"), "none of get, move, auto"),
        (("fetch", "pacs", "--days", "1", "Modality=MR"), "use --modality"),
        (("fetch", "pacs", "--days", "1", "--from", "2024-01-01"), "not both"),
        (("fetch", "pacs", "--priors-of", "1.2.99"), "is not here"),
        (("rerun",), "of which days"),
        (("rerun", "--days", "1", "--route", "none"), "no route with a model"),
    ],
)
def test_what_is_wrong_is_said(
    make_site: Callable[..., Site], fake: FakeArchive, arguments: tuple[str, ...], said: str
) -> None:
    site = make_site(peer_of(fake), {"name": "mute", "ae_title": "MUTE"})
    code, out, err = site.run(*arguments)
    assert (code, out) == (1, "")
    assert said in err
    assert "Traceback" not in err
    assert (fake.retrieved, site.orders) == ([], [])


def test_a_peer_that_is_away_or_refuses(make_site: Callable[..., Site], fake: FakeArchive) -> None:
    away = {"name": "away", "ae_title": "AWAY", "host": "127.0.0.1", "port": free_port()}
    site = make_site(peer_of(fake), away)
    for command in (("find", "away"), ("get", "away", "1.2"), ("move", "away", "1.2")):
        code, _, err = site.run(*command)
        assert (code, "no connection" in err) == (1, True)
    fake.find_status = 0xA700
    code, _, err = site.run("find", "pacs")
    assert (code, "0xA700, out of resources" in err) == (1, True)
    fake.find_status, fake.retrieve_status = 0, 0xA702
    code, _, err = site.run("get", "pacs", "1.2.1")
    assert code == 1 and "0xA702" in err
    assert site.run("get", "pacs", "1.2.77")[0] == 1  # it has nothing of that
    code, _, err = site.run("commit", "pacs", "1.2.1")
    assert code == 1


def test_a_peer_without_the_service(make_site: Callable[..., Site], fake: FakeArchive) -> None:
    bare = FakeArchive(STUDIES, "BARE")
    bare.offers = bare.offers[:1]
    with bare.running():
        site = make_site(peer_of(bare))
        code, _, err = site.run("get", "pacs", "1.2.1")
        assert (code == 1 and "accepts none of" in err) or "presentation context" in err
        code, _, err = fetch(site)
        assert (code, "does not offer C-MOVE" in err) == (1, True)


def test_more_matches_than_wanted_are_cancelled(
    make_site: Callable[..., Site], fake: FakeArchive
) -> None:
    site = make_site(peer_of(fake))
    code, out, err = site.run("find", "pacs", "--limit", "2", "--json")
    assert (code, len(out.splitlines())) == (0, 2)
    assert "more than 2 matches" in err


def test_a_peer_that_breaks_off_is_tried_again(
    make_site: Callable[..., Site], fake: FakeArchive
) -> None:
    site = make_site(peer_of(fake))
    fake.abort_after, fake.aborts = 1, 1
    code, _, err = site.run("get", "pacs", "1.2.1")
    assert code == 1 and "broke" in err
    # what came before is not lost
    assert sum(site.file().values()) == 1
    fake.aborts = 1
    code, out, err = fetch(site)
    assert (code, "3 studies fetched" in out) == (0, True), err
    assert sum(site.file().values()) == 12


def test_what_fails_is_reported_and_the_rest_comes(
    make_site: Callable[..., Site], fake: FakeArchive
) -> None:
    site = make_site(peer_of(fake, max_instance_mb=1))
    large = mr_slice(
        1,
        rows=1024,
        columns=1024,
        StudyInstanceUID="1.2.2",
        SeriesInstanceUID="1.2.2.1",
        SOPInstanceUID="1.2.2.1.9",
        StudyDate="20240102",
    )
    fake.objects.append(large)
    code, out, err = fetch(site)
    assert code == 1
    assert "1.2.2: 1 were not taken here: the instance is larger than 1 MB" in err
    assert "2 studies fetched" in out and "1 failed" in out
    assert sum(site.file().values()) == 12
    # called again, it tries only that study
    fake.objects.remove(large)
    fake.retrieved.clear()
    code, out, _ = fetch(site)
    assert (code, fake.retrieved) == (0, [])


def test_a_day_with_too_many_is_asked_for_hour_by_hour(
    make_site: Callable[..., Site],
) -> None:
    images = [
        image
        for number in range(1, 7)
        for image in study(number, "20240103", 1, StudyTime=f"{number:02d}0000")
    ]
    archive = FakeArchive(images)
    with archive.running():
        site = make_site(peer_of(archive))
        day = date(2024, 1, 3)
        order = Order(
            archive.address, criteria_of(), span_of(1, "", "", day), most_answers=2, patience=0
        )
        fetcher = Fetcher(site.settings, site.ledger, order, threading.Event())
        assert [item.uid for item, _ in fetcher.plan()] == [f"1.2.{n}" for n in range(1, 7)]
        hours = [keys.get("StudyTime", "") for keys in archive.keys_told]
        assert sum(bool(hour) for hour in hours) == 24
        # one hour that has too many is said, and is no study
        for image in images:
            image.StudyTime = "050000"
        fetcher = Fetcher(site.settings, site.ledger, order, threading.Event())
        assert list(fetcher.plan()) == []
        assert fetcher.report.failed[0][0] == "20240103"


def test_ctrl_c_cancels_and_the_next_call_goes_on(
    make_site: Callable[..., Site], fake: FakeArchive
) -> None:
    site = make_site(peer_of(fake))
    pressed = threading.Event()

    def press(number: int) -> None:
        # in the middle of the second study
        if len(fake.retrieved) == 2 and number == 2 and not pressed.is_set():
            pressed.set()
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1.0)

    fake.before_object = press
    code, out, err = fetch(site)
    assert (code, pressed.is_set()) == (STOPPED, True), err
    assert "The same command goes on" in err
    assert "1 studies fetched (4 objects)" in out and "Not over" in out
    (journal,) = site.orders
    assert "P1" not in journal.read_text() and "Phantom" not in journal.read_text()
    site.file()
    fake.keys_told.clear()
    fake.retrieved.clear()
    code, out, err = fetch(site)
    assert (code, "3 studies fetched" in out) == (0, True), err
    assert "Going on with what was begun" in err
    # the first study is not asked for again, nor the day of the second
    assert {keys["StudyInstanceUID"] for keys in fake.retrieved} == {"1.2.2", "1.2.1"}
    days = [keys["StudyDate"] for keys in fake.keys_told if keys.get("StudyDate")]
    assert days == ["20240101"]
    assert sum(site.file().values()) == 12
    assert site.orders == []


def test_a_peer_that_hears_no_cancel_is_aborted(fake: FakeArchive) -> None:
    fake.obeys = False
    stop = threading.Event()
    waiting = threading.Event()
    slow = fake._answers

    def answers(asked: Dataset) -> Iterator[Dataset]:
        yield from slow(asked)
        stop.set()
        waiting.wait(30)

    fake._answers = answers  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr("node.fetching.stopping._GRACE_SECONDS", 0.2)
        try:
            list(ask("SENTINODE", fake.address, question_of("STUDY", []), 30, stop=stop))
        finally:
            waiting.set()


def test_a_peer_that_is_away_for_long_ends_the_order(
    make_site: Callable[..., Site],
) -> None:
    archive = FakeArchive(STUDIES)
    with archive.running():
        site = make_site(peer_of(archive))
        assert fetch(site, "--limit", "1")[0] == 0
    code, _, err = fetch(site)
    assert (code, "no connection" in err) == (1, True)
    assert len(site.orders) == 1
    site.file()
    with archive.running():
        code, out, _ = fetch(site)
    assert (code, "3 studies fetched (12 objects)" in out) == (0, True)


def test_fetch_waits_while_the_node_has_enough_to_do(
    make_site: Callable[..., Site], fake: FakeArchive
) -> None:
    site = make_site(peer_of(fake))
    codes: list[int] = []
    fake.before_object = lambda _: site.intake.step() and None
    assert fetch(site, "--queue", "1", "--limit", "1")[0] == 0
    site.file()  # two series are arriving, and nobody decides that they are whole
    stop = threading.Event()

    told: list[str] = []
    throttle = Throttle(
        site.settings, site.ledger, Pace(1e6, 2), stop, told.append, look_seconds=0.01
    )
    waiting = threading.Thread(target=lambda: codes.append(throttle.wait() or 1))
    waiting.start()
    wait_for(lambda: told, 30)
    assert told == ["0 jobs and 2 arriving series are open"] and not codes
    with site.ledger.write() as work:
        for uid in ("1.2.3.1", "1.2.3.2"):
            (facts,) = work.facts.of([uid])
            assert work.series.mark_whole(uid, facts.revision, "test", facts.last_received_at)
    waiting.join(60)
    assert (codes, told[-1]) == ([1], "")
    stop.set()
    with pytest.raises(StoppedError):
        throttle.wait()


def test_priors_of_a_study_that_is_here(make_site: Callable[..., Site]) -> None:
    same = {"PatientID": "P1"}
    images = [
        *study(1, "20240110"),
        *study(2, "20231201", **same),
        *study(3, "20200101", **same),
        *study(4, "20231202"),
    ]
    archive = FakeArchive(images)
    with archive.running():
        site = make_site(peer_of(archive))
        assert site.run("get", "pacs", "1.2.1")[0] == 0
        site.file()
        pace = ("--per-minute", "100000", "--patience", "0")
        code, _, err = site.run(
            "fetch", "pacs", "--priors-of", "1.2.1", "--days", "60", "--dry-run", *pace
        )
        assert code == 0, err
        code, out, err = site.run("fetch", "pacs", "--priors-of", "1.2.1", *pace)
        assert (code, "2 studies fetched" in out) == (0, True), err
        assert {uid[:5] for uid in site.file()} == {"1.2.1", "1.2.2", "1.2.3"}


def test_rerun_by_the_command_line(
    make_site: Callable[..., Site], fake: FakeArchive, tmp_path: Path
) -> None:
    write_spec(tmp_path / "zoo" / "brain", name="brain")
    (tmp_path / "zoo" / "brain" / "weights.safetensors").write_bytes(b"weights")
    routes = [{"name": "brain", "model": "brain", "match": {"Modality": "MR"}}]
    models = {"folders": [str(tmp_path / "zoo")]}
    site = make_site(peer_of(fake), routes=routes, models=models)
    assert site.run("get", "pacs", "1.2.1")[0] == 0
    for uid in site.file():
        with site.ledger.write() as work:
            (facts,) = work.facts.of([uid])
            assert work.series.mark_whole(uid, facts.revision, "test", facts.last_received_at)
    days = ("--from", "2024-01-01", "--to", "2024-01-31", "--per-minute", "100000")
    code, out, err = site.run("rerun", *days, "--dry-run")
    assert (code, "2 jobs would be made" in out) == (0, True), err
    code, out, err = site.run("rerun", *days, "--body-part", "BRAIN", "--json")
    assert (code, json.loads(out)["jobs"]) == (0, 1), err
    code, out, _ = site.run("rerun", *days)
    assert "1 jobs made" in out and "1 left: its job is open" in out
    assert site.orders == []


def test_what_a_peer_commits_to(make_site: Callable[..., Site], fake: FakeArchive) -> None:
    site = make_site(peer_of(fake, commit=True))
    assert site.run("get", "pacs", "1.2.1")[0] == 0
    site.file()
    code, _, err = site.run("commit", "pacs", "1.2.1", "--wait", "0")
    assert (code, "accepts none of" in err) == (1, True)
    held = {f"1.2.1.{series}.{image}" for series in (1, 2) for image in (1, 2)}
    other = FakeArchive((), "OTHER")
    other.committed = held
    with other.running():
        site = make_site(peer_of(other, commit=True))
        code, out, err = site.run("commit", "pacs", "1.2.1", "--json")
        assert code == 0, err
        assert set(json.loads(out)["committed"]) == held
        other.committed = held - {"1.2.1.1.1"}
        code, out, err = site.run("commit", "pacs", "1.2.1")
        assert code == 1
        assert "1.2.1.1.1: 0x0112" in err and "responsible for 3 object(s)" in out
        other.reports = False
        code, _, err = site.run("commit", "pacs", "1.2.1", "--wait", "0.2")
        assert (code, "no report about 4 object(s)" in err) == (1, True)


def test_a_report_that_our_door_would_not_take(
    make_site: Callable[..., Site], fake: FakeArchive
) -> None:
    site = make_site(peer_of(fake))
    assert site.run("get", "pacs", "1.2.1")[0] == 0
    site.file()
    other = FakeArchive((), "PACS")
    other.committed, other.reports = {"1.2.1.1.1"}, False
    with other.running():
        code, _, err = site.run("commit", f"PACS@127.0.0.1:{other.port}", "1.2.1", "--wait", "600")
        assert code == 1
        assert "our door takes none" in err and "commit = true" in err
