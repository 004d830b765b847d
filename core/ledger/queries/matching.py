"""What a key of a query asks for (PS3.4 Section C.2.2.2), as frozen values.

A key that matches everything (universal matching) has no value here. Each knows whether it
accepts a text; `core.ledger.queries.conditions` says the same in SQL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from core.ledger.queries.folding import name_groups

_HIGHEST = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class OneOf:
    """Single value matching, or list of UID matching (Sections C.2.2.2.1 and C.2.2.2.2)."""

    values: tuple[str, ...]

    def accepts(self, text: str) -> bool:
        """Whether it is one of the values; of a text with several values, any."""
        return any(part in self.values for part in text.split("\\"))


@dataclass(frozen=True, slots=True)
class Wildcard:
    """Wild card matching (Section C.2.2.2.4): `*` any characters or none, `?` any one."""

    pattern: str

    def accepts(self, text: str) -> bool:
        """Whether the whole text fits the pattern."""
        return _expression(self.pattern).fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Span:
    """Range matching of dates or times (Section C.2.2.2.5), ends included; "" is an open end.

    Dates and times are compared as texts; `low` has no zeros at its end that only add precision,
    and `high` all digits that its last moment has.
    """

    low: str
    high: str

    def accepts(self, text: str) -> bool:
        """Whether the text lies between; an empty one never does."""
        return bool(text) and self.low <= text and (not self.high or text <= self.high)


@dataclass(frozen=True, slots=True)
class Moments:
    """Combined date-time matching (Section C.2.2.2.5.1): from one date and time to another.

    `low` and `high` are pairs of a date and a time, as in `Span`; a date "" is an open end.
    """

    low: tuple[str, str]
    high: tuple[str, str]

    def accepts(self, date: str, time: str) -> bool:
        """Whether the moment lies between; one without date or time never does."""
        if not date or not time:
            return False
        after = not self.low[0] or (date, time) >= self.low
        return after and (not self.high[0] or (date, time) <= self.high)


@dataclass(frozen=True, slots=True)
class Name:
    """Matching of a person name: each text is folded and may have wild cards.

    With `anywhere` there is one text, which any component group may match; otherwise they are
    the groups in their order, and an empty one matches everything.
    """

    groups: tuple[str, ...]
    anywhere: bool

    def accepts(self, text: str) -> bool:
        """Whether the person name fits."""
        groups = name_groups(text)
        if self.anywhere:
            return any(fits(self.groups[0], group) for group in groups)
        pairs = zip(self.groups, groups, strict=False)
        return all(not asked or fits(asked, group) for asked, group in pairs)


Matching = OneOf | Wildcard | Span | Moments | Name


def has_wildcard(text: str) -> bool:
    """Whether a text has `*` or `?`."""
    return "*" in text or "?" in text


def fits(asked: str, text: str) -> bool:
    """Whether a folded text is, or fits the pattern of, what was asked for."""
    if not has_wildcard(asked):
        return asked == text
    return _expression(asked).fullmatch(text) is not None


def prefix_of(pattern: str) -> str:
    """What every match of a pattern begins with."""
    return re.split(r"[*?]", pattern, maxsplit=1)[0]


def after_prefix(prefix: str) -> str:
    """A text that comes after everything that begins with the prefix, byte by byte."""
    return prefix + _HIGHEST


@lru_cache(maxsize=500)
def _expression(pattern: str) -> re.Pattern[str]:
    # a run of stars is one star, or a hostile pattern takes for ever
    parts = re.split(r"(\*+|\?)", pattern)
    wild = {"*": ".*", "?": "."}
    made = (wild[part[0]] if has_wildcard(part) else re.escape(part) for part in parts)
    return re.compile("".join(made), re.DOTALL)
