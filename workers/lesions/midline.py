"""Where the middle of the body lies between left and right, from the images alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from workers.images.stack import ImageStack

# Half the height of the slab about a lesion that its midline is taken from, mm.
_SLAB_MM = 15.0
# Finer sampling does not move the middle by a millimetre that counts.
_MOST_SAMPLES = 96
# Between air (-1000 HU) and fat (-100 HU), above most of what a patient lies on.
_SKIN_HU = -300.0
# Units of images that show the whole body; a map of perfusion or diffusion shows parts of it.
_WHOLE_BODY = ("1", "[arb'U]", "g/ml", "cm2/ml", "Bq/ml", "{counts}", "{propcounts}")
# In these: this share of the way from the darkest to the brightest values.
_SHARE = 0.1
# Fewest samples of a body in a slab, and what share of an average layer at the edge of the
# images says that the body goes on beyond them.
_MIN_SAMPLES = 50
_CUT = 0.1


class Body:
    """The body in one volume, sampled coarsely.

    Everything is in patient coordinates (LPS, mm), so it does not matter how the images are
    stored, nor in which plane they lie.
    """

    def __init__(self, stack: ImageStack) -> None:
        if stack.affine is None:
            raise ValueError("images that are no volume have no midline")
        steps = [max(1, -(-size // _MOST_SAMPLES)) for size in stack.array.shape]
        sampled = stack.array[:: steps[0], :: steps[1], :: steps[2]]
        self._mask = _body_mask(sampled, stack.unit.value)
        matrix = stack.affine[:3, :3] * steps
        lines = [np.arange(size) for size in sampled.shape]
        grid = np.ix_(*lines)
        origin = stack.affine[:3, 3]
        self._x = origin[0] + sum(grid[axis] * matrix[0, axis] for axis in range(3))
        self._z = origin[2] + sum(grid[axis] * matrix[2, axis] for axis in range(3))
        # the axis of the array that runs most from right to left, and a step's height
        self._across = int(np.abs(matrix[0]).argmax())
        self._height = float(np.abs(matrix[2]).max())

    def midline_mm(self, z_mm: float) -> float | None:
        """The body's middle as x at the height `z_mm`; None where it cannot be told.

        The median, over layers, of the middle between the body's rightmost and leftmost sample.
        Where the body goes on beyond the images its middle is not theirs.
        """
        reach = max(_SLAB_MM, self._height)
        slab = self._mask & (np.abs(self._z - z_mm) <= reach)
        samples = int(np.count_nonzero(slab))
        if samples < _MIN_SAMPLES or self._is_cut(slab, samples):
            return None
        shape = slab.shape
        x = np.broadcast_to(self._x, shape)[slab]
        layer = np.round((np.broadcast_to(self._z, shape)[slab] - z_mm) / self._height)
        layer = (layer - layer.min()).astype(np.intp)
        right = np.full(int(layer.max()) + 1, np.inf)
        left = np.full(int(layer.max()) + 1, -np.inf)
        np.minimum.at(right, layer, x)
        np.maximum.at(left, layer, x)
        seen = np.isfinite(right)
        return float(np.median((right[seen] + left[seen]) / 2))

    def _is_cut(self, slab: npt.NDArray[np.bool_], samples: int) -> bool:
        layers = np.moveaxis(slab, self._across, 0)
        average = samples / len(layers)
        edges = (np.count_nonzero(layers[0]), np.count_nonzero(layers[-1]))
        return bool(max(edges) > _CUT * average)


def _body_mask(sampled: npt.NDArray[np.float32], unit: str) -> npt.NDArray[np.bool_]:
    """The largest connected piece that is brighter than air."""
    finite = np.isfinite(sampled)
    if not finite.any():
        return np.asarray(finite)
    values = np.where(finite, sampled, sampled[finite].min())
    if unit == "[hnsf'U]":
        threshold = _SKIN_HU
    elif unit not in _WHOLE_BODY and not unit.startswith(_WHOLE_BODY[2:]):
        return np.zeros(sampled.shape, dtype=bool)
    else:
        # the very brightest (vessels, bladder, metal) must not set the scale
        low, high = np.percentile(values, [1, 99])
        threshold = low + _SHARE * (high - low)
    bright = values > threshold
    numbered, count = ndimage.label(bright)
    if count <= 1:
        return np.asarray(bright)
    sizes = np.bincount(numbered[bright], minlength=count + 1)
    return np.asarray(numbered == int(sizes.argmax()))
