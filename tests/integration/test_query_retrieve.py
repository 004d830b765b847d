"""C-GET and C-MOVE with real clients: DCMTK, Orthanc and pynetdicom."""

from __future__ import annotations

import json
import subprocess
import threading
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, build_context, build_role, evt
from support.instances import mr_slice
from support.peers import (
    DCMTK_ENVIRONMENT,
    SmallPacs,
    free_port,
    orthanc,
    require_program,
    small_pacs,
    wait_for,
)
from support.queries import QuerySite, associated, identifier, query_site, seg

from core.domain import ResultKind
from core.ledger import Ledger
from core.lifecycle import JobState
from core.schema import Base
from core.settings import Settings
from node.dimse.contexts import STUDY_ROOT_GET, STUDY_ROOT_MOVE

SEG = str(seg().SOPClassUID)


@pytest.fixture
def pacs() -> Iterator[SmallPacs]:
    with small_pacs() as opened:
        yield opened


@pytest.fixture
def settings(
    make_settings: Callable[..., Settings],
    tmp_path: Path,
    pacs: SmallPacs,
    request: pytest.FixtureRequest,
) -> Settings:
    return make_settings(
        node={"port": free_port(), "fast_lane": getattr(request, "param", True)},
        ledger={"url": f"sqlite:///{tmp_path / 'ledger.db'}"},
        peers=[
            {"name": "viewer", "ae_title": "VIEWER", "query": True},
            {"name": "mr1", "ae_title": "MR1"},
            {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port},
            {"name": "gone", "ae_title": "GONE", "host": "127.0.0.1", "port": free_port()},
            {"name": "deaf", "ae_title": "DEAF"},
        ],
    )


@pytest.fixture
def site(settings: Settings) -> Iterator[QuerySite]:
    ledger = Ledger(settings.ledger_url)
    Base.metadata.create_all(ledger.engine)  # quicker than all migrations
    with query_site(settings, ledger) as opened:
        opened.add(*(slice_of(number) for number in (1, 2, 3)))
        results = ((ResultKind.SEG, seg()),)
        opened.job("1.2.1.1", "1.2.1", state=JobState.DONE, results=results)
        yield opened
    ledger.close()


def slice_of(number: int, **attributes: Any) -> Dataset:
    return mr_slice(
        number,
        StudyInstanceUID="1.2.1",
        SeriesInstanceUID="1.2.1.1",
        SOPInstanceUID=f"1.2.1.1.{number}",
        **attributes,
    )


IMAGES = [f"1.2.1.1.{number}" for number in (1, 2, 3)]
ALL = [*IMAGES, "1.2.1.90.1"]


def get(
    site: QuerySite,
    asked: Dataset,
    *,
    classes: tuple[str, ...] = (str(MRImageStorage), SEG),
    syntax: str = ExplicitVRLittleEndian,
    status: Callable[[str], int] = lambda _: 0x0000,
    cancel_after: int = 0,
) -> tuple[list[Dataset], list[Dataset], Dataset | None]:
    """C-GET; what came, every status, and the last identifier."""
    received: list[Dataset] = []

    def on_store(event: evt.Event) -> int:
        dataset = event.dataset
        answer = status(str(dataset.SOPInstanceUID))
        if answer in {0x0000, 0xB000}:
            received.append(dataset)
        if cancel_after and len(received) == cancel_after:
            event.assoc.send_c_cancel(9, query_model=STUDY_ROOT_GET)
            wait_for(
                lambda: next(iter(site.door._ae.active_associations)).dimse.cancel_req,
                30,
            )
        return answer

    ae = AE(ae_title="VIEWER")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    contexts = [build_context(STUDY_ROOT_GET), *(build_context(uid, [syntax]) for uid in classes)]
    association = ae.associate(
        "127.0.0.1",
        site.door.port,
        contexts,
        ae_title="SENTINODE",
        ext_neg=[build_role(uid, scp_role=True) for uid in classes],
        evt_handlers=[(evt.EVT_C_STORE, on_store)],
    )
    assert association.is_established
    statuses, last = [], None
    for one, found in association.send_c_get(asked, STUDY_ROOT_GET, msg_id=9):
        statuses.append(one)
        last = found
    association.release()
    return received, statuses, last


@pytest.mark.parametrize("settings", [True, False], indirect=True, ids=["fast-lane", "old-way"])
def test_a_viewer_pulls_a_study(site: QuerySite) -> None:
    received, statuses, _ = get(site, identifier("STUDY", StudyInstanceUID="1.2.1"))
    assert sorted(item.SOPInstanceUID for item in received) == ALL
    original = slice_of(1)
    came = next(item for item in received if item.SOPInstanceUID == "1.2.1.1.1")
    assert came.PixelData == original.PixelData
    assert [item.Status for item in statuses] == [0xFF00] * 3 + [0x0000]
    first, last = statuses[0], statuses[-1]
    assert (first.NumberOfRemainingSuboperations, first.NumberOfCompletedSuboperations) == (3, 1)
    assert last.NumberOfCompletedSuboperations == 4
    assert last.NumberOfFailedSuboperations == last.NumberOfWarningSuboperations == 0


