"""Proof of delivery with real peers: storage commitment, read-back by query, or the status."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from socketserver import TCPServer
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, build_context, evt
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer
from support.instances import T0, incoming, mr_slice
from support.peers import Orthanc, free_port, orthanc, small_pacs, wait_for

from core.domain import IMAGE, Transfer
from core.identifiers import AETitle, DicomAddress
from core.ledger import Ledger
from core.ledger.rows import transfer_value
from core.ledger.transfers import with_objects
from core.lifecycle import TransferState
from core.schema import CommitmentRow, TransferRow
from core.settings import Settings
from core.store import Store
from node.dimse.contexts import COMMITMENT, COMMITMENT_INSTANCE, accepted
from node.dimse.messages import read_commit_report
from node.dimse.scu import associate
from node.sending.commit import Listener, commit_contexts
from node.sending.prover import _MOST_ASKED, _MOST_BROKEN
from node.sending.sender import Sender

SENT, COMMITTED, DUE = TransferState.SENT, TransferState.COMMITTED, TransferState.DUE
on_sqlite = pytest.mark.parametrize("ledger_server", ["sqlite"])


@dataclass
class Archive:
    """A PACS that commits to what it has, and lists it."""

    port: int
    held: dict[str, Dataset] = field(default_factory=dict)
    stores: list[str] = field(default_factory=list)
    asked: list[Dataset] = field(default_factory=list)
    answer: int = 0x0000
    reports: bool = True
    breaks_off: bool = False
    failing: dict[str, int] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    find_status: int = 0x0000
    answers: list[int] = field(default_factory=list)

    def report_on(self, request: Dataset) -> Dataset:
        """The Event Information to a question (PS3.4 Table J.3-2)."""
        report = Dataset()
        report.TransactionUID = request.TransactionUID
        report.ReferencedSOPSequence, report.FailedSOPSequence = [], []
        for item in request.ReferencedSOPSequence:
            uid = str(item.ReferencedSOPInstanceUID)
            reason = self.failing.get(uid, 0 if uid in self.held else 0x0112)
            said = Dataset()
            said.ReferencedSOPClassUID = item.ReferencedSOPClassUID
            said.ReferencedSOPInstanceUID = uid
            if reason:
                said.FailureReason = reason
                report.FailedSOPSequence.append(said)
            else:
                report.ReferencedSOPSequence.append(said)
        return report


def _kind(report: Dataset) -> int:
    return 2 if report.FailedSOPSequence else 1


@contextmanager
def archive(port: int, *, commits: bool = True, finds: bool = True) -> Iterator[Archive]:
    """Run an `Archive` on loopback; its reports come on the association of the question."""
    made = Archive(port)
    threads: list[threading.Thread] = []

    def on_store(event: evt.Event) -> int:
        made.held[str(event.dataset.SOPInstanceUID)] = event.dataset
        made.stores.append(str(event.dataset.SOPInstanceUID))
        return 0x0000

    def on_action(event: evt.Event) -> tuple[int, None]:
        made.asked.append(event.action_information)
        if made.breaks_off:
            event.assoc.abort()
            return 0, None
        if made.reports and made.answer == 0:
            thread = threading.Thread(target=report, args=(event.assoc, event.action_information))
            threads.append(thread)
            thread.start()
        return made.answer, None

    def report(association: Any, request: Dataset) -> None:
        content = made.report_on(request)
        status, _ = association.send_n_event_report(
            content, _kind(content), COMMITMENT, COMMITMENT_INSTANCE
        )
        made.answers.append(int(status.get("Status", -1)))

    def on_find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        if made.find_status:
            yield made.find_status, None
            return
        query = event.identifier
        for uid, held in made.held.items():
            right = held.SeriesInstanceUID == query.SeriesInstanceUID
            if right and query.SOPInstanceUID in ("", uid) and uid not in made.hidden:
                row = Dataset()
                row.QueryRetrieveLevel, row.SOPInstanceUID = "IMAGE", uid
                yield 0xFF00, row

    ae = AE(ae_title="PACS")
    ae.supported_contexts = accepted_for_storage()
    if commits:
        ae.add_supported_context(StorageCommitmentPushModel)
    if finds:
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server = ae.make_server(
        ("127.0.0.1", port),
        evt_handlers=[
            (evt.EVT_C_STORE, on_store),
            (evt.EVT_N_ACTION, on_action),
            (evt.EVT_C_FIND, on_find),
        ],
        server_class=ThreadedAssociationServer,
    )
    serving = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    serving.start()
    try:
        yield made
    finally:
        TCPServer.shutdown(server)
        server.server_close()
        serving.join()
        for thread in threads:
            thread.join(30)


def accepted_for_storage() -> list[Any]:
    """Our own table, without what is no storage and may be in it."""
    return [item for item in accepted() if ".5.1.4.1.1." in str(item.abstract_syntax)]


@dataclass
class World:
    """A ledger with images that are to be passed on to one peer, and a clock that we turn."""

    settings: Settings
    ledger: Ledger
    port: int
    now: datetime = T0
    sender: Sender = None  # type: ignore[assignment]

    def forward(self, count: int = 3, series: str = "1.2.3.4") -> list[str]:
        """Receive images and pass them on; their UIDs."""
        store, uids = Store(self.settings.store_url), []
        for number in range(1, count + 1):
            dataset = mr_slice(
                number,
                rows=4,
                columns=4,
                SeriesInstanceUID=series,
                SOPInstanceUID=f"{series}.{number}",
            )
            buffer = BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            item = incoming(dataset, digest=f"{number:064}", size=len(buffer.getvalue()))
            store.put_bytes(item.store_key, buffer.getvalue())
            with self.ledger.write() as work:
                work.filing.file(item, self.now)
            uids.append(item.sop_instance_uid)
        with self.ledger.write() as work:
            instances = work.series.instances(series)
            assert work.transfers.forward("r", "1.2.3", instances, ["pacs"], self.now) == count
            assert work.transfers.forward("r", "1.2.3", instances, ["pacs"], self.now) == 0
        return uids

    def step(self) -> int:
        return self.sender.step(wait_seconds=60)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def transfers(self) -> list[Transfer]:
        with self.ledger.read() as work:
            rows = work.transfers._session.execute(with_objects().order_by(TransferRow.id))
            return [transfer_value(*row) for row in rows]

    def states(self) -> set[tuple[TransferState, str]]:
        return {(item.state, item.proof) for item in self.transfers()}

    def commitments(self) -> list[tuple[str, int]]:
        with self.ledger.read() as work:
            rows = work.transfers._session.query(CommitmentRow).order_by(CommitmentRow.id)
            return [(row.state, row.attempts) for row in rows]


@pytest.fixture
def make_world(
    ledger: Ledger, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., World]:
    monkeypatch.setattr("node.sending.prover._LINGER_SECONDS", 0.3)

    def make(*, port: int | None = None, ae_title: str = "PACS", **peer: Any) -> World:
        port = port or free_port()
        first = {"name": "pacs", "ae_title": ae_title, "host": "127.0.0.1", "port": port, **peer}
        settings = make_settings(peers=[first], delivery={"timeout": 10, "max_refusals": 3})
        world = World(settings, ledger, port)
        store = Store(settings.store_url)
        world.sender = Sender(settings, ledger, store, lambda: world.now)
        return world

    return make


@pytest.mark.parametrize("answer_takes", [0.0, 0.5])
def test_what_is_committed_to_on_the_same_association_is_committed(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, answer_takes: float
) -> None:
    send = DIMSEServiceProvider.send_msg

    def slowly(self: DIMSEServiceProvider, primitive: Any, context_id: int) -> None:
        if isinstance(primitive, N_EVENT_REPORT) and primitive.MessageIDBeingRespondedTo:
            time.sleep(answer_takes)
        send(self, primitive, context_id)

    monkeypatch.setattr(DIMSEServiceProvider, "send_msg", slowly)
    world = make_world(commit=True, find=True)
    uids = world.forward()
    with archive(world.port) as pacs:
        assert world.step() == 3
        assert world.states() == {(SENT, "")}  # the question waits a moment for more
        assert world.step() == 0
        world.later(3)
        world.step()
        assert world.states() == {(COMMITTED, "commitment")}
        (question,) = pacs.asked
        assert [item.ReferencedSOPInstanceUID for item in question.ReferencedSOPSequence] == uids
        world.later(7200)
        assert world.step() == 0
        assert (pacs.stores, pacs.answers) == (uids, [0])
    assert world.commitments() == [("reported", 1)]


def test_what_is_not_committed_to_is_sent_again_some_times(
    make_world: Callable[..., World],
) -> None:
    world = make_world(commit=True)
    uids = world.forward()
    with archive(world.port) as pacs:
        pacs.failing = {uids[1]: 0x0112}
        world.step()
        world.later(3)
        world.step()
        first, second, _ = world.transfers()
        assert (first.state, second.state, second.refusals) == (COMMITTED, DUE, 1)
        assert "0x0112 no such object instance" in second.message
        assert world.step() == 0  # not at once
        pacs.failing = {}
        world.later(6)
        assert world.step() == 1
        world.later(3)
        world.step()
        assert world.states() == {(COMMITTED, "commitment")}
        assert pacs.stores == [*uids, uids[1]]
        assert len({str(item.TransactionUID) for item in pacs.asked}) == 2


def test_a_report_that_comes_with_the_release_is_left_alone() -> None:
    """Its answer would be a message after the request for release (PS3.8 Section 7.2)."""
    taken: list[Any] = []
    listener = Listener(taken.append)
    with small_pacs() as pacs:
        peer = DicomAddress(AETitle("PACS"), "127.0.0.1", pacs.port)
        contexts = [build_context(Verification), *commit_contexts()]
        with associate("SENTINODE", peer, contexts, 5, listener.handlers) as association:
            listener.serve(association)
            (context,) = association.accepted_contexts  # the PACS knows no commitment
            kept, said = Dataset(), Dataset()
            kept.ReferencedSOPClassUID, kept.ReferencedSOPInstanceUID = MRImageStorage, "1.2.3"
            said.TransactionUID, said.ReferencedSOPSequence = "1.2", [kept]
            report = N_EVENT_REPORT()
            report.MessageID, report.EventTypeID = 1, 1
            report.AffectedSOPClassUID, report.AffectedSOPInstanceUID = COMMITMENT, "1.2.840"
            syntax = context.transfer_syntax[0]
            report.EventInformation = BytesIO(encode(said, syntax.is_implicit_VR, True) or b"")
            listener.wait_for(set(), 1)
            serve: Any = association._serve_request
            serve(report, context.context_id)
    assert taken == []
    assert association.is_released


@on_sqlite
def test_what_is_never_committed_to_is_refused_in_the_end(
    make_world: Callable[..., World],
) -> None:
    world = make_world(commit=True)
    (uid,) = world.forward(1)
    with archive(world.port) as pacs:
        pacs.failing = {uid: 0x0110}
        for _ in range(20):
            world.step()
            world.later(10)
        assert pacs.stores == [uid] * 3  # delivery.max_refusals
        (transfer,) = world.transfers()
        assert transfer.state == TransferState.REFUSED
        assert "storage commitment: 0x0110" in transfer.message
        pacs.failing = {}
        with world.ledger.write() as work:
            assert work.transfers.send_study_again("1.2.3") == 1
        world.step()
        world.later(3)
        world.step()
    assert world.states() == {(COMMITTED, "commitment")}


@on_sqlite
@pytest.mark.parametrize(("finds", "proof"), [(True, "found"), (False, "status")])
def test_who_does_not_offer_commitment_is_asked_in_another_way(
    make_world: Callable[..., World], finds: bool, proof: str
) -> None:
    world = make_world(commit=True, find=finds)
    world.forward()
    with archive(world.port, commits=False):
        world.step()
        world.later(3)
        world.step()
        assert world.states() == {(SENT, proof)}
        assert "no storage commitment: the destination does not offer it" in (
            world.transfers()[0].message
        )
        with world.ledger.read() as work:
            assert work.circuits.get("pacs").commitment == "no"
        # learned: the next objects go straight to the next proof
        world.forward(2, "1.2.3.5")
        world.step()
        world.later(11)
        world.step()
    assert world.states() == {(SENT, proof)}
    assert len(world.commitments()) == 1
    # and asked again when that is long ago
    world.later(25 * 3600)
    with archive(world.port):
        world.forward(2, "1.2.3.6")
        world.step()
        world.later(3)
        world.step()
    assert world.transfers()[-1].state == COMMITTED


@on_sqlite
def test_a_question_that_was_taken_before_is_waited_for(make_world: Callable[..., World]) -> None:
    """An archive that refuses a Transaction UID for the second time knows the first."""
    world = make_world(commit=True, find=True)
    world.forward(1)
    with archive(world.port) as pacs:
        pacs.reports = False
        world.step()
        pacs.answer = 0x0131
        world.later(3700)
        world.step()
        assert [state for state, _ in world.commitments()] == ["asked"]
        report = read_commit_report(1, pacs.report_on(pacs.asked[0]))
        with world.ledger.write() as work:
            work.commitments.report(
                report.transaction_uid, report.committed, report.failed, world.now
            )
    assert world.states() == {(COMMITTED, "commitment")}


@on_sqlite
def test_who_breaks_off_at_the_question_still_gets_images_and_another_proof(
    make_world: Callable[..., World],
) -> None:
    world = make_world(commit=True, find=True)
    world.forward(1)
    with archive(world.port) as pacs:
        pacs.breaks_off = True
        world.step()
        world.later(3)
        world.step()
        assert len(pacs.asked) == 1
        with world.ledger.read() as work:
            assert work.circuits.get("pacs").failures == 0
        world.forward(1, series="1.2.3.5")
        world.step()
        assert len(pacs.stores) == 2
        for _ in range(2 * _MOST_BROKEN + 1):  # one question at a time
            world.later(600)
            world.step()
        assert world.states() == {(SENT, "found")}
        assert world.commitments() == [("failed", _MOST_BROKEN - 1)] * 2


@on_sqlite
def test_a_question_that_is_not_taken_does_not_end_all_the_others(
    make_world: Callable[..., World],
) -> None:
    world = make_world(commit=True, find=True)
    world.forward(1)
    with archive(world.port) as pacs:
        pacs.answer = 0x0115  # PS3.7 Annex C: invalid argument value
        world.step()
        world.later(3)
        world.step()
        assert world.states() == {(SENT, "found")}
        pacs.answer = 0
        world.forward(1, series="1.2.3.5")
        for _ in range(2):
            world.step()
            world.later(3)
        assert world.states() == {(SENT, "found"), (COMMITTED, "commitment")}


@on_sqlite
def test_a_report_that_does_not_come_is_asked_for_again_then_given_up(
    make_world: Callable[..., World],
) -> None:
    world = make_world(commit=True, find=True)
    world.forward(1)
    with archive(world.port) as pacs:
        pacs.reports = False
        world.step()
        for _ in range(_MOST_ASKED + 1):
            assert world.states() == {(SENT, "")}
            world.later(3700)  # delivery.commit_seconds is an hour
            world.step()
        assert world.states() == {(SENT, "found")}
        assert world.commitments() == [("failed", _MOST_ASKED)]
        assert {str(item.TransactionUID) for item in pacs.asked} == {
            str(pacs.asked[0].TransactionUID)
        }
        # a report that comes late still counts
        report = read_commit_report(1, pacs.report_on(pacs.asked[0]))
        with world.ledger.write() as work:
            assert work.commitments.report(
                report.transaction_uid, report.committed, report.failed, world.now
            )
            assert not work.commitments.report("1.2.3.4", (), {}, world.now)
    assert world.states() == {(COMMITTED, "commitment")}
    assert len(pacs.stores) == 1


def test_a_sender_that_dies_while_it_asks_leaves_the_question_to_the_next(
    make_world: Callable[..., World],
) -> None:
    world = make_world(commit=True)
    world.forward(2)
    with archive(world.port):
        world.step()
        world.later(3)
        with world.ledger.write() as work:
            until = world.now + timedelta(seconds=30)
            dead = work.commitments.gather("pacs", "dead", until, world.now, 100)
            assert dead is not None
            assert work.commitments.gather("pacs", "other", until, world.now, 100) is None
            assert work.commitments.claim("pacs", "other", until, world.now) is None
        assert world.step() == 0
        world.later(31)
        world.step()
        assert world.states() == {(COMMITTED, "commitment")}
    with world.ledger.write() as work:
        assert not work.commitments.asked(dead.id, "dead", world.now)
    assert world.commitments() == [("reported", 1)]


@on_sqlite
def test_what_a_report_leaves_out_is_proved_in_another_way(
    make_world: Callable[..., World],
) -> None:
    world = make_world(commit=True)
    uids = world.forward(2)
    with archive(world.port) as pacs:
        pacs.reports = False
        world.step()
        world.later(3)
        world.step()
        transaction = str(pacs.asked[0].TransactionUID)
        for _ in range(2):  # the same report once more changes nothing
            with world.ledger.write() as work:
                assert work.commitments.report(transaction, uids[:1], {}, world.now)
            world.step()
            assert [(item.state, item.proof) for item in world.transfers()] == [
                (COMMITTED, "commitment"),
                (SENT, "status"),
            ]


def test_what_fails_in_a_study_with_an_identity_conflict_is_held(
    make_world: Callable[..., World],
) -> None:
    world = make_world(commit=True)
    (uid,) = world.forward(1)
    with archive(world.port) as pacs:
        pacs.reports = False
        world.step()
        world.later(3)
        world.step()
        stray = incoming(mr_slice(9, SeriesInstanceUID="1.2.3.9", PatientID="X"))
        with world.ledger.write() as work:
            for study in work.filing.file(stray, world.now).studies_in_conflict:
                work.conflicts.hold(study, world.now)
        with world.ledger.write() as work:
            transaction = str(pacs.asked[0].TransactionUID)
            assert work.commitments.report(transaction, (), {uid: 0x0112}, world.now)
        assert world.states() == {(TransferState.PAUSED, "")}
        with world.ledger.write() as work:
            work.conflicts.decide("1.2.3", True, "admin", world.now)
        assert world.step() == 1


def test_what_is_listed_is_found(make_world: Callable[..., World]) -> None:
    world = make_world(find=True)
    world.forward(2)
    world.forward(6, "1.2.3.5")  # so many are listed by their series
    with archive(world.port):
        assert world.step() == 8
        assert world.step() == 0
        assert world.states() == {(SENT, "")}
        for _ in range(5):  # on a busy machine an answer may be late; it is asked again
            world.later(11)
            world.step()
            if world.states() == {(SENT, "found")}:
                break
    assert world.states() == {(SENT, "found")}


@on_sqlite
def test_what_is_not_listed_is_sent_again_and_then_left_in_peace(
    make_world: Callable[..., World],
) -> None:
    world = make_world(find=True)
    uids = world.forward(2)
    with archive(world.port) as pacs:
        pacs.hidden = {uids[0]}
        for _ in range(60):
            world.step()
            world.later(10)
        assert pacs.stores == [*uids, uids[0]]
        hidden, seen = world.transfers()
        assert (hidden.state, hidden.proof, hidden.proof_tries) == (SENT, "status", 5)
        assert "sent twice, and not listed" in hidden.message
        assert (seen.state, seen.proof, seen.proof_tries) == (SENT, "found", 0)


@on_sqlite
def test_a_query_that_fails_makes_way_for_the_status(make_world: Callable[..., World]) -> None:
    world = make_world(find=True)
    world.forward(1)
    with archive(world.port) as pacs:
        pacs.find_status = 0xC001
        for _ in range(60):
            world.step()
            world.later(10)
        assert len(pacs.stores) == 1
    (transfer,) = world.transfers()
    assert (transfer.state, transfer.proof) == (SENT, "status")
    assert "0xC001" in transfer.message


@on_sqlite
def test_who_is_down_when_the_proof_is_looked_for_is_waited_for(
    make_world: Callable[..., World],
) -> None:
    world = make_world(find=True, commit=True)
    world.forward(2)
    with archive(world.port, commits=False):
        world.step()
    for _ in range(20):
        world.later(400)
        world.step()
    assert world.states() == {(SENT, "")}
    assert [item.proof_tries for item in world.transfers()] == [0, 0]
    world.later(400)
    with archive(world.port) as pacs:
        pacs.held = dict.fromkeys((item.sop_instance_uid for item in world.transfers()), Dataset())
        world.step()
    assert world.states() == {(COMMITTED, "commitment")}


@on_sqlite
def test_without_either_the_status_is_what_is_known(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.forward(2)
    with archive(world.port):
        world.step()
    assert world.states() == {(SENT, "status")}
    assert {item.kind for item in world.transfers()} == {IMAGE}


@contextmanager
def a_door(world: World) -> Iterator[tuple[int, list[int]]]:
    """Takes reports on associations of their own, as the node's door does."""
    port, taken = free_port(), list[int]()

    def on_report(event: evt.Event) -> tuple[int, None]:
        report = read_commit_report(event.event_type, event.event_information)
        with world.ledger.write() as work:
            known = work.commitments.report(
                report.transaction_uid, report.committed, report.failed, world.now
            )
        taken.append(event.event_type)
        return 0x0000 if known else 0x0112, None

    ae = AE(ae_title="SENTINODE")
    ae.add_supported_context(
        StorageCommitmentPushModel, ExplicitVRLittleEndian, scu_role=True, scp_role=True
    )
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    server = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)]
    )
    try:
        yield port, taken
    finally:
        server.shutdown()


