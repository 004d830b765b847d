"""A quick look at a data set: the same answer as `node.reading.examine`, or none at all.

Nearly every instance is a plain list of elements with the pixels last. Walking their headers
takes a tenth of the time that pydicom's reader takes. Whatever is not plain (big endian,
deflated, an unknown value representation, anything that does not add up) gets no answer here,
and `node.reading.examine` decides.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR

from core.errors import InvalidValueError
from core.identifiers import UID
from node.reading.examine import DatasetIdentity

WINDOW = 16 * 1024
_UNDEFINED_LENGTH = 0xFFFFFFFF
_LONGEST_HEADER = 12
_DEEPEST = 16
_LONGEST_VALUE = 1024
# Value representations by the length of their length field, PS3.5 Section 7.1.2.
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_NEEDED = dict.fromkeys((0x00080016, 0x00080018, 0x0020000D, 0x0020000E))
_CHARACTER_SET = 0x00080005
_PIXEL_DATA = 0x7FE00010
# Items and their delimiters, PS3.5 Section 7.5.
_ITEM_GROUP = 0xFFFE
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_EXPLICIT = struct.Struct("<HH2sH")
_IMPLICIT = struct.Struct("<HHL")
_LENGTH = struct.Struct("<L")


# More headers than this: `examine` counts them, as intake will (`node.reading.elements`).
_MOST_HEADERS = 20_000


class _NotPlainError(Exception):
    """There is no quick answer."""


def glance(
    head: bytes | bytearray, size: int, implicit: bool, read: Callable[[int, int], bytes]
) -> DatasetIdentity | None:
    """Walk a little endian data set to its end.

    Args:
        head: its first bytes.
        size: how long it is.
        implicit: whether it is Implicit VR Little Endian; else Explicit VR Little Endian.
        read: gives so many of its bytes from a position on, for what is not in `head`.

    Returns:
        what `node.reading.examine.examine` would return, or None when that must be asked.
    """
    walk = _Walk(head, size, implicit, read)
    try:
        walk.top()
        return DatasetIdentity(*(UID(walk.values[tag].decode("ascii")) for tag in _NEEDED))
    except (_NotPlainError, KeyError, UnicodeDecodeError, InvalidValueError, struct.error):
        return None


class _Walk:
    """One walk over the headers of a data set."""

    __slots__ = ("_base", "_implicit", "_last", "_left", "_read", "_size", "_window", "values")

    def __init__(
        self,
        head: bytes | bytearray,
        size: int,
        implicit: bool,
        read: Callable[[int, int], bytes],
    ) -> None:
        self._window: bytes | bytearray = head
        self._last = len(head) - _LONGEST_HEADER  # where a header may begin that is whole
        self._base = 0
        self._left = _MOST_HEADERS
        self._size, self._implicit, self._read = size, implicit, read
        self.values: dict[int, bytes] = {}

    def top(self) -> None:
        """Walk the outermost elements, and remember the values that are needed."""
        position, size, values = 0, self._size, self.values
        while position < size:
            tag, vr, length, value = self._header(position)
            if length == _UNDEFINED_LENGTH:
                position = self._undefined(tag, vr, value, 0)
                continue
            position = value + length
            if tag in _NEEDED:
                if length > _LONGEST_VALUE:
                    raise _NotPlainError
                values[tag] = self._bytes(value, length)
            elif tag == _CHARACTER_SET:
                self._check_character_set(value, length)
        if position != size:
            raise _NotPlainError

    def _header(self, position: int) -> tuple[int, bytes, int, int]:
        """Tag, value representation (none if implicit), length, and where the value begins."""
        self._count()
        at = position - self._base
        if at < 0 or at > self._last:
            at = self._turn(position)
        if self._implicit:
            group, element, length = _IMPLICIT.unpack_from(self._window, at)
            vr, value = b"", position + 8
        else:
            group, element, vr, length = _EXPLICIT.unpack_from(self._window, at)
            value = position + 8
            if vr in _LONG:
                (length,) = _LENGTH.unpack_from(self._window, at + 8)
                value += 4
            elif vr not in _SHORT:
                raise _NotPlainError
        if group == _ITEM_GROUP:
            raise _NotPlainError
        return group << 16 | element, vr, length, value

    def _item_header(self, position: int) -> tuple[int, int]:
        """Tag and length of an item or a delimiter; they have no value representation."""
        self._count()
        at = position - self._base
        if at < 0 or at > self._last:
            at = self._turn(position)
        group, element, length = _IMPLICIT.unpack_from(self._window, at)
        return group << 16 | element, length

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _NotPlainError

    def _turn(self, position: int) -> int:
        if position < self._base + len(self._window) >= self._size and position >= self._base:
            return position - self._base  # all there is; what does not fit raises struct.error
        self._window, self._base = self._read(position, WINDOW), position
        self._last = len(self._window) - _LONGEST_HEADER
        return 0

    def _bytes(self, position: int, length: int) -> bytes:
        at = position - self._base
        if at >= 0 and at + length <= len(self._window):
            return bytes(self._window[at : at + length])
        found = self._read(position, length)
        if len(found) != length:
            raise _NotPlainError
        return found

    def _check_character_set(self, position: int, length: int) -> None:
        """A name that pydicom warns about, or refuses, is not for us to judge."""
        if length > _LONGEST_VALUE:
            raise _NotPlainError
        name = self._bytes(position, length).decode("ascii").rstrip("\0 ")
        if name not in python_encoding:
            raise _NotPlainError

    def _undefined(self, tag: int, vr: bytes, position: int, depth: int) -> int:
        """Where the element of undefined length ends whose value begins at `position`."""
        if tag == _PIXEL_DATA:
            return self._fragments(position)
        if depth >= _DEEPEST or (vr or _dictionary_vr(tag)) != b"SQ":
            raise _NotPlainError
        while True:
            item, length = self._item_header(position)
            position += 8
            if item == _SEQUENCE_END and length == 0:
                return position
            if item != _ITEM:
                raise _NotPlainError
            position = self._item(position, length, depth)

    def _item(self, position: int, length: int, depth: int) -> int:
        """Where the item ends whose elements begin at `position`."""
        end = self._size if length == _UNDEFINED_LENGTH else position + length
        if end > self._size:
            raise _NotPlainError
        while position < end:
            if length == _UNDEFINED_LENGTH:
                tag, none = self._item_header(position)
                if tag == _ITEM_END and none == 0:
                    return position + 8
            tag, vr, size, value = self._header(position)
            if tag == _CHARACTER_SET and size != _UNDEFINED_LENGTH:
                self._check_character_set(value, size)
            undefined = size == _UNDEFINED_LENGTH
            position = self._undefined(tag, vr, value, depth + 1) if undefined else value + size
        if position != end or length == _UNDEFINED_LENGTH:
            raise _NotPlainError
        return position

    def _fragments(self, position: int) -> int:
        """Encapsulated pixel data, PS3.5 Section A.4: where its delimiter ends."""
        while True:
            item, length = self._item_header(position)
            position += 8
            if item == _SEQUENCE_END and length == 0:
                return position
            if item != _ITEM or length == _UNDEFINED_LENGTH:
                raise _NotPlainError
            position += length
            if position > self._size:
                raise _NotPlainError


def _dictionary_vr(tag: int) -> bytes:
    try:
        return dictionary_VR(tag).encode()
    except KeyError as error:
        raise _NotPlainError from error
