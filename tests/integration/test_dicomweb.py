"""DICOMweb: what is found, given and shown is what was stored, in bounded memory."""

from __future__ import annotations

import email.parser
import email.policy
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import pack_bits, set_pixel_data
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from support.instances import mr_slice
from support.web import Site, encoded, report, site, site_of_its_own

from core.accounts import Role
from core.domain import ResultKind
from core.ledger import Ledger
from core.lifecycle import JobState
from core.settings import Settings
from node.web.dicomweb.media import accepted

STUDY = "/dicom-web/studies/1.2.3"
SERIES = f"{STUDY}/series/1.2.3.4"
DICOM_PARTS = 'multipart/related; type="application/dicom"'
FRAME_PARTS = 'multipart/related; type="application/octet-stream"'


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One with a study of three images and a report of ours, and others beside it."""
    with site_of_its_own(tmp_path_factory.mktemp("site")) as made:
        fill(made)
        yield made


def fill(made: Site) -> None:
    made.add_images(3)
    sr = report(SOPInstanceUID="1.2.3.99")
    sr.SeriesInstanceUID = "1.2.3.98"
    results: list[Any] = [(ResultKind.SR, sr), (ResultKind.PICTURE, b"\x89PNG")]
    made.add_job(state=JobState.DONE, results=results)
    made.add_images(
        1,
        study="1.2.4",
        series="1.2.4.4",
        Modality="CT",
        PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう",
        PatientID="P_2%",
        StudyDate="20251231",
        AccessionNumber="B2",
        SpecificCharacterSet="ISO_IR 192",
    )


def parts_of(answer: Any) -> list[tuple[dict[str, str], bytes]]:
    """The parts of a multipart answer."""
    kind = answer.headers["content-type"]
    assert kind.startswith("multipart/related"), kind
    head = f"Content-Type: {kind}\r\nMIME-Version: 1.0\r\n\r\n".encode()
    boundary = kind.partition("boundary=")[2].encode()
    assert answer.content.endswith(b"--" + boundary + b"--\r\n")
    assert email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head).is_multipart
    found = []
    for part in answer.content.split(b"--" + boundary)[1:-1]:
        raw, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in raw.decode().split("\r\n"))
        found.append((headers, content.removesuffix(b"\r\n")))
    return found


def value(line: dict[str, Any], tag: str) -> Any:
    return line[tag]["Value"][0]


def uids(answer: Any) -> set[str]:
    assert answer.status_code in {200, 204}, answer.text
    return {value(line, "0020000D") for line in answer.json()} if answer.content else set()


def test_a_study_says_what_it_is(here: Site) -> None:
    with here.client() as client:
        answer = client.get("/dicom-web/studies", params={"PatientID": "PHANTOM"})
        assert answer.headers["content-type"] == "application/dicom+json"
        (line,) = answer.json()
    assert value(line, "0020000D") == "1.2.3"
    assert line["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Phantom^Test"}]}
    assert value(line, "00201206") == 2
    assert value(line, "00201208") == 4
    assert line["00080061"]["Value"] == ["MR", "SR"]
    assert value(line, "00080030") == "030405"
    assert value(line, "00081190") == f"{here.base}{STUDY}"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {"1.2.3", "1.2.4"}),
        ("PatientName=phantom*", {"1.2.3"}),
        ("PatientName=山田*", {"1.2.4"}),
        ("PatientName=YAMADA^T?ROU", {"1.2.4"}),
        ("PatientName=Yamada", set()),
        ("PatientID=P_2%25", {"1.2.4"}),
        ("PatientID=P*", {"1.2.3", "1.2.4"}),
        ("PatientID=P_*", {"1.2.4"}),
        ("00100020=PHANTOM", {"1.2.3"}),
        ("StudyDate=20251231", {"1.2.4"}),
        ("StudyDate=20260101-", {"1.2.3"}),
        ("StudyDate=-20251231", {"1.2.4"}),
        ("StudyDate=20251231-20260102", {"1.2.3", "1.2.4"}),
        ("StudyInstanceUID=1.2.3,1.2.4", {"1.2.3", "1.2.4"}),
        ("ModalitiesInStudy=CT", {"1.2.4"}),
        ("ModalitiesInStudy=SR", {"1.2.3"}),
        ("ModalitiesInStudy=MR\\CT", {"1.2.3", "1.2.4"}),
        ("AccessionNumber=B2&PatientID=PHANTOM", set()),
        ("StudyID=1", {"1.2.3", "1.2.4"}),
        ("StudyID=2", set()),
        ("SeriesInstanceUID=1.2.4.4", {"1.2.4"}),
        ("SeriesInstanceUID=1.2.3.98", {"1.2.3"}),
        ("limit=1", {"1.2.3"}),
        ("limit=1&offset=1", {"1.2.4"}),
        ("limit=0", set()),
        ("offset=9", set()),
    ],
)
def test_studies_are_found_by_what_they_are(here: Site, query: str, found: set[str]) -> None:
    with here.client() as client:
        assert uids(client.get(f"/dicom-web/studies?{query}")) == found


@pytest.mark.parametrize(
    "query",
    [
        "limit=x",
        "limit=-1",
        "offset=1.5",
        "NoSuchThing=1",
        "StudyDate=yesterday",
        "StudyDate=-",
        "StudyInstanceUID=abc",
        "fuzzymatching=perhaps",
        "includefield=NoSuchThing",
        "PatientName=%00",
        "PatientName=" + "x" * 2000,
    ],
)
def test_what_cannot_be_asked_is_refused(here: Site, query: str) -> None:
    with here.client() as client:
        answer = client.get(f"/dicom-web/studies?{query}")
        assert answer.status_code == 400, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


def test_fuzzy_matching_is_declined_politely(here: Site) -> None:
    with here.client() as client:
        answer = client.get(
            "/dicom-web/studies", params={"fuzzymatching": "true", "PatientID": "PHANTOM"}
        )
        assert uids(answer) == {"1.2.3"}
        assert "299" in answer.headers["warning"]
        assert "literal matching" in answer.headers["warning"]


def test_series_and_instances_are_found(here: Site) -> None:
    with here.client() as client:
        series = client.get(f"{STUDY}/series").json()
        assert {value(line, "0020000E"): value(line, "00080060") for line in series} == {
            "1.2.3.4": "MR",
            "1.2.3.98": "SR",
        }
        assert "00100010" not in series[0]
        assert [value(line, "00201209") for line in series] == [3, 1]
        only = client.get(f"{STUDY}/series", params={"Modality": "SR"}).json()
        assert [value(line, "0020000E") for line in only] == ["1.2.3.98"]
        everywhere = client.get("/dicom-web/series", params={"Modality": "CT"}).json()
        assert [value(line, "0020000D") for line in everywhere] == ["1.2.4"]
        assert value(everywhere[0], "00100020") == "P_2%"
        instances = client.get(f"{SERIES}/instances").json()
        assert [value(line, "00200013") for line in instances] == [1, 2, 3]
        assert value(instances[0], "00280010") == 16
        one = client.get(f"{STUDY}/instances", params={"InstanceNumber": "2"}).json()
        assert [value(line, "00080018") for line in one] == ["1.2.3.4.2"]
        page = client.get(f"{STUDY}/instances", params={"limit": "2", "offset": "1"}).json()
        assert [value(line, "00080018") for line in page] == ["1.2.3.4.2", "1.2.3.4.3"]
        wide = client.get(f"{STUDY}/instances", params={"includefield": "all", "limit": "1"}).json()
        assert value(wide[0], "00180050") == 5.0
        named = client.get(f"{STUDY}/instances?includefield=SliceThickness&limit=1").json()
        assert value(named[0], "00180050") == 5.0
        assert client.get("/dicom-web/studies/1.9.9/series").status_code == 204


def test_a_whole_study_is_given_as_it_was_stored(here: Site) -> None:
    with here.client(headers={"Accept": f"{DICOM_PARTS}; transfer-syntax=*"}) as client:
        answer = client.get(STUDY)
        parts = parts_of(answer)
    assert len(parts) == 4
    found = {}
    for headers, content in parts:
        assert (
            headers["Content-Type"]
            == f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"
        )
        dataset = dcmread(BytesIO(content))
        assert headers["Content-Location"].endswith(dataset.SOPInstanceUID)
        # who sent it to us stays with us
        assert {element.tag.element for element in dataset.file_meta} <= {0, 1, 2, 3, 16, 18, 19}
        found[str(dataset.SOPInstanceUID)] = dataset
    assert set(found) == {"1.2.3.4.1", "1.2.3.4.2", "1.2.3.4.3", "1.2.3.99"}
    original = mr_slice(2, SOPInstanceUID="1.2.3.4.2")
    assert found["1.2.3.4.2"].PixelData == original.PixelData
    del original.PixelData, found["1.2.3.4.2"].PixelData
    assert found["1.2.3.4.2"].to_json_dict() == original.to_json_dict()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless])
def test_other_encodings_are_made_plain_unless_they_are_wanted(here: Site, syntax: str) -> None:
    dataset = mr_slice(
        7,
        rows=64,
        columns=64,
        StudyInstanceUID="1.2.5",
        SeriesInstanceUID=f"1.2.5.{len(syntax)}",
    )
    dataset.SOPInstanceUID = f"1.2.5.1.{len(syntax)}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    plain = dataset.PixelData
    if syntax == ImplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    here.add_images(datasets=[dataset])
    path = (
        f"/dicom-web/studies/1.2.5/series/{dataset.SeriesInstanceUID}/instances/"
        f"{dataset.SOPInstanceUID}"
    )
    with here.client() as client:
        (part,) = parts_of(client.get(path, headers={"Accept": DICOM_PARTS}))
        given_back = dcmread(BytesIO(part[1]))
        assert given_back.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert given_back.PixelData == plain
        any_syntax = client.get(path, headers={"Accept": f"{DICOM_PARTS}; transfer-syntax=*"})
        as_stored = dcmread(BytesIO(parts_of(any_syntax)[0][1]))
        assert as_stored.file_meta.TransferSyntaxUID == syntax
        assert as_stored.PixelData == dataset.PixelData
        alone = client.get(path, headers={"Accept": "application/dicom"})
        assert alone.headers["content-type"] == "application/dicom"
        assert dcmread(BytesIO(alone.content)).PixelData == plain
        other = f"{DICOM_PARTS}; transfer-syntax=1.2.840.10008.1.2.4.80"
        assert client.get(path, headers={"Accept": other}).status_code == 406
        frame = client.get(f"{path}/frames/1", headers={"Accept": FRAME_PARTS})
        assert parts_of(frame)[0][1] == plain
        if syntax == JPEG2000Lossless:
            wanted = 'multipart/related; type="image/jp2"'
            headers, content = parts_of(client.get(f"{path}/frames/1", headers={"Accept": wanted}))[
                0
            ]
            assert headers["Content-Type"].startswith("image/jp2; transfer-syntax=")
            assert content[:4] == b"\xff\x4f\xff\x51"


def many_frames(bits: int, syntax: str = ExplicitVRLittleEndian) -> tuple[Dataset, np.ndarray]:
    """Five frames of 5 × 7 pixels, whose one-bit frames begin within bytes."""
    rng = np.random.default_rng(bits)
    high = {1: 2, 8: 256, 16: 1000}[bits]
    frames = rng.integers(0, high, (5, 5, 7), dtype=np.uint16 if bits == 16 else np.uint8)
    dataset = mr_slice(1, StudyInstanceUID="1.2.6", SeriesInstanceUID=f"1.2.6.{bits}")
    dataset.SOPInstanceUID = f"1.2.6.{bits}.{len(syntax)}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = 5, 5, 7
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelData = pack_bits(frames) if bits == 1 else frames.tobytes()
    if len(dataset.PixelData) % 2:
        dataset.PixelData += b"\0"
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset, frames


@pytest.mark.parametrize(
    ("bits", "syntax"),
    [
        (16, ExplicitVRLittleEndian),
        (8, ExplicitVRLittleEndian),
        (1, ExplicitVRLittleEndian),
        (16, RLELossless),
        (16, DeflatedExplicitVRLittleEndian),
    ],
)
def test_single_frames_are_the_right_ones(here: Site, bits: int, syntax: str) -> None:
    dataset, frames = many_frames(bits, syntax)
    here.add_images(datasets=[dataset])
    path = (
        f"/dicom-web/studies/1.2.6/series/{dataset.SeriesInstanceUID}/instances/"
        f"{dataset.SOPInstanceUID}"
    )
    with here.client(headers={"Accept": FRAME_PARTS}) as client:
        parts = parts_of(client.get(f"{path}/frames/5,1,3"))
        assert len(parts) == 3
        for number, (headers, content) in zip((5, 1, 3), parts, strict=True):
            assert headers["Content-Location"].endswith(f"/frames/{number}")
            wanted = frames[number - 1]
            if bits == 1:
                bits_of_it = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
                assert (bits_of_it[:35] == wanted.ravel()).all()
            else:
                assert content == wanted.tobytes()
        assert client.get(f"{path}/frames/6").status_code == 404
        assert client.get(f"{path}/frames/0").status_code == 404
        assert client.get(f"{path}/frames/x").status_code == 422
        picture = client.get(f"{path}/frames/2/rendered", headers={"Accept": "image/png"})
        assert Image.open(BytesIO(picture.content)).size == (7, 5)


def test_metadata_is_everything_but_the_pixels(here: Site) -> None:
    with here.client() as client:
        lines = client.get(f"{SERIES}/metadata").json()
        assert len(lines) == 3
        for number, line in enumerate(lines, start=1):
            bulk = line.pop("7FE00010")
            original = mr_slice(number, SOPInstanceUID=f"1.2.3.4.{number}")
            del original.PixelData
            assert Dataset.from_json(json.dumps(line)) == original
            assert bulk["vr"] == "OW"
            value = client.get(bulk["BulkDataURI"], headers={"Accept": FRAME_PARTS})
            assert parts_of(value)[0][1] == mr_slice(number).PixelData
        assert len(client.get(f"{STUDY}/metadata").json()) == 4
        assert client.get(f"{STUDY}/metadata", headers={"Accept": "text/html"}).status_code == 406


def test_odd_values_do_not_spoil_the_metadata(here: Site) -> None:
    dataset = mr_slice(1, StudyInstanceUID="1.2.8", SeriesInstanceUID="1.2.8.1")
    dataset.SOPInstanceUID = "1.2.8.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.8.1.1"
    dataset.add_new(0x00181041, "DS", "1")
    dataset.add_new(0x00089459, "FL", float("nan"))
    dataset.add_new(0x00291010, "OB", bytes(100_000))
    dataset.PatientComments = "<script>alert(1)</script>"
    content = encoded(dataset).replace(b"\x18\0\x41\x10DS\x02\x001 ", b"\x18\0\x41\x10DS\x02\0xx")
    here.add_images(datasets=[dataset])
    with here.ledger.read() as work:
        holding = work.holdings.objects("1.2.8")[0]
    here.store.delete(holding.store_key)
    here.store.put_bytes(holding.store_key, content)
    path = "/dicom-web/studies/1.2.8/series/1.2.8.1/instances/1.2.8.1.1"
    with here.client() as client:
        (line,) = client.get(f"{path}/metadata").json()
        assert line["00104000"]["Value"] == ["<script>alert(1)</script>"]
        assert line["00291010"]["BulkDataURI"].endswith("/bulkdata/00291010")
        octets = {"Accept": "application/octet-stream"}
        assert client.get(line["00291010"]["BulkDataURI"], headers=octets).content == bytes(100_000)
        assert client.get(f"{path}/bulkdata/00100010", headers=octets).status_code == 404


def test_pictures_show_the_window_that_was_asked_for(here: Site) -> None:
    path = f"{SERIES}/instances/1.2.3.4.1"
    stored = np.frombuffer(mr_slice(1).PixelData, np.uint16).reshape(16, 16).astype(float)
    with here.client() as client:
        png = {"Accept": "image/png"}
        answer = client.get(f"{path}/rendered", params={"window": "500,400"}, headers=png)
        shown = np.asarray(Image.open(BytesIO(answer.content))).astype(float)
        wanted = np.clip((stored - 499.5) / 399 + 0.5, 0, 1) * 255
        assert np.abs(shown - wanted).max() <= 1
        small = client.get(f"{path}/rendered", params={"viewport": "8,8"}, headers=png)
        assert Image.open(BytesIO(small.content)).size == (8, 8)
        plain = client.get(f"{path}/rendered")
        assert plain.headers["content-type"] == "image/jpeg"
        for wrong in ("window=1", "window=a,b", "window=1,0", "window=1,2,cubic", "viewport=9"):
            assert client.get(f"{path}/rendered?{wrong}").status_code == 400, wrong
        assert client.get(f"{path}/rendered", headers={"Accept": "text/plain"}).status_code == 406
        assert client.get(f"{STUDY}/thumbnail").status_code == 200
        sr = f"{STUDY}/series/1.2.3.98/instances/1.2.3.99"
        assert client.get(f"{sr}/rendered").status_code == 404


def test_white_and_black_change_places_in_monochrome1(here: Site) -> None:
    for number, kind in enumerate(("MONOCHROME1", "MONOCHROME2"), start=1):
        here.add_images(
            1, study="1.2.10", series=f"1.2.10.{number}", PhotometricInterpretation=kind
        )
    with here.client(headers={"Accept": "image/png"}) as client:
        one, two = (
            np.asarray(
                Image.open(
                    BytesIO(
                        client.get(
                            f"/dicom-web/studies/1.2.10/series/1.2.10.{number}/rendered"
                        ).content
                    )
                )
            ).astype(int)
            for number in (1, 2)
        )
    assert (one + two == 255).all()


def test_colours_are_colours(here: Site) -> None:
    dataset = mr_slice(1, StudyInstanceUID="1.2.11", SeriesInstanceUID="1.2.11.1")
    dataset.SOPInstanceUID = "1.2.11.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.11.1.1"
    array = np.zeros((8, 8, 3), np.uint8)
    array[:, :4, 0], array[:, 4:, 2] = 200, 90
    set_pixel_data(dataset, array, "RGB", 8, generate_instance_uid=False)
    here.add_images(datasets=[dataset])
    with here.client(headers={"Accept": "image/png"}) as client:
        content = client.get("/dicom-web/studies/1.2.11/rendered").content
    assert (np.asarray(Image.open(BytesIO(content))) == array).all()


def test_what_is_not_there_is_said(here: Site) -> None:
    with here.client(headers={"Accept": f"{DICOM_PARTS}; transfer-syntax=*"}) as client:
        for path in ("1.9.9", "1.2.3/series/1.9.9", "1.2.3/series/1.2.3.4/instances/1.9.9"):
            assert client.get(f"/dicom-web/studies/{path}").status_code == 404
        assert client.get("/dicom-web/studies/..%2F..%2Fetc").status_code in {404, 422}
    here.add_images(1, study="1.2.12", series="1.2.12.1")
    with here.ledger.read() as work:
        here.store.delete(work.holdings.objects("1.2.12")[0].store_key)
    with here.client() as client:
        assert client.get("/dicom-web/studies/1.2.12").status_code == 410
        assert client.get("/dicom-web/studies/1.2.12/metadata").status_code == 410
        assert client.get("/dicom-web/studies/1.2.12/rendered").status_code == 410
        assert len(client.get("/dicom-web/studies/1.2.12/instances").json()) == 1


def test_results_of_jobs_that_failed_are_not_given(
    ledger: Ledger, make_settings: Callable[..., Settings]
) -> None:
    with site(ledger, make_settings) as here, here.client() as client:
        here.add_images(1)
        sr = report(SOPInstanceUID="1.2.3.99")
        job = here.add_job(state=JobState.FAILED, results=[(ResultKind.SR, sr)], reason="wrong")
        assert len(client.get(f"{STUDY}/instances").json()) == 1
        with here.client(Role.OPERATOR) as operator:
            operator.post(f"/api/v1/jobs/{job}/rerun").raise_for_status()
        assert len(client.get(f"{STUDY}/instances").json()) == 1


def test_a_result_that_came_back_is_there_once(
    ledger: Ledger, make_settings: Callable[..., Settings]
) -> None:
    with site(ledger, make_settings) as here, here.client() as client:
        here.add_images(1)
        sr = report(SOPInstanceUID="1.2.3.99")
        here.add_job(state=JobState.DONE, results=[(ResultKind.SR, sr)])
        assert len(client.get(f"{STUDY}/instances").json()) == 2
        here.add_images(datasets=[sr])
        found = client.get(f"{STUDY}/instances").json()
        assert sorted(value(line, "00080018") for line in found) == ["1.2.3.4.1", "1.2.3.99"]
        assert len(parts_of(client.get(STUDY))) == 2


def test_another_site_may_read_with_a_token_only_if_it_is_named(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    web = {"origins": ["https://viewer.example"]}
    with site_of_its_own(tmp_path_factory.mktemp("site"), web=web) as here, here.client() as client:
        headers = {
            "Origin": "https://viewer.example",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization",
        }
        allowed = client.options("/dicom-web/studies", headers=headers)
        assert allowed.headers["access-control-allow-origin"] == "https://viewer.example"
        assert "access-control-allow-credentials" not in allowed.headers
        headers["Origin"] = "https://elsewhere.example"
        refused = client.options("/dicom-web/studies", headers=headers)
        assert "access-control-allow-origin" not in refused.headers


@given(st.text(max_size=60))
@hypothesis_settings(max_examples=150)
def test_any_accept_header_is_understood_or_left_alone(text: str) -> None:
    for item in accepted(text):
        assert "/" in item.kind
        assert 0 < item.quality <= 1


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", [("*/*", False, "")]),
        ("application/dicom+json", [("application/dicom+json", False, "")]),
        (
            'multipart/related; type="application/dicom"; transfer-syntax=*',
            [("application/dicom", True, "*")],
        ),
        (
            "multipart/related;type=image/jls;q=0.5, multipart/related; "
            "type=application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1",
            [("application/octet-stream", True, "1.2.840.10008.1.2.1"), ("image/jls", True, "")],
        ),
        ("text/html;q=0", [("*/*", False, "")]),
    ],
)
def test_accept_headers_of_viewers(header: str, found: list[tuple[str, bool, str]]) -> None:
    assert [(item.kind, item.multipart, item.syntax) for item in accepted(header)] == found
