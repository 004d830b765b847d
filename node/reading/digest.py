"""The digest of what a data set says (docs/decisions/0002-content-digest.md).

It is the value that the first versions computed from pydicom's data sets; the tests hold the two
against each other.
"""

from __future__ import annotations

import hashlib
import itertools
from struct import Struct
from typing import Literal

from core.errors import UnreadableError
from node.reading.elements import (
    DEEPEST,
    ITEM_END,
    MOST_IN_ONE,
    SEQUENCE_END,
    UNDEFINED_LENGTH,
    Element,
    Reader,
)

_PIXEL_REPRESENTATION = 0x00280103
_BYTES_OF_US = 2
_HEAD = Struct(">IQ").pack
_COUNT = Struct(">Q").pack
_FLUSH_BYTES = 1 << 16
# What a sequence adds to the memory while it is hashed; one that needs more is hashed as bytes.
_MOST_SEQUENCE_BYTES = 128 << 20


def content_digest(reader: Reader, elements: list[Element], texts: dict[int, bytes]) -> str:
    """SHA-256 of what the data set says, not of how a sender happened to encode it.

    Tags and values are hashed, sequences item by item, so that Implicit and Explicit VR Little
    Endian, deflated or not, defined and undefined lengths give the same digest. Group lengths
    (gggg,0000) are left out. Big endian and compressed pixels count as other content. A sequence
    that cannot be read as items, or lies too deep, is hashed as bytes.

    Args:
        reader: of the stream that `elements` were found in.
        elements: all elements at the top.
        texts: tags that are hashed by another value than the one in the stream.

    Raises:
        UnreadableError: the stream ends early.
    """
    reader.renew()
    digest = hashlib.sha256()
    pending = bytearray(b"" if reader.little_endian else b"big endian")
    window = reader.window
    after_sequence = False
    # a data set is sorted by its tags; where one is not, the last of two with one tag counts
    for tag, element in sorted({element.tag: element for element in elements}.items()):
        if tag & 0xFFFF == 0:
            continue
        if tag in texts:
            pending += _HEAD(tag, len(texts[tag])) + texts[tag]
        elif element.sequence and _add_items(reader, element, pending):
            after_sequence = True
        elif tag == _PIXEL_REPRESENTATION and after_sequence:
            value = window.value(element.start, min(element.length, _FLUSH_BYTES))
            pending += tag.to_bytes(4, "big") + _number(reader, value)
        elif element.length <= _FLUSH_BYTES:
            pending += _HEAD(tag, element.length) + window.value(element.start, element.length)
        else:
            digest.update(pending + _HEAD(tag, element.length))
            pending.clear()
            for piece in window.pieces(element.start, element.length):
                digest.update(piece)
        if len(pending) > _FLUSH_BYTES:
            digest.update(pending)
            pending.clear()
    digest.update(pending)
    return digest.hexdigest()


def _number(reader: Reader, value: bytes) -> bytes:
    """What is hashed of Pixel Representation (0028,0103) after a sequence: what it means.

    pydicom has read it by then, for it says how values inside the sequence are meant.
    """
    if len(value) == _BYTES_OF_US:
        order: Literal["little", "big"] = "little" if reader.little_endian else "big"
        value = repr(int.from_bytes(value, order)).encode()
    return _COUNT(len(value)) + value


class _Level:
    """A sequence or an item that is open.

    Attributes:
        end: where it ends; None where a delimiter ends it.
        limit: the end of the innermost thing around it that says its length.
        mark: length of what was to be hashed when it began.
        place: where its value begins in the stream.
        items: how many items a sequence has so far; how many sequences an item.
        parts: tag and mark of each element of an item.
    """

    __slots__ = ("end", "implicit", "in_item", "items", "limit", "mark", "parts", "place")

    def __init__(
        self, in_item: bool, implicit: bool, place: int, end: int | None, limit: int, mark: int
    ) -> None:
        if end is not None and end > limit:
            raise UnreadableError("an item or sequence is longer than what it lies in")
        self.in_item = in_item
        self.implicit = implicit
        self.place = place
        self.end = end
        self.limit = limit if end is None else end
        self.mark = mark
        self.items = 0
        self.parts: list[tuple[int, int]] = []


def _add_items(reader: Reader, element: Element, pending: bytearray) -> bool:
    """Add a sequence at the top; False, and nothing added, when it cannot be read as items."""
    mark = len(pending)
    pending += element.tag.to_bytes(4, "big")
    end = None if element.undefined else element.start + element.length
    try:
        _Items(reader, pending, element.end).add(element.start, end)
    except UnreadableError:
        del pending[mark:]
        return False
    return True


