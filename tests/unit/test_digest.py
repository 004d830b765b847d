"""The digest of a data set: as it always was, the same in every encoding, and never at a loss."""

from __future__ import annotations

import itertools
import os
import tracemalloc
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
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
from support.instances import T0, association, mr_slice
from support.reference_digest import reference_digest

from core.domain import IncomingInstance
from core.errors import SentinodeError
from node.filing.incoming import IncomingReader, identity_of, short_attributes
from node.reading import digest as digest_module
from node.reading.examine import examine
from node.spool.heads import ReceivedInstance
from node.spool.receiver import ReceiverSpool

SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]
UID_1 = "1.2.826.0.1.3680043.8.498.1"
Spool = Callable[[bytes, UID], Path]


@pytest.fixture(scope="module")
def spooled(tmp_path_factory: pytest.TempPathFactory) -> Spool:
    spool = ReceiverSpool(tmp_path_factory.mktemp("spool"), 0, durable=False)
    numbers = itertools.count(1)

    def write(data: bytes, syntax: UID) -> Path:
        return spool.write(
            ReceivedInstance("1.2", "1.3", str(syntax), association(), T0), next(numbers), data
        )

    return write


def encode(content: Dataset, syntax: UID) -> bytes:
    if syntax == DeflatedExplicitVRLittleEndian:
        deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        return deflater.compress(encode(content, ExplicitVRLittleEndian)) + deflater.flush()
    stream = DicomBytesIO()
    stream.is_implicit_VR = syntax.is_implicit_VR
    stream.is_little_endian = syntax.is_little_endian
    write_dataset(stream, Dataset(content))
    return stream.getvalue()


def nested(depth: int, *, undefined: bool) -> Dataset:
    """Content items in content items."""
    item = Dataset()
    item.TextValue = f"at {depth}"
    if depth:
        item.ContentSequence = Sequence([nested(depth - 1, undefined=undefined), Dataset()])
        item["ContentSequence"].is_undefined_length = undefined
        for one in item.ContentSequence:
            one.is_undefined_length_sequence_item = undefined
    return item


def rich(*, undefined: bool = False) -> Dataset:
    """A slice with all kinds of elements."""
    made = mr_slice(1, rows=8, columns=8, SOPInstanceUID=UID_1, SpecificCharacterSet="ISO_IR 192")
    made.PatientName = "Müller^Ä=Ö^Ü"
    made.ReferencedImageSequence = []
    made.ContentSequence = nested(4, undefined=undefined).ContentSequence
    made["ContentSequence"].is_undefined_length = undefined
    made.ImageComments = "c" * 3000
    made.LUTLabel = None
    private = made.private_block(0x0009, "SENTINODE TEST", create=True)
    private.add_new(0x01, "OB", b"\1\2\3\4")
    return made


def own_digest(path: Path) -> str:
    return IncomingReader().read(path).digest


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_is_read_is_what_pydicom_reads(spooled: Spool, syntax: UID, undefined: bool) -> None:
    path = spooled(encode(rich(undefined=undefined), syntax), syntax)
    found = IncomingReader().read(path)
    assert found.digest == reference_digest(path)
    dataset = pydicom.dcmread(path)
    assert found.identity == identity_of(dataset)
    assert found.attributes == short_attributes(dataset)
    assert found.size == path.stat().st_size
    assert found.association == association()
    assert IncomingReader().read(path, {found.series_instance_uid}).attributes == {}


@pytest.mark.parametrize("rows", [64, 1024, 2048])
def test_pixels_of_any_size_are_hashed_as_ever(spooled: Spool, rows: int) -> None:
    """Less than, about, and more than what the reader has in memory at once."""
    dataset = mr_slice(1, rows=8, columns=8)
    dataset.PixelData = os.urandom(rows * 1024)
    dataset.DataSetTrailingPadding = b"\0" * 10
    path = spooled(encode(dataset, ExplicitVRLittleEndian), ExplicitVRLittleEndian)
    assert own_digest(path) == reference_digest(path)


