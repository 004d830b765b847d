"""Text as queries compare it: person names without case and accents, numbers, dates and times.

The ledger keeps folded names in columns of their own, made by the same functions that fold what
is asked for. PS3.4 Section C.2.2.2.1 leaves it to us which variants of a name are the same.
"""

from __future__ import annotations

import re
import unicodedata

# Combining Diacritical Marks: accents of Latin, Greek and Cyrillic; not Japanese voicing marks.
_ACCENTS = range(0x0300, 0x0370)
_GROUPS = 3  # PS3.5 Section 6.2.1: alphabetic, ideographic, phonetic
_OLD_DATE = re.compile(r"[0-9]{4}\.[0-9]{2}\.[0-9]{2}")
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,15}")


def fold(text: str) -> str:
    """One component group of a person name: no case, full width as half width, no Latin accents.

    Accents are dropped from Latin letters only: elsewhere they make another letter.
    """
    kept = []
    latin = False
    for character in unicodedata.normalize("NFKD", text):
        if ord(character) in _ACCENTS:
            if latin:
                continue
        else:
            latin = character.isascii()
        kept.append(character)
    folded = unicodedata.normalize("NFC", "".join(kept)).casefold()
    components = (" ".join(part.split()) for part in folded.replace("\0", "").split("^"))
    return "^".join(components).rstrip("^")


def name_groups(name: str) -> tuple[str, str, str]:
    """The folded component groups of a person name: alphabetic, ideographic, phonetic."""
    groups = [fold(group) for group in name.split("=")[:_GROUPS]]
    alphabetic, ideographic, phonetic = [*groups, "", "", ""][:_GROUPS]
    return alphabetic, ideographic, phonetic


def plain_number(text: str) -> str:
    """An integer string (VR IS) without what is not significant, or the text itself."""
    stripped = text.strip()
    return str(int(stripped)) if _WHOLE_NUMBER.fullmatch(stripped) else stripped


def plain_date(text: str) -> str:
    """A date as YYYYMMDD also where it comes as YYYY.MM.DD (PS3.5 Table 6.2-1, note for DA)."""
    stripped = text.strip()
    return stripped.replace(".", "") if _OLD_DATE.fullmatch(stripped) else stripped


def plain_time(text: str) -> str:
    """A time as HHMMSS also where it comes as HH:MM:SS (PS3.5 Table 6.2-1, note for TM)."""
    return text.strip().replace(":", "")
