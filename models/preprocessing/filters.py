"""Filters of single slices, by name: against noise, and for contrast.

They work on slices that are standardised and resampled already, in the order in which the
specification names them. SciPy and scikit-image have them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from skimage import exposure, restoration

Filter = Callable[[torch.Tensor], torch.Tensor]
Plane = npt.NDArray[np.float32]


def denoising(method: str, **params: Any) -> Filter:
    """A filter against noise: "median" (size), "gaussian" (sigma), "non_local_means" (strength).

    `size` and `sigma` are in pixels. `strength` is in standard deviations of the noise, which
    is estimated (Buades et al. 2011).

    Raises:
        ValueError: no such method, or a value that makes no sense.
        TypeError: parameters that the method does not take.
    """
    return _each(_chosen(method, {"median": _median, "gaussian": _gaussian} | _NLM)(**params))


def enhancing(method: str, **params: Any) -> Filter:
    """A filter for contrast, result 0 to 1: "equalise" (bins) or "clahe" (tiles, limit).

    `tiles` is how many tiles each way; `limit`, 0 to 1, how much contrast a tile may gain
    (Zuiderveld 1994).

    Raises:
        ValueError: no such method, or a value that makes no sense.
        TypeError: parameters that the method does not take.
    """
    return _each(_chosen(method, {"equalise": _equalise, "clahe": _clahe})(**params))


def _chosen(
    method: str, known: dict[str, Callable[..., Callable[[Plane], Plane]]]
) -> Callable[..., Callable[[Plane], Plane]]:
    if method not in known:
        raise ValueError(f"there is no method {method!r} (there is: {', '.join(sorted(known))})")
    return known[method]


def _median(size: int = 3) -> Callable[[Plane], Plane]:
    _positive(size=size)
    return lambda plane: ndimage.median_filter(plane, size=size, mode="nearest")


def _gaussian(sigma: float = 1.0) -> Callable[[Plane], Plane]:
    _positive(sigma=sigma)
    return lambda plane: ndimage.gaussian_filter(plane, sigma=sigma, mode="nearest")


def _non_local_means(strength: float = 0.8) -> Callable[[Plane], Plane]:
    _positive(strength=strength)

    def apply(plane: Plane) -> Plane:
        noise = float(restoration.estimate_sigma(plane))  # type: ignore[no-untyped-call]
        if not noise > 0:
            return plane
        return np.asarray(
            restoration.denoise_nl_means(
                plane, patch_size=5, patch_distance=6, h=strength * noise, sigma=noise
            )
        )

    return apply


_NLM: dict[str, Callable[..., Callable[[Plane], Plane]]] = {"non_local_means": _non_local_means}


def _equalise(bins: int = 256) -> Callable[[Plane], Plane]:
    _positive(bins=bins)

    def apply(plane: Plane) -> Plane:
        return np.asarray(exposure.equalize_hist(_unit(plane), nbins=bins))  # type: ignore[no-untyped-call]

    return apply


def _clahe(tiles: int = 8, limit: float = 0.01) -> Callable[[Plane], Plane]:
    _positive(tiles=tiles, limit=limit)

    def apply(plane: Plane) -> Plane:
        tile = [max(1, side // tiles) for side in plane.shape]
        return np.asarray(
            exposure.equalize_adapthist(_unit(plane), kernel_size=tile, clip_limit=limit)
        )

    return apply


def _unit(plane: Plane) -> Plane:
    """A slice stretched to 0 to 1; one value only becomes 0."""
    low, high = float(plane.min()), float(plane.max())
    return (plane - low) / (high - low) if high > low else np.zeros_like(plane)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}")


def _each(apply: Callable[[Plane], Plane]) -> Filter:
    """Of one slice to of a batch (batch, 1, rows, columns)."""

    def on_batch(images: torch.Tensor) -> torch.Tensor:
        done = [apply(plane) for plane in images[:, 0].numpy()]
        return torch.from_numpy(np.stack(done).astype(np.float32)).unsqueeze(1)

    return on_batch
