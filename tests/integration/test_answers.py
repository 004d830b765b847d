"""Storage commitment requests: what we say yes to, when, and that the answer arrives."""

from __future__ import annotations

import json
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer
from sqlalchemy import select, update
from support.instances import T0, incoming, mr_slice
from support.peers import Orthanc, free_port, orthanc, storescu, wait_for

from core import clock
from core.ledger import Ledger
from core.lifecycle import TransferState
from core.schema import CommitmentRequestRow, InstanceRow, SeriesRow, TransferRow
from core.settings import Settings
from core.store import Store
from node.dimse.contexts import COMMITMENT
from node.door.scp import Door
from node.filing.intake import Intake
from node.sending.answers import ARRIVE_WITHIN, GIVE_UP_AFTER, Answerer

SECOND = timedelta(seconds=1)


@dataclass
class Modality:
    """Takes the reports of what it asked for."""

    status: int = 0x0000
    reports: list[tuple[int | None, set[str], dict[str, int]]] = field(default_factory=list)
    transactions: list[str] = field(default_factory=list)
    roles: list[tuple[bool, bool]] = field(default_factory=list)
    associations: int = 0

    def on_report(self, event: evt.Event) -> tuple[int, None]:
        said = event.event_information
        self.transactions.append(str(said.TransactionUID))
        yes = {str(item.ReferencedSOPInstanceUID) for item in said.get("ReferencedSOPSequence", ())}
        no = {
            str(item.ReferencedSOPInstanceUID): int(item.FailureReason)
            for item in said.get("FailedSOPSequence", ())
        }
        for role in event.assoc.requestor.role_selection.values():
            self.roles.append((bool(role.scu_role), bool(role.scp_role)))
        self.reports.append((event.event_type, yes, no))
        return self.status, None

    def on_established(self, event: evt.Event) -> None:
        self.associations += 1


@contextmanager
def modality(port: int) -> Iterator[Modality]:
    found = Modality()
    ae = AE(ae_title="MR1")
    ae.add_supported_context(COMMITMENT, scu_role=False, scp_role=True)
    server = ae.start_server(
        ("127.0.0.1", port),
        block=False,
        evt_handlers=[
            (evt.EVT_N_EVENT_REPORT, found.on_report),
            (evt.EVT_ESTABLISHED, found.on_established),
        ],
    )
    assert isinstance(server, ThreadedAssociationServer)
    try:
        yield found
    finally:
        server.shutdown()


@dataclass
class World:
    """A ledger, a store, a modality's address, and a clock that we turn."""

    ledger: Ledger
    make_settings: Callable[..., Settings]
    port: int
    now: datetime = T0
    sections: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.answerer = self.make()

    @property
    def settings(self) -> Settings:
        peers: list[dict[str, Any]] = [
            {"name": "mr1", "ae_title": "MR1", "host": "127.0.0.1", "port": self.port},
            {"name": "vna", "ae_title": "VNA", "host": "127.0.0.1", "port": 12, "commit": True},
        ]
        return self.make_settings(**{"peers": peers, "delivery": {"timeout": 10}, **self.sections})

    def make(self) -> Answerer:
        settings = self.settings
        return Answerer(settings, self.ledger, Store(settings.store_url), lambda: self.now)

    def use(self, **sections: Any) -> None:
        self.answerer.close()
        self.sections = sections
        self.answerer = self.make()

    def arrive(self, *, bytes_too: bool = True) -> str:
        dataset = mr_slice()
        one = incoming(dataset)
        if bytes_too:
            Store(self.settings.store_url).put_bytes(one.store_key, b"image")
        with self.ledger.write() as work:
            work.filing.file(one, self.now)
        return one.sop_instance_uid

    def whole(self) -> None:
        with self.ledger.write() as work:
            work.views._session.execute(update(SeriesRow).values(state="whole"))

    def ask(self, *uids: str, sop_class: str = MRImageStorage, again: str = "") -> str:
        transaction = again or f"2.25.{uuid.uuid4().int}"
        with self.ledger.write() as work:
            listed = [(sop_class, uid) for uid in uids]
            work.commit_requests.note(transaction, "MR1", listed, self.now)
        return transaction

    def step(self) -> int:
        return self.answerer.step(wait_seconds=60)

    def request(self) -> CommitmentRequestRow:
        with self.ledger.read() as work:
            return work.views._session.scalars(select(CommitmentRequestRow)).one()

    def promised(self) -> set[str]:
        with self.ledger.read() as work:
            rows = work.views._session.scalars(
                select(InstanceRow.sop_instance_uid).where(InstanceRow.promised_at.is_not(None))
            )
            return set(rows)

    def forward(self, state: TransferState) -> None:
        with self.ledger.write() as work:
            instances = work.series.instances("1.2.3.4")
            work.transfers.forward("f", "1.2.3", instances, ["vna"], self.now)
            work.views._session.execute(update(TransferRow).values(state=state))


