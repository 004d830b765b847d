"""How moments, durations, sizes and DICOM's values are written on a page."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

_GROUPS_OF_A_NAME = 3
_UNITS = {
    "1": "",
    "mm2": "mm²",
    "mm3": "mm³",
    "cm2": "cm²",
    "cm3": "cm³",
    "um": "µm",
    "/mm": "1/mm",
    "[hnsf'U]": "HU",
    "{SUVbw}g/ml": "g/mL SUVbw",
    "deg": "°",
}


def moment(value: datetime | None) -> str:
    """A moment in the node's own time zone, to the second."""
    return f"{value.astimezone():%Y-%m-%d %H:%M:%S}" if value is not None else ""


def clock(value: datetime | None) -> str:
    """The time of day of a moment."""
    return f"{value.astimezone():%H:%M:%S}" if value is not None else ""


def span(value: timedelta | float | None) -> str:
    """A duration (or seconds), short: two units at most."""
    if value is None:
        return ""
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(value: float | None) -> str:
    """Bytes, short."""
    if value is None:
        return ""
    number = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return (
                f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
            )
        number /= 1000
    return f"{number:.1f} TB"


def person(value: str) -> str:
    """A person name (PS3.5 6.2.1.1) as people write it: family, given; other scripts beside."""
    alphabetic, *others = value.split("=")[:_GROUPS_OF_A_NAME]
    groups = [_name(alphabetic, ", "), *(_name(group, " ") for group in others)]
    shown = [group for group in dict.fromkeys(groups) if group]
    return f"{shown[0]} ({', '.join(shown[1:])})" if len(shown) > 1 else "".join(shown)


def _name(group: str, between: str) -> str:
    parts = [part.strip() for part in group.split("^")]
    family, rest = parts[0], " ".join(part for part in parts[1:] if part)
    return f"{family}{between}{rest}" if family and rest else family or rest


def dicom_date(value: str) -> str:
    """A DA value (PS3.5 Table 6.2-1) with dashes; anything else as it is."""
    plain = value.strip()
    if len(plain) == 8 and plain.isascii() and plain.isdigit():
        return f"{plain[:4]}-{plain[4:6]}-{plain[6:]}"
    return plain


def short(value: str, most: int = 80) -> str:
    """A text cut to `most` characters."""
    return value if len(value) <= most else value[: most - 1] + "…"


def number(value: float | None) -> str:
    """A measured figure with four significant digits."""
    return "" if value is None else f"{value:.4g}"


def unit(value: str) -> str:
    """A unit of UCUM (PS3.16 CID 82 and others) as people write it."""
    return _UNITS.get(value, value.strip("{}"))


def status(value: int | None) -> str:
    """A DIMSE status as the standard writes it."""
    return "" if value is None else f"0x{value:04X}"


FILTERS: dict[str, Any] = {
    "moment": moment,
    "clock": clock,
    "span": span,
    "bytes": size,
    "person": person,
    "dicom_date": dicom_date,
    "short": short,
    "number": number,
    "dimse": status,
    "unit": unit,
}