@pytest.mark.parametrize("frames", [1, 5])
def test_encapsulated_pixels_are_hashed_as_ever(spooled: Spool, frames: int) -> None:
    dataset = rich()
    dataset.PixelData = encapsulate([os.urandom(3000) for _ in range(frames)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    path = spooled(encode(dataset, ExplicitVRLittleEndian), JPEG2000Lossless)
    assert own_digest(path) == reference_digest(path)


def test_an_unknown_sequence_in_implicit_vr_is_hashed_as_ever(spooled: Spool) -> None:
    """PS3.5 Section 6.2.2, note: VR UN of undefined length is Implicit VR inside."""
    inner = encode(nested(2, undefined=True), ImplicitVRLittleEndian)
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + inner + b"\xfe\xff\x0d\xe0\0\0\0\0"
    unknown = b"\x09\x00\x10\x10UN\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    whole = encode(mr_slice(ReferencedImageSequence=[]), ExplicitVRLittleEndian)
    place = whole.index(b"\x10\x00\x10\x00PN")
    path = spooled(whole[:place] + unknown + whole[place:], ExplicitVRLittleEndian)
    assert own_digest(path) == reference_digest(path)


@pytest.mark.parametrize("undefined", [False, True])
def test_the_encoding_does_not_change_the_digest(spooled: Spool, undefined: bool) -> None:
    dataset = rich(undefined=undefined)
    digests = {
        own_digest(spooled(encode(dataset, syntax), syntax))
        for syntax in (
            ImplicitVRLittleEndian,
            ExplicitVRLittleEndian,
            DeflatedExplicitVRLittleEndian,
        )
    }
    digests.add(own_digest(spooled(encode(rich(), ExplicitVRLittleEndian), ExplicitVRLittleEndian)))
    assert len(digests) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data(), st.sampled_from(SYNTAXES), st.booleans())
def test_what_the_door_takes_intake_can_file(
    spooled: Spool, data: st.DataObject, syntax: UID, undefined: bool
) -> None:
    """Damaged bytes: refused at the door, or filed; a digest is never missing."""
    content = bytearray(encode(rich(undefined=undefined), syntax))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        examine(BytesIO(bytes(content)), len(content), syntax)
    except SentinodeError:
        return
    path = spooled(bytes(content), syntax)
    found = IncomingReader().read(path)
    assert isinstance(found, IncomingInstance)
    assert found.digest == own_digest(path)


@pytest.mark.parametrize("undefined", [False, True])
def test_sequences_too_deep_are_hashed_as_bytes(spooled: Spool, undefined: bool) -> None:
    """As far down as they go, without recursion; one byte more is another digest."""
    depth = 3000

    def content(byte: bytes) -> bytes:
        value = b"\x40\x00\x60\xa1\x02\x00\x00\x00" + byte + b" "
        for _ in range(depth):
            value = b"\xfe\xff\x00\xe0" + len(value).to_bytes(4, "little") + value
            value = b"\x40\x00\x30\xa7" + len(value).to_bytes(4, "little") + value
        whole = encode(mr_slice(SOPInstanceUID=UID_1), ImplicitVRLittleEndian)
        place = whole.index(b"\xe0\x7f\x10\x00")
        return whole[:place] + value + whole[place:]

    digests = [
        own_digest(spooled(content(byte), ImplicitVRLittleEndian)) for byte in (b"a", b"a", b"b")
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_sequence_that_is_too_long_is_hashed_as_bytes(
    spooled: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spooled(encode(rich(), ExplicitVRLittleEndian), ExplicitVRLittleEndian)
    whole = own_digest(path)
    monkeypatch.setattr(digest_module, "_MOST_SEQUENCE_BYTES", 50)
    assert own_digest(path) not in {whole, ""}


def test_reading_takes_no_more_memory_than_its_window(spooled: Spool) -> None:
    dataset = mr_slice()
    dataset.PixelData = bytes(64 << 20)
    path = spooled(encode(dataset, ExplicitVRLittleEndian), ExplicitVRLittleEndian)
    bomb = spooled(encode(dataset, DeflatedExplicitVRLittleEndian), DeflatedExplicitVRLittleEndian)
    reader = IncomingReader()
    tracemalloc.start()
    try:
        assert reader.read(path).digest == reader.read(bomb).digest
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
