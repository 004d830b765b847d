"""The head of a spooled file: who sent it, over which association, when, and whether it is whole.

Everything stands in the File Meta Information (PS3.10 Section 7.1): the sender in (0002,0016) to
(0002,0018), the rest as private information in (0002,0102). The head is written last. Its length
and CRC-32 of the data set tell a complete file from one that a power cut left torn, whatever
order the disk took the bytes in.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from datetime import datetime

from pydicom.dataset import FileMetaDataset

from core.domain import Association
from core.equipment import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from core.identifiers import derived_uid

PRIVATE_INFORMATION_CREATOR = derived_uid("spool", "private information")
_PREAMBLE = bytes(128) + b"DICM"
_SHORT, _LONG = struct.Struct("<HH2sH"), struct.Struct("<HH2sHL")
_GROUP_LENGTH = struct.Struct("<HH2sHL")
_CHECK, _CHECK_DIGITS = b',"check":"', 8
_UNKNOWN = b"0" * _CHECK_DIGITS + b'"}'


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """What the File Meta of a spooled instance is made from."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    association: Association
    received_at: datetime


def association_to_json(association: Association) -> dict[str, str]:
    """The parts of an association that every spooled file carries."""
    return {
        "id": association.id,
        "calling_ae": association.calling_ae,
        "called_ae": association.called_ae,
        "peer_address": association.peer_address,
        "began_at": association.began_at.isoformat(),
    }


def association_from_json(content: dict[str, str]) -> Association:
    """The other way round."""
    return Association(
        id=content["id"],
        calling_ae=content["calling_ae"],
        called_ae=content["called_ae"],
        peer_address=content["peer_address"],
        began_at=datetime.fromisoformat(content["began_at"]),
    )


def read_private_information(meta: FileMetaDataset) -> tuple[Association, datetime]:
    """Who sent a spooled file, and when.

    Raises:
        ValueError: the file was not written by a receiver of ours.
    """
    if meta.get("PrivateInformationCreatorUID") != PRIVATE_INFORMATION_CREATOR:
        raise ValueError("not a file of this spool: no private information of ours")
    content = json.loads(bytes(meta.PrivateInformation).decode("utf-8"))
    return association_from_json(content), datetime.fromisoformat(content["received_at"])


class Heads:
    """Preamble, prefix and File Meta Information (PS3.10 Section 7.1) of one association's files.

    Made for every image, so what is the same for all is encoded once; pydicom's own writer takes
    many times as long.
    """

    def __init__(self, association: Association) -> None:
        # a title that is no ASCII is whole in the private information
        sender = association.calling_ae.encode("ascii", "replace")
        receiver = association.called_ae.encode("ascii", "replace")
        private = json.dumps({**association_to_json(association), "received_at": ""})
        self._private = private[: -len('"}')].encode("ascii")
        self._between = b"".join(
            (
                _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii")),
                _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode("ascii")),
                _element(0x0016, b"AE", sender),
                _element(0x0017, b"AE", sender),
                _element(0x0018, b"AE", receiver),
                _element(0x0100, b"UI", PRIVATE_INFORMATION_CREATOR.encode("ascii")),
            )
        )

    def encode(self, instance: ReceivedInstance, size: int = 0, check: int | None = None) -> bytes:
        """The head of one file. Its length is the same whatever is said of time, size and check.

        Args:
            instance: whose head it is.
            size: length of the data set, bytes.
            check: CRC-32 of the data set; None where nobody will ask, as nothing is synced.
        """
        # microseconds always: a time without them would be shorter
        received_at = instance.received_at.isoformat(timespec="microseconds").encode("ascii")
        private = self._private + received_at + b'","bytes":"%016d"' % size + _CHECK + _UNKNOWN
        elements = b"".join(
            (
                _VERSION,
                _element(0x0002, b"UI", instance.sop_class_uid.encode("ascii", "replace")),
                _element(0x0003, b"UI", instance.sop_instance_uid.encode("ascii", "replace")),
                _element(0x0010, b"UI", instance.transfer_syntax_uid.encode("ascii")),
                self._between,
                _element(0x0102, b"OB", private + b" " * (len(private) % 2)),
            )
        )
        head = _PREAMBLE + _GROUP_LENGTH.pack(2, 0, b"UL", 4, len(elements)) + elements
        return head if check is None else _with_check(head, check)


def _with_check(head: bytes, check_of_data: int) -> bytes:
    """The head, with a CRC-32 over the data set and then the head itself."""
    at = head.rindex(_CHECK) + len(_CHECK)
    return head[:at] + b"%08x" % zlib.crc32(head, check_of_data) + head[at + _CHECK_DIGITS :]


def is_head_of(head: bytes, size: int, check_of_data: int) -> bool:
    """Whether `head` was written for a data set of that length and CRC-32, and is whole."""
    found = head.rfind(_CHECK)
    if found < 0:
        return False
    at = found + len(_CHECK)
    blank = head[:at] + _UNKNOWN[:_CHECK_DIGITS] + head[at + _CHECK_DIGITS :]
    return b'"bytes":"%016d"' % size in head and _with_check(blank, check_of_data) == head


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    """An element of group 0002 in Explicit VR Little Endian, PS3.5 Section 7.1.2."""
    if vr == b"OB":
        return _LONG.pack(2, number, vr, 0, len(value)) + value
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return _SHORT.pack(2, number, vr, len(value)) + value


_VERSION = _element(0x0001, b"OB", b"\x00\x01")
