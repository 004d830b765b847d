"""The elements of a data set, found without believing it: no recursion, bounded memory and work.

It reads what pydicom reads, with the same patience for what writers get wrong (implicit VR inside
explicit, fragments without order). What lies inside a sequence of defined length is not looked at
here; `node.reading.digest` does that.
"""

from __future__ import annotations

from collections.abc import Container
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

from pydicom.datadict import dictionary_VR
from pydicom.uid import UID as TransferSyntax
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from core.errors import UnreadableError
from node.reading.window import Window

UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD
# Deeper than any object of the standard, and shallow enough for every reader that recurses.
DEEPEST = 64
# A multi-frame object of 100,000 frames has some three million.
MOST_ELEMENTS = 5_000_000
MOST_IN_ONE = 50_000
SHORT_VALUE = 1024
_HEADER = 8
_SHORT = frozenset(str(vr).encode() for vr in EXPLICIT_VR_LENGTH_16)
_LONG = frozenset(str(vr).encode() for vr in EXPLICIT_VR_LENGTH_32)


class Element(NamedTuple):
    """Where an element lies in its stream.

    Attributes:
        vr: as the stream gives it; empty in implicit VR.
        begin: of its tag.
        start: of its value.
        length: of its value, delimiter left out.
        end: where the next element begins.
        sequence: whether its value is items.
        undefined: whether its length was not said.
    """

    tag: int
    vr: bytes
    begin: int
    start: int
    length: int
    end: int
    sequence: bool
    undefined: bool


