"""Palette Color Lookup Tables (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6 and C.7.9)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from core.errors import DecodeError
from workers.images.attributes import numbers, value_of

_COLOURS = ("Red", "Green", "Blue")


def palette_of(dataset: Dataset) -> tuple[npt.NDArray[np.uint8], int]:
    """The palette as uint8 (entries, 3) RGB, and the stored value that its first entry is for.

    Raises:
        DecodeError: no palette, or one that is not as its descriptors say.
    """
    descriptor = numbers(dataset, "RedPaletteColorLookupTableDescriptor", 3)
    if descriptor is None:
        raise DecodeError("an image in PALETTE COLOR has no palette")
    entries, first, bits = int(descriptor[0]) or 1 << 16, int(descriptor[1]), int(descriptor[2])
    if not 0 < entries <= 1 << 16 or bits not in {8, 16}:
        raise DecodeError(f"the palette has {entries} entries of {bits} bits")
    # The descriptor is read as unsigned where the data set does not say otherwise.
    if first >= 1 << 15 and value_of(dataset, "PixelRepresentation") == 1:
        first -= 1 << 16
    if "RedPaletteColorLookupTableData" in dataset:
        planes = [_plane(dataset, colour, entries, bits) for colour in _COLOURS]
        return np.stack(planes, axis=-1), first
    try:
        stored = np.arange(first, first + entries, dtype=np.int32)
        table = apply_color_lut(stored, dataset)[..., :3]
    except Exception as error:  # a broken palette can raise anything
        raise DecodeError(f"the segmented palette cannot be read: {error}") from error
    return (table >> (8 * (table.dtype.itemsize - 1))).astype(np.uint8), first


def apply_palette(
    stored: npt.NDArray[np.generic], palette: tuple[npt.NDArray[np.uint8], int]
) -> npt.NDArray[np.uint8]:
    """RGB uint8 (rows, columns, 3) of stored values; those outside get the nearest entry."""
    table, first = palette
    return table[np.clip(stored.astype(np.int64) - first, 0, len(table) - 1)]


def _plane(dataset: Dataset, colour: str, entries: int, bits: int) -> npt.NDArray[np.uint8]:
    """One colour as 8 bit. Entries of 8 bits may be stored in 8 or in 16 (C.7.6.3.1.5)."""
    raw = value_of(dataset, f"{colour}PaletteColorLookupTableData")
    if not isinstance(raw, bytes) or len(raw) < entries:
        raise DecodeError(f"the palette's {colour} table is shorter than its {entries} entries")
    if len(raw) < 2 * entries:
        return np.frombuffer(raw, dtype=np.uint8, count=entries)
    big = dataset.original_encoding[1] is False
    wide = np.frombuffer(raw, dtype=">u2" if big else "<u2", count=entries)
    # Some writers put 8 bit values into 16 bit entries whatever the descriptor says.
    if bits == 16 and wide.max(initial=0) > 255:
        wide = wide >> 8
    return wide.astype(np.uint8)
