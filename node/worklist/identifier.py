"""The Identifier of a request: what its keys ask for (PS3.4 Section C.2.2.2).

Values are read as they came, without pydicom's own checks: a key may be a range or a pattern,
which no attribute may be, and whatever is wrong is to be answered, not warned of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from io import BytesIO
from typing import Any

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

from core.errors import InvalidValueError, QueryError
from core.identifiers import UID
from core.ledger.queries.attributes import Attribute
from core.ledger.queries.folding import fold, plain_date, plain_number, plain_time
from core.ledger.queries.matching import Matching, Moments, Name, OneOf, Span, Wildcard
from node.worklist.statuses import IDENTIFIER_MISMATCH, UNABLE_TO_PROCESS

_CHARACTER_SET = 0x00080005
_LEVEL = 0x00080052
_TIMEZONE = 0x00080201
_LONGEST_KEY = 1024
_MOST_STARS = 10
_MOST_UIDS = 20_000
_TIME = re.compile(r"([01]\d|2[0-3])(?:([0-5]\d)(?:([0-5]\d|60)(?:\.(\d{1,6}))?)?)?")
_LATEST = "235959.999999"
_MULTI_BYTE = frozenset({"SH", "LO", "PN", "UC", "ST", "LT", "UT"})


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a request.

    Attributes:
        vr: as it came, or as the dictionary has it.
        values: none for universal matching.
        items: of a sequence.
    """

    tag: int
    vr: str
    values: tuple[str, ...] = ()
    items: tuple[tuple[Key, ...], ...] = ()

    @property
    def keyword(self) -> str:
        """Its keyword, or empty."""
        return keyword_for_tag(self.tag)


def read_identifier(data: bytes, *, implicit: bool) -> dict[int, Key]:
    """The keys of an Identifier by tag.

    Raises:
        QueryError: it cannot be read.
    """
    try:
        dataset = read_dataset(BytesIO(data), implicit, is_little_endian=True, at_top_level=False)
        encodings = _encodings(dataset)
        return {key.tag: key for key in _keys(dataset, encodings)}
    except QueryError:
        raise
    except Exception as error:  # pydicom raises nearly anything on bytes that are no data set
        raise QueryError(UNABLE_TO_PROCESS, "the identifier cannot be read") from error


def keys_of(dataset: Dataset, *, anything: bool = False) -> dict[int, Key]:
    """The keys of a data set, such as an answer to a query of ours, by tag.

    Args:
        anything: take text that has no character set byte by byte, whatever it is.

    Raises:
        QueryError: its character set is not known, or text is not in it.
    """
    encodings = ["latin-1"] if anything else _encodings(dataset)
    return {key.tag: key for key in _keys(dataset, encodings)}


def level_of(keys: Mapping[int, Key]) -> str:
    """Query/Retrieve Level (0008,0052).

    Raises:
        QueryError: there is none.
    """
    key = keys.get(_LEVEL)
    if key is None or len(key.values) != 1:
        raise QueryError(IDENTIFIER_MISMATCH, "Query/Retrieve Level is missing", offending=_LEVEL)
    return key.values[0]


def is_about_the_query(key: Key) -> bool:
    """Whether it says how to read the request, and is no attribute of what is asked for."""
    return key.tag in {_CHARACTER_SET, _LEVEL, _TIMEZONE} or not key.tag & 0xFFFF


def matching_of(attribute: Attribute, key: Key) -> Matching | None:
    """What a key asks for; None where everything matches.

    Raises:
        QueryError: its value cannot be one of its value representation.
    """
    if not key.values or all(value == "*" for value in key.values):
        return None
    if sum(map(len, key.values)) > _LONGEST_KEY and attribute.vr != "UI":
        raise _wrong(key, "is too long")
    return _READERS.get(attribute.vr, _texts)(key)


def combined(keys: dict[str, Matching], date_key: str, time_key: str) -> dict[str, Matching]:
    """The keys with a range of dates and one of times as one range of moments.

    PS3.4 Section C.2.2.2.5.1; a single date or time is left as it is.
    """
    dates, times = keys.get(date_key), keys.get(time_key)
    if not isinstance(dates, Span) or not isinstance(times, Span):
        return keys
    rest = {key: value for key, value in keys.items() if key not in {date_key, time_key}}
    low = (dates.low, times.low) if dates.low else ("", "")
    high = (dates.high, times.high or _LATEST) if dates.high else ("", "")
    return rest | {f"{date_key}+{time_key}": Moments(low, high)}