class Reader:
    """Reads headers of one encoding through a window.

    Raises:
        UnreadableError: from any method: the stream ends early or is no data set.
    """

    def __init__(self, window: Window, transfer_syntax: TransferSyntax) -> None:
        order = "<" if transfer_syntax.is_little_endian else ">"
        self.window = window
        self.implicit = transfer_syntax.is_implicit_VR
        self.little_endian = transfer_syntax.is_little_endian
        self._implicit: Any = Struct(order + "HHL").unpack_from
        self._explicit: Any = Struct(order + "HH2sH").unpack_from
        self._long: Any = Struct(order + "L").unpack_from
        self._sequence_end = Struct(order + "HH").pack(0xFFFE, 0xE0DD)
        self._left = 0
        self.renew()

    def renew(self) -> None:
        """Another walk begins: count its elements anew."""
        self._left = MOST_ELEMENTS

    def header(self, at: int, implicit: bool) -> tuple[int, bytes, int, int]:
        """Tag, VR, place of the value and length of the element at `at`."""
        window = self.window
        index = window.index(at, _HEADER)
        if implicit:
            group, number, length = self._implicit(window.data, index)
            return group << 16 | number, b"", at + 8, length
        group, number, vr, length = self._explicit(window.data, index)
        if vr in _LONG:
            index = window.index(at + 8, 4)
            return group << 16 | number, vr, at + 12, self._long(window.data, index)[0]
        if vr not in _SHORT and not b"AA" <= vr <= b"ZZ":
            # some writers fall into implicit VR, above all inside sequences
            group, number, length = self._implicit(window.data, index)
            vr = b""
        return group << 16 | number, vr, at + 8, length

    def item(self, at: int) -> tuple[int, int]:
        """Tag and length of the item or delimiter at `at`."""
        index = self.window.index(at, _HEADER)
        group, number, length = self._implicit(self.window.data, index)
        return group << 16 | number, length

    def item_is_implicit(self, at: int, implicit: bool) -> bool:
        """Whether the item whose elements begin at `at` is in implicit VR (PS3.5 Section 6.2.2)."""
        if implicit:
            return True
        try:
            index = self.window.index(at, 6)
        except UnreadableError:
            return False  # the data set ends here; whoever reads on says so
        first, second = self.window.data[index + 4], self.window.data[index + 5]
        return not (0x41 <= first <= 0x5A and 0x41 <= second <= 0x5A)

    def count(self) -> None:
        """One element more; too many are refused, for each takes time."""
        self._left -= 1
        if self._left < 0:
            raise UnreadableError(f"the data set has more than {MOST_ELEMENTS} elements")

    def is_sequence(self, tag: int, vr: bytes, length: int, start: int) -> bool:
        """Whether an element's value is items."""
        if length != UNDEFINED_LENGTH:
            return vr == b"SQ" or (not vr and _known_vr(tag) == "SQ")
        if vr in {b"SQ", b"UN"}:
            return True
        if vr:
            return False
        known = _known_vr(tag)
        return known == "SQ" if known else self.item(start)[0] == ITEM

    def scan(
        self, size: int | None, wanted: Container[int] = (), begin: int = 0
    ) -> tuple[list[Element], dict[int, bytes]]:
        """The elements at the top of the data set that fills the window's stream from `begin` on.

        Also the values of the `wanted` tags, where they are short. `size` is the stream's length,
        bytes; None where only its end tells.
        """
        found: list[Element] = []
        values: dict[int, bytes] = {}
        at = begin
        while at < size if size is not None else self.window.reaches(at):
            tag, vr, start, length = self.header(at, self.implicit)
            if tag == ITEM_END:
                raise UnreadableError("an item ends where none has begun")
            undefined = length == UNDEFINED_LENGTH
            sequence = self.is_sequence(tag, vr, length, start)
            end = start + length
            if undefined:
                end = self._end_of_items(start) if sequence else self.end_of_fragments(start, size)
                length = end - start - _HEADER
            elif not (end <= size if size is not None else self._whole(start, length)):
                raise UnreadableError(
                    f"the data set ends early, within element ({tag >> 16:04X},{tag & 0xFFFF:04X})"
                )
            if tag in wanted and not undefined and length <= SHORT_VALUE:
                values[tag] = self.window.value(start, length)
            if len(found) >= MOST_IN_ONE:
                raise UnreadableError(f"the data set has more than {MOST_IN_ONE} elements")
            found.append(Element(tag, vr, at, start, length, end, sequence, undefined))
            at = end
        return found, values

    def _whole(self, start: int, length: int) -> bool:
        return not length or self.window.reaches(start + length - 1)

    def _end_of_items(self, at: int) -> int:
        """Where a sequence of undefined length ends. What has a length is stepped over."""
        # for each open level: whether it is an item, and whether it is in implicit VR
        levels = [(False, self.implicit)]
        while levels:
            self.count()
            in_item, implicit = levels[-1]
            if not in_item:
                tag, length = self.item(at)
                at += _HEADER
                if tag == SEQUENCE_END:
                    levels.pop()
                elif length == UNDEFINED_LENGTH:
                    levels.append((True, self.item_is_implicit(at, implicit)))
                else:
                    at += length
                continue
            tag, vr, start, length = self.header(at, implicit)
            if tag == ITEM_END:
                at = start
                levels.pop()
            elif length != UNDEFINED_LENGTH:
                at = start + length
            elif self.is_sequence(tag, vr, length, start):
                at = start
                levels.append((False, implicit))
                if len(levels) > 2 * DEEPEST:
                    raise UnreadableError(f"sequences lie more than {DEEPEST} deep")
            else:
                at = self.end_of_fragments(start)
        return at

    def end_of_fragments(self, start: int, size: int | None = None) -> int:
        """Where encapsulated pixel data end (PS3.5 Section A.4), delimiter included."""
        at = start
        try:
            while True:
                self.count()
                tag, length = self.item(at)
                if tag == SEQUENCE_END:
                    return at + _HEADER
                if tag != ITEM or length == UNDEFINED_LENGTH:
                    break
                at += _HEADER + length
        except UnreadableError:
            if size is None:  # a stream that goes forward only cannot be searched again
                raise
        return self._search_end(start)

    def _search_end(self, at: int) -> int:
        """The same for fragments that are none: the first delimiter counts, wherever it stands."""
        tail = b""
        for piece in self.window.pieces(at, 1 << 62):
            data = tail + bytes(piece)
            found = data.find(self._sequence_end)
            if found >= 0:
                place = at - len(tail) + found
                self.window.index(place, _HEADER)
                return place + _HEADER
            at += len(piece)
            tail = data[-3:]
        raise AssertionError  # the pieces end with an error


@lru_cache(maxsize=10_000)
def _known_vr(tag: int) -> str:
    """The dictionary's VR; empty for a tag that is not in it."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return ""
