"""What form a lesion has.

Definitions: IBSI reference manual (arXiv:1612.07003), Section 3.1, morphological features.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import ConvexHull
from skimage.measure import find_contours

from core.domain import Measurement
from workers.images.stack import Matrix
from workers.lesions.components import Mask
from workers.lesions.concepts import (
    CIRCULARITY,
    COMPACTNESS_2,
    ELONGATION,
    FLATNESS,
    NO_UNITS,
    SOLIDITY,
    SOLIDITY_2D,
    SPHERICITY,
)
from workers.lesions.outline import Outlines
from workers.lesions.region import Region

# A few voxels have the form of their grid, not of a lesion.
MIN_VOXELS = 8


def shape_of(region: Region, outlines: Outlines) -> list[Measurement]:
    """Form of `region`; nothing for less than `MIN_VOXELS` voxels.

    In a volume, with mesh volume V and area A: sphericity (36 π V²)^⅓ / A, compactness 2
    36 π V² / A³, solidity V / V(convex hull), elongation √(λ minor / λ major) and flatness
    √(λ least / λ major) of the principal axes of the voxel centres. In an image: circularity
    4 π area / perimeter², solidity, elongation. All lie between 0 and 1, a sphere (disc) at 1;
    the steps of the voxels make a mesh larger, so a digital sphere has a sphericity of 0.92 with
    cubic voxels, and about 0.8 with slices five times as thick as a pixel.
    """
    if region.voxels < MIN_VOXELS:
        return []
    found: list[Measurement] = []
    mesh = region.mesh
    if mesh is not None:
        compact = 36 * np.pi * mesh.volume**2 / mesh.area**3
        found += [
            Measurement(SPHERICITY, float(np.cbrt(compact)), NO_UNITS),
            Measurement(COMPACTNESS_2, compact, NO_UNITS),
            Measurement(SOLIDITY, mesh.volume / mesh.hull_volume, NO_UNITS),
        ]
    if not region.stack.is_volume:
        row, column = region.pixel
        perimeter = float(outlines.perimeter.sum())
        circularity = 4 * np.pi * region.voxels * row * column / perimeter**2
        found += [
            # the count of lines is an estimate: a disc may come out a little above 1
            Measurement(CIRCULARITY, min(circularity, 1.0), NO_UNITS),
            Measurement(SOLIDITY_2D, _solidity(region.mask[0]), NO_UNITS),
        ]
    if not region.across_gap:
        major, minor, least = principal_variances(region.mask, region.matrix)
        if major > 0:
            found.append(Measurement(ELONGATION, float(np.sqrt(minor / major)), NO_UNITS))
            if region.stack.is_volume:
                found.append(Measurement(FLATNESS, float(np.sqrt(least / major)), NO_UNITS))
    return found


def principal_variances(mask: Mask, matrix: Matrix) -> tuple[float, float, float]:
    """Variances of the voxel centres along the principal axes, largest first.

    `matrix` is 3×3: a step in (slice, row, column) as a vector. From sums along the axes, so
    that no list of places is made.
    """
    total = np.count_nonzero(mask)
    lines = [np.arange(size, dtype=np.float64) for size in mask.shape]
    planes = {
        (0, 1): np.count_nonzero(mask, axis=2),
        (0, 2): np.count_nonzero(mask, axis=1),
        (1, 2): np.count_nonzero(mask, axis=0),
    }
    sums = [planes[0, 1].sum(axis=1), planes[0, 1].sum(axis=0), planes[0, 2].sum(axis=0)]
    means = [float(line @ weight) / total for line, weight in zip(lines, sums, strict=True)]
    centred = [line - mean for line, mean in zip(lines, means, strict=True)]
    covariance = np.zeros((3, 3))
    for axis in range(3):
        covariance[axis, axis] = centred[axis] ** 2 @ sums[axis] / total
    for (first, second), weight in planes.items():
        mixed = centred[first] @ weight @ centred[second] / total
        covariance[first, second] = covariance[second, first] = mixed
    values = np.linalg.eigvalsh(matrix @ covariance @ matrix.T)
    least, minor, major = (float(max(value, 0.0)) for value in values)
    return major, minor, least


def _solidity(plane: Mask) -> float:
    """Area in the contour at level 0.5 over that in its convex hull, as the mesh has it in 3D.

    Both change alike with the pixel's height and width, so their ratio needs no pixel size.
    """
    padded = np.pad(plane, 1).astype(np.float32)
    contours = find_contours(padded, 0.5)  # type: ignore[no-untyped-call]
    area = 0.0
    for contour in contours:
        y, x = (contour - contours[0][0]).T
        area += float(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2  # holes run the other way round
    return abs(area) / float(ConvexHull(np.concatenate(contours)).volume)
