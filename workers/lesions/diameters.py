"""The longest diameter on a slice and the one across it, as RECIST 1.1 measures.

Source: E. A. Eisenhauer et al., European Journal of Cancer 45 (2009) 228-247: the longest
diameter in the plane of the image, and the short axis perpendicular to it on the same image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform

from workers.lesions.components import Mask

Points = npt.NDArray[np.float64]
End = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Diameters:
    """Two lines on one slice.

    Attributes:
        index: the slice, from 0 in the mask.
        long, short: lengths, in the unit of the spacing.
        long_ends, short_ends: both ends, (column, row) in pixels; the upper left corner of the
            mask's first pixel is (0, 0).
    """

    index: int
    long: float
    short: float
    long_ends: tuple[End, End]
    short_ends: tuple[End, End]


def diameters_of(mask: Mask, row_spacing: float, column_spacing: float) -> Diameters:
    """The greatest diameter of `mask` (slices, rows, columns) within one slice.

    The maximum Feret diameter: the greatest distance between the outer corners of two pixels of
    one slice. So one pixel has its diagonal, a rectangle of pixels exactly the diagonal of the
    rectangle; a smooth outline is overestimated by at most one pixel diagonal. The diameter
    across is the longest line perpendicular to it inside the outline's convex hull. Of equal
    slices the first counts.

    Raises:
        ValueError: no voxel is true.
    """
    spacing = np.array([column_spacing, row_spacing])
    outlines = [
        (int(index), _corners(mask[index])) for index in np.flatnonzero(mask.any(axis=(1, 2)))
    ]
    if not outlines:
        raise ValueError("an empty mask has no diameter")
    # No two points are farther apart than twice the distance from any one point to the farthest.
    bounds = [2 * _radius(points * spacing) for _, points in outlines]
    best: tuple[float, int, Points, Points] | None = None
    for place in np.argsort(bounds, kind="stable")[::-1]:
        if best is not None and bounds[place] < best[0] * (1 - 1e-9):
            break
        index, points = outlines[place]
        hull = points[ConvexHull(points * spacing).vertices]
        apart = pdist(hull * spacing)
        length = float(apart.max())
        if best is None or (round(length, 9), -index) > (round(best[0], 9), -best[1]):
            first, second = divmod(int(squareform(apart).argmax()), len(hull))
            best = (length, index, hull, hull[[first, second]])
    assert best is not None
    length, index, hull, ends = best
    across = _across(hull * spacing, ends * spacing)
    return Diameters(
        index=index,
        long=length,
        short=float(np.linalg.norm(across[1] - across[0])),
        long_ends=_ends(ends),
        short_ends=_ends(across / spacing),
    )


def _corners(plane: Mask) -> Points:
    """(n, 2) corners (column, row) of the pixels that can lie on the hull of `plane`."""
    # Only each row's first and last pixel can.
    rows = np.flatnonzero(plane.any(axis=1))
    first = plane[rows].argmax(axis=1)
    last = plane.shape[1] - plane[rows, ::-1].argmax(axis=1)
    x = np.concatenate([first, last, first, last])
    y = np.concatenate([rows, rows, rows + 1, rows + 1])
    return np.stack([x, y], axis=1).astype(np.float64)


def _radius(points: Points) -> float:
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    return float(np.hypot(*(points - middle).T).max())


def _across(hull: Points, ends: Points) -> Points:
    """(2, 2) ends of the longest line in `hull` perpendicular to the line between `ends`.

    `hull` is counter-clockwise. The length of the line is concave and piecewise linear along
    the diameter, so it is greatest at a corner.
    """
    along = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    normal = np.array([-along[1], along[0]])
    s, t = hull @ along, hull @ normal
    # Only the diameter's own ends lie at its ends, so both chains run strictly upwards.
    start = int(s.argmin())
    order = np.roll(np.arange(len(hull)), -start)
    turn = int(np.flatnonzero(order == s.argmax())[0])
    lower, upper = order[: turn + 1], np.append(order[turn:], order[0])[::-1]
    low = np.interp(s, s[lower], t[lower])
    high = np.interp(s, s[upper], t[upper])
    place = int(np.argmax(high - low))
    middle = s[place] * along
    return np.stack([middle + low[place] * normal, middle + high[place] * normal])


def _ends(points: Points) -> tuple[End, End]:
    (x0, y0), (x1, y1) = points
    return (float(x0), float(y0)), (float(x1), float(y1))
