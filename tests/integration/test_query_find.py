"""C-FIND of Study Root and Patient Root over real sockets and on both kinds of SQL."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import BytesIO
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_FIND
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from support.instances import T0, mr_slice
from support.peers import DCMTK_ENVIRONMENT, free_port, require_program, wait_for
from support.queries import QuerySite, associated, find, identifier, query_site, seg, study

from core.domain import ResultKind
from core.ledger import Ledger
from core.lifecycle import JobState
from core.schema import Base
from core.settings import Settings
from node.dimse.contexts import PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from node.worklist import find as find_module

PEERS: list[dict[str, Any]] = [
    {"name": "viewer", "ae_title": "VIEWER", "query": True},
    {"name": "mr1", "ae_title": "MR1"},
]


@pytest.fixture
def settings(make_settings: Callable[..., Settings], ledger_url: str) -> Settings:
    return make_settings(node={"port": free_port()}, ledger={"url": ledger_url}, peers=PEERS)


@pytest.fixture
def site(settings: Settings, ledger: Ledger) -> Iterator[QuerySite]:
    with query_site(settings, ledger) as opened:
        yield opened


def uids(found: list[Dataset]) -> list[str]:
    return sorted(str(item.StudyInstanceUID) for item in found)


def asked_for(site: QuerySite, **keys: Any) -> list[str]:
    """The studies that match."""
    found, status = find(site.door.port, identifier("STUDY", StudyInstanceUID="", **keys))
    assert status.Status == 0x0000, status
    return uids(found)


def refused(site: QuerySite, asked: Dataset, sop_class: str = STUDY_ROOT_FIND) -> tuple[int, int]:
    found, status = find(site.door.port, asked, sop_class)
    assert not found
    return status.Status, int(status.get("OffendingElement", 0) or 0)


def test_a_study_is_found_and_told(site: QuerySite) -> None:
    site.add(
        study(1, PatientName="Müller^Jörg", ReferringPhysicianName="Doe^Jane", StudyID="S7"),
        mr_slice(2, StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.1.2", Modality="CT"),
    )
    asked = identifier(
        "STUDY",
        StudyInstanceUID="",
        PatientName="",
        PatientID="PHANTOM",
        StudyDate="",
        StudyTime="",
        StudyID="",
        AccessionNumber="",
        ReferringPhysicianName="",
        ModalitiesInStudy="",
        NumberOfStudyRelatedSeries="",
        NumberOfStudyRelatedInstances="",
        InstanceAvailability="",
    )
    (found,), _ = find(site.door.port, asked)
    assert found.pending == 0xFF00
    assert found.QueryRetrieveLevel == "STUDY"
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert found.PatientName == "Müller^Jörg"
    assert found.ReferringPhysicianName == "Doe^Jane"
    assert (found.StudyDate, found.StudyTime, found.StudyID) == ("20260102", "030405", "S7")
    assert found.AccessionNumber == "A1"
    assert list(found.ModalitiesInStudy) == ["CT", "MR"]
    assert (found.NumberOfStudyRelatedSeries, found.NumberOfStudyRelatedInstances) == (2, 2)
    assert (found.InstanceAvailability, found.RetrieveAETitle) == ("ONLINE", "SENTINODE")
    tags = [element.tag for element in found if element.keyword != "pending"]
    assert tags == sorted(tags)


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"StudyDate": "20000101-"}, ["1.2.1", "1.2.2", "1.2.3"]),
        ({"StudyInstanceUID": "1.2.2"}, ["1.2.2"]),
        ({"StudyInstanceUID": ["1.2.2", "1.2.3", "1.9"]}, ["1.2.2", "1.2.3"]),
        ({"PatientID": "P1"}, ["1.2.1"]),
        ({"PatientID": "p1"}, []),
        ({"PatientID": "P?", "AccessionNumber": "*"}, ["1.2.1", "1.2.2"]),
        ({"PatientID": "*1"}, ["1.2.1"]),
        ({"PatientID": "P[1]"}, []),
        ({"PatientName": "doe^john"}, ["1.2.1"]),
        ({"PatientName": "DOE*"}, ["1.2.1", "1.2.2"]),
        ({"PatientName": "doe"}, []),
        ({"PatientName": "*JAN*"}, ["1.2.2"]),
        ({"PatientName": "D?E^J*"}, ["1.2.1", "1.2.2"]),
        ({"PatientName": "%"}, []),
        ({"StudyDate": "20260102"}, ["1.2.1"]),
        ({"StudyDate": "20260103-"}, ["1.2.2", "1.2.3"]),
        (
            {"StudyDate": "-20260103", "PatientID": "P*", "StudyID": "1", "StudyTime": "00-"},
            ["1.2.1", "1.2.2"],
        ),
        ({"StudyDate": "20260102-20260103"}, ["1.2.1", "1.2.2"]),
        ({"StudyDate": "20260102-20260103", "StudyTime": "0900-1000"}, ["1.2.2"]),
        ({"StudyTime": "09"}, ["1.2.2"]),
        ({"StudyTime": "093000.5"}, ["1.2.2"]),
        ({"StudyTime": "-0900", "PatientID": "P?"}, ["1.2.1"]),
        ({"ModalitiesInStudy": "CT"}, ["1.2.2"]),
        ({"ModalitiesInStudy": ["CT", "PT"]}, ["1.2.2"]),
        ({"StudyDescription": "Head_*"}, ["1.2.3"]),
        ({"ReferringPhysicianName": "who*"}, ["1.2.3"]),
        ({"PatientName": "DOE*", "StudyDate": "20260103"}, ["1.2.2"]),
    ],
    ids=str,
)
def test_matching(shared: QuerySite, keys: dict[str, Any], wanted: list[str]) -> None:
    keys = {"StudyInstanceUID": "", **keys}
    found, status = find(shared.door.port, identifier("STUDY", **keys))
    assert status.Status == 0x0000
    assert uids(found) == wanted


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[QuerySite]:
    """Three studies, for many questions."""
    from core.settings import load

    folder = tmp_path_factory.mktemp("query")
    url = f"sqlite:///{folder / 'ledger.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").kept()
    settings = load(
        overrides={
            "node": {"host": "127.0.0.1", "port": free_port()},
            "storage": {"data": str(folder), "min_free_mb": 1},
            "ledger": {"url": url},
            "peers": PEERS,
        }
    )
    ledger = Ledger(url)
    Base.metadata.create_all(ledger.engine)
    with query_site(settings, ledger) as opened:
        opened.add(
            study(1, PatientID="P1", PatientName="Doe^John", StudyTime="08"),
            study(
                2,
                PatientID="P2",
                PatientName="DOE^Jane",
                StudyDate="20260103",
                StudyTime="093000.5",
                Modality="CT",
            ),
            study(
                3,
                PatientID="X%",
                PatientName="Roe^Richard",
                StudyDate="20260203",
                StudyDescription="Head_1",
                ReferringPhysicianName="Who^Dr",
                StudyTime="",
            ),
        )
        yield opened
    ledger.close()


def test_moments_only_where_they_were_negotiated(shared: QuerySite) -> None:
    asked = identifier(
        "STUDY", StudyInstanceUID="", StudyDate="20260102-20260103", StudyTime="0700-0800"
    )
    assert uids(find(shared.door.port, asked)[0]) == ["1.2.1"]
    wanted = SOPClassExtendedNegotiation()
    wanted.sop_class_uid = UID(STUDY_ROOT_FIND)
    wanted.service_class_application_information = b"\x01\x01\x01"
    found, _ = find(shared.door.port, asked, ext_neg=[wanted])
    assert uids(found) == ["1.2.1"]
    asked.StudyTime = "0700-1000"
    found, _ = find(shared.door.port, asked, ext_neg=[wanted])
    assert uids(found) == ["1.2.1", "1.2.2"]
    asked.StudyDate, asked.StudyTime = "20260102-20260103", "2000-0600"
    assert uids(find(shared.door.port, asked)[0]) == []
    found, _ = find(shared.door.port, asked, ext_neg=[wanted])
    assert uids(found) == []
    asked.StudyTime = "0600-0500"
    found, _ = find(shared.door.port, asked, ext_neg=[wanted])
    assert uids(found) == ["1.2.1"]


@pytest.mark.parametrize(
    ("charset", "name", "asked"),
    [
        ("ISO_IR 144", "Люкceмбypг^Ivan", "люкс*"),
        ("ISO_IR 144", "Люксембург^Иван", "люкс*"),
        ("ISO_IR 100", "Müller^Jörg", "MULLER*"),
        ("GB18030", "Zhang^XiaoDong=张^小东=", "张*"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "山田^太郎"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "やまだ*"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "yamada*=山?^*"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", "홍^*"),
    ],
    ids=str,
)
def test_names_of_the_world(
    shared: QuerySite, charset: str | list[str], name: str, asked: str
) -> None:
    uid = f"1.2.9{sum(map(ord, name))}"
    image = study(1, SpecificCharacterSet=charset, PatientName=name)
    image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID = (
        f"{uid}{end}" for end in ("", ".1", ".1.1")
    )
    image.StudyDate = "19990101"
    shared.add(image)
    request = identifier(
        "STUDY",
        SpecificCharacterSet=charset,
        PatientName=asked,
        StudyInstanceUID="",
        StudyDate="19990101",
    )
    found, status = find(shared.door.port, request)
    assert status.Status == 0x0000
    if "ce" in name:  # the Latin letters that look the same are others
        assert found == []
        return
    assert uid in uids(found)
    (found,) = [item for item in found if item.StudyInstanceUID == uid]
    assert str(found.PatientName) == name.rstrip("=")


def test_the_levels_of_patient_root(site: QuerySite) -> None:
    site.add(
        study(1, PatientID="P1", PatientName="Doe^John"),
        study(2, PatientID="P1", PatientName="Doe^John"),
        study(3, PatientID="P2", PatientName="Roe^Jane"),
    )
    asked = identifier(
        "PATIENT",
        PatientID="",
        PatientName="*",
        NumberOfPatientRelatedStudies="",
        NumberOfPatientRelatedInstances="",
    )
    found, _ = find(site.door.port, asked, PATIENT_ROOT_FIND)
    told = {
        item.PatientID: (item.NumberOfPatientRelatedStudies, item.NumberOfPatientRelatedInstances)
        for item in found
    }
    assert told == {"P1": (2, 2), "P2": (1, 1)}
    asked = identifier("STUDY", PatientID="P1", StudyInstanceUID="")
    assert uids(find(site.door.port, asked, PATIENT_ROOT_FIND)[0]) == ["1.2.1", "1.2.2"]
    asked = identifier("SERIES", PatientID="P1", StudyInstanceUID="1.2.1", SeriesInstanceUID="")
    (found_series,), _ = find(site.door.port, asked, PATIENT_ROOT_FIND)
    assert found_series.SeriesInstanceUID == "1.2.1.1"
    asked = identifier("STUDY", StudyInstanceUID="")
    assert refused(site, asked, PATIENT_ROOT_FIND) == (0xA900, 0x00100020)


def test_series_and_images_with_what_we_made(site: QuerySite) -> None:
    images = [
        mr_slice(
            number,
            StudyInstanceUID="1.2.1",
            SeriesInstanceUID="1.2.1.1",
            SOPInstanceUID=f"1.2.1.1.{number}",
            BodyPartExamined="BRAIN",
        )
        for number in (1, 2, 3)
    ]
    site.add(*images)
    site.job("1.2.1.1", "1.2.1", state=JobState.DONE, results=((ResultKind.SEG, seg()),))
    asked = identifier(
        "SERIES",
        StudyInstanceUID="1.2.1",
        SeriesInstanceUID="",
        Modality="",
        SeriesNumber="",
        SeriesDescription="",
        BodyPartExamined="",
        NumberOfSeriesRelatedInstances="",
    )
    found, _ = find(site.door.port, asked)
    told = [
        (
            item.SeriesInstanceUID,
            item.Modality,
            item.SeriesNumber,
            item.SeriesDescription,
            item.BodyPartExamined,
            item.NumberOfSeriesRelatedInstances,
        )
        for item in found
    ]
    assert told == [
        ("1.2.1.1", "MR", 1, "AX FLAIR", "BRAIN", 3),
        ("1.2.1.90", "SEG", 1001, "AI: Brain", "", 1),
    ]
    for key, value, wanted in [
        ("Modality", "SEG", ["1.2.1.90"]),
        ("BodyPartExamined", "BR*", ["1.2.1.1"]),
        ("SeriesNumber", "0001", ["1.2.1.1"]),
        ("SeriesDescription", "AI*", ["1.2.1.90"]),
        ("PatientName", "nobody", []),
    ]:
        asked = identifier("SERIES", StudyInstanceUID="1.2.1", SeriesInstanceUID="")
        setattr(asked, key, value)
        found, _ = find(site.door.port, asked)
        assert [item.SeriesInstanceUID for item in found] == wanted, key
    asked = identifier(
        "IMAGE",
        StudyInstanceUID="1.2.1",
        SeriesInstanceUID="1.2.1.1",
        SOPInstanceUID="",
        SOPClassUID="",
        InstanceNumber="",
    )
    found, _ = find(site.door.port, asked)
    assert [(item.SOPInstanceUID, item.InstanceNumber) for item in found] == [
        (f"1.2.1.1.{number}", number) for number in (1, 2, 3)
    ]
    asked.InstanceNumber = "2"
    assert len(find(site.door.port, asked)[0]) == 1
    asked.SeriesInstanceUID, asked.InstanceNumber = "1.2.1.90", ""
    (result,), _ = find(site.door.port, asked)
    assert (result.SOPInstanceUID, result.SOPClassUID) == ("1.2.1.90.1", seg().SOPClassUID)
    # and the study says so
    asked = identifier(
        "STUDY", StudyInstanceUID="", ModalitiesInStudy="SEG", NumberOfStudyRelatedInstances=""
    )
    (found_study,), _ = find(site.door.port, asked)
    assert list(found_study.ModalitiesInStudy) == ["MR", "SEG"]
    assert found_study.NumberOfStudyRelatedInstances == 4


def test_what_retention_removed_is_known_and_not_offered(site: QuerySite) -> None:
    site.add(study(1))
    with site.ledger.write() as work:
        (portion,) = work.retention.originals(None, None).portions
        from core.schema import InstanceRow

        work.retention.mark_originals(InstanceRow.series_instance_uid == portion.key, T0)
    asked = identifier(
        "STUDY", StudyInstanceUID="", NumberOfStudyRelatedInstances="", InstanceAvailability=""
    )
    (found,), _ = find(site.door.port, asked)
    assert (found.NumberOfStudyRelatedInstances, found.InstanceAvailability) == (0, "UNAVAILABLE")
    asked = identifier(
        "IMAGE", StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.1.1", SOPInstanceUID=""
    )
    assert find(site.door.port, asked)[0] == []


@pytest.mark.parametrize(
    ("asked", "offending"),
    [
        (identifier("", StudyInstanceUID=""), 0x00080052),
        (identifier("PATIENT", PatientID=""), 0x00080052),
        (identifier("FRAME"), 0x00080052),
        (identifier("SERIES", SeriesInstanceUID=""), 0x0020000D),
        (identifier("SERIES", SeriesInstanceUID="", StudyInstanceUID="*"), 0x0020000D),
        (identifier("IMAGE", StudyInstanceUID="1.2.1"), 0x0020000E),
        (identifier("STUDY", StudyInstanceUID="1.2.*"), 0x0020000D),
    ],
    ids=lambda item: str(item).replace("\n", " ")[:60],
)
def test_what_is_no_query_is_refused(shared: QuerySite, asked: Dataset, offending: int) -> None:
    assert refused(shared, asked) == (0xA900, offending)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", "20261301"),
        ("StudyDate", "2026"),
        ("StudyDate", "yesterday"),
        ("StudyDate", "-"),
        ("StudyDate", "20260101-20260230"),
        ("StudyTime", "2500"),
        ("StudyTime", "12:30pm"),
        ("PatientID", "x" * 2000),
        ("PatientID", "*a*b*c*d*e*f*g*h*i*j*k*"),
    ],
)
def test_what_cannot_be_a_value_is_refused(shared: QuerySite, keyword: str, value: str) -> None:
    from pydicom.datadict import tag_for_keyword

    asked = identifier("STUDY", StudyInstanceUID="", **{keyword: value})
    assert refused(shared, asked) == (0xA900, tag_for_keyword(keyword))


def test_keys_that_we_do_not_know(shared: QuerySite) -> None:
    asked = identifier("STUDY", StudyInstanceUID="1.2.1", Occupation="", RetrieveAETitle="")
    asked.add_new(0x00091001, "LO", "private")
    (found,), status = find(shared.door.port, asked)
    assert found.pending == 0xFF01
    assert status.Status == 0x0000
    assert "Occupation" not in found
    # a value that is told and not matched
    asked = identifier("STUDY", StudyInstanceUID="1.2.1", NumberOfStudyRelatedSeries="7")
    (found,), _ = find(shared.door.port, asked)
    assert (found.pending, found.NumberOfStudyRelatedSeries) == (0xFF01, 1)


def test_who_may_not_query(site: QuerySite) -> None:
    site.add(study(1))
    found, status = find(site.door.port, identifier("STUDY", StudyInstanceUID=""), calling="MR1")
    assert (found, status.Status) == ([], 0x0124)


def test_many_matches_page_after_page_and_a_cancel(
    site: QuerySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_module, "_FIRST_PAGE", 3)
    monkeypatch.setattr(find_module, "_PAGE", 4)
    with site.ledger.write() as work:
        from support.instances import incoming

        for number in range(40):
            name = "Same" if number % 2 else f"Name{number:02d}=山{number:02d}"
            dataset = study(number + 1, PatientName=name, StudyDate=f"202601{number % 9 + 1:02d}")
            work.filing.file(incoming(dataset, digest=f"{number:064d}"), T0)
    everything = sorted(f"1.2.{number + 1}" for number in range(40))
    for keys in ({}, {"PatientName": "*a*"}, {"StudyDate": "20260101-"}):
        found, _ = find(site.door.port, identifier("STUDY", **{"StudyInstanceUID": "", **keys}))
        assert uids(found) == everything
    found, _ = find(site.door.port, identifier("STUDY", StudyInstanceUID="", PatientName="same*"))
    assert len(found) == 20
    found, _ = find(site.door.port, identifier("STUDY", StudyInstanceUID="", PatientName="*1*"))
    assert len(found) == 5
    # the newest come first, and nothing is held while nobody reads
    asked = identifier("STUDY", StudyInstanceUID="", StudyDate="")
    with associated(site.door.port, STUDY_ROOT_FIND) as association:
        dates = []
        last = Dataset()
        for status, match in association.send_c_find(asked, STUDY_ROOT_FIND):
            last = status
            if match is not None:
                dates.append(match.StudyDate)
        assert dates == sorted(dates, reverse=True)
        assert last.Status == 0x0000

    # between two pages a cancel is heard: here while the second page is read
    entered = []
    page = find_module._page

    def slowly(*arguments: Any) -> Any:
        if len(entered) == 1:
            wait_for(lambda: associations()[0].dimse.cancel_req, 30, "the cancel came")
        entered.append(1)
        return page(*arguments)

    def associations() -> list[Any]:
        return list(site.door._ae.active_associations)

    monkeypatch.setattr(find_module, "_page", slowly)
    with associated(site.door.port, STUDY_ROOT_FIND) as association:
        count = 0
        for status, match in association.send_c_find(asked, STUDY_ROOT_FIND, msg_id=5):
            last = status
            if match is not None and not count:
                association.send_c_cancel(5, query_model=STUDY_ROOT_FIND)
            count += match is not None
        assert (last.Status, count) == (0xFE00, 3)
        # and the association is as good as before
        monkeypatch.setattr(find_module, "_page", page)
        assert sum(1 for _ in association.send_c_find(asked, STUDY_ROOT_FIND)) == 41


def test_a_conflict_hides_what_we_made(site: QuerySite) -> None:
    site.add(study(1))
    site.job("1.2.1.1", "1.2.1", state=JobState.DONE, results=((ResultKind.SEG, seg()),))
    other = mr_slice(2, StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.1.1", PatientID="OTHER")
    site.add(other, now=T0 + timedelta(seconds=1))
    asked = identifier("SERIES", StudyInstanceUID="1.2.1", SeriesInstanceUID="")
    assert [item.SeriesInstanceUID for item in find(site.door.port, asked)[0]] == ["1.2.1.1"]


def test_failed_work_is_not_told(site: QuerySite) -> None:
    site.add(study(1))
    site.job("1.2.1.1", "1.2.1", state=JobState.FAILED, results=((ResultKind.SEG, seg()),))
    asked = identifier("SERIES", StudyInstanceUID="1.2.1", SeriesInstanceUID="")
    assert len(find(site.door.port, asked)[0]) == 1


def test_sql_that_is_away_is_told_and_images_are_taken(
    make_settings: Callable[..., Settings], tmp_path: Any
) -> None:
    from support.peers import storescu

    from node.door.scp import Door

    port = free_port()
    settings = make_settings(
        node={"port": port},
        ledger={"url": "postgresql://nobody@127.0.0.1:1/none"},
        peers=PEERS,
    )
    door = Door(settings)
    try:
        found, status = find(port, identifier("STUDY", StudyInstanceUID=""))
        assert (found, status.Status) == ([], 0xA700)
        assert "away" in status.ErrorComment
        path = tmp_path / "image.dcm"
        mr_slice().save_as(path, enforce_file_format=True)
        assert storescu(port, [path]).returncode == 0
    finally:
        door.close(grace_seconds=1)


def test_bytes_that_are_no_identifier(shared: QuerySite) -> None:
    with associated(shared.door.port, STUDY_ROOT_FIND) as association:
        request = C_FIND()
        request.MessageID, request.Priority = 7, 2
        request.AffectedSOPClassUID = STUDY_ROOT_FIND
        request.Identifier = BytesIO(b"\xff" * 64)
        association._reactor_checkpoint.clear()
        wait_for(lambda: association._is_paused, 30)
        context = association.accepted_contexts[0]
        association.dimse.send_msg(request, context.context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        assert answer.Status in {0xC001, 0xA900}


def test_dcmtk(shared: QuerySite) -> None:
    program = require_program("findscu", "/usr/bin")
    for model, level, wanted in (("-S", "STUDY", 2), ("-P", "PATIENT", 2)):
        asked = subprocess.run(
            [
                *(program, model, "-aet", "VIEWER", "-aec", "SENTINODE", "127.0.0.1"),
                *(str(shared.door.port), "-k", f"QueryRetrieveLevel={level}"),
                *("-k", "PatientName=doe*", "-k", "PatientID", "-k", "StudyInstanceUID"),
            ],
            env=DCMTK_ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert asked.returncode == 0, asked.stderr
        assert (asked.stdout + asked.stderr).count("(0010,0020)") == wanted
