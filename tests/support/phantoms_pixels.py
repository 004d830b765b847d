"""Writes arrays into instances as native pixel data (PS3.3 C.7.6.3, PS3.5 8.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataset import Dataset


def put_grey(
    dataset: Dataset, stored: np.ndarray, *, bits: int = 12, signed: bool = False,
    photometric: str = "MONOCHROME2",
) -> None:  # fmt: skip
    """Write one frame (rows, columns) or several (frames, rows, columns) of stored values.

    Values that do not fit into `bits` are cut off.
    """
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    allocated = 8 if bits <= 8 else 16
    kind = np.dtype(f"<{'i' if signed else 'u'}{allocated // 8}")
    values = np.clip(np.rint(stored), low, high).astype(kind)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    _put(dataset, values.shape[-2:], allocated, bits, int(signed))
    if values.ndim == 3:
        dataset.NumberOfFrames = len(values)
    dataset.PixelData = _even(values.tobytes())
    dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"


def put_colour(dataset: Dataset, values: np.ndarray, photometric: str = "RGB") -> None:
    """Write uint8 (rows, columns, 3), or one frame more in front; colour by pixel."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, photometric
    dataset.PlanarConfiguration = 0
    _put(dataset, values.shape[-3:-1], 8, 8, 0)
    if values.ndim == 4:
        dataset.NumberOfFrames = len(values)
    if photometric == "YBR_FULL_422":
        # two luminances, then the chrominance of the first (PS3.3 C.7.6.3.1.2)
        pairs = values.reshape(*values.shape[:-2], -1, 2, 3)
        values = np.stack(
            [pairs[..., 0, 0], pairs[..., 1, 0], pairs[..., 0, 1], pairs[..., 0, 2]], axis=-1
        )
    dataset.PixelData = _even(np.ascontiguousarray(values).tobytes())
    dataset["PixelData"].VR = "OB"


def _put(dataset: Dataset, size: Any, allocated: int, bits: int, sign: int) -> None:
    dataset.Rows, dataset.Columns = size
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, bits - 1
    dataset.PixelRepresentation = sign


def _even(data: bytes) -> bytes:
    return data + b"\0" * (len(data) % 2)