class _Items:
    """Writes what is hashed of a sequence: its number of items, and each item's elements."""

    def __init__(self, reader: Reader, pending: bytearray, limit: int) -> None:
        self._reader = reader
        self._pending = pending
        self._limit = limit
        self._levels: list[_Level] = []

    def add(self, start: int, end: int | None) -> None:
        """Add the sequence whose value begins at `start`.

        Raises:
            UnreadableError: it cannot be read as items.
        """
        self._open(start, end, self._reader.implicit)
        at = start
        while self._levels:
            try:
                self._reader.count()
                if len(self._pending) > _MOST_SEQUENCE_BYTES:
                    raise UnreadableError("the sequence is too long")
                level = self._levels[-1]
                at = self._in_item(level, at) if level.in_item else self._between(level, at)
            except UnreadableError:
                at = self._as_bytes()

    def _open(self, start: int, end: int | None, implicit: bool) -> None:
        if len(self._levels) >= 2 * DEEPEST:
            raise UnreadableError(f"sequences lie more than {DEEPEST} deep")
        limit = self._levels[-1].limit if self._levels else self._limit
        self._levels.append(_Level(False, implicit, start, end, limit, len(self._pending)))
        self._pending += b"SQ" + _COUNT(0)

    def _between(self, level: _Level, at: int) -> int:
        """Before an item of a sequence, or at its end."""
        if at == level.end:
            return self._close_sequence(at)
        if at > level.limit:
            raise UnreadableError("an item is longer than what it lies in")
        tag, length = self._reader.item(at)
        at += 8
        if tag == SEQUENCE_END:
            return self._close_sequence(at if level.end is None else level.end)
        level.items += 1
        end = None if length == UNDEFINED_LENGTH else at + length
        implicit = self._reader.item_is_implicit(at, level.implicit)
        self._levels.append(_Level(True, implicit, at, end, level.limit, len(self._pending)))
        return at

    def _close_sequence(self, at: int) -> int:
        level = self._levels.pop()
        self._pending[level.mark + 2 : level.mark + 10] = _COUNT(level.items)
        return at

    def _in_item(self, level: _Level, at: int) -> int:
        """Before an element of an item, or at the item's end."""
        if at == level.end:
            return self._close_item(at)
        reader, pending = self._reader, self._pending
        tag, vr, start, length = reader.header(at, level.implicit)
        if tag == ITEM_END:
            return self._close_item(start)
        sequence = reader.is_sequence(tag, vr, length, start)
        undefined = length == UNDEFINED_LENGTH
        if tag & 0xFFFF:
            level.parts.append((tag, len(pending)))
            pending += tag.to_bytes(4, "big")
        if sequence:
            level.items += 1
            self._open(start, None if undefined else start + length, level.implicit)
            return start
        end = start + length
        if undefined:
            end = reader.end_of_fragments(start)
            length = end - start - 8
        if end > level.limit:
            raise UnreadableError("an element is longer than what it lies in")
        if len(pending) + length > _MOST_SEQUENCE_BYTES or len(level.parts) > MOST_IN_ONE:
            raise UnreadableError("the sequence is too long")
        if tag & 0xFFFF:
            value = reader.window.value(start, length)
            if tag == _PIXEL_REPRESENTATION and level.items:
                pending += _number(reader, value)
            else:
                pending += _COUNT(length) + value
        return end

    def _close_item(self, at: int) -> int:
        level = self._levels.pop()
        tags = [tag for tag, _ in level.parts]
        if any(one >= other for one, other in itertools.pairwise(tags)):
            ends = [mark for _, mark in level.parts[1:]] + [len(self._pending)]
            parts = {
                tag: bytes(self._pending[mark:end])
                for (tag, mark), end in zip(level.parts, ends, strict=True)
            }
            self._pending[level.mark :] = b"".join(part for _, part in sorted(parts.items()))
        return at

    def _as_bytes(self) -> int:
        """Hash as bytes the innermost sequence that says its length; without one, give up."""
        while self._levels:
            level = self._levels.pop()
            if level.in_item or level.end is None or not self._levels:
                continue
            length = level.end - level.place
            del self._pending[level.mark :]
            if len(self._pending) + length <= _MOST_SEQUENCE_BYTES:
                self._pending += _COUNT(length) + self._reader.window.value(level.place, length)
                return level.end
        raise UnreadableError("the sequence cannot be read as items")
