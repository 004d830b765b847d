"""Identifiers and command sets as bytes (PS3.5 Section 7.1).

Answers to queries are many and small, all text; written directly they cost a twentieth of what
pydicom takes for them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

_SHORT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<HH2sxxL")
_IMPLICIT = struct.Struct("<HHL")
_ITEM = _IMPLICIT.pack(0xFFFE, 0xE000, 0)[:4]
_MOST_SHORT = 0xFFFE
CHARACTER_SET = 0x00080005
UTF_8 = "ISO_IR 192"


@dataclass(frozen=True, slots=True)
class Element:
    """An element with text, or a sequence with items.

    Attributes:
        value: what it says; several values are separated by a backslash.
        items: of a sequence, elements in ascending order of their tags.
    """

    tag: int
    vr: str
    value: str = ""
    items: tuple[tuple[Element, ...], ...] = field(default=())


def encode(elements: Iterable[Element], *, implicit: bool) -> bytes:
    """A data set in little endian. Text that is not ASCII is written in UTF-8, and it says so.

    Args:
        elements: without Specific Character Set, in ascending order of their tags.
        implicit: whether without value representations.
    """
    listed = list(elements)
    if not _is_ascii(listed):
        position = next(
            (index for index, item in enumerate(listed) if item.tag > CHARACTER_SET), len(listed)
        )
        listed.insert(position, Element(CHARACTER_SET, "CS", UTF_8))
    return _encode(listed, implicit)


def _encode(elements: Iterable[Element], implicit: bool) -> bytes:
    parts = []
    for element in elements:
        if element.vr == "SQ":
            value = b"".join(
                _ITEM + struct.pack("<L", len(item)) + item
                for item in (_encode(content, implicit) for content in element.items)
            )
        else:
            value = _padded(element)
        parts.append(_header(element.tag, element.vr, len(value), implicit))
        parts.append(value)
    return b"".join(parts)


def _header(tag: int, vr: str, length: int, implicit: bool) -> bytes:
    if implicit:
        return _IMPLICIT.pack(tag >> 16, tag & 0xFFFF, length)
    if vr == "SQ":
        return _LONG.pack(tag >> 16, tag & 0xFFFF, b"SQ", length)
    return _SHORT.pack(tag >> 16, tag & 0xFFFF, vr.encode("ascii"), length)


def _padded(element: Element) -> bytes:
    value = element.value.encode("utf-8", "replace")[:_MOST_SHORT]
    return value + (b"\0" if element.vr == "UI" else b" ") * (len(value) % 2)


def _is_ascii(elements: Iterable[Element]) -> bool:
    return all(
        element.value.isascii() and all(_is_ascii(item) for item in element.items)
        for element in elements
    )


def command(values: Iterable[tuple[int, bytes]]) -> bytes:
    """A command set (PS3.7 Section 6.3): element numbers of group 0000 in order, their values."""
    body = b"".join(_IMPLICIT.pack(0, element, len(value)) + value for element, value in values)
    return _IMPLICIT.pack(0, 0, 4) + struct.pack("<L", len(body)) + body
