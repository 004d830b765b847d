"""The look at a data set before it is taken: whole ones pass, cut and foreign ones do not."""

from __future__ import annotations

import itertools
from functools import cache
from io import BytesIO

import pydicom.config
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)
from support.instances import mr_slice

from core.errors import MismatchError, UnreadableError
from node.reading.examine import DatasetIdentity, check_announced, examine

SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]
UID_1 = "1.2.826.0.1.3680043.8.498.1"


@cache
def dataset(undefined_lengths: bool = False) -> Dataset:
    """A slice with nested sequences, private elements and a long text."""
    made = mr_slice(1, rows=4, columns=4, SOPInstanceUID=UID_1)
    inner = Dataset()
    inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = "1", "99X", "one"
    outer = Dataset()
    outer.ProcedureCodeSequence = Sequence([inner])
    outer.RequestedProcedureID = "P1"
    made.RequestAttributesSequence = Sequence([outer, Dataset(outer)])
    made.ReferencedImageSequence = Sequence([])
    made.ImageComments = "c" * 3000
    block = made.private_block(0x0009, "SENTINODE TEST", create=True)
    block.add_new(0x01, "OB", b"\1\2\3\4")
    for sequence in (made["RequestAttributesSequence"], outer["ProcedureCodeSequence"]):
        sequence.is_undefined_length = undefined_lengths
        for item in sequence.value:
            item.is_undefined_length_sequence_item = undefined_lengths
    return made


def encode(content: Dataset, syntax: UID) -> bytes:
    """The bytes of a data set without File Meta."""
    if syntax == DeflatedExplicitVRLittleEndian:
        import zlib

        deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        return deflater.compress(encode(content, ExplicitVRLittleEndian)) + deflater.flush()
    stream = DicomBytesIO()
    stream.is_implicit_VR = syntax.is_implicit_VR
    stream.is_little_endian = syntax.is_little_endian
    write_dataset(stream, Dataset(content))
    return stream.getvalue()


@cache
def encoded(syntax: UID, undefined_lengths: bool = False) -> bytes:
    return encode(dataset(undefined_lengths), syntax)


def look(data: bytes, syntax: UID) -> DatasetIdentity:
    return examine(BytesIO(data), len(data), syntax)


@cache
def whole_without_the_rest(syntax: UID, undefined_lengths: bool = False) -> frozenset[int]:
    """Lengths at which what was cut off leaves a data set that is whole, only shorter.

    Nobody can tell that from the bytes: it ends between two elements, and has its four UIDs.
    A deflated one has a mark at its end.
    """
    if syntax == DeflatedExplicitVRLittleEndian:
        return frozenset()
    content = dataset(undefined_lengths)
    elements = sorted(content.keys())
    first = elements.index(0x0020000E) + 1
    return frozenset(
        len(encode(Dataset({tag: content[tag] for tag in elements[:count]}), syntax))
        for count in range(first, len(elements))
    )