def tag_of(keyword: str) -> int:
    """The tag of a keyword that the dictionary has."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return tag


def _keys(dataset: Dataset, encodings: list[str]) -> Iterable[Key]:
    for tag in sorted(dataset.keys()):
        element: Any = dataset.get_item(tag)
        vr = element.VR
        if vr in {None, "UN"}:
            try:
                vr = dictionary_VR(tag)
            except KeyError:
                vr = "UN"
        if vr == "SQ":
            items = dataset[tag].value or ()
            yield Key(int(tag), vr, items=tuple(tuple(_keys(item, encodings)) for item in items))
        elif isinstance(element, RawDataElement):
            yield Key(int(tag), vr, _values(int(tag), vr, element.value or b"", encodings))
        else:
            yield Key(int(tag), vr)


def _values(tag: int, vr: str, data: bytes, encodings: list[str]) -> tuple[str, ...]:
    if vr not in _MULTI_BYTE or (data.isascii() and b"\x1b" not in data):
        text = data.decode("latin-1")
    elif len(encodings) == 1:
        try:
            text = data.decode(encodings[0])
        except UnicodeDecodeError as error:
            raise QueryError(
                IDENTIFIER_MISMATCH, "text is not in its character set", offending=tag
            ) from error
    else:
        delimiters = PN_DELIMS if vr == "PN" else TEXT_VR_DELIMS
        text = decode_bytes(data, encodings, delimiters)
    parts = [part.replace("\0", "").strip() for part in text.split("\\")]
    return tuple(part for part in parts if part)


def _encodings(dataset: Dataset) -> list[str]:
    element: Any = dataset.get_item(_CHARACTER_SET) if _CHARACTER_SET in dataset else None
    names = (element.value or b"").decode("latin-1").split("\\") if element is not None else [""]
    try:
        known = convert_encodings([name.strip(" \0") for name in names])
        for encoding in known:
            "".encode(encoding)
    except (LookupError, ValueError, Warning) as error:
        raise QueryError(
            IDENTIFIER_MISMATCH, "this character set is not known", offending=_CHARACTER_SET
        ) from error
    return list(known)


def _wrong(key: Key, what: str) -> QueryError:
    return QueryError(IDENTIFIER_MISMATCH, f"{key.keyword or 'a key'} {what}", offending=key.tag)


def _uids(key: Key) -> OneOf:
    if len(key.values) > _MOST_UIDS:
        raise _wrong(key, "lists too many")
    try:
        return OneOf(tuple(dict.fromkeys(str(UID(value)) for value in key.values)))
    except InvalidValueError as error:
        raise _wrong(key, "is no UID") from error


def _numbers(key: Key) -> OneOf:
    numbers = tuple(plain_number(value) for value in key.values)
    if not all(re.fullmatch(r"-?[0-9]+", number) for number in numbers):
        raise _wrong(key, "is no number")
    return OneOf(numbers)


def _texts(key: Key) -> OneOf | Wildcard:
    wild = [value for value in key.values if "*" in value or "?" in value]
    if not wild:
        return OneOf(key.values)
    if len(key.values) > 1:
        raise _wrong(key, "is a pattern and more than one value")
    return Wildcard(_pattern(key, wild[0]))


def _pattern(key: Key, text: str) -> str:
    short = re.sub(r"\*+", "*", text)
    if short.count("*") > _MOST_STARS:
        raise _wrong(key, "has too many wild cards")
    return short


def _name(key: Key) -> Name | None:
    text = key.values[0]
    groups = tuple(fold(_pattern(key, group)) for group in text.split("="))
    if all(group in {"", "*"} for group in groups):
        return None
    if len(groups) == 1:
        return Name(groups, anywhere=True)
    return Name(tuple("" if group == "*" else group for group in groups[:3]), anywhere=False)


def _dates(key: Key) -> OneOf | Span:
    low, high, is_range = _ends(key)
    for text in (low, high):
        if text and not _is_date(text):
            raise _wrong(key, "is no date")
    return Span(low, high) if is_range else OneOf((low,))


def _times(key: Key) -> Span:
    low, high, is_range = _ends(key)
    for text in (low, high):
        if text and not _TIME.fullmatch(text):
            raise _wrong(key, "is no time")
    high = high if is_range else low
    return Span(_shortest(low), _longest(high) if high else "")


def _ends(key: Key) -> tuple[str, str, bool]:
    """Both ends of a range; of a single value the lower one."""
    if len(key.values) != 1:
        raise _wrong(key, "has more than one value")
    first, dash, second = key.values[0].partition("-")
    plain = plain_time if key.vr == "TM" else plain_date
    low, high = plain(first), plain(second)
    if not low and not high:
        raise _wrong(key, "has no end")
    return low, high, bool(dash)


def _is_date(text: str) -> bool:
    if not re.fullmatch(r"[0-9]{8}", text):
        return False
    try:
        date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return False
    return True


def _shortest(time: str) -> str:
    """The shortest text of the same time: whatever comes later is greater as text, too."""
    short = time
    if "." in short:
        short = short.rstrip("0").rstrip(".")
    while len(short) > 2 and len(short) % 2 == 0 and "." not in short and short.endswith("00"):
        short = short[:-2]
    return short


def _longest(time: str) -> str:
    """The last moment that a time with less precision covers (PS3.4 Section C.2.2.2.5)."""
    if "." in time:
        return time.ljust(len(_LATEST), "9")
    return time + _LATEST[len(time) :]


_READERS: dict[str, Callable[[Key], Matching | None]] = {
    "UI": _uids,
    "DA": _dates,
    "TM": _times,
    "PN": _name,
    "IS": _numbers,
}
