"""Attributes of a data set as plain Python values.

A missing or empty attribute is None. One that is there and cannot be read as what the standard
says it is (PS3.5 Table 6.2-1) is a DecodeError that names it: it is never taken for missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from core.errors import DecodeError


def value_of(dataset: Dataset, keyword: str) -> Any:
    """The attribute's value as pydicom reads it; None if it is missing or empty.

    Raises:
        DecodeError: its value breaks its own representation.
    """
    try:
        value = dataset.get(keyword)
    except Exception as error:  # pydicom converts on access; a broken value can raise anything
        raise DecodeError(f"{keyword} cannot be read: {error}") from error
    return None if value is None or value == "" else value


def text(dataset: Dataset, keyword: str) -> str:
    """The attribute as text, several values joined by a backslash; empty if missing."""
    return "\\".join(texts(dataset, keyword))


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """The attribute's values as texts; empty if missing."""
    value = value_of(dataset, keyword)
    if value is None:
        return ()
    several = isinstance(value, (MultiValue, list, tuple))
    return tuple(str(item).strip() for item in (value if several else [value]))


def numbers(dataset: Dataset, keyword: str, count: int | None = None) -> tuple[float, ...] | None:
    """The attribute's values as finite numbers; None if it is missing or empty.

    Raises:
        DecodeError: no finite numbers, or not `count` of them.
    """
    value = value_of(dataset, keyword)
    if value is None or (isinstance(value, Sequence) and len(value) == 0):
        return None
    several = isinstance(value, (MultiValue, list, tuple))
    try:
        found = tuple(float(item) for item in (value if several else [value]))
    except (TypeError, ValueError) as error:
        raise DecodeError(f"{keyword} is no number: {value!s:.40}") from error
    if not all(math.isfinite(item) for item in found):
        raise DecodeError(f"{keyword} is not finite: {value!s:.40}")
    if count is not None and len(found) != count:
        raise DecodeError(f"{keyword} has {len(found)} values, not {count}")
    return found


def number(dataset: Dataset, keyword: str) -> float | None:
    """The attribute as one finite number; the first where there are several; None if missing.

    Raises:
        DecodeError: it is no finite number.
    """
    found = numbers(dataset, keyword)
    return found[0] if found else None


def whole(dataset: Dataset, keyword: str, default: int = 0) -> int:
    """The attribute as a whole number; `default` if it is missing or empty.

    Raises:
        DecodeError: it is no whole number.
    """
    found = number(dataset, keyword)
    if found is None:
        return default
    if found != int(found):
        raise DecodeError(f"{keyword} is no whole number: {found}")
    return int(found)


def items(dataset: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """The items of a sequence; empty if it is missing.

    Raises:
        DecodeError: it is no sequence.
    """
    value = value_of(dataset, keyword)
    if value is None:
        return ()
    try:
        found = tuple(value)
    except TypeError as error:
        raise DecodeError(f"{keyword} is no sequence") from error
    if not all(isinstance(item, Dataset) for item in found):
        raise DecodeError(f"{keyword} is no sequence")
    return found


def first_item(dataset: Dataset, keyword: str) -> Dataset | None:
    """The first item of a sequence; None if there is none."""
    found = items(dataset, keyword)
    return found[0] if found else None


def private_text(dataset: Dataset, group: int, creator: str, element: int) -> str:
    """A vendor's element as text (PS3.5 7.8); empty if it is missing.

    Raises:
        DecodeError: its value breaks its own representation.
    """
    try:
        value = dataset.private_block(group, creator)[element].value
    except KeyError:
        return ""
    except Exception as error:  # pydicom converts on access; a broken value can raise anything
        raise DecodeError(f"({group:04X},xx{element:02X}) cannot be read: {error}") from error
    # Where the vendor's dictionary is not known, the value is bytes.
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="replace")
    several = isinstance(value, (MultiValue, list, tuple))
    return "\\".join(str(item).strip(" \0") for item in (value if several else [value]))
