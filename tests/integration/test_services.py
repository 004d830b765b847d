"""MPPS, Instance Availability Notification and Storage Commitment over real sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association as DicomAssociation
from pynetdicom.presentation import build_context
from support.instances import association as an_association
from support.peers import free_port

from core.domain import Association
from core.settings import Settings
from node.deciding.asking import series_counts
from node.dimse.contexts import (
    AVAILABILITY,
    COMMITMENT,
    COMMITMENT_INSTANCE,
    PERFORMED_STEP,
    STUDY_ROOT_FIND,
    accepted,
    table,
)
from node.door import services as services_module
from node.door.services import Services
from node.spool.notices import Notice, NoticeKind, read_notice
from node.spool.receiver import ReceiverSpool

STUDY, SERIES = "1.2.3", "1.2.3.4"
ALL_ON = {"mpps": True, "availability": True, "commitment": True}
PEERS: list[dict[str, Any]] = [
    {"name": "mr1", "ae_title": "MR1"},
    {"name": "pacs", "ae_title": "PACS", "host": "localhost", "port": 104, "commit": True},
    {"name": "viewer", "ae_title": "VIEWER", "send": False},
]


class Place:
    """A door with nothing but the services, and its spool."""

    def __init__(self, settings: Settings) -> None:
        self.spool = ReceiverSpool(settings.spool, 1)
        self.services = Services(settings, self.spool, self.association_of)
        self.port = free_port()
        ae = AE(ae_title="SENTINODE")
        ae.supported_contexts = accepted()[:1]
        self.services.add_to(ae)
        self._server = ae.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=self.services.handlers()
        )

    def association_of(self, association: DicomAssociation) -> Association | None:
        title = association.requestor.ae_title.strip()
        known = an_association(f"from-{title}")
        return Association(known.id, title, "SENTINODE", "127.0.0.1:1", known.began_at)

    def close(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self.spool.close()

    @property
    def notices(self) -> list[Notice]:
        return [read_notice(path) for path in sorted(self.spool.folder.glob("*/notice-*.json"))]

    @contextmanager
    def associated(
        self, calling: str = "MR1", *, as_scp: bool = False
    ) -> Iterator[DicomAssociation]:
        ae = AE(ae_title=calling)
        for uid in (PERFORMED_STEP, AVAILABILITY, COMMITMENT):
            ae.add_requested_context(uid, ImplicitVRLittleEndian)
        roles = [build_role(COMMITMENT, scp_role=True)] if as_scp else []
        association = ae.associate("127.0.0.1", self.port, ae_title="SENTINODE", ext_neg=roles)
        assert association.is_established
        try:
            yield association
        finally:
            association.release()


@pytest.fixture
def make_place(make_settings: Callable[..., Settings]) -> Iterator[Callable[..., Place]]:
    made: list[Place] = []

    def make(services: dict[str, bool] | None = None, **sections: Any) -> Place:
        sections.setdefault("peers", PEERS)
        place = Place(make_settings(services=services or ALL_ON, **sections))
        made.append(place)
        return place

    yield make
    for place in made:
        place.close()


@pytest.fixture
def place(make_place: Callable[..., Place]) -> Place:
    return make_place()


def item(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def references(*uids: str) -> list[Dataset]:
    return [
        item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.4", ReferencedSOPInstanceUID=uid)
        for uid in uids
    ]


def a_step(**changes: Any) -> Dataset:
    values: dict[str, Any] = {
        "ScheduledStepAttributesSequence": [item(StudyInstanceUID=STUDY)],
        "PatientName": "Phantom^Test",
        "PatientID": "PHANTOM",
        "PerformedProcedureStepID": "P1",
        "PerformedStationAETitle": "MR1",
        "PerformedProcedureStepStartDate": "20260102",
        "PerformedProcedureStepStartTime": "030405",
        "PerformedProcedureStepStatus": "IN PROGRESS",
        "Modality": "MR",
        "PerformedSeriesSequence": [],
    }
    kept = {key: value for key, value in {**values, **changes}.items() if value is not None}
    return item(**kept)


def an_end(state: str = "COMPLETED") -> Dataset:
    series = item(SeriesInstanceUID=SERIES, ReferencedImageSequence=references("1.4.1", "1.4.2"))
    series.ReferencedNonImageCompositeSOPInstanceSequence = references("1.4.3")
    return item(PerformedProcedureStepStatus=state, PerformedSeriesSequence=[series])


@pytest.mark.parametrize("state", ["COMPLETED", "DISCONTINUED"])
def test_a_step_is_created_and_ended(place: Place, state: str) -> None:
    with place.associated() as peer:
        status, _ = peer.send_n_create(a_step(), PERFORMED_STEP, "1.7")
        assert status.Status == 0x0000
        status, _ = peer.send_n_set(an_end(state), PERFORMED_STEP, "1.7")
        assert status.Status == 0x0000
    begun, ended = place.notices
    assert begun.kind is NoticeKind.MPPS
    assert begun.association.calling_ae == "MR1"
    assert begun.content == {
        "uid": "1.7",
        "status": "IN PROGRESS",
        "study": STUDY,
        "final": False,
        "series": {},
    }
    assert ended.content["final"]
    assert ended.content["series"] == {SERIES: ["1.4.1", "1.4.2", "1.4.3"]}
    # what lies in the spool says nothing about a patient
    for path in place.spool.folder.glob("*/notice-*.json"):
        assert b"hantom" not in path.read_bytes().lower()


def test_what_a_step_must_not_do(place: Place) -> None:
    with place.associated() as peer:

        def create(uid: str | None = "1.8", **changes: Any) -> Dataset:
            return peer.send_n_create(a_step(**changes), PERFORMED_STEP, uid)[0]

        def end(uid: str, state: str) -> Dataset:
            return peer.send_n_set(an_end(state), PERFORMED_STEP, uid)[0]

        assert create(PerformedProcedureStepStatus="COMPLETED").Status == 0x0106
        missing = create(PerformedStationAETitle=None)
        assert missing.Status == 0x0120
        assert "PerformedStationAETitle" in missing.ErrorComment
        assert create(Modality="").Status == 0x0121
        assert create(ScheduledStepAttributesSequence=[]).Status == 0x0121
        assert create(ScheduledStepAttributesSequence=[item(StudyID="1")]).Status == 0x0120
        assert not place.notices
        assert create().Status == 0x0000
        assert create().Status == 0x0111  # PS3.7: duplicate SOP instance
        assert end("1.8", "DONE").Status == 0x0106
        assert end("1.8", "COMPLETED").Status == 0x0000
        late = end("1.8", "COMPLETED")  # PS3.4 Table F.7.2-2
        assert (late.Status, late.ErrorID) == (0x0110, 0xA710)
        assert late.ErrorComment == "Performed Procedure Step Object may no longer be updated"
        # another receiver may have seen its beginning: nobody can tell without SQL
        assert end("1.99", "COMPLETED").Status == 0x0000
        assert len(place.notices) == 3


def test_a_step_without_a_uid_gets_one(place: Place) -> None:
    with place.associated() as peer:
        assert peer.send_n_create(a_step(), PERFORMED_STEP, None)[0].Status == 0x0000
        (begun,) = place.notices
        given = begun.content["uid"]
        # it is the same step
        assert peer.send_n_set(an_end(), PERFORMED_STEP, given)[0].Status == 0x0000
        assert peer.send_n_set(an_end(), PERFORMED_STEP, given)[0].Status == 0x0110


def test_an_availability_notification(place: Place) -> None:
    series = item(SeriesInstanceUID=SERIES, ReferencedSOPSequence=references("1.4.1", "1.4.2"))
    series.ReferencedSOPSequence[0].InstanceAvailability = "ONLINE"
    series.ReferencedSOPSequence[1].InstanceAvailability = "UNAVAILABLE"
    with place.associated() as peer:
        said = item(StudyInstanceUID=STUDY, ReferencedSeriesSequence=[series])
        assert peer.send_n_create(said, AVAILABILITY, "1.6")[0].Status == 0x0000
        said = item(StudyInstanceUID=STUDY, ReferencedSeriesSequence=[])
        assert peer.send_n_create(said, AVAILABILITY, "1.6")[0].Status == 0x0121
        said = item(ReferencedSeriesSequence=[series])
        assert peer.send_n_create(said, AVAILABILITY, "1.6")[0].Status == 0x0120
    (notice,) = place.notices
    assert notice.kind is NoticeKind.AVAILABILITY
    assert notice.content == {"uid": "1.6", "study": STUDY, "series": {SERIES: ["1.4.1"]}}


def test_a_request_for_commitment(place: Place) -> None:
    asked = item(TransactionUID="1.5", ReferencedSOPSequence=references("1.4.1", "1.4.2"))
    with place.associated() as peer:

        def ask(what: Dataset, action: int = 1, instance: str = COMMITMENT_INSTANCE) -> int:
            return int(peer.send_n_action(what, action, COMMITMENT, instance)[0].Status)

        assert ask(asked) == 0x0000
        assert ask(asked, action=2) == 0x0123
        assert ask(asked, instance="1.2.3") == 0x0112
        assert ask(item(ReferencedSOPSequence=references("1.4.1"))) == 0x0115
        assert ask(item(TransactionUID="1.5", ReferencedSOPSequence=[])) == 0x0115
    (notice,) = place.notices
    assert notice.kind is NoticeKind.COMMIT_REQUEST
    assert notice.content["transaction"] == "1.5"
    assert [uid for _, uid in notice.content["instances"]] == ["1.4.1", "1.4.2"]


@pytest.mark.parametrize("as_scp", [True, False], ids=["role selection", "without"])
def test_an_archive_reports_on_an_association_of_its_own(place: Place, as_scp: bool) -> None:
    failed = references("1.4.2")[0]
    failed.FailureReason = 0x0112
    report = item(TransactionUID="1.5", ReferencedSOPSequence=references("1.4.1"))
    report.FailedSOPSequence = [failed]
    with place.associated("PACS", as_scp=as_scp) as peer:
        if as_scp:
            context = next(c for c in peer.accepted_contexts if c.abstract_syntax == COMMITMENT)
            assert context.as_scp
        status, _ = peer.send_n_event_report(report, 2, COMMITMENT, COMMITMENT_INSTANCE)
        assert status.Status == 0x0000
        status, _ = peer.send_n_event_report(report, 3, COMMITMENT, COMMITMENT_INSTANCE)
        assert status.Status == 0x0113
    (notice,) = place.notices
    assert notice.kind is NoticeKind.COMMIT_REPORT
    assert notice.content == {
        "transaction": "1.5",
        "committed": ["1.4.1"],
        "failed": {"1.4.2": 0x0112},
    }


def test_who_may_not_send_may_tell_nothing(place: Place) -> None:
    asked = item(TransactionUID="1.5", ReferencedSOPSequence=references("1.4.1"))
    with place.associated("VIEWER") as peer:
        assert peer.send_n_create(a_step(), PERFORMED_STEP, "1.7")[0].Status == 0x0124
        assert peer.send_n_set(an_end(), PERFORMED_STEP, "1.7")[0].Status == 0x0124
        asked_of_us = peer.send_n_action(asked, 1, COMMITMENT, COMMITMENT_INSTANCE)
        assert asked_of_us[0].Status == 0x0124
    with place.associated("STRANGER", as_scp=True) as peer:
        report = peer.send_n_event_report(asked, 1, COMMITMENT, COMMITMENT_INSTANCE)
        assert report[0].Status == 0x0124
    assert not place.notices


def test_what_cannot_be_kept_is_not_answered_with_success(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Path:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(services_module, "write_notice", full)
    with place.associated() as peer:
        assert peer.send_n_create(a_step(), PERFORMED_STEP, "1.7")[0].Status == 0x0213
        monkeypatch.setattr(services_module, "write_notice", lambda *_: 1 / 0)
        assert peer.send_n_create(a_step(), PERFORMED_STEP, "1.7")[0].Status == 0x0110
        monkeypatch.undo()
        # nothing was kept, so it is no duplicate
        assert peer.send_n_create(a_step(), PERFORMED_STEP, "1.7")[0].Status == 0x0000
    assert len(place.notices) == 1


def test_all_is_off_unless_it_is_asked_for(
    make_settings: Callable[..., Settings], make_place: Callable[..., Place]
) -> None:
    settings = make_settings()
    quiet = Services(settings, ReceiverSpool(settings.spool, 1), lambda _: None)
    assert quiet.contexts() == []
    assert quiet.handlers() == []
    # we ask for commitment, so reports are taken; but nobody may ask us
    asking = make_place({"mpps": False, "availability": False, "commitment": False})
    asked = item(TransactionUID="1.5", ReferencedSOPSequence=references("1.4.1"))
    with asking.associated() as peer:
        assert [item.abstract_syntax for item in peer.accepted_contexts] == [COMMITMENT]
        status, _ = peer.send_n_action(asked, 1, COMMITMENT, COMMITMENT_INSTANCE)
        assert status.Status == 0x0211
    listed = {row.setting for row in table() if row.setting}
    assert listed == {
        "services.mpps",
        "services.availability",
        "services.commitment",
        "peers.commit",
        "peers.query",
        "peers.worklist",
    }


@contextmanager
def counting_peer(answer: Callable[[Dataset], Iterator[Any]]) -> Iterator[int]:
    """A PACS that answers C-FIND as told; gives its port."""
    port = free_port()
    ae = AE(ae_title="PACS")
    ae.supported_contexts = [build_context(STUDY_ROOT_FIND, ImplicitVRLittleEndian)]

    def on_find(event: evt.Event) -> Iterator[Any]:
        yield from answer(event.identifier)

    server = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_FIND, on_find)]
    )
    try:
        yield port
    finally:
        assert server is not None
        server.shutdown()


def test_the_senders_count_is_asked_at_series_level() -> None:
    from core.errors import PeerError
    from core.identifiers import DicomAddress

    queries: list[Dataset] = []

    def answer(query: Dataset) -> Iterator[Any]:
        queries.append(query)
        if query.SeriesInstanceUID == "1.2.3.5":
            yield 0xFF00, item(SeriesInstanceUID="1.2.3.5")  # it does not know the key
        elif query.SeriesInstanceUID == "1.2.3.7":
            answered = item(SeriesInstanceUID="1.2.3.7")
            answered.add_new("NumberOfSeriesRelatedInstances", "LO", "many")  # no number at all
            yield 0xFF00, answered
        elif query.SeriesInstanceUID == "1.2.3.6":
            yield 0xA700, None
        else:
            yield 0xFF00, item(SeriesInstanceUID=SERIES, NumberOfSeriesRelatedInstances=20)

    with counting_peer(answer) as port:
        peer = DicomAddress.parse(f"PACS@127.0.0.1:{port}")
        counts = series_counts("SENTINODE", peer, [(STUDY, SERIES), (STUDY, "1.2.3.5")])
        assert counts == {SERIES: 20}
        assert queries[0].QueryRetrieveLevel == "SERIES"
        assert queries[0].StudyInstanceUID == STUDY
        with pytest.raises(PeerError, match="no readable answer"):
            series_counts("SENTINODE", peer, [(STUDY, "1.2.3.7")])
        with pytest.raises(PeerError, match="0xA700"):
            series_counts("SENTINODE", peer, [(STUDY, "1.2.3.6")])
    with pytest.raises(PeerError):
        series_counts("SENTINODE", peer, [(STUDY, SERIES)])
