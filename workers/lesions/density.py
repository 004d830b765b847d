"""What values the image has in a lesion, and around it.

Definitions: IBSI reference manual (arXiv:1612.07003), Section 3.3, intensity-based statistics,
on the values as they are, without binning.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from core.domain import Measurement
from workers.lesions.components import Mask
from workers.lesions.concepts import (
    CONTRAST,
    IBSI_MAXIMUM,
    IBSI_MEAN,
    IBSI_MEDIAN,
    IBSI_MINIMUM,
    MAXIMUM,
    MEAN,
    MEDIAN,
    MILLIMETRE,
    MINIMUM,
    PERCENTILE_10,
    PERCENTILE_90,
    STANDARD_DEVIATION,
)
from workers.lesions.region import Region

RIM_MM = 3.0
RIM_PIXELS = 3.0
# Of pixels so fine that a rim is many of them wide, distances are computed; else it is quicker to
# walk the few steps from each pixel of the outline.
_MANY_STEPS = 120
# With fewer pixels a rim says nothing of what lies around a lesion.
_MIN_RIM = 8


def density_of(region: Region) -> list[Measurement]:
    """Statistics of the values in `region`, and its contrast to a rim around it.

    Mean (Q4LE), standard deviation (the root of the variance ECT3: over N, not N - 1), median
    (Y12H), minimum (1GSF), maximum (84IY), 10th (QG58) and 90th percentile (8DWT), in the
    stack's quantity and unit. Nothing where the image has no number there.
    """
    values = region.values
    if not len(values):
        return []
    mean = float(values.mean(dtype=np.float64))
    low, middle, high = (float(value) for value in np.percentile(values, [10, 50, 90]))
    quantity, unit = region.stack.quantity, region.stack.unit
    found = [
        Measurement(quantity, value, unit, method=method, derivation=derivation)
        for value, derivation, method in (
            (mean, MEAN, IBSI_MEAN),
            (float(values.std(dtype=np.float64)), STANDARD_DEVIATION, None),
            (middle, MEDIAN, IBSI_MEDIAN),
            (float(values.min()), MINIMUM, IBSI_MINIMUM),
            (float(values.max()), MAXIMUM, IBSI_MAXIMUM),
            (low, PERCENTILE_10, None),
            (high, PERCENTILE_90, None),
        )
    ]
    around = rim_values(region)
    if len(around) >= _MIN_RIM:
        contrast = mean - float(around.mean(dtype=np.float64))
        found.append(Measurement(CONTRAST, contrast, unit))
    return found


def rim_values(region: Region) -> npt.NDArray[np.float32]:
    """The finite values around `region` that belong to no lesion, where the source has data.

    Within 3 mm of it (3 pixels without calibration, at least one pixel) in the planes of the
    images, from pixel centre to pixel centre.
    """
    row, column = region.pixel
    reach = RIM_MM if region.length_unit == MILLIMETRE else RIM_PIXELS
    reach = max(reach, row, column)
    pixels = int(reach / min(row, column))
    box, mask = region.around(pixels)
    near = _within(mask, reach, row, column) & ~region.foreground[box]
    if region.stack.padding is not None:
        near &= ~region.stack.padding[box]
    values = region.stack.array[box][near]
    return np.asarray(values[np.isfinite(values)])


def _within(mask: Mask, reach: float, row: float, column: float) -> Mask:
    """Where a pixel of the same plane of `mask` lies within `reach`."""
    down, right = int(reach / row), int(reach / column)
    if down * right > _MANY_STEPS:
        away = [distance_transform_edt(~plane, sampling=(row, column)) for plane in mask]
        return np.asarray(
            (np.stack(away) <= reach * (1 + 1e-9)) & mask.any(axis=(1, 2), keepdims=True)
        )
    padded = np.pad(mask, ((0, 0), (down, down), (right, right)))
    # What lies inside the outline adds nothing: only pixels with a free neighbour reach out.
    inner = padded.copy()
    inner[:, 1:] &= padded[:, :-1]
    inner[:, :-1] &= padded[:, 1:]
    inner[:, :, 1:] &= padded[:, :, :-1]
    inner[:, :, :-1] &= padded[:, :, 1:]
    outline = np.flatnonzero(padded & ~inner)
    result = padded.copy()
    flat, width = result.reshape(-1), padded.shape[2]
    for y in range(-down, down + 1):
        for x in range(-right, right + 1):
            if (y * row) ** 2 + (x * column) ** 2 <= reach**2 * (1 + 1e-9):
                flat[outline + y * width + x] = True
    height = padded.shape[1]
    return result[:, down : height - down, right : width - right]
