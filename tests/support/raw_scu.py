"""A storage SCU that writes its bytes itself, so that a test decides where each of them is cut."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import build_context
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.transport import AddressInformation

COMMAND_LAST, DATA, DATA_LAST = 0x03, 0x00, 0x02
RELEASE = bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0])
ABORT = bytes([7, 0, 0, 0, 0, 4, 0, 0, 0, 0])


def association_request(
    contexts: Sequence[tuple[str, str]] = ((MRImageStorage, ExplicitVRLittleEndian),),
    *,
    calling: str = "MR1",
    called: str = "SENTINODE",
    max_pdu: int = 16382,
) -> bytes:
    """An A-ASSOCIATE-RQ; the contexts get the ids 1, 3, 5, …"""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID("1.2.840.10008.3.1.1.1")
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    primitive.calling_presentation_address = AddressInformation("127.0.0.1", 1)
    primitive.called_presentation_address = AddressInformation("127.0.0.1", 1)
    proposed = [build_context(*item) for item in contexts]
    for number, item in enumerate(proposed):
        item.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = proposed
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = max_pdu
    implementation.implementation_class_uid = UID("1.2.3")
    primitive.user_information = [length, implementation]
    return bytes(A_ASSOCIATE_RQ(primitive).encode())


def store_command(
    uid: str, *, sop_class: str = MRImageStorage, message_id: int = 1, data_set: bool = True
) -> bytes:
    """The command set of a C-STORE-RQ."""
    request = C_STORE()
    request.MessageID, request.Priority = message_id, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, uid
    request.DataSet = BytesIO(b"\0\0") if data_set else None
    message: DIMSEMessage = C_STORE_RQ()
    message.primitive_to_message(request)
    message.context_id = 1
    first = next(iter(message.encode_msg(1, 16382)))
    return bytes(first.presentation_data_value_list[0][1][1:])


def pdv(control: int, data: bytes, context_id: int = 1) -> bytes:
    """A presentation data value item (PS3.8 Section 9.3.5.1)."""
    return struct.pack(">LBB", len(data) + 2, context_id, control) + data


def pdu(*items: bytes) -> bytes:
    """A P-DATA-TF with these items."""
    body = b"".join(items)
    return struct.pack(">BxL", 4, len(body)) + body


def store_pdus(uid: str, data: bytes, size: int = 16384, **command: Any) -> bytes:
    """A whole C-STORE: the command in one PDU, the data in pieces of `size`."""
    pieces = [data[start : start + size] for start in range(0, len(data), size)] or [b""]
    out = pdu(pdv(COMMAND_LAST, store_command(uid, **command)))
    for piece in pieces[:-1]:
        out += pdu(pdv(DATA, piece))
    return out + pdu(pdv(DATA_LAST, pieces[-1]))


class RawScu:
    """A connection to the door."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._left = b""

    def send(self, data: bytes) -> None:
        """Write bytes."""
        self.connection.sendall(data)

    def send_cut(self, data: bytes, cuts: Sequence[int]) -> None:
        """Write bytes in pieces that arrive one by one."""
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = 0
        for cut in [*sorted(set(cuts)), len(data)]:
            self.connection.sendall(data[start:cut])
            start = cut
            time.sleep(0.001)

    def receive(self) -> tuple[int, bytes]:
        """The next PDU: its type and what follows its header; type 0 when the door hung up."""
        header = self._exactly(6)
        if len(header) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxL", header)
        return kind, self._exactly(length)

    def status(self) -> int:
        """The status of the next response."""
        kind, body = self.receive()
        assert kind == 4, f"PDU type {kind}"
        return int(decode(BytesIO(body[6:]), True, True).Status)

    def hung_up(self) -> bool:
        """Whether the door aborts or closes, whatever it still says before."""
        while True:
            kind, _ = self.receive()
            if kind in {0, 7}:
                return True

    def _exactly(self, count: int) -> bytes:
        while len(self._left) < count:
            try:
                data = self.connection.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return b""
            self._left += data
        found, self._left = self._left[:count], self._left[count:]
        return found


@contextmanager
def connected(port: int) -> Iterator[RawScu]:
    """A connection without an association."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        yield RawScu(connection)


@contextmanager
def raw_scu(
    port: int, contexts: Sequence[tuple[str, str]] | None = None, **wanted: Any
) -> Iterator[RawScu]:
    """A connection with an association; `wanted` as for `association_request`."""
    with connected(port) as scu:
        if contexts:
            wanted["contexts"] = contexts
        scu.send(association_request(**wanted))
        kind, _ = scu.receive()
        assert kind == 2, f"PDU type {kind}"
        yield scu
