"""How sharp and how regular a lesion's boundary is, in the planes of the images.

A margin is read on the images, so it is measured there: thick slices blur it in the third
direction, which says something of the scan and nothing of the lesion.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from core.domain import Evaluation, Measurement
from workers.lesions.concepts import (
    IRREGULAR,
    MARGIN_IRREGULARITY,
    MARGIN_SHARPNESS,
    MARGINS,
    NO_UNITS,
    SMOOTH,
    per_length,
)
from workers.lesions.outline import Outlines
from workers.lesions.region import Region

# An outline of fewer pixels has the form of the grid.
MIN_PIXELS = 30
# From this share of the perimeter on, a margin is called irregular. Our own convention, no
# reader study stands behind it. Measured on drawn discs of 8 to 45 pixels radius: a smoothly
# wavering outline, by one pixel, 0.01 to 0.03, by two 0.12 to 0.15; three to five lobes a fifth
# of the radius deep 0.01 to 0.07; nine spikes as deep 0.25.
IRREGULAR_FROM = 0.10

# Fewest places on the rim that a median means something for.
_MIN_PLACES = 8
# Enough places for a median; more only take time.
_MAX_PLACES = 5000
# From this weight on a pixel counts in an interpolated value; below is rounding.
_TOUCHED = 1e-6
_STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))
_REACH = 2  # pixels to each side that the direction of the normal is taken from


def boundary_of(region: Region, outlines: Outlines) -> tuple[list[Measurement], list[Evaluation]]:
    """Sharpness and irregularity of the margin, and its reading as smooth or irregular.

    Sharpness: the median, over the outline, of the absolute change of the image values along
    the outward normal, per mm (per pixel without calibration), between half a pixel inside and
    half a pixel outside. After the margin gradient of K. G. A. Gilhuijs, M. L. Giger, U. Bick,
    Medical Physics 25 (1998) 1647-1654, with a median in place of the mean.

    Irregularity: 1 - convex perimeter / perimeter, the complement of the convexity of J. C.
    Russ, The Image Processing Handbook, summed over the pieces of at least `MIN_PIXELS` pixels.
    0 for a disc, an ellipse, a rectangle; towards 1 for spicules.
    """
    measured: list[Measurement] = []
    sharpness = margin_sharpness(region)
    unit = per_length(region.stack.unit, region.length_unit)
    if sharpness is not None and unit is not None:
        measured.append(Measurement(MARGIN_SHARPNESS, sharpness, unit))
    irregularity = margin_irregularity(outlines)
    if irregularity is None:
        return measured, []
    measured.append(Measurement(MARGIN_IRREGULARITY, irregularity, NO_UNITS))
    reading = IRREGULAR if irregularity >= IRREGULAR_FROM else SMOOTH
    return measured, [Evaluation(MARGINS, reading)]


def margin_irregularity(outlines: Outlines) -> float | None:
    """1 - convex perimeter / perimeter, 0 to 1; None where no piece is large enough."""
    large = outlines.pixels >= MIN_PIXELS
    if not large.any():
        return None
    convex = np.minimum(outlines.convex, outlines.perimeter)[large].sum()
    return float(1 - convex / outlines.perimeter[large].sum())


def margin_sharpness(region: Region) -> float | None:
    """Median of |dI/dn| over the outline, in the stack's unit per length unit.

    Places where the other side is another lesion or the edge of the image do not count, nor do
    those beside pixels where the source has no data. None where fewer than 8 are left.
    """
    box, mask = region.around(_REACH + 1)
    values = region.stack.array[box]
    others = region.foreground[box] & ~mask
    inside, outside = _edges(mask, others)
    if len(inside) > _MAX_PLACES:
        chosen = np.linspace(0, len(inside) - 1, _MAX_PLACES).astype(np.intp)
        inside, outside = inside[chosen], outside[chosen]
    if len(inside) < _MIN_PLACES:
        return None
    spacing = np.array(region.pixel)
    normal = _normals(mask, inside, outside, spacing)
    half = np.sqrt(spacing.prod()) / 2
    middle = (inside + outside) / 2
    reach = normal * half / spacing  # in pixels
    sides, known = [], np.ones(len(middle), dtype=np.bool_)
    padding = None if region.stack.padding is None else region.stack.padding[box]
    for sign in (-1, 1):
        places = middle.copy()
        places[:, 1:] += sign * reach
        sides.append(ndimage.map_coordinates(values, places.T, order=1, mode="nearest"))
        if padding is not None:
            share = padding.astype(np.float32)
            known &= ndimage.map_coordinates(share, places.T, order=1, mode="nearest") < _TOUCHED
    change = np.abs(sides[1].astype(np.float64) - sides[0]) / (2 * half)
    change = change[np.isfinite(change) & known]
    return float(np.median(change)) if len(change) >= _MIN_PLACES else None


def _edges(
    mask: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(n, 3) pixels inside, and for each the neighbour outside, indices in the box."""
    free = ~mask & ~others
    inside, outside = [], []
    for down, right in _STEPS:
        beyond = np.zeros_like(mask)
        height, width = mask.shape[1:]
        here = (slice(None), slice(max(-down, 0), height - max(down, 0)))
        there = (slice(None), slice(max(down, 0), height - max(-down, 0)))
        columns = slice(max(-right, 0), width - max(right, 0))
        moved = slice(max(right, 0), width - max(-right, 0))
        beyond[*here, columns] = free[*there, moved]
        places = np.argwhere(mask & beyond).astype(np.float64)
        inside.append(places)
        outside.append(places + np.array([0, down, right]))
    return np.concatenate(inside), np.concatenate(outside)


def _normals(
    mask: npt.NDArray[np.bool_],
    inside: npt.NDArray[np.float64],
    outside: npt.NDArray[np.float64],
    spacing: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """(n, 2) outward unit normals (row, column) in length units.

    Away from the mask's weight in the 5 × 5 pixels about each side of the edge: the gradient of
    the mask smoothed by a Gaussian of one pixel, taken only where it is needed.
    """
    padded = np.pad(mask, ((0, 0), (_REACH, _REACH), (_REACH, _REACH)))
    gradient = np.zeros((len(inside), 2))
    for places in (inside.astype(np.intp), outside.astype(np.intp)):
        for down in range(-_REACH, _REACH + 1):
            for right in range(-_REACH, _REACH + 1):
                weight = np.exp(-(down**2 + right**2) / 2)
                there = padded[
                    places[:, 0], places[:, 1] + down + _REACH, places[:, 2] + right + _REACH
                ]
                gradient += np.outer(there * weight, (down, right))
    normal = -gradient / spacing  # a gradient scales inversely to lengths
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    # a place with the same weight all round: take the step across the edge itself
    across = (outside - inside)[:, 1:]
    flat = length[:, 0] < 1e-9
    normal[flat], length[flat] = across[flat], 1.0
    return np.asarray(normal / length)
