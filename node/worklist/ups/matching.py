"""Which workitems match the keys of a C-FIND or of a filtered subscription (PS3.4 CC.2.8)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from core.errors import QueryError
from core.ledger.queries.attributes import Attribute
from core.ledger.queries.matching import Matching, Moments, OneOf, Span
from core.workitems import WorkitemState
from node.worklist.identifier import Key, is_about_the_query, matching_of
from node.worklist.statuses import IDENTIFIER_MISMATCH

_DATE_TIME = re.compile(r"\d{4,14}(\.\d{1,6})?([+-]\d{4})?")
_STUDY, _INPUTS = 0x0020000D, 0x00404021
_PATIENT_ID, _STATE, _UID = 0x00100020, 0x00741000, 0x00080018


@dataclass(frozen=True, slots=True)
class Wish:
    """One key: what its value must be, or what an item of its sequence must have."""

    tag: int
    value: Matching | None = None
    items: tuple[Wish, ...] = ()

    def accepts(self, dataset: Dataset) -> bool:
        """Whether a workitem, or an item of it, has what is asked for."""
        element = dataset.get(self.tag)
        if self.items:
            known: Sequence[Dataset] = () if element is None else element.value or ()
            return any(all(wish.accepts(item) for wish in self.items) for item in known)
        if self.value is None:
            return True
        said = None if element is None else element.value
        values = said if isinstance(said, MultiValue | list) else [said]
        return any(_fits(self.value, "" if one is None else str(one)) for one in values)


def read_wishes(keys: Mapping[int, Key]) -> tuple[Wish, ...]:
    """What must match; keys without a value match everything.

    Raises:
        QueryError: a value that cannot be one.
    """
    wishes = []
    for key in keys.values():
        if is_about_the_query(key):
            continue
        if key.vr == "SQ":
            inner = {item.tag: item for item in key.items[0]} if key.items else {}
            below = tuple(wish for wish in read_wishes(inner) if wish.value or wish.items)
            if below:
                wishes.append(Wish(key.tag, items=below))
            continue
        value = _date_times(key) if key.vr == "DT" else _matching(key)
        if value is not None:
            wishes.append(Wish(key.tag, value))
    return tuple(wishes)


def narrowed(wishes: Sequence[Wish]) -> dict[str, Any]:
    """What the ledger's indexes can help with, as arguments of `Workitems.page`."""
    found: dict[str, Any] = {}
    names = {_UID: "uids", _PATIENT_ID: "patients"}
    for wish in wishes:
        if wish.tag in names and isinstance(wish.value, OneOf):
            found[names[wish.tag]] = wish.value.values
        elif wish.tag == _STATE and wish.value is not None:
            found["states"] = [state for state in WorkitemState if _fits(wish.value, state)]
        elif wish.tag == _INPUTS:
            for inner in wish.items:
                if inner.tag == _STUDY and isinstance(inner.value, OneOf):
                    found["studies"] = inner.value.values
    return found


def _matching(key: Key) -> Matching | None:
    if not key.keyword:
        return None
    return matching_of(Attribute(key.keyword, key.vr), key)


def _date_times(key: Key) -> Matching | None:
    """A moment or a range of them; offsets from UTC are left out, as ours are."""
    if not key.values:
        return None
    low, high, is_range = _ends(key.values[0])
    for text in (low, high):
        if text and not _DATE_TIME.fullmatch(text):
            raise QueryError(IDENTIFIER_MISMATCH, "no date and time", offending=key.tag)
    return Span(low[:14], (high if is_range else low)[:14].ljust(14, "9"))


def _ends(text: str) -> tuple[str, str, bool]:
    """A minus may be an offset: then four digits follow, and before it stand more than four."""
    parts = re.fullmatch(r"(?P<low>[^-]*(?:-\d{4}(?=-|$))?)(?P<dash>-?)(?P<high>.*)", text)
    if parts is None or (not parts["low"] and not parts["high"]):
        return text, "", False
    return parts["low"], parts["high"], bool(parts["dash"])


def _fits(asked: Matching, text: str) -> bool:
    if isinstance(asked, Moments):
        return True
    if isinstance(asked, Span) and len(text) >= len("YYYYMMDDHHMMSS"):
        text = text[:14]
        low, high = asked.low, asked.high
        return (not low or text >= low.ljust(14, "0")) and (not high or text <= high)
    return asked.accepts(text)
