"""The bytes of a C-STORE on the wire: command sets, PDU and PDV headers (PS3.7, PS3.8).

Only what is plain is read here; anything else is None, and pynetdicom reads it.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from node.dimse.pdu import COMMAND, LAST, NO_DATA_SET, P_DATA, PDU_HEADER, PDV_HEADER

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001  # PS3.7 Section E.1
_ELEMENT = struct.Struct("<HHL")
_US = struct.Struct("<H")
_UID = re.compile(rb"[0-9]+(\.[0-9]+)*\Z")
_LONGEST_UID = 64
# Command elements of a C-STORE (PS3.7 Table 9.3-1), all of group 0000.
_GROUP_LENGTH = 0x0000
_CLASS, _FIELD, _MESSAGE, _PRIORITY, _DATA_SET, _INSTANCE = (
    0x0002,
    0x0100,
    0x0110,
    0x0700,
    0x0800,
    0x1000,
)


@dataclass(frozen=True, slots=True)
class StoreCommand:
    """A C-STORE-RQ."""

    context_id: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str


def read_store_command(data: bytes, context_id: int) -> StoreCommand | None:
    """A whole command set (Implicit VR Little Endian) as C-STORE-RQ, or None if it is none.

    None as well when it is one that a strict reader would stumble over.
    """
    try:
        values = _elements(data)
        numbers = {
            element: _US.unpack(values[element])[0]
            for element in (_FIELD, _MESSAGE, _PRIORITY, _DATA_SET)
        }
        sop_class, instance = (_uid(values[element]) for element in (_CLASS, _INSTANCE))
    except (KeyError, ValueError, struct.error):
        return None
    if numbers[_FIELD] != C_STORE_RQ or numbers[_DATA_SET] == NO_DATA_SET:
        return None
    # PS3.7 Section 9.1.1.1.5: 0, 1 or 2
    if numbers[_PRIORITY] > 2 or not sop_class or not instance:
        return None
    return StoreCommand(context_id, numbers[_MESSAGE], sop_class, instance)


def _elements(data: bytes) -> dict[int, bytes]:
    """Element number → value of a command set.

    Raises:
        ValueError: there is one of another group, or one twice, or the last does not fit.
        struct.error: it ends early.
    """
    values: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        group, element, length = _ELEMENT.unpack_from(data, position)
        position += _ELEMENT.size
        # what a C-STORE-RQ has no use for, a retired element perhaps, is passed over
        if group != 0 or element in values:
            raise ValueError(f"({group:04X},{element:04X})")
        values[element] = data[position : position + length]
        position += length
    if position != len(data):
        raise ValueError("it ends early")
    return values


def store_response(command: StoreCommand, status: int, comment: str, most_pdu: int) -> bytes:
    """The C-STORE-RSP (PS3.7 Table 9.3-2) as P-DATA-TF PDUs, one where the peer's length allows.

    Args:
        command: what is answered.
        status: Status (0000,0900).
        comment: Error Comment (0000,0902); empty: none.
        most_pdu: longest PDU that the peer takes, bytes (PS3.8 Section D.1); 0: any.
    """
    text = comment.encode("ascii", "replace")
    elements = (
        (_CLASS, _padded_uid(command.sop_class_uid)),
        (_FIELD, _US.pack(C_STORE_RSP)),
        (0x0120, _US.pack(command.message_id)),
        (_DATA_SET, _US.pack(NO_DATA_SET)),
        (0x0900, _US.pack(status)),
        *([(0x0902, text + b" " * (len(text) % 2))] if text else []),
        (_INSTANCE, _padded_uid(command.sop_instance_uid)),
    )
    body = b"".join(_ELEMENT.pack(0, element, len(value)) + value for element, value in elements)
    body = _ELEMENT.pack(0, _GROUP_LENGTH, 4) + struct.pack("<L", len(body)) + body
    step = most_pdu - PDV_HEADER.size if most_pdu else len(body)
    return b"".join(
        _command_pdu(command.context_id, body[begin : begin + step], begin + step >= len(body))
        for begin in range(0, len(body), step)
    )


def _command_pdu(context_id: int, fragment: bytes, last: bool) -> bytes:
    header = PDV_HEADER.pack(len(fragment) + 2, context_id, COMMAND | (LAST if last else 0))
    return PDU_HEADER.pack(P_DATA, len(header) + len(fragment)) + header + fragment


def _uid(value: bytes) -> str:
    """A UID as pynetdicom would take it, or nothing."""
    text = value.rstrip(b"\0")
    if len(value) - len(text) > 1 or len(text) > _LONGEST_UID or not _UID.match(text):
        return ""
    return text.decode("ascii")


def _padded_uid(uid: str) -> bytes:
    return uid.encode("ascii") + b"\0" * (len(uid) % 2)
