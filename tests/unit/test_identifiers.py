"""UIDs, AE titles and addresses: parse or refuse."""

from __future__ import annotations

import string
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidValueError
from core.identifiers import UID, AETitle, DicomAddress, derived_uid

UIDS = st.from_regex(r"[0-9]{1,5}(\.[0-9]{1,10}){0,4}", fullmatch=True)
PARTS = st.lists(st.text(max_size=20), min_size=1, max_size=5)
TITLES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="\\@"),
    min_size=1,
    max_size=16,
).filter(lambda text: text.strip(" "))


@given(UIDS, st.sampled_from(["", "\0", " ", "\0\0 "]))
def test_a_uid_is_itself_without_its_padding(text: str, padding: str) -> None:
    assert UID(text + padding) == text


@given(st.text(max_size=70))
def test_what_passes_as_a_uid_is_safe_as_a_file_name(text: str) -> None:
    try:
        uid = UID(text)
    except InvalidValueError:
        return
    assert set(uid) <= set(string.digits + ".")
    assert 0 < len(uid) <= 64
    assert ".." not in uid
    assert PurePosixPath(uid).name == uid


@pytest.mark.parametrize(
    "text", ["", ".", "1.", ".1", "1..2", "1.2.a", "1" * 65, "1.2/3", "1.2\n", "١.٢", "../1", "-1"]
)
def test_what_is_no_uid_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="not a UID"):
        UID(text)


@given(PARTS, st.sampled_from(["", "1.2.840", "1.2.840.", "1." + "9" * 38]))
def test_a_derived_uid_is_one_and_always_the_same(parts: list[str], root: str) -> None:
    uid = derived_uid(*parts, root=root)
    assert uid == derived_uid(*parts, root=root)
    assert len(uid) <= 64
    assert uid.startswith((root or "2.25").rstrip(".") + ".")


@given(st.lists(st.text("ab1.", max_size=4), min_size=2, max_size=4, unique=True))
def test_other_parts_give_another_uid(parts: list[str]) -> None:
    assert len({derived_uid(part, "x") for part in parts}) == len(parts)
    # where one part ends and the next begins matters too
    assert derived_uid("".join(parts)) != derived_uid(*parts)


def test_derived_uids_never_change() -> None:
    # A change here would give a retried job a second object instead of the same one.
    assert derived_uid("job", "1") == "2.25.26131671247710274828156870094993199734"


@given(TITLES, st.integers(0, 3))
def test_spaces_around_an_ae_title_do_not_count(title: str, spaces: int) -> None:
    assert AETitle(" " * spaces + title + " " * spaces) == title.strip(" ")


@pytest.mark.parametrize("text", ["", "   ", "A" * 17, "A\\B", "A\nB", "A\0", "Ä"])
def test_what_is_no_ae_title_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="not an AE title"):
        AETitle(text)


@given(
    TITLES,
    st.sampled_from(["127.0.0.1", "pacs.example", "[::1]", "[fe80::1]"]),
    st.integers(1, 65535),
)
def test_an_address_is_read_as_it_is_written(title: str, host: str, port: int) -> None:
    address = DicomAddress.parse(f"{title}@{host}:{port}")
    assert address == DicomAddress(AETitle(title), host.strip("[]"), port)
    assert DicomAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "PACS", "PACS@host", "@host:1", "PACS@:1", "A@h:0", "A@h:65536", "A@h:x", "A@h:1 "]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        DicomAddress.parse(text)
