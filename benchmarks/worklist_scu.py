"""A C-FIND SCU for worklist.py that costs little: it counts responses and decodes none."""

from __future__ import annotations

import socket
import struct
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.dimse_messages import C_CANCEL_RQ, C_FIND_RQ
from pynetdicom.dimse_primitives import C_CANCEL, C_FIND
from pynetdicom.dsutils import encode

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.raw_scu import RELEASE, RawScu, association_request

ENOUGH = 100
_PENDING = (0xFF00, 0xFF01)


class FindScu:
    """One association for one SOP class."""

    def __init__(self, port: int, sop_class: str, called: str) -> None:
        connection = socket.create_connection(("127.0.0.1", port), timeout=120)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._scu = RawScu(connection)
        self._sop_class = sop_class
        self._scu.send(
            association_request(
                [(sop_class, ExplicitVRLittleEndian)], calling="BENCH", called=called
            )
        )
        kind, _ = self._scu.receive()
        if kind != 2:
            raise SystemExit(f"port {port} answers the association with PDU type {kind}")
        self._number = 0

    def find(self, asked: Dataset) -> tuple[float, int]:
        """Milliseconds until the 100th pending response or the end, and how many came."""
        self._number += 1
        request = C_FIND()
        request.MessageID, request.Priority = self._number, 2
        request.AffectedSOPClassUID = self._sop_class
        data = encode(asked, False, True)
        assert data is not None
        request.Identifier = BytesIO(data)
        message = _bytes_of(C_FIND_RQ(), request)
        began = time.perf_counter()
        self._scu.send(message)
        count, taken = 0, 0.0
        while True:
            status = self._status()
            if status not in _PENDING:
                if not taken:
                    taken = time.perf_counter() - began
                if status not in {0x0000, 0xFE00}:
                    raise SystemExit(f"C-FIND was answered {status:#06x}")
                return taken * 1000, count
            count += 1
            if count == ENOUGH:
                taken = time.perf_counter() - began
                cancel = C_CANCEL()
                cancel.MessageIDBeingRespondedTo = self._number
                self._scu.send(_bytes_of(C_CANCEL_RQ(), cancel))

    def _status(self) -> int:
        """The status of the next response; its identifier is read and left."""
        while True:
            kind, body = self._scu.receive()
            if kind != 4:
                raise SystemExit(f"the association ended with PDU type {kind}")
            position = 0
            while position < len(body):
                length, _, control = struct.unpack_from(">LBB", body, position)
                if control & 1:
                    found = _status_in(body[position + 6 : position + 4 + length])
                    if found is not None:
                        return found
                position += 4 + length

    def close(self) -> None:
        """Release."""
        self._scu.send(RELEASE)
        self._scu.receive()
        self._scu.connection.close()


def _status_in(command: bytes) -> int | None:
    position = 0
    while position < len(command):
        _, element, length = struct.unpack_from("<HHL", command, position)
        if element == 0x0900:
            return int(struct.unpack_from("<H", command, position + 8)[0])
        position += 8 + length
    return None


def _bytes_of(message: Any, primitive: Any) -> bytes:
    message.primitive_to_message(primitive)
    out = b""
    for pdata in message.encode_msg(1, 16384):
        for _, value in pdata.presentation_data_value_list:
            item = struct.pack(">LB", len(value) + 1, 1) + value
            out += struct.pack(">BxL", 4, len(item)) + item
    return out
