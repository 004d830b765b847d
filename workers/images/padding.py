"""Pixels that a source filled in where it had no data."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from workers.images.attributes import value_of, whole
from workers.images.frames import Frame
from workers.images.pixels import Stored, is_color
from workers.images.read import pixel_keyword

# Pixel data element → what begins the names of its padding attributes (PS3.3 C.7.5.1.1.2).
_PREFIXES = {"PixelData": "", "FloatPixelData": "Float", "DoubleFloatPixelData": "DoubleFloat"}


def padding_of(frame: Frame) -> tuple[float, float] | None:
    """Least and greatest stored value that stand for no data; None if the frame names none.

    Pixel Padding Value (0028,0120) alone, or up to or down to Pixel Padding Range Limit
    (0028,0121) (PS3.3 C.7.5.1.1.2). Colour has none.

    Raises:
        DecodeError: a value that is no finite number.
    """
    if is_color(frame.dataset):
        return None
    prefix = _PREFIXES[pixel_keyword(frame.dataset) or "PixelData"]
    keyword = f"{prefix}PixelPaddingValue"
    raw = value_of(frame.holder(keyword), keyword)
    # Pixels that are no number count nowhere anyway.
    if isinstance(raw, float) and math.isnan(raw):
        return None
    value = frame.number(keyword)
    if value is None:
        return None
    limit = frame.number(f"{prefix}PixelPaddingRangeLimit")
    ends = [value] if limit is None else [value, limit]
    if not prefix:
        ends = [_as_stored(end, frame) for end in ends]
    return min(ends), max(ends)


def padded(stored: Stored, ends: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Where stored values (rows, columns) stand for no data."""
    return np.asarray((stored >= ends[0]) & (stored <= ends[1]))


def _as_stored(value: float, frame: Frame) -> float:
    """The value in the sign of the pixels; its own VR (US or SS) is often the other one."""
    bits = whole(frame.dataset, "BitsAllocated", 16)
    signed = whole(frame.dataset, "PixelRepresentation") == 1
    if signed and value >= 1 << (bits - 1):
        return value - (1 << bits)
    if not signed and value < 0:
        return value + (1 << bits)
    return value
