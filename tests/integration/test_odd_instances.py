"""What the door accepted is filed, however odd; whose it is, is never mixed up."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from support.instances import T0, association, mr_slice

from core.domain import IncomingInstance
from core.errors import RefusedError
from node.door.glance import glance
from node.filing.incoming import IncomingReader
from node.reading.examine import DatasetIdentity, examine
from node.spool.heads import ReceivedInstance
from node.spool.receiver import ReceiverSpool


def encoded(dataset: Dataset) -> bytes:
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, dataset)
    return stream.getvalue()


def accepted(data: bytes) -> DatasetIdentity | None:
    """What the door says: the quick look first, then the thorough one."""
    found = glance(data, len(data), False, lambda at, length: data[at : at + length])
    if found is not None:
        return found
    try:
        return examine(BytesIO(data), len(data), UID(ExplicitVRLittleEndian))
    except RefusedError:
        return None


class Filing:
    """Spools a data set and reads it as intake does, with one reader for all."""

    def __init__(self, folder: Path) -> None:
        self.spool = ReceiverSpool(folder, 0, durable=False)
        self.reader = IncomingReader()
        self._sender, self._number = association(), 0

    def read(self, data: bytes, identity: DatasetIdentity) -> IncomingInstance:
        self._number += 1
        instance = ReceivedInstance(
            identity.sop_class_uid,
            identity.sop_instance_uid,
            ExplicitVRLittleEndian,
            self._sender,
            T0,
        )
        path = self.spool.write(instance, self._number, data)
        try:
            return self.reader.read(path)
        finally:
            path.unlink()


@pytest.fixture(scope="module")
def filing(tmp_path_factory: pytest.TempPathFactory) -> Filing:
    return Filing(tmp_path_factory.mktemp("spool"))


def ordinary() -> bytes:
    dataset = mr_slice(rows=4, columns=4)
    dataset.SOPInstanceUID = "1.2.840.1"
    item = Dataset()
    item.Manufacturer = "Maker"
    item.ManufacturerModelName = "Model"
    dataset.ContributingEquipmentSequence = [item]
    return encoded(dataset)


ORDINARY = ordinary()
_BYTE = st.tuples(st.integers(0, len(ORDINARY) - 1), st.integers(0, 255))


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(st.lists(_BYTE, min_size=1, max_size=4))
def test_whatever_the_door_accepts_intake_can_read(
    filing: Filing, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(ORDINARY)
    for place, value in changes:
        data[place] = value
    identity = accepted(bytes(data))
    if identity is not None:
        assert filing.read(bytes(data), identity).sop_instance_uid == identity.sop_instance_uid


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in {b"SQ", b"OB", b"UN"}:
        return head + struct.pack("<HL", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


@pytest.mark.parametrize(
    "value",
    [
        struct.pack("<HHL", 0xFFFE, 0xE000, 11) + element(0x00081090, b"US", b"abc"),
        struct.pack("<HHL", 0xFFFE, 0xE000, 500) + element(0x00081090, b"LO", b"ab"),
    ],
    ids=["a number of three bytes", "an item longer than its sequence"],
)
def test_a_faulty_contribution_is_not_ours_and_the_image_is_filed(
    filing: Filing, value: bytes
) -> None:
    plain = mr_slice(rows=4, columns=4)
    plain.SOPInstanceUID = "1.2.840.1"
    data = encoded(plain)
    at = data.index(struct.pack("<HH", 0x0020, 0x000D))  # the elements are in order of their tags
    data = data[:at] + element(0x0018A001, b"SQ", value) + data[at:]
    found = filing.read(data, DatasetIdentity(str(plain.SOPClassUID), "1.2.840.1", "1.2.3", "1"))
    assert not found.own_result
    assert found.identity["PatientID"] == "PHANTOM"


def test_more_elements_than_intake_takes_are_refused_at_the_door() -> None:
    many = b"".join(element(0x00111000 + number, b"LO", b"ab") for number in range(0xEFFF))
    dataset = mr_slice(rows=4, columns=4)
    data = encoded(dataset)
    at = data.index(struct.pack("<HH", 0x0020, 0x000D))
    assert accepted(data) is not None
    assert accepted(data[:at] + many + data[at:]) is None


def test_the_same_bytes_under_another_tag_are_another_patient(filing: Filing) -> None:
    first = mr_slice(AccessionNumber="4711", PatientName="MEIER", PatientID="7")
    second = mr_slice(PatientName="4711", PatientID="MEIER", IssuerOfPatientID="7")
    del second.AccessionNumber
    del second.PatientBirthDate
    del first.PatientBirthDate
    found = [
        filing.read(encoded(item), accepted(encoded(item)) or pytest.fail("refused"))
        for item in (first, second)
    ]
    assert found[0].identity["PatientName"] == "MEIER"
    assert found[1].identity["PatientName"] == "4711"
    assert found[1].identity["AccessionNumber"] == ""


def test_an_endless_name_counts_by_its_beginning_and_costs_no_memory(filing: Filing) -> None:
    names = []
    for letter in "AB":
        dataset = mr_slice(rows=4, columns=4)
        dataset.PatientName = letter * 60_000
        data = encoded(dataset)
        names.append(filing.read(data, accepted(data) or pytest.fail("refused")).identity)
    assert [item["PatientName"] for item in names] == ["A" * 330, "B" * 330]