def test_lower_levels_and_lists(site: QuerySite) -> None:
    asked = identifier("SERIES", StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.1.90")
    received, _, _ = get(site, asked)
    assert [item.SOPInstanceUID for item in received] == ["1.2.1.90.1"]
    asked = identifier(
        "IMAGE",
        StudyInstanceUID="1.2.1",
        SeriesInstanceUID="1.2.1.1",
        SOPInstanceUID=["1.2.1.1.3", "1.2.1.1.1", "1.9"],
    )
    received, statuses, _ = get(site, asked)
    assert sorted(item.SOPInstanceUID for item in received) == ["1.2.1.1.1", "1.2.1.1.3"]
    # nothing there is nothing to send
    received, statuses, _ = get(site, identifier("STUDY", StudyInstanceUID="1.9"))
    assert (received, [item.Status for item in statuses]) == ([], [0x0000])
    # a retrieval must say what
    _, statuses, _ = get(site, identifier("STUDY", PatientID="P1"))
    assert statuses[-1].Status == 0xA900
    _, statuses, _ = get(site, identifier("STUDY", StudyInstanceUID="*"))
    assert statuses[-1].Status == 0xA900


def test_what_is_not_taken_is_named(site: QuerySite) -> None:
    asked = identifier("STUDY", StudyInstanceUID="1.2.1")

    def picky(uid: str) -> int:
        return {"1.2.1.1.2": 0xA700, "1.2.1.1.3": 0xB000}.get(uid, 0x0000)

    _, statuses, failed = get(site, asked, status=picky)
    last = statuses[-1]
    assert last.Status == 0xB000
    assert (
        last.NumberOfCompletedSuboperations,
        last.NumberOfFailedSuboperations,
        last.NumberOfWarningSuboperations,
    ) == (2, 1, 1)
    assert failed is not None
    assert failed.FailedSOPInstanceUIDList == "1.2.1.1.2"
    # a class that was not negotiated
    received, statuses, failed = get(site, asked, classes=(str(MRImageStorage),))
    assert sorted(item.SOPInstanceUID for item in received) == IMAGES
    assert statuses[-1].Status == 0xB000
    assert failed is not None
    assert failed.FailedSOPInstanceUIDList == "1.2.1.90.1"
    # bytes that are gone
    site.store.delete("instances/1.2.1.1.2.dcm")
    _, statuses, failed = get(site, asked)
    assert failed is not None
    assert failed.FailedSOPInstanceUIDList == "1.2.1.1.2"
    # nothing at all
    _, statuses, _ = get(site, asked, status=lambda _: 0xC000)
    assert statuses[-1].Status == 0xA702


def test_the_other_uncompressed_encoding(site: QuerySite) -> None:
    asked = identifier("SERIES", StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.1.1")
    received, _, _ = get(site, asked, syntax=ImplicitVRLittleEndian)
    assert sorted(item.SOPInstanceUID for item in received) == IMAGES
    assert received[0].PixelData == slice_of(received[0].InstanceNumber).PixelData


@pytest.mark.parametrize("settings", [True, False], indirect=True, ids=["fast-lane", "old-way"])
def test_a_cancel_in_the_middle_of_a_get(site: QuerySite) -> None:
    received, statuses, _ = get(site, identifier("STUDY", StudyInstanceUID="1.2.1"), cancel_after=2)
    last = statuses[-1]
    assert last.Status == 0xFE00
    assert len(received) == 2
    assert (last.NumberOfRemainingSuboperations, last.NumberOfCompletedSuboperations) == (2, 2)


def move(site: QuerySite, asked: Dataset, to: str) -> tuple[list[Dataset], Dataset | None]:
    with associated(site.door.port, STUDY_ROOT_MOVE) as association:
        answers = list(association.send_c_move(asked, to, STUDY_ROOT_MOVE, msg_id=7))
    return [status for status, _ in answers], answers[-1][1]


@pytest.mark.parametrize("settings", [True, False], indirect=True, ids=["fast-lane", "old-way"])
def test_a_move_to_a_known_peer(site: QuerySite, pacs: SmallPacs) -> None:
    asked = identifier("STUDY", StudyInstanceUID="1.2.1")
    statuses, _ = move(site, asked, "PACS")
    assert [item.Status for item in statuses] == [0xFF00] * 3 + [0x0000]
    assert statuses[-1].NumberOfCompletedSuboperations == 4
    assert sorted(pacs.uids()) == ALL
    assert pacs.associations == 1
    for unknown in ("STRANGER", "DEAF"):
        statuses, _ = move(site, asked, unknown)
        assert [item.Status for item in statuses] == [0xA801]
    statuses, _ = move(site, asked, "GONE")
    assert [item.Status for item in statuses] == [0xA702]
    pacs.status = lambda item: 0xA700 if item.SOPInstanceUID == "1.2.1.1.1" else 0x0000
    statuses, failed = move(site, asked, "PACS")
    assert statuses[-1].Status == 0xB000
    assert failed is not None
    assert failed.FailedSOPInstanceUIDList == "1.2.1.1.1"


def test_a_destination_that_breaks_off(
    site: QuerySite, make_settings: Callable[..., Settings]
) -> None:
    port = next(peer.port for peer in site.settings.peers if peer.name == "gone")
    with small_pacs(port, abort_at=SEG):
        statuses, failed = move(site, identifier("STUDY", StudyInstanceUID="1.2.1"), "GONE")
    last = statuses[-1]
    assert last.Status == 0xB000
    assert (last.NumberOfCompletedSuboperations, last.NumberOfFailedSuboperations) == (3, 1)
    assert failed is not None
    assert failed.FailedSOPInstanceUIDList == "1.2.1.90.1"


def test_who_may_not_retrieve(site: QuerySite, pacs: SmallPacs) -> None:
    asked = identifier("STUDY", StudyInstanceUID="1.2.1")
    with associated(site.door.port, STUDY_ROOT_MOVE, calling="MR1") as association:
        answers = list(association.send_c_move(asked, "PACS", STUDY_ROOT_MOVE))
    assert [status.Status for status, _ in answers] == [0x0124]
    assert not pacs.received


def test_a_large_object_costs_no_memory(site: QuerySite, pacs: SmallPacs) -> None:
    rows = 4096
    image = slice_of(9)
    image.SeriesInstanceUID, image.SOPInstanceUID = "1.2.1.5", "1.2.1.5.1"
    image.Rows = image.Columns = rows
    image.PixelData = bytes(rows * rows * 2)
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    site.add(image)
    del image
    # the receiver of this test is in this process as well: it keeps nothing
    got = threading.Event()
    sizes: list[int] = []

    def on_store(event: evt.Event) -> int:
        sizes.append(event.request.DataSet.getbuffer().nbytes)
        got.set()
        return 0xA700

    port = next(peer.port for peer in site.settings.peers if peer.name == "gone")
    ae = AE(ae_title="GONE")
    ae.add_supported_context(MRImageStorage, [ExplicitVRLittleEndian])
    server = ae.start_server(
        ("127.0.0.1", port or 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)]
    )
    try:
        asked = identifier("SERIES", StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.1.5")
        tracemalloc.start()
        statuses, _ = move(site, asked, "GONE")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    finally:
        server.shutdown()
    assert got.is_set()
    assert statuses[-1].Status == 0xA702
    size = rows * rows * 2
    assert sizes[0] > size
    # pynetdicom's receiver holds the object up to three times; a fourth would be ours
    assert peak < 4 * size


def test_dcmtk(site: QuerySite, pacs: SmallPacs, tmp_path: Path) -> None:
    common = ["-aet", "VIEWER", "-aec", "SENTINODE", "127.0.0.1", str(site.door.port)]
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2.1"]

    def run(program: str, *options: str) -> None:
        done = subprocess.run(
            [require_program(program, "/usr/bin"), "-v", "-S", *options, *common, *keys],
            env=DCMTK_ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    run("movescu", "-aem", "PACS")
    assert sorted(pacs.uids()) == ALL
    folder = tmp_path / "got"
    folder.mkdir()
    run("getscu", "-od", str(folder))
    files = [pydicom.dcmread(path, force=True) for path in folder.iterdir()]
    assert sorted(str(item.SOPInstanceUID) for item in files) == ALL


def test_orthanc_queries_us_and_retrieves(
    make_settings: Callable[..., Settings], tmp_path: Path, site: QuerySite
) -> None:
    with orthanc(tmp_path / "orthanc") as server:
        port = free_port()
        settings = make_settings(
            node={"port": port},
            ledger={"url": site.settings.ledger_url},
            peers=[
                {
                    "name": "orthanc",
                    "ae_title": server.ae_title,
                    "host": "127.0.0.1",
                    "port": server.port,
                    "query": True,
                    "worklist": True,
                }
            ],
        )

        def post(path: str, content: Any, method: str = "POST") -> Any:
            request = urllib.request.Request(
                f"http://127.0.0.1:{server.http_port}{path}",
                json.dumps(content).encode(),
                method=method,
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                body = answer.read()
            return json.loads(body) if body.strip().startswith((b"{", b"[")) else None

        with query_site(settings, site.ledger):
            us = {"AET": "SENTINODE", "Host": "127.0.0.1", "Port": port}
            post("/modalities/us", us, "PUT")
            asked = {"Level": "Study", "Query": {"PatientName": "phantom*", "StudyDate": ""}}
            query = post("/modalities/us/query", asked)["ID"]
            assert len(server.get(f"/queries/{query}/answers")) == 1
            post(f"/queries/{query}/retrieve", {"TargetAet": server.ae_title})
            wait_for(lambda: len(server.get("/instances")) == 4, 60, "Orthanc has them")
            assert len(server.instances("SEG")) == 1
