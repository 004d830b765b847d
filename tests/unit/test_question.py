"""What a command line asks of a peer: keys, levels, criteria, days, and the journal of an order."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidValueError, SentinodeError
from core.ledger.queries.attributes import Level
from core.settings import Settings
from node.dimse.contexts import MOST_PROPOSED
from node.fetching.criteria import Span, criteria_of, span_of
from node.fetching.journal import Journal
from node.fetching.question import plain, question_of, read_key, tag_of
from node.fetching.retrieve import get_contexts, requests_for

TODAY = date(2026, 3, 1)
MR = "1.2.840.10008.5.1.4.1.1.4"


def test_a_question_carries_its_keys_and_asks_for_the_usual_ones() -> None:
    dataset = question_of("study", ["PatientName=DOE*", "StudyDate=20240101-"]).dataset()
    assert (dataset.QueryRetrieveLevel, dataset.StudyDate) == ("STUDY", "20240101-")
    assert dataset.PatientName == "DOE*"
    assert "StudyInstanceUID" in dataset and not dataset.StudyInstanceUID
    assert "SpecificCharacterSet" not in dataset


def test_a_name_that_is_no_ascii_says_its_character_set() -> None:
    dataset = question_of("STUDY", ["PatientName=Müller*"]).dataset()
    assert dataset.SpecificCharacterSet == "ISO_IR 192"


def test_a_tag_is_as_good_as_a_keyword() -> None:
    assert read_key("(0008,0061)=MR") == (tag_of("ModalitiesInStudy"), "MR")
    assert read_key("00080061") == (tag_of("ModalitiesInStudy"), "")
    assert read_key("StudyDescription=a=b")[1] == "a=b"


@pytest.mark.parametrize(
    ("level", "keys", "said"),
    [
        ("STUDY", ["PatientNme=X"], "did you mean PatientName"),
        ("STUDY", ["(12,34)=X"], "no DICOM keyword"),
        ("WARD", [], "PATIENT, STUDY, SERIES, IMAGE"),
        ("SERIES", [], "StudyInstanceUID must be named"),
        ("SERIES", ["StudyInstanceUID=1.2*"], "must be named"),
        ("IMAGE", ["StudyInstanceUID=1.2"], "SeriesInstanceUID must be named"),
        ("STUDY", ["StudyDate=yesterday"], "YYYYMMDD"),
        ("STUDY", ["StudyTime=noon"], "HHMMSS"),
        ("STUDY", ["StudyInstanceUID=1.2.x"], "not a UID"),
        ("STUDY", ["RequestAttributesSequence=X"], "sequence"),
        ("STUDY", ["QueryRetrieveLevel=IMAGE"], "--level"),
        ("STUDY", ["NumberOfStudyRelatedInstances=many"], "none of its values"),
    ],
)
def test_what_cannot_be_asked_is_said(level: str, keys: list[str], said: str) -> None:
    with pytest.raises(InvalidValueError, match=said.replace("(", r"\(")):
        question_of(level, keys)


@given(st.text(max_size=40))
def test_any_text_is_a_key_or_is_refused(text: str) -> None:
    try:
        question_of("STUDY", [text])
    except InvalidValueError:
        return
    assert tag_of(text.partition("=")[0].strip())


def test_an_answer_in_a_wrong_character_set_is_still_text() -> None:
    from io import BytesIO

    from pydicom.filereader import read_dataset

    raw = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 192\x10\x00\x10\x00PN\x04\x00M\xfcl "
    answer = plain(read_dataset(BytesIO(raw), is_implicit_VR=False, is_little_endian=True))
    assert answer["PatientName"] == ("Mül",)


def test_each_series_and_image_is_a_request_of_its_own() -> None:
    assert [item.level for item in requests_for("1.2", (), ())] == [Level.STUDY]
    asked = requests_for("1.2", ("1.2.3", "1.2.4"), ())
    assert [item.dataset().SeriesInstanceUID for item in asked] == ["1.2.3", "1.2.4"]
    assert [item.level for item in requests_for("1", ("2",), ("3", "4"))] == [Level.IMAGE] * 2


def test_what_comes_by_get_fits_one_association() -> None:
    assert len(get_contexts(())) < MOST_PROPOSED
    few = get_contexts([MR])
    assert {str(item.abstract_syntax) for item in few} == {MR}
    # each syntax has its own context, or the peer could send only the one that it chose
    assert all(len(item.transfer_syntax or ()) == 1 for item in few)
    assert all(len(item.transfer_syntax or ()) > 1 for item in get_contexts([]))
    assert len(get_contexts(["1.2.3"])) == len(get_contexts(()))  # a class that nobody knows


@pytest.mark.parametrize(
    ("days", "first", "last", "expected"),
    [
        (1, "", "", Span(TODAY, TODAY)),
        (3, "", "2026-01-02", Span(date(2025, 12, 31), date(2026, 1, 2))),
        (None, "20260227", "", Span(date(2026, 2, 27), TODAY)),
        (None, "", "", Span()),
    ],
)
def test_days_as_they_are_written(days: int | None, first: str, last: str, expected: Span) -> None:
    assert span_of(days, first, last, TODAY) == expected


@pytest.mark.parametrize(
    ("days", "first", "last"),
    [
        (1, "2026-01-01", ""),
        (None, "", "2026-01-01"),
        (None, "2026-04-01", ""),
        (None, "2026-02-30", ""),
        (0, "", ""),
        (None, "0001-01-01", ""),
    ],
)
def test_days_that_are_none(days: int | None, first: str, last: str) -> None:
    with pytest.raises(InvalidValueError):
        span_of(days, first, last, TODAY)


def test_the_newest_day_is_first() -> None:
    assert list(Span(date(2026, 2, 27), TODAY).days()) == ["20260301", "20260228", "20260227"]


def test_what_a_peer_says_is_held_against_what_was_asked() -> None:
    criteria = criteria_of(modalities=["mr"], body_parts=["BRAIN", "*HEAD*"])
    assert criteria.has_study({"ModalitiesInStudy": ("CT", "MR")}, "20260101")
    assert not criteria.has_study({"ModalitiesInStudy": ("CT",)}, "20260101")
    assert not criteria.has_study({"StudyDate": ("20260102",)}, "20260101")
    assert criteria.has_study({}, "20260101")
    series = {"Modality": ("MR",), "BodyPartExamined": ("Forehead",)}
    assert criteria.has_series(series) is True
    assert criteria.has_series(series | {"BodyPartExamined": ("KNEE",)}) is False
    assert criteria.has_series({"Modality": ("MR",)}) is None
    willing = criteria_of(modalities=["MR"], body_parts=["BRAIN"], unsaid=True)
    assert willing.has_series({"Modality": ("MR",)}) is True


def test_a_patient_is_compared_exactly() -> None:
    criteria = criteria_of(patient_id="P*1")
    assert criteria.has_study({"PatientID": ("P*1",)}, "")
    assert not criteria.has_study({"PatientID": ("P21",)}, "")
    assert not criteria.has_study({}, "")


@pytest.mark.parametrize(
    "key",
    ["Modality=MR", "PatientID=1", "StudyDate=20260101", "SOPInstanceUID=1.2", "StudyID", "X=1"],
)
def test_keys_that_choose_no_studies(key: str) -> None:
    with pytest.raises(InvalidValueError):
        criteria_of(keys=[key])


def test_keys_go_to_their_level() -> None:
    criteria = criteria_of(keys=["StudyDescription=*head*", "ProtocolName=T1", "PatientSex=F"])
    assert {value for _, value in criteria.study_keys} == {"*head*", "F"}
    assert {value for _, value in criteria.series_keys} == {"T1"}
    with pytest.raises(InvalidValueError, match="wildcards"):
        criteria_of(modalities=["M*"])


def journal_file(settings: Settings, name: str) -> Path:
    return settings.data / "orders" / f"{name}.jsonl"


def test_a_journal_goes_on_where_it_was_torn(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    with Journal(settings, "a") as journal:
        journal.note({"n": 1})
        journal.note({"n": 2})
    with journal_file(settings, "a").open("ab") as stream:
        stream.write(b'{"n": 3')
    with Journal(settings, "a") as journal:
        assert [line["n"] for line in journal.lines] == [1, 2]
        journal.note({"n": 4})
        with pytest.raises(SentinodeError, match="runs already"):
            Journal(settings, "a")
    with Journal(settings, "a") as journal:
        assert [line["n"] for line in journal.lines] == [1, 2, 4]
        journal.forget()
    assert not journal_file(settings, "a").exists()


def test_a_journal_that_cannot_be_written_is_said(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings()
    settings.data.mkdir(parents=True)
    (settings.data / "orders").write_text("in the way")
    with pytest.raises(SentinodeError, match="cannot be noted"):
        Journal(settings, "a")


def test_nothing_of_a_patient_is_in_an_orders_name() -> None:
    assert "SECRET" not in criteria_of(patient_id="SECRET").name()
    assert criteria_of(patient_id="A").name() != criteria_of(patient_id="B").name()
