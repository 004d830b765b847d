"""Text on the picture: a font that is the same on every machine, and what it can write."""

from __future__ import annotations

import unicodedata
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

# Bundled with matplotlib: Latin, Greek, Cyrillic, Hebrew and Arabic letters, and signs.
_REGULAR, _BOLD = "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"
_FOLDER = "mpl-data/fonts/ttf"
_NO_CHARACTER = "\U0010ffff"


@cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans in `size` pixels."""
    found = find_spec("matplotlib")  # found, not imported: that takes longer than the drawing
    assert found is not None  # a requirement of ours
    assert found.submodule_search_locations
    path = Path(found.submodule_search_locations[0]) / _FOLDER / (_BOLD if bold else _REGULAR)
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def writable(text: str) -> bool:
    """Whether the font has every character of `text`."""
    return all(_has(character) for character in text)


def plain(text: str) -> str:
    """`text` with what the font lacks taken apart, or else as "?"."""
    if writable(text):
        return text
    parts = unicodedata.normalize("NFKD", text)
    return "".join(character if _has(character) else "?" for character in parts)


def wrapped(text: str, face: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """`text` in lines of at most `width` pixels; a word that is longer is cut."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and face.getlength(longer) <= width:
            lines[-1] = longer
            continue
        rest = word
        while face.getlength(rest) > width and len(rest) > 1:
            cut = next(
                size for size in range(len(rest) - 1, 0, -1)
                if size == 1 or face.getlength(rest[:size]) <= width
            )  # fmt: skip
            lines.append(rest[:cut])
            rest = rest[cut:]
        lines.append(rest)
    return lines


@cache
def _has(character: str) -> bool:
    if character.isascii():
        return True
    face = font(16)
    return bytes(face.getmask(character)) != bytes(face.getmask(_NO_CHARACTER))
