"""A look at a data set before it is taken: can it be read to its end, and what is it?

Only element headers and the short values are touched: the cost does not grow with the pixels.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_generator
from pydicom.uid import UID as TransferSyntax
from pydicom.uid import DeflatedExplicitVRLittleEndian

from core.errors import InvalidValueError, MismatchError, UnreadableError
from core.identifiers import UID

# What is needed to file an instance, PS3.3 C.12.1, C.7.2.1 and C.7.3.1.
_NEEDED = {
    0x00080016: "SOP Class UID",
    0x00080018: "SOP Instance UID",
    0x0020000D: "Study Instance UID",
    0x0020000E: "Series Instance UID",
}
_KEEP_BYTES = 1024
_UNDEFINED_LENGTH = 0xFFFFFFFF
# A deflated data set that grows past this is a bomb, not an image.
_MOST_INFLATED = 1 << 30


@dataclass(frozen=True, slots=True)
class DatasetIdentity:
    """The four UIDs that say what an instance is and where it belongs."""

    sop_class_uid: UID
    sop_instance_uid: UID
    study_instance_uid: UID
    series_instance_uid: UID


def examine(stream: BinaryIO, size: int, transfer_syntax: TransferSyntax) -> DatasetIdentity:
    """Walk the data set in `stream` (`size` bytes, no File Meta) to its end.

    Raises:
        UnreadableError: it ends early, cannot be parsed, or lacks one of the four UIDs.
    """
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        stream, size = _inflated(stream)
    values: dict[int, bytes] = {}
    position = 0
    try:
        for element in data_element_generator(
            stream,
            transfer_syntax.is_implicit_VR,
            transfer_syntax.is_little_endian,
            defer_size=_KEEP_BYTES,
        ):
            # where a whole element ended: fewer than 8 bytes after it end pydicom's loop in silence
            position = stream.tell()
            tag = int(element.tag)
            if not isinstance(element, RawDataElement):
                continue  # a sequence of undefined length: it was read to its end
            if element.length != _UNDEFINED_LENGTH and element.value_tell + element.length > size:
                raise UnreadableError(f"the data set ends early, within element {element.tag}")
            if tag in _NEEDED and isinstance(element.value, bytes):
                values[tag] = element.value
    except UnreadableError:
        raise
    # pydicom raises nearly anything on bytes that are no data set
    except Exception as error:
        raise UnreadableError(f"the data set cannot be parsed: {error}") from error
    if position != size:
        raise UnreadableError(f"the data set ends early, or has {size - position} bytes too many")
    return DatasetIdentity(*(_uid(tag, name, values) for tag, name in _NEEDED.items()))


def check_announced(identity: DatasetIdentity, sop_class_uid: str, sop_instance_uid: str) -> None:
    """Hold the data set against what the C-STORE command announced (PS3.4 Section B.2.3).

    Raises:
        MismatchError: SOP Class UID or SOP Instance UID differ.
    """
    if identity.sop_class_uid != sop_class_uid:
        raise MismatchError(
            f"SOP Class UID is {identity.sop_class_uid}, the command said {sop_class_uid}"
        )
    if identity.sop_instance_uid != sop_instance_uid:
        raise MismatchError(
            f"SOP Instance UID is {identity.sop_instance_uid}, the command said {sop_instance_uid}"
        )


def _uid(tag: int, name: str, values: dict[int, bytes]) -> UID:
    if tag not in values:
        raise UnreadableError(f"the data set has no {name}")
    try:
        return UID(values[tag].decode("ascii", errors="replace"))
    except InvalidValueError as error:
        raise UnreadableError(f"{name}: {error}") from error


def _inflated(stream: BinaryIO) -> tuple[BytesIO, int]:
    """PS3.5 Section A.5: the data set is a raw deflate stream (RFC 1951)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(stream.read(), _MOST_INFLATED)
    except zlib.error as error:
        raise UnreadableError(f"the deflated data set cannot be read: {error}") from error
    if inflater.unconsumed_tail:
        raise UnreadableError(f"the deflated data set grows past {_MOST_INFLATED} bytes")
    if not inflater.eof:
        raise UnreadableError("the deflated data set ends early")
    if inflater.unused_data.strip(b"\0"):  # padding to an even length is allowed
        raise UnreadableError(f"{len(inflater.unused_data)} bytes follow the deflated data set")
    return BytesIO(data), len(data)
