"""What a key asks for: SQL, on both kinds of database, against a matcher written out plainly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from alembic import command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword
from sqlalchemy import delete, insert
from support.instances import T0

from core.errors import QueryError
from core.ledger import Ledger
from core.ledger.queries import Level, Place, Query
from core.ledger.queries.attributes import QUERY_RETRIEVE, WORKLIST, Attribute, known_at
from core.ledger.queries.columns import study_columns
from core.ledger.queries.folding import fold
from core.ledger.queries.matching import Matching
from core.ledger.unit import _alembic_config
from core.schema import Base, StudyRow
from node.worklist.encoding import Element, encode
from node.worklist.identifier import Key, combined, matching_of, read_identifier
from node.worklist.statuses import MEANINGS

LETTERS = "aAbBéÉ%_[]山"
TEXT = st.text(LETTERS, max_size=4)
PATTERN = st.text(LETTERS + "*?", min_size=1, max_size=5)
DATE = st.sampled_from(["20200101", "20200102", "20200228", "20211231", ""])
TIMES = ["", "08", "0800", "080000", "080000.5", "0830", "083059", "090000.000001", "235959"]
TIME = st.sampled_from(TIMES)
GROUP = st.text("aAbBé山^", max_size=4)
NAME = st.builds("=".join, st.lists(GROUP, min_size=1, max_size=3))

STUDY = st.fixed_dictionaries(
    {
        "PatientName": NAME,
        "PatientID": TEXT,
        "StudyDescription": TEXT,
        "StudyDate": DATE,
        "StudyTime": TIME,
        "ReferringPhysicianName": NAME,
    }
)
RANGE = st.one_of(
    DATE.filter(bool),
    st.tuples(DATE, DATE).filter(any).map("-".join),
)
TIME_RANGE = st.one_of(TIME.filter(bool), st.tuples(TIME, TIME).filter(any).map("-".join))
NAME_PATTERN = st.text("aAbBéÉ山^*?=", min_size=1, max_size=5).filter(lambda t: t.count("=") < 3)
ASKED = st.fixed_dictionaries(
    {},
    optional={
        "PatientName": NAME_PATTERN,
        "PatientID": PATTERN,
        "StudyDescription": PATTERN,
        "StudyDate": RANGE,
        "StudyTime": TIME_RANGE,
        "StudyInstanceUID": st.lists(
            st.integers(0, 9).map(lambda n: f"1.2.{n}"), min_size=1, max_size=3
        ).map("\\".join),
        "moments": st.booleans(),
    },
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def empty(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ledger]:
    url = f"sqlite:///{tmp_path_factory.mktemp('matching') / 'ledger.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").kept()
    ledger = Ledger(url)
    Base.metadata.create_all(ledger.engine)
    yield ledger
    ledger.close()


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(studies=st.lists(STUDY, min_size=1, max_size=10), asked=ASKED, page=st.integers(1, 4))
def test_sql_finds_what_the_rules_say(
    empty: Ledger, studies: list[dict[str, str]], asked: dict[str, Any], page: int
) -> None:
    rows = {f"1.2.{number}": one for number, one in enumerate(studies)}
    _put(empty, rows)
    asked = dict(asked)
    together = asked.pop("moments", False)
    keys = {key: made for key, text in asked.items() if (made := parsed(key, text)) is not None}
    if together:
        keys = combined(keys, "StudyDate", "StudyTime")
    found: list[str] = []
    place: Place | None = Place()
    while place is not None:
        with empty.read() as work:
            part = work.queries.page(Query(Level.STUDY, keys), place, page)
        found += [entry["StudyInstanceUID"] for entry in part.entries]
        place = part.next
    assert len(found) == len(set(found))
    wanted = {
        uid for uid, one in rows.items() if rules(one | {"StudyInstanceUID": uid}, asked, together)
    }
    assert set(found) == wanted, (rows, asked)


def _put(ledger: Ledger, rows: dict[str, dict[str, str]]) -> None:
    with ledger.engine.begin() as connection:
        connection.execute(delete(StudyRow))
        connection.execute(
            insert(StudyRow),
            [
                {
                    "study_instance_uid": uid,
                    "patient_id": one["PatientID"],
                    "issuer_of_patient_id": "",
                    "patient_name": one["PatientName"],
                    "patient_birth_date": "",
                    "accession_number": "",
                    "description": one["StudyDescription"],
                    "conflict": False,
                    "first_received_at": T0,
                    **study_columns(one["PatientName"], one),
                }
                for uid, one in rows.items()
            ],
        )


def parsed(keyword: str, text: str) -> Matching | None:
    attribute = known_at(Level.STUDY)[keyword]
    values = tuple(part for part in text.split("\\") if part)
    return matching_of(attribute, Key(int(tag_for_keyword(keyword) or 0), attribute.vr, values))


# The rules once more, without SQL, without our folding, without our values.


def rules(study: dict[str, str], asked: dict[str, str], together: bool) -> bool:
    ranges = [key for key in ("StudyDate", "StudyTime") if "-" in asked.get(key, "")]
    if together and len(ranges) == 2:
        low_date, high_date = asked["StudyDate"].split("-")
        low_time, high_time = asked["StudyTime"].split("-")
        asked = {key: text for key, text in asked.items() if key not in ranges}
        date, time = study["StudyDate"], study["StudyTime"]
        if not date or not time:
            return False
        moment = int(date), micros(time, last=False)
        if low_date and moment < (int(low_date), micros(low_time or "00", last=False)):
            return False
        if high_date and moment > (int(high_date), micros(high_time or "235959.999999", last=True)):
            return False
    return all(rule(key, study[key], text) for key, text in asked.items())


def rule(key: str, value: str, text: str) -> bool:
    if key == "StudyInstanceUID":
        return value in text.split("\\")
    if key == "StudyDate":
        low, dash, high = text.partition("-")
        if not dash:
            return value == low
        return bool(value) and (not low or value >= low) and (not high or value <= high)
    if key == "StudyTime":
        low, dash, high = text.partition("-")
        high = high if dash else low
        if not value:
            return False
        moment = micros(value, last=False)
        after = not low or moment >= micros(low, last=False)
        return after and (not high or moment <= micros(high, last=True))
    if key == "PatientName":
        groups = [plain(group) for group in (value + "==").split("=")[:3]]
        parts = [plain(group) for group in text.split("=")]
        if all(part.strip("*") == "" for part in parts):
            return True
        if len(parts) == 1:
            return any(wild(parts[0], group) for group in groups)
        pairs = zip(parts, groups, strict=False)
        return all(part.strip("*") == "" or wild(part, group) for part, group in pairs)
    return text.strip("*") == "" or wild(text, value)


def plain(text: str) -> str:
    return text.replace("é", "e").replace("É", "e").lower().rstrip("^")


def wild(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(wild(pattern[1:], text[start:]) for start in range(len(text) + 1))
    return bool(text) and pattern[0] in {"?", text[0]} and wild(pattern[1:], text[1:])


def micros(time: str, *, last: bool) -> int:
    whole, _, fraction = time.partition(".")
    earliest, latest = "00" * 3, "235959"
    whole += (latest if last else earliest)[len(whole) :]
    fraction = fraction.ljust(6, "9" if last else "0") if fraction or last else "0" * 6
    hours, minutes, seconds = (int(whole[at : at + 2]) for at in (0, 2, 4))
    return ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + int(fraction)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("MÜLLER^Jörg", "muller^jorg"),
        ("Straße^^^", "strasse"),
        ("Ｙａｍａｄａ^ﾀﾛｳ", "yamada^タロウ"),
        ("がく^じ", "がく^じ"),
        ("Ёлкин^Йод", "ёлкин^йод"),
        ("  Van  der Berg ^ Jan ", "van der berg^jan"),
    ],
)
def test_folding(text: str, folded: str) -> None:
    assert fold(text) == folded
    assert fold(folded) == folded


def every_attribute() -> list[Attribute]:
    return [*WORKLIST, *(item for level in QUERY_RETRIEVE.values() for item in level)]


def test_the_tables_agree_with_the_dictionary() -> None:
    for attribute in every_attribute():
        assert dictionary_VR(attribute.keyword) == attribute.vr, attribute.keyword
    statuses = [status for status, _, _ in MEANINGS]
    assert statuses == sorted(set(statuses))


@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for implicit in (True, False):
        try:
            keys = read_identifier(data, implicit=implicit)
        except QueryError as error:
            assert error.status in {0xC001, 0xA900}
            continue
        for attribute in every_attribute():
            key = keys.get(int(tag_for_keyword(attribute.keyword) or 0))
            if key is not None and attribute.matched:
                with_refusal(attribute, key)


def with_refusal(attribute: Attribute, key: Key) -> None:
    try:
        matching_of(attribute, key)
    except QueryError as error:
        assert error.status == 0xA900


@given(name=st.text(LETTERS + "^ ", max_size=20), implicit=st.booleans())
def test_what_is_written_is_read(name: str, implicit: bool) -> None:
    inner = Element(0x00400007, "LO", name)
    data = encode(
        [Element(0x00100010, "PN", name), Element(0x00400100, "SQ", items=((inner,),))],
        implicit=implicit,
    )
    assert len(data) % 2 == 0
    keys = read_identifier(data, implicit=implicit)
    values = (name.strip(),) if name.strip() else ()
    assert keys[0x00100010].values == values
    assert keys[0x00400100].items[0][0].values == values


def test_what_was_filed_before_is_found(empty_url: str) -> None:
    old = Ledger(empty_url)
    attributes = '{"StudyTime": "0830", "StudyID": "S1", "ReferringPhysicianName": "Who^Dr"}'
    with old.engine.begin() as connection:
        command.upgrade(_alembic_config(connection), "0003")
        no = "false" if old.engine.dialect.name == "postgresql" else "0"
        at = "2026-01-02 03:04:05"
        for line in (
            "INSERT INTO study (study_instance_uid, patient_id, issuer_of_patient_id, patient_name,"
            " patient_birth_date, accession_number, description, study_date, conflict,"
            f" first_received_at) VALUES ('1.2', 'P', '', 'Dö^A=山', '', '', '', '', {no}, '{at}')",
            "INSERT INTO series (series_instance_uid, study_instance_uid, modality, description,"
            " number, state, revision, last_received_at, last_filed_at, attributes, decision,"
            " decided_by, incomplete) VALUES ('1.2.1', '1.2', 'MR', '', '1', 'whole', 1,"
            f" '{at}', '{at}', '{attributes}', '', '', {no})",
        ):
            connection.exec_driver_sql(line)
    old.upgrade()
    for key, text in (
        ("PatientName", "do*"),
        ("PatientName", "山"),
        ("StudyTime", "08"),
        ("StudyID", "S1"),
        ("ReferringPhysicianName", "WHO*"),
    ):
        matching = parsed(key, text)
        assert matching is not None
        with old.read() as work:
            page = work.queries.page(Query(Level.STUDY, {key: matching}), Place(), 10)
        assert [entry["StudyInstanceUID"] for entry in page.entries] == ["1.2"], key
    old.close()
