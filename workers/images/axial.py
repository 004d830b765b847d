"""A volume on the axial grid nearest to its own, and back; nothing is interpolated."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from workers.images.stack import Floats, ImageStack, Matrix


class AxialView(NamedTuple):
    """A volume on the canonical axial grid, by permuting and flipping only.

    Attributes:
        array: float32 (slices foot to head, rows anterior to posterior, columns right to left).
        spacing_mm: along (slice, row, column) of that grid.
        to_source: takes an array (…, slices, rows, columns) on that grid back to the volume's
            own grid, exactly.
    """

    array: Floats
    spacing_mm: tuple[float, float, float]
    to_source: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


def to_axial(stack: ImageStack) -> AxialView:
    """View a volume on the axial grid nearest to its own; nothing is interpolated.

    An oblique volume stays oblique: its axes are only named by the patient axis nearest to them.

    Raises:
        ValueError: `stack` is no volume.
    """
    if stack.affine is None or stack.spacing_mm is None:
        raise ValueError("images that are no volume have no axial view")
    order, flips = axial_axes(stack.affine)
    array = np.flip(stack.array.transpose(order), flips)
    back = tuple(int(axis) for axis in np.argsort(order))

    def to_source(result: npt.NDArray[Any]) -> npt.NDArray[Any]:
        lead = result.ndim - 3
        upright = np.flip(result, tuple(lead + axis for axis in flips))
        return np.ascontiguousarray(
            upright.transpose(*range(lead), *(lead + axis for axis in back))
        )

    first, second, third = (stack.spacing_mm[axis] for axis in order)
    return AxialView(np.ascontiguousarray(array), (first, second, third), to_source)


def axial_axes(affine: Matrix) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Which voxel axis runs foot to head, anterior to posterior, right to left; and the flips.

    Takes a 4×4 affine, voxel index (slice, row, column) to LPS mm. Returns the order in which
    to take the axes of an array indexed by it, and those of the reordered array that run the
    other way. A sheared affine's slice axis counts by the slices' normal.
    """
    vectors = np.array(affine[:3, :3], dtype=np.float64)
    normal = np.cross(vectors[:, 2], vectors[:, 1])
    vectors[:, 0] = normal * np.sign(normal @ vectors[:, 0])
    named = vectors / np.linalg.norm(vectors, axis=0)
    upright = named[::-1]  # rows now: z, y, x; in LPS all three increase the wanted way
    order = max(permutations(range(3)), key=lambda p: sum(abs(upright[i, p[i]]) for i in range(3)))
    flips = tuple(i for i in range(3) if upright[i, order[i]] < 0)
    return (order[0], order[1], order[2]), flips