def rest(server: Orthanc, method: str, path: str, body: str = "") -> bytes:
    """Ask Orthanc's REST interface."""
    url = f"http://127.0.0.1:{server.http_port}{path}"
    asked = urllib.request.Request(url, method=method, data=body.encode() or None)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return bytes(answer.read())


def introduce(server: Orthanc, port: int) -> None:
    """Let it know us, or it answers neither questions nor queries."""
    us = {"AET": "SENTINODE", "Host": "127.0.0.1", "Port": port}
    rest(server, "PUT", "/modalities/sentinode", json.dumps(us))


@on_sqlite
def test_orthanc_commits_to_what_it_has_on_an_association_of_its_own(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    with a_door(make_world()) as (door, taken), orthanc(tmp_path / "orthanc") as pacs:
        us = {"AET": "SENTINODE", "Host": "127.0.0.1", "Port": door}
        rest(pacs, "PUT", "/modalities/sentinode", json.dumps(us))
        world = make_world(port=pacs.port, ae_title="ORTHANC", commit=True, find=True)
        uids = world.forward(3)
        assert world.step() == 3
        world.later(3)
        world.step()
        wait_for(lambda: taken, 60, "Orthanc reports")
        assert world.states() == {(COMMITTED, "commitment")}
        # what it has lost is sent again
        world.forward(2, "1.2.3.5")
        world.step()
        lost = world.transfers()[-1].sop_instance_uid
        (found,) = json.loads(rest(pacs, "POST", "/tools/lookup", lost))
        rest(pacs, "DELETE", found["Path"])
        world.later(3)
        world.step()
        wait_for(lambda: len(taken) == 2, 60, "Orthanc reports again")
        assert world.transfers()[-1].state == DUE
        world.later(6)
        assert world.step() == 1
        world.later(3)
        world.step()
        wait_for(lambda: len(taken) == 3, 60, "Orthanc reports again")
        assert world.states() == {(COMMITTED, "commitment")}
        assert len(uids) == 3


@on_sqlite
def test_orthanc_lists_what_it_has(make_world: Callable[..., World], tmp_path: Path) -> None:
    with orthanc(tmp_path / "orthanc") as pacs:
        introduce(pacs, free_port())
        world = make_world(port=pacs.port, ae_title="ORTHANC", find=True)
        world.forward(2)
        world.forward(6, "1.2.3.5")
        assert world.step() == 8
        world.later(11)
        world.step()
        assert world.states() == {(SENT, "found")}
        assert len(pacs.instances("MR")) == 8