@pytest.mark.parametrize("undefined_lengths", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_whole_data_set_passes_and_says_what_it_is(syntax: UID, undefined_lengths: bool) -> None:
    identity = look(encoded(syntax, undefined_lengths), syntax)
    assert identity.sop_instance_uid == UID_1
    assert identity.study_instance_uid == "1.2.3"
    assert identity.series_instance_uid == "1.2.3.4"
    assert identity.sop_class_uid == dataset().SOPClassUID


@given(st.data())
@pytest.mark.parametrize("undefined_lengths", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_cut_at_any_byte_it_is_refused(
    syntax: UID, undefined_lengths: bool, data: st.DataObject
) -> None:
    content = encoded(syntax, undefined_lengths)
    at = data.draw(st.integers(0, len(content) - 1))
    part = content[:at]
    if at in whole_without_the_rest(syntax, undefined_lengths):
        look(part, syntax)
        return
    with pytest.raises(UnreadableError):
        look(part, syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_cut_at_every_byte_near_its_end_it_is_refused(syntax: UID) -> None:
    """Where the last elements' headers are: the cuts that random ones would miss."""
    content = encoded(syntax)
    allowed = whole_without_the_rest(syntax)
    for at in range(max(0, len(content) - 400), len(content)):
        if at in allowed:
            continue
        with pytest.raises(UnreadableError):
            look(content[:at], syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("more", [b"\0", b"\0" * 7, b"\0" * 9, b"more than one header"])
def test_bytes_after_its_end_are_refused(syntax: UID, more: bytes) -> None:
    if syntax == DeflatedExplicitVRLittleEndian and not more.strip(b"\0"):
        look(encoded(syntax) + more, syntax)  # PS3.5 Section A.5: padded to an even length
        return
    with pytest.raises(UnreadableError):
        look(encoded(syntax) + more, syntax)


@pytest.mark.parametrize("frames", [1, 3])
def test_encapsulated_pixels_pass_and_cut_ones_do_not(frames: int) -> None:
    content = mr_slice(1, SOPInstanceUID=UID_1)
    fragments = [bytes([number]) * 1500 for number in range(frames)]
    content.PixelData = encapsulate(fragments)
    content["PixelData"].VR = "OB"
    content["PixelData"].is_undefined_length = True
    content.NumberOfFrames = frames
    whole = encode(content, ExplicitVRLittleEndian)
    assert look(whole, JPEG2000Lossless).sop_instance_uid == UID_1
    start = whole.index(b"\xe0\x7f\x10\x00")
    for at in itertools.chain(range(start + 1, start + 60), range(len(whole) - 60, len(whole))):
        with pytest.raises(UnreadableError):
            look(whole[:at], JPEG2000Lossless)


@given(st.binary(max_size=400), st.sampled_from(SYNTAXES))
@example(b"\x08\x00\x16\x00\xff\xff\xff\xff", ImplicitVRLittleEndian)
@example(b"\x08\x00\x16\x00SQ\x00\x00\xff\xff\xff\xff", ExplicitVRLittleEndian)
@example(b"\x08\x00\x05\x00CS\x04\x00\xff\xff\xff\xff", ExplicitVRLittleEndian)
def test_random_bytes_are_unreadable_and_nothing_else(content: bytes, syntax: UID) -> None:
    with pytest.raises(UnreadableError):
        look(content, syntax)


@given(st.data(), st.sampled_from(SYNTAXES))
def test_damaged_bytes_pass_or_are_unreadable_and_nothing_else(
    data: st.DataObject, syntax: UID
) -> None:
    content = bytearray(encoded(syntax, data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        look(bytes(content), syntax)
    except UnreadableError as error:
        assert str(error)


def test_deeply_nested_sequences_are_unreadable_and_nothing_else() -> None:
    open_sequence = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(UnreadableError):
        look(open_sequence * 5000, ExplicitVRLittleEndian)


@pytest.mark.parametrize(
    "keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
)
@pytest.mark.parametrize("value", [None, "", "../../etc", "1.2.x", "9" * 66])
def test_without_its_four_uids_it_cannot_be_filed(keyword: str, value: str | None) -> None:
    content = Dataset(mr_slice())
    del content[keyword]
    if value is not None:
        pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
        try:
            content.add_new(keyword, "UI", value)
        finally:
            pydicom.config.settings.writing_validation_mode = None  # type: ignore[assignment]
    words = {"SOPClassUID": "SOP Class", "SOPInstanceUID": "SOP Instance"}
    with pytest.raises(UnreadableError, match=words.get(keyword, keyword[:5])):
        look(encode(content, ExplicitVRLittleEndian), ExplicitVRLittleEndian)


def test_a_deflated_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.reading.window.MOST_INFLATED", 1000)
    syntax = DeflatedExplicitVRLittleEndian
    with pytest.raises(UnreadableError, match="grows past"):
        look(encoded(syntax), syntax)


def test_what_was_announced_must_be_what_came() -> None:
    identity = look(encoded(ExplicitVRLittleEndian), ExplicitVRLittleEndian)
    check_announced(identity, identity.sop_class_uid, identity.sop_instance_uid)
    with pytest.raises(MismatchError, match="SOP Class UID"):
        check_announced(identity, "1.2", identity.sop_instance_uid)
    with pytest.raises(MismatchError, match="SOP Instance UID"):
        check_announced(identity, identity.sop_class_uid, "1.2")