@pytest.fixture
def world(ledger: Ledger, make_settings: Callable[..., Settings]) -> Iterator[World]:
    made = World(ledger, make_settings, free_port())
    yield made
    made.answerer.close()


FORWARDS = {
    "retention": {"originals_days": 30},
    "routes": [{"name": "keep", "forward": ["vna"]}],
}


def test_what_we_keep_is_committed_to_at_once(world: World) -> None:
    uids = [world.arrive() for _ in range(3)]
    transaction = world.ask(*uids)
    with modality(world.port) as mr:
        assert world.step() == 1
        assert world.step() == 0
    assert mr.reports == [(1, set(uids), {})]
    assert mr.transactions == [transaction]
    assert mr.roles == [(False, True)]  # we are the SCP of an association that we opened
    assert world.promised() == set(uids)
    assert world.request().message == "3 committed, 0 failed"


def test_an_image_that_comes_after_the_question_is_waited_for(world: World) -> None:
    uid = generate_uid()
    dataset = mr_slice(SOPInstanceUID=uid)
    world.ask(uid)
    with modality(world.port) as mr:
        assert world.step() == 0
        assert world.promised() == set()
        one = incoming(dataset)
        Store(world.settings.store_url).put_bytes(one.store_key, b"image")
        with world.ledger.write() as work:
            work.filing.file(one, world.now)
        world.now += SECOND
        assert world.step() == 1
    assert mr.reports == [(1, {uid}, {})]


def test_an_image_that_never_comes_is_a_failure_and_the_others_are_not(world: World) -> None:
    here, missing = world.arrive(), generate_uid()
    world.ask(here, missing)
    with modality(world.port) as mr:
        assert world.step() == 0
        world.now += ARRIVE_WITHIN / 2
        assert world.step() == 0
        world.now += ARRIVE_WITHIN
        assert world.step() == 1
    assert mr.reports == [(2, {here}, {missing: 0x0112})]
    assert world.promised() == {here}


def test_another_sop_class_is_a_conflict(world: World) -> None:
    uid = world.arrive()
    world.ask(uid, sop_class="1.2.840.10008.5.1.4.1.1.2")
    with modality(world.port) as mr:
        world.step()
    assert mr.reports == [(2, set(), {uid: 0x0119})]


@pytest.mark.parametrize(
    "sections",
    [
        {"retention": {"originals_days": 30}},
        {"retention": {"max_store_gb": 10}},
        {"retention": {"ledger_days": 300}},
        {"storage": {"fsync": False}},
    ],
    ids=["age", "space", "ledger", "fsync"],
)
def test_what_may_go_is_not_promised(world: World, sections: dict[str, Any]) -> None:
    world.use(**sections)
    uid = world.arrive()
    world.whole()
    world.ask(uid)
    with modality(world.port) as mr:
        world.step()
    assert mr.reports == [(2, set(), {uid: 0x0110})]
    assert world.promised() == set()


def test_what_is_promised_already_is_confirmed_again(world: World) -> None:
    uid = world.arrive()
    world.ask(uid)
    with modality(world.port) as mr:
        world.step()
        world.use(retention={"originals_days": 30})
        world.ask(uid)
        world.step()
    assert [report[1] for report in mr.reports] == [{uid}, {uid}]


def test_bytes_that_are_not_in_the_store_are_not_promised(world: World) -> None:
    uid = world.arrive(bytes_too=False)
    world.ask(uid)
    with modality(world.port) as mr:
        world.step()
    assert mr.reports == [(2, set(), {uid: 0x0110})]
    assert world.promised() == set()


def test_an_archive_that_may_commit_is_waited_for(world: World) -> None:
    world.use(**FORWARDS)
    uid = world.arrive()
    world.ask(uid)
    with modality(world.port) as mr:
        world.step()  # the series is being received: it is not passed on yet
        world.whole()
        for state in (TransferState.DUE, TransferState.SENT):
            world.forward(state)
            world.now += 60 * SECOND
            world.step()
        assert mr.reports == []
        world.forward(TransferState.COMMITTED)
        world.now += 60 * SECOND
        world.step()
    assert mr.reports == [(1, {uid}, {})]


def test_an_archive_that_does_not_commit_in_time_is_a_failure(world: World) -> None:
    world.use(**FORWARDS, delivery={"commit_seconds": 600, "timeout": 10})
    uid = world.arrive()
    world.ask(uid)
    world.whole()
    world.forward(TransferState.SENT)
    with modality(world.port) as mr:
        world.step()
        assert mr.reports == []
        world.now += 601 * SECOND
        world.step()
    assert mr.reports == [(2, set(), {uid: 0x0110})]


def test_an_archive_that_refused_is_not_waited_for(world: World) -> None:
    world.use(**FORWARDS)
    uid = world.arrive()
    world.ask(uid)
    world.whole()
    world.forward(TransferState.REFUSED)
    with modality(world.port) as mr:
        world.step()
    assert mr.reports == [(2, set(), {uid: 0x0110})]


