"""A look at a data set before it is taken: can it be read to its end, and what is it?

Only element headers and the short values are touched: the cost does not grow with the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, cast

from pydicom.charset import convert_encodings
from pydicom.uid import UID as TransferSyntax
from pydicom.uid import DeflatedExplicitVRLittleEndian
from pydicom.values import convert_string

from core.errors import InvalidValueError, MismatchError, UnreadableError
from core.identifiers import UID
from node.reading.elements import Reader
from node.reading.window import Inflating, Readable, Window

# What is needed to file an instance, PS3.3 C.12.1, C.7.2.1 and C.7.3.1.
_NEEDED = {
    0x00080016: "SOP Class UID",
    0x00080018: "SOP Instance UID",
    0x0020000D: "Study Instance UID",
    0x0020000E: "Series Instance UID",
}
_CHARACTER_SET = 0x00080005
_WANTED = frozenset({_CHARACTER_SET, *_NEEDED})
_WINDOW_BYTES = 1 << 14


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
    window = Window(_WINDOW_BYTES)
    reader = Reader(window, transfer_syntax)
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        window.open(Inflating(stream))
        _, values = reader.scan(None, _WANTED)
    else:
        window.open(cast("Readable", stream))
        _, values = reader.scan(size, _WANTED)
    _check_character_set(values.get(_CHARACTER_SET, b""))
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


def _check_character_set(value: bytes) -> None:
    """Refuse what no reader could make text of; unknown names are read as ASCII."""
    try:
        convert_encodings(convert_string(value, is_little_endian=True))
    except (ValueError, LookupError) as error:
        raise UnreadableError(f"Specific Character Set cannot be read: {error}") from error


def _uid(tag: int, name: str, values: dict[int, bytes]) -> UID:
    if tag not in values:
        raise UnreadableError(f"the data set has no {name}")
    try:
        return UID(values[tag].decode("ascii", errors="replace"))
    except InvalidValueError as error:
        raise UnreadableError(f"{name}: {error}") from error
