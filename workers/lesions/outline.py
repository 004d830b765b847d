"""Outlines of a lesion in the image planes, measured by the lines that cross them.

Cauchy and Crofton: the mean number of lines that meet a curve gives its length. Counted along
the four directions of the pixel grid it needs no outline to be drawn, holds for pixels that are
not square, and a digital disc has no steps. Source: G. Lehmann, D. Legland, Insight Journal
2012, "Efficient N-Dimensional surface estimation using Crofton formula and run-length encoding".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from workers.lesions.components import Mask

# Steps (row, column) along the lines.
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
_IN_PLANE = np.zeros((3, 3, 3), dtype=bool)
_IN_PLANE[1] = True


@dataclass(frozen=True, slots=True, eq=False)
class Outlines:
    """The pieces of a lesion, each within one plane.

    Attributes:
        pixels: (pieces,) pixels of each.
        perimeter: (pieces,) length of each outline, holes included.
        convex: (pieces,) the perimeter that it would have if every line that passes between its
            first and its last one in each direction met it once, as lines meet a convex piece.
    """

    pixels: npt.NDArray[np.intp]
    perimeter: npt.NDArray[np.float64]
    convex: npt.NDArray[np.float64]


def outlines_of(mask: Mask, row_spacing: float, column_spacing: float) -> Outlines:
    """Pieces of `mask` (planes, rows, columns); pixels of a piece touch, corners included."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    numbered, count = ndimage.label(padded, structure=_IN_PLANE)
    perimeter, convex = np.zeros(count + 1), np.zeros(count + 1)
    area = row_spacing * column_spacing
    inner = padded[:, 1:-1, 1:-1]
    for (down, right), weight in zip(
        _DIRECTIONS, _weights(row_spacing, column_spacing), strict=True
    ):
        height, width = padded.shape[1:]
        before = padded[:, 1 - down : height - 1 - down, 1 - right : width - 1 - right]
        plane, row, column = np.nonzero(inner & ~before)
        piece = numbered[plane, row + 1, column + 1]
        line = row * right - column * down
        entries = np.bincount(piece, minlength=count + 1)
        first = np.full(count + 1, np.iinfo(np.intp).max)
        last = np.full(count + 1, np.iinfo(np.intp).min)
        np.minimum.at(first, piece, line)
        np.maximum.at(last, piece, line)
        # distance between neighbouring lines of this direction
        apart = area / np.hypot(down * row_spacing, right * column_spacing)
        perimeter += np.pi * weight * apart * entries
        convex[1:] += np.pi * weight * apart * (last - first + 1)[1:]
    pixels = np.bincount(numbered[padded], minlength=count + 1)
    return Outlines(pixels=pixels[1:], perimeter=perimeter[1:], convex=convex[1:])


def _weights(row_spacing: float, column_spacing: float) -> npt.NDArray[np.float64]:
    """The share of all directions that lie nearest to each of `_DIRECTIONS`."""
    down, right = np.array(_DIRECTIONS).T
    angles = np.arctan2(down * row_spacing, right * column_spacing) % np.pi
    order = np.argsort(angles)
    turned = angles[order]
    gaps = np.diff(np.append(turned, turned[0] + np.pi))
    weights = np.empty(len(angles))
    weights[order] = (gaps + np.roll(gaps, 1)) / 2 / np.pi
    return weights
