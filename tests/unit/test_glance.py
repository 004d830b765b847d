"""The quick look says what the thorough one says, or nothing."""

from __future__ import annotations

import struct
import warnings
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom.dsutils import encode
from support.instances import mr_slice

from core.errors import UnreadableError
from node.door.glance import WINDOW, glance
from node.reading.examine import DatasetIdentity, examine


def look(data: bytes, implicit: bool, head: int = WINDOW) -> DatasetIdentity | None:
    return glance(data[:head], len(data), implicit, lambda at, count: data[at : at + count])


def thorough(data: bytes, implicit: bool) -> DatasetIdentity | None:
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return examine(BytesIO(data), len(data), syntax)
        except UnreadableError:
            return None


def encoded(dataset: Dataset, implicit: bool) -> bytes:
    data = encode(dataset, implicit, True)
    assert data is not None
    return data


def nested(undefined: bool, depth: int = 2) -> Dataset:
    """An image with sequences in it."""
    dataset = mr_slice()
    inner = Dataset()
    inner.SOPInstanceUID = "1.2.999"  # not the image's own
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedImageSequence = Sequence([inner, Dataset()])
        outer["ReferencedImageSequence"].is_undefined_length = undefined
        for item in outer.ReferencedImageSequence:
            item.is_undefined_length_sequence_item = undefined
        inner = outer
    dataset.ReferencedImageSequence = inner.ReferencedImageSequence
    dataset["ReferencedImageSequence"].is_undefined_length = undefined
    return dataset


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("undefined", [False, True])
def test_plain_data_sets_get_a_quick_answer(implicit: bool, undefined: bool) -> None:
    for dataset in (mr_slice(), nested(undefined)):
        data = encoded(dataset, implicit)
        found = look(data, implicit)
        assert found is not None
        assert found == thorough(data, implicit)
        assert found.sop_instance_uid == dataset.SOPInstanceUID
        assert look(data, implicit, head=64) == found  # the rest is read where it is needed


def test_compressed_pixels_get_a_quick_answer() -> None:
    dataset = mr_slice()
    dataset.PixelData = encapsulate([b"\xff\xd8" + bytes(40_000), b"\xff\xd8" + bytes(30)])
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data = encoded(dataset, False)
    assert look(data, False) == thorough(data, False) is not None


EXAMPLES = {
    (implicit, undefined): encoded(nested(undefined), implicit)
    for implicit in (False, True)
    for undefined in (False, True)
}


@given(data=st.data(), implicit=st.booleans(), undefined=st.booleans())
def test_whatever_is_broken_gets_no_other_answer(
    data: st.DataObject, implicit: bool, undefined: bool
) -> None:
    whole = EXAMPLES[implicit, undefined]
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(broken[: data.draw(st.integers(0, len(broken)))])
    for candidate in (bytes(broken), cut, cut + whole[-8:]):
        found = look(candidate, implicit, head=data.draw(st.integers(0, 2000)))
        if found is not None:
            assert found == thorough(candidate, implicit)


def test_deep_sequences_are_left_to_the_thorough_look() -> None:
    assert look(encoded(nested(True, depth=40), False), False) is None


def test_lengths_past_the_end_are_no_answer() -> None:
    data = encoded(mr_slice(), False)
    for tail in (b"\xe0\x7f\x10\x00OW\x00\x00" + struct.pack("<L", 1 << 31), b"\xfc\xff\xfc\xffOB"):
        assert look(data + tail, False) is None
