"""The interface under /api/v1: what it tells and does, paging, events, hostile input."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import text
from support.peers import small_pacs, wait_for
from support.web import Site, report, site, site_of_its_own

from core import clock
from core.accounts import Role
from core.domain import ResultKind
from core.ledger import Ledger
from core.ledger.changes import Mark
from core.lifecycle import JobState
from core.settings import Settings
from node.web import changes
from node.web.api import description

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One with some work in it, for all tests that add to it only."""
    with site_of_its_own(tmp_path_factory.mktemp("site")) as made:
        fill(made)
        yield made


@pytest.fixture
def fresh(ledger: Ledger, make_settings: Callable[..., Settings]) -> Iterator[Site]:
    with site(ledger, make_settings) as made:
        yield made


@pytest.fixture(autouse=True)
def _lively(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(changes, "_KEEP_ALIVE_SECONDS", 0.3)


def fill(made: Site) -> dict[str, str]:
    """Three studies: one analysed, one failed, one waiting; texts that would be scripts."""
    jobs = {}
    for number, (name, state) in enumerate(
        [("done", JobState.DONE), ("failed", JobState.FAILED), ("waiting", None)], start=1
    ):
        study, series = f"1.2.{number}", f"1.2.{number}.4"
        made.add_images(
            2,
            study=study,
            series=series,
            PatientName=f"{SCRIPT[:40]}^{name}",
            PatientID=SCRIPT,
            SeriesDescription=SCRIPT,
            StudyDescription=SCRIPT,
            AccessionNumber=f"<b>{number}",
        )
        results: list[Any] = []
        if state == JobState.DONE:
            results = [(ResultKind.SR, report(study)), (ResultKind.PICTURE, b"\x89PNG")]
        jobs[name] = made.add_job(
            study=study, series=series, state=state, results=results, reason=SCRIPT
        )
    return jobs


def test_one_job_is_told_with_its_whole_life(fresh: Site) -> None:
    jobs = fill(fresh)
    with fresh.client() as client:
        life = client.get(f"/api/v1/jobs/{jobs['done']}").json()
        assert life["job"]["state"] == "done"
        assert [event["state"] for event in life["events"]] == [
            "waiting",
            "queued",
            "running",
            "done",
        ]
        assert {item["kind"] for item in life["results"]} == {"SR", "PICTURE"}
        assert [item[0]["destination"] for item in life["transfers"]] == ["pacs"]
        for item in client.get(f"/api/v1/jobs/{jobs['done']}/results").json():
            content = client.get(f"/api/v1/results/{item['id']}")
            picture = item["kind"] == "PICTURE"
            assert content.headers["content-type"] == (
                "image/png" if picture else "application/dicom"
            )
            assert len(content.content) == item["size"]
        page = client.get("/api/v1/studies/1.2.1").json()
        assert page["study"]["patient_id"] == SCRIPT
        assert page["jobs"][0]["job"]["id"] == jobs["done"]
        transfers = client.get("/api/v1/transfers", params={"state": "due"}).json()
        assert [item["destination"] for item in transfers["items"]] == ["pacs"]
        assert client.get("/api/v1/transfers", params={"study": "1.2.2"}).json()["items"] == []
        counts = client.get("/api/v1/jobs/counts").json()
        assert {name: number for name, number in counts.items() if number} == {
            "done": 1,
            "failed": 1,
            "waiting": 1,
        }


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/studies"])
def test_pages_follow_each_other_without_gap(fresh: Site, path: str) -> None:
    fill(fresh)
    with fresh.client() as client:
        whole = client.get(path).json()["items"]
        found, after = [], ""
        while True:
            page = client.get(path, params={"limit": 1, "after": after}).json()
            found += page["items"]
            after = page["after"]
            if not after:
                break
        assert found == whole
        assert len(found) == 3
        assert client.get(path, params={"after": "%00"}).status_code == 422
        failed = client.get("/api/v1/jobs", params={"state": "failed"}).json()["items"]
        assert [item["job"]["state"] for item in failed] == ["failed"]


def test_deciding_about_work(fresh: Site) -> None:
    jobs = fill(fresh)
    with fresh.client(Role.OPERATOR) as client:
        made = client.post(f"/api/v1/jobs/{jobs['failed']}/retry").json()["job_id"]
        assert client.get(f"/api/v1/jobs/{made}").json()["job"]["run"] == 2
        twice = client.post(f"/api/v1/jobs/{jobs['failed']}/retry")
        assert twice.status_code == 409
        assert twice.headers["content-type"] == "application/problem+json"
        assert client.post(f"/api/v1/jobs/{jobs['waiting']}/cancel").status_code == 200
        assert client.post(f"/api/v1/jobs/{jobs['waiting']}/cancel").status_code == 409
        assert client.post(f"/api/v1/jobs/{jobs['done']}/retry").json()["count"] == 0
        assert client.post(f"/api/v1/jobs/{jobs['done']}/rerun").json()["job_id"]
        assert client.post("/api/v1/studies/1.2.1/resend").json()["count"] == 0
        assert client.post("/api/v1/studies/1.2.9/resend").status_code == 404
        nobody = client.post("/api/v1/studies/1.2.1/resend", json={"destination": "nobody"})
        assert nobody.status_code == 404
        assert client.post("/api/v1/studies/1.2.1/cancel").json()["count"] == 1
        assert (
            client.post("/api/v1/studies/1.2.1/resolve", json={"release": True}).status_code == 404
        )


def test_an_identity_conflict_is_decided(fresh: Site) -> None:
    fresh.add_images(1, study="1.2.7", series="1.2.7.1")
    job = fresh.add_job(study="1.2.7", series="1.2.7.1")
    fresh.add_images(1, study="1.2.7", series="1.2.7.2", PatientID="ANOTHER")
    with fresh.ledger.write() as work:
        work.conflicts.hold("1.2.7", clock.now())
    with fresh.client(Role.OPERATOR) as client:
        found = client.get("/api/v1/conflicts").json()
        assert {item["keyword"] for item in found} == {"PatientID"}
        assert client.get(f"/api/v1/jobs/{job}").json()["job"]["state"] == "held"
        answer = client.post("/api/v1/studies/1.2.7/resolve", json={"release": True})
        assert answer.json()["count"] == 1
        assert client.get(f"/api/v1/jobs/{job}").json()["job"]["state"] == "waiting"
        assert client.get("/api/v1/conflicts").json() == []


def test_a_paused_destination_gets_nothing_until_it_goes_on(fresh: Site) -> None:
    fill(fresh)
    with fresh.client(Role.ADMINISTRATOR) as client:
        with fresh.ledger.read() as work:
            assert work.transfers.destinations_due(clock.now()) == ["pacs"]
        client.put("/api/v1/peers/pacs/paused", json={"paused": True}).raise_for_status()
        with fresh.ledger.read() as work:
            assert work.transfers.destinations_due(clock.now()) == []
        peers = {item["peer"]["name"]: item for item in client.get("/api/v1/peers").json()}
        assert peers["pacs"]["state"]["paused"] is True
        assert peers["pacs"]["transfers"] == {"due": 1}
        client.put("/api/v1/peers/pacs/paused", json={"paused": False}).raise_for_status()
        with fresh.ledger.read() as work:
            assert work.transfers.destinations_due(clock.now()) == ["pacs"]
        assert client.put("/api/v1/peers/x/paused", json={"paused": True}).status_code == 404


def test_a_peer_is_asked_whether_it_is_there(here: Site) -> None:
    peer = here.settings.peer("pacs")
    assert peer is not None
    assert peer.port is not None
    with here.client(Role.OPERATOR) as client:
        away = client.post("/api/v1/peers/pacs/echo").json()
        assert away["well"] is False
        assert away["message"]
        with small_pacs(peer.port):
            assert client.post("/api/v1/peers/pacs/echo").json()["well"] is True
        assert client.post("/api/v1/peers/mr1/echo").json()["well"] is False


def test_a_route_is_tried_before_it_goes_live(fresh: Site) -> None:
    fill(fresh)
    with fresh.ledger.write() as work:
        for number in (1, 2, 3):
            uid = f"1.2.{number}.4"
            revision = work.series.get(uid).revision
            work.series.mark_whole(uid, revision, "quiet", clock.now())
    route = {"name": "try", "model": "m", "match": {"Modality": "MR"}, "min_instances": 2}
    with fresh.client(Role.ADMINISTRATOR) as client:
        tried = client.post("/api/v1/routes/try", json={"route": route}).json()
        assert [item["matched"] for item in tried] == [True] * 3
        route["match"] = {"Modality": "CT"}
        tried = client.post("/api/v1/routes/try", json={"route": route}).json()
        assert [item["matched"] for item in tried] == [False] * 3
        assert "Modality is 'MR'" in tried[0]["reason"]
        route["match"] = {"Modality": {"regex": "("}}
        assert client.post("/api/v1/routes/try", json={"route": route}).status_code == 400
        route["match"] = {"NoSuchKeyword": "x"}
        assert client.post("/api/v1/routes/try", json={"route": route}).status_code == 400
        with fresh.ledger.read() as work:
            assert len(work.views.jobs()) == 3


def test_the_node_tells_about_itself(here: Site) -> None:
    with here.client() as client:
        models = client.get("/api/v1/models").json()
        name = models[0]["name"]
        assert client.get(f"/api/v1/models/{name}").json()["version"] == models[0]["version"]
        assert client.get("/api/v1/models/none").status_code == 404
        assert client.get("/api/v1/disks").json()[0]["total_mb"] > 0
        assert client.get("/api/v1/queues").json()
        assert client.get("/api/v1/workers").json() == []
        assert client.get("/api/v1/routes").json() == []


def _events(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Server-sent events from their lines."""
    event: dict[str, str] = {}
    for line in lines:
        if not line:
            if event:
                yield event
            event = {}
        elif line.startswith(":"):
            event = {"event": "alive"}
        else:
            key, _, value = line.partition(": ")
            event[key] = value


class Listener:
    """Reads events in a thread."""

    def __init__(self, made: Site, last: str = "") -> None:
        self.seen: list[dict[str, str]] = []
        self._ends = False
        self._client = made.client(headers={"Last-Event-ID": last} if last else {})
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self._began.wait(60)

    def _read(self) -> None:
        try:
            with self._client.stream("GET", "/api/v1/events") as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                for event in _events(answer.iter_lines()):
                    self._began.set()
                    self.seen.append(event)
                    if self._ends:
                        break
        except httpx.HTTPError:
            pass  # it was closed by the test
        finally:
            self._began.set()

    def states(self, job: str) -> list[str]:
        told = [json.loads(item["data"]) for item in self.seen if item.get("event") == "job"]
        return [item["state"] for item in told if item["job"] == job]

    def close(self) -> None:
        self._ends = True
        self._thread.join(60)
        self._client.close()


def test_changes_are_told_as_they_happen_and_after_a_break(fresh: Site) -> None:
    listeners = [Listener(fresh), Listener(fresh)]
    told = fresh.app.state.room.changes
    try:
        wait_for(lambda: told._mark is not None)
        fresh.add_images(1)
        job = fresh.add_job()
        for listener in listeners:
            wait_for(lambda listener=listener: "waiting" in listener.states(job))
            wait_for(
                lambda listener=listener: any(
                    item.get("event") == "study" for item in listener.seen
                )
            )
        last = next(item["id"] for item in listeners[0].seen if item.get("event") == "job")
        assert Mark.parse(last) is not None
        listeners[0].close()
        with fresh.client(Role.OPERATOR) as client:
            client.post(f"/api/v1/jobs/{job}/cancel")
        wait_for(lambda: "cancelled" in listeners[1].states(job))
        assert listeners[1].states(job) == ["waiting", "cancelled"]
        again = Listener(fresh, last)
        listeners.append(again)
        wait_for(lambda: "cancelled" in again.states(job))
        # nothing of a patient is ever in it
        assert "PHANTOM" not in json.dumps([item.seen for item in listeners])
    finally:
        for listener in listeners:
            listener.close()
    wait_for(lambda: told.listeners == 0)


def test_who_missed_too_much_is_told_to_load_anew(fresh: Site) -> None:
    fill(fresh)
    with fresh.ledger.write() as work:
        mark = work.changes.mark()
    assert mark.event > 0
    with fresh.ledger.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO job_event (id, job_id, at, state, note, actor) "
                "SELECT 5000, job_id, at, state, note, actor FROM job_event ORDER BY id LIMIT 1"
            )
        )
    listener = Listener(fresh, "1.1.0")
    try:
        wait_for(lambda: any(item.get("event") == "reset" for item in listener.seen))
    finally:
        listener.close()


def test_the_description_is_whole(here: Site) -> None:
    with here.client() as client:
        document = client.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert all(path.startswith("/api/v1/") for path in document["paths"])
    told = [
        operation
        for methods in document["paths"].values()
        for operation in methods.values()
        if not operation.get("description")
    ]
    assert told == []


def test_no_input_makes_it_stumble(here: Site) -> None:
    """Schemathesis: what the description allows, and what it does not, on every endpoint."""
    schema = schemathesis.openapi.from_dict(description(here.app))
    schema.config.update(base_url=here.base)
    headers = {"Authorization": f"Bearer {here.tokens[Role.ADMINISTRATOR]}"}
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 25
    for operation in operations:
        # the one never ends, the other waits for a peer
        if operation.path.endswith(("/events", "/echo")):
            continue
        for mode in GenerationMode:
            _try_out(operation, mode, headers)


def _try_out(operation: Any, mode: GenerationMode, headers: dict[str, str]) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis_settings(
        max_examples=2,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        answer = case.call(headers=headers, timeout=60)
        assert answer.status_code < 500, (case.as_curl_command(), answer.text)
        case.validate_response(answer, checks=CHECKS)

    try:
        check()
    except Unsatisfiable:
        assert mode == GenerationMode.NEGATIVE  # an endpoint without parameters has no wrong ones
