"""Values of a header that anybody may have written: read if they make sense, else not there."""

from __future__ import annotations

import math
from typing import Any

from pydicom.dataset import Dataset


def numbers_of(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """So many finite numbers, or None."""
    try:
        raw: Any = dataset.get(keyword)
        values = tuple(float(item) for item in raw) if raw is not None else ()
    except (TypeError, ValueError, OverflowError):
        return None
    if len(values) != count or not all(math.isfinite(value) for value in values):
        return None
    return values


def number_of(dataset: Dataset, keyword: str) -> float | None:
    """The first finite number, or None."""
    try:
        raw: Any = dataset.get(keyword)
        if raw is None:
            return None
        if not isinstance(raw, str) and hasattr(raw, "__len__"):
            raw = raw[0]
        value = float(raw)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def whole_of(dataset: Dataset, keyword: str, default: int = 0) -> int:
    """A whole number, or the default."""
    value = number_of(dataset, keyword)
    return default if value is None else int(value)
