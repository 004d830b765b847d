"""Matching a key against a line of an answer (PS3.4 C.2.2.2), for what SQL does not match."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

_RANGED = frozenset({"DA", "TM", "DT"})
_WILD = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})


def matches(line: dict[str, Any], keys: dict[str, str]) -> bool:
    """Whether a line in the DICOM JSON Model has what every key asks for."""
    return all(_matches(line, keyword, wanted) for keyword, wanted in keys.items())


def _matches(line: dict[str, Any], keyword: str, wanted: str) -> bool:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    vr = dictionary_VR(tag)
    values = [_text(value) for value in line.get(f"{tag:08X}", {}).get("Value", [])]
    if vr in _RANGED and "-" in wanted:
        first, _, last = wanted.partition("-")
        return any(
            (not first or value >= first) and (not last or value <= last) for value in values
        )
    if vr == "UI" or not wanted.strip("*"):
        return not wanted.strip("*") or bool(set(re.split(r"[\\,]", wanted)) & set(values))
    if vr == "PN":
        groups = [group for value in values for group in value.split("=")]
        return any(_pattern(wanted.lower()).fullmatch(group.lower()) for group in groups)
    if vr in _WILD and ("*" in wanted or "?" in wanted):
        return any(_pattern(wanted).fullmatch(value) for value in values)
    numeric = vr in {"IS", "DS", "US", "UL", "FD", "FL", "SL", "SS"}
    return wanted in values or (numeric and _number(wanted) in map(_number, values))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "=".join(value.get(name, "") for name in ("Alphabetic", "Ideographic", "Phonetic"))
    return str(value)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    # runs of * are one: many in a row would try every way to share a text out among them
    text = re.sub(r"\*+", "*", text)
    parts = (".*" if item == "*" else "." if item == "?" else re.escape(item) for item in text)
    return re.compile("".join(parts), re.DOTALL)