def test_a_modality_that_is_away_is_told_when_it_is_back(world: World) -> None:
    uid = world.arrive()
    world.ask(uid)
    for _ in range(3):
        assert world.step() == 0
        waits = (world.request().next_try_at or T0) - world.now
        world.now += waits
    assert (world.request().attempts, waits) == (3, 20 * SECOND)
    with modality(world.port) as mr:
        mr.status = 0x0110
        assert world.step() == 0
        assert "0x0110" in world.request().message
        mr.status = 0x0000
        world.now += 60 * SECOND
        assert world.step() == 1
    assert mr.reports == [(1, {uid}, {})] * 2


def test_it_is_given_up_after_a_day_and_may_ask_again(world: World) -> None:
    uid = world.arrive()
    transaction = world.ask(uid)
    tries = 0
    while world.request().state == "due":
        world.step()
        tries += 1
        world.now = world.request().next_try_at or world.now
    assert world.request().state == "failed"
    assert world.now - T0 >= GIVE_UP_AFTER
    assert tries < 50
    world.ask(uid, again=transaction)
    with modality(world.port) as mr:
        assert world.step() == 1
    assert mr.reports == [(1, {uid}, {})]


def test_who_has_no_address_cannot_be_told(world: World) -> None:
    world.use(peers=[{"name": "mr1", "ae_title": "MR1"}])
    world.ask(world.arrive())
    assert world.step() == 0
    assert "host and port" in world.request().message


def test_the_same_notice_twice_is_one_request(world: World) -> None:
    uid = world.arrive()
    transaction = world.ask(uid)
    with modality(world.port) as mr:
        world.step()
        world.ask(uid, again=transaction)  # filed again after a crash: the same moment
        world.step()
    assert len(mr.reports) == 1


def test_two_nodes_answer_once(world: World) -> None:
    uids = [world.arrive() for _ in range(4)]
    for uid in uids:
        world.ask(uid)
    other = world.make()
    with modality(world.port) as mr:
        other.step()
        world.answerer.step()
        told = other.step(wait_seconds=60) + world.answerer.step(wait_seconds=60)
    other.close()
    assert told == 4
    assert sorted(uid for _, yes, _ in mr.reports for uid in yes) == sorted(uids)
    assert mr.associations <= 2


def _post(server: Orthanc, path: str, content: Any, method: str = "POST") -> Any:
    url = f"http://127.0.0.1:{server.http_port}{path}"
    data = json.dumps(content).encode()
    request = urllib.request.Request(url, data, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        body = answer.read()
    return json.loads(body) if body else None


def test_orthanc_asks_and_believes_us(
    tmp_path: Path, make_settings: Callable[..., Settings]
) -> None:
    """The whole way: door, spool, intake, ledger, and back to who asked."""
    dataset = mr_slice()
    path = tmp_path / "image.dcm"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    uid = str(dataset.SOPInstanceUID)
    with orthanc(tmp_path / "orthanc") as server:
        peers = [
            {"name": "o", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": server.port},
        ]
        port = free_port()
        settings = make_settings(node={"port": port}, peers=peers, services={"commitment": True})
        ledger = Ledger(settings.ledger_url)
        ledger.upgrade()
        store = Store(settings.store_url)
        door = Door(settings)
        intake = Intake(settings.spool, store, ledger)
        answerer = Answerer(settings, ledger, store, clock.now)
        try:
            assert storescu(server.port, [path], called="ORTHANC").returncode == 0
            node = {"AET": "SENTINODE", "Host": "127.0.0.1", "Port": port}
            _post(server, "/modalities/node", node, "PUT")
            (known,) = server.get("/instances")
            _post(server, "/modalities/node/store", [known])
            absent = generate_uid()
            asked = {
                "DicomInstances": [
                    {"SOPClassUID": str(MRImageStorage), "SOPInstanceUID": item}
                    for item in (uid, absent)
                ]
            }
            transaction = _post(server, "/modalities/node/storage-commitment", asked)["ID"]

            def answered() -> Any:
                intake.step()
                answerer.step(wait_seconds=5)
                report = server.get(f"/storage-commitment/{transaction}")
                return report if report["Status"] != "Pending" else None

            # what never comes is not waited for in this test
            wait_for(lambda: intake.step() or _is_asked(ledger), 60)
            with ledger.write() as work:
                work.views._session.execute(
                    update(CommitmentRequestRow).values(received_at=clock.now() - ARRIVE_WITHIN)
                )
            report = wait_for(answered, 60, "Orthanc has our report")
        finally:
            door.close(grace_seconds=1)
            intake.close()
            answerer.close()
            ledger.close()
    assert report["Status"] == "Failure"
    assert report["RemoteAET"] == "SENTINODE"
    assert [item["SOPInstanceUID"] for item in report["Success"]] == [uid]
    (failed,) = report["Failures"]
    assert (failed["SOPInstanceUID"], failed["FailureReason"]) == (absent, 0x0112)


def _is_asked(ledger: Ledger) -> bool:
    with ledger.read() as work:
        return bool(work.commit_requests.counts())
