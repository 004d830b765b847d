"""The surface of a lesion as IBSI has it: marching cubes through the mask, in mm.

Source: IBSI reference manual (arXiv:1612.07003), Section 3.1, "ROI mesh": level 0.5 of the mask.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import cdist
from skimage.measure import marching_cubes

from workers.images.stack import Matrix
from workers.lesions.components import Mask

# So many corners of the hull are compared with all others at once, to bound the memory.
_AT_ONCE = 500
# Fewer points than this are as quickly taken all.
_WORTH_A_HULL = 200
_HALF_STEPS = np.concatenate([np.eye(3), -np.eye(3)]) / 2


@dataclass(frozen=True, slots=True)
class Mesh:
    """What is measured on a closed surface.

    Attributes:
        area: mm² (C0JK).
        volume: mm³ (RNU0); a little less than that of the voxels.
        diameter: greatest distance between two of its corners, mm (L0JK).
        hull_area, hull_volume: of its convex hull, mm² and mm³.
    """

    area: float
    volume: float
    diameter: float
    hull_area: float
    hull_volume: float


def mesh_of(mask: Mask, matrix: Matrix) -> Mesh:
    """Mesh of `mask` (slices, rows, columns), at least one voxel true.

    `matrix` is 3×3: a step in (slice, row, column) as a vector in mm. It may be oblique or
    sheared: a mesh moves with any linear map, so tilted and anisotropic voxels are right.
    """
    corners, faces, _, _ = marching_cubes(np.pad(mask, 1), 0.5)  # type: ignore[no-untyped-call]
    corners = corners.astype(np.float64) @ matrix.T
    # Signed tetrahedra about the first corner: far from the origin, digits would be lost.
    a, b, c = (corners - corners[0])[faces.T]
    normals = np.cross(b - a, c - a)
    hull = ConvexHull(_outermost(mask) @ matrix.T)
    return Mesh(
        area=float(np.sqrt(np.einsum("ij,ij->i", normals, normals)).sum() / 2),
        volume=float(abs(np.einsum("ij,ij->", a, normals)) / 6),
        diameter=_farthest(hull.points[hull.vertices]),
        hull_area=float(hull.area),
        hull_volume=float(hull.volume),
    )


def _outermost(mask: Mask) -> npt.NDArray[np.float64]:
    """(n, 3) points in the padded mask's index that have the same convex hull as the mesh.

    The mesh's corners lie half a voxel beyond the outermost voxels of each line of the grid. So
    its hull is that of the voxels' hull, widened by half a voxel along each axis: much quicker
    than the hull of all corners.
    """
    plane, row = np.nonzero(mask.any(axis=2))
    lines = mask[plane, row]
    ends = (lines.argmax(axis=1), mask.shape[2] - 1 - lines[:, ::-1].argmax(axis=1))
    centres = np.concatenate([np.stack([plane, row, end], axis=1) for end in ends]) + 1.0
    if len(centres) > _WORTH_A_HULL:
        # voxels of one plane have no hull in space; they are widened as they are
        with contextlib.suppress(QhullError):
            centres = centres[ConvexHull(centres).vertices]
    return np.concatenate([centres + step for step in _HALF_STEPS])


def _farthest(points: npt.NDArray[np.float64]) -> float:
    """The greatest distance between two of `points` (n, 3)."""
    pieces = range(0, len(points), _AT_ONCE)
    return max(float(cdist(points[at : at + _AT_ONCE], points[at:]).max()) for at in pieces)
