"""Steps that change grey values."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.preprocessing.filters import denoising, enhancing
from models.preprocessing.plan import Preparation, Spacing, Volume

_FAR = 20.0  # standard deviations; what is infinite becomes that
_MOST_SAMPLES = 4_000_000
_MOST_QUANTILE = 1_000_000


def standardise_foreground(
    plan: Preparation,
    volume: Volume,
    spacing_mm: Spacing | None,
    clip_percentile: float = 99.8,
    limit: float = 6.0,
) -> None:
    """Z-score over the foreground of the whole volume.

    MR intensities are arbitrary: multiplying a volume by any factor gives the same input. The
    foreground is what is brighter than the volume's mean, which leaves out the air around the
    head. The brightest values (vessels, artefacts) are clipped at `clip_percentile` of the
    foreground first, and the result at `limit` standard deviations. Voxels that are no number
    count as air.
    """
    values = _samples(volume)
    foreground = values[values > values.mean()]
    if foreground.size == 0:
        plan.mean, plan.scale, plan.fill = float(values.mean()), 1.0, 0.0
        return
    top = float(np.percentile(foreground, clip_percentile))
    clipped = np.minimum(foreground, top)
    mean, scale = float(clipped.mean()), float(clipped.std()) or 1.0
    plan.mean, plan.scale = mean, scale
    plan.low, plan.high = mean - limit * scale, min(top, mean + limit * scale)
    plan.fill = (max(float(values.min()), plan.low) - mean) / scale


def standardise_image(
    plan: Preparation,
    volume: Volume,
    spacing_mm: Spacing | None,
    low_percentile: float = 1.0,
    high_percentile: float = 99.0,
) -> None:
    """Z-score of each slice by itself, clipped at its percentiles first: exposure is arbitrary.

    Borders of one value (zero, or the image's least) are left out of the statistics. Padding is
    as dark as the slice's least value is on the average: -2.
    """
    if not 0 <= low_percentile < high_percentile <= 100:
        raise ValueError(f"percentiles {low_percentile} and {high_percentile}")
    plan.fill = -2.0
    shares = torch.tensor([low_percentile / 100, high_percentile / 100])

    def apply(images: torch.Tensor) -> torch.Tensor:
        done = []
        for image in images:
            inner = image[image > image.amin()]
            values = inner if inner.numel() > 1 else image.flatten()
            values = values[:: values.numel() // _MOST_QUANTILE + 1]
            low, high = torch.quantile(values, shares).tolist()
            clipped = values.clamp(low, high)
            spread = float(clipped.std(correction=0)) or 1.0
            done.append((image.clamp(low, high) - clipped.mean()) / spread)
        return torch.stack(done)

    plan.filters.append(apply)


def standardise_volume(plan: Preparation, volume: Volume, spacing_mm: Spacing | None) -> None:
    """Z-score over all voxels of the volume."""
    values = _samples(volume)
    plan.mean, plan.scale = float(values.mean()), float(values.std()) or 1.0
    plan.low, plan.high = plan.mean - _FAR * plan.scale, plan.mean + _FAR * plan.scale
    plan.fill = (max(float(values.min()), plan.low) - plan.mean) / plan.scale


def standardise_percentile(
    plan: Preparation,
    volume: Volume,
    spacing_mm: Spacing | None,
    low_percentile: float = 1.0,
    high_percentile: float = 99.0,
) -> None:
    """Clip at two percentiles of the whole volume, then to 0 to 1."""
    if not 0 <= low_percentile < high_percentile <= 100:
        raise ValueError(f"percentiles {low_percentile} and {high_percentile}")
    low, high = np.percentile(_samples(volume), [low_percentile, high_percentile])
    _unit(plan, float(low), float(high))


def standardise_suv(
    plan: Preparation, volume: Volume, spacing_mm: Spacing | None, highest: float = 20.0
) -> None:
    """SUV 0 to `highest` become 0 to 1. The worker gives PET values as SUV by body weight."""
    if not highest > 0:
        raise ValueError(f"highest is {highest}")
    _unit(plan, 0.0, highest)


def window(
    plan: Preparation,
    volume: Volume,
    spacing_mm: Spacing | None,
    low: float | None = None,
    high: float | None = None,
    centre: float | None = None,
    width: float | None = None,
) -> None:
    """Clip to a window, `low` to `high` or `centre` and `width`, then to 0 to 1.

    In the unit of the values: HU for CT. Outside the image is as dark as the window's lower end.
    """
    if centre is not None and width is not None and low is None and high is None:
        low, high = centre - width / 2, centre + width / 2
    if low is None or high is None or not low < high:
        raise ValueError("a window has low < high, or centre and a width above 0")
    _unit(plan, low, high)


def denoise(
    plan: Preparation,
    volume: Volume,
    spacing_mm: Spacing | None,
    method: str = "median",
    **params: Any,
) -> None:
    """Less noise in each slice; see `models.filters.denoising`."""
    plan.filters.append(denoising(method, **params))


def enhance(
    plan: Preparation,
    volume: Volume,
    spacing_mm: Spacing | None,
    method: str = "clahe",
    **params: Any,
) -> None:
    """More contrast in each slice, 0 to 1; see `models.filters.enhancing`."""
    plan.filters.append(enhancing(method, **params))
    plan.fill = 0.0


def _unit(plan: Preparation, low: float, high: float) -> None:
    plan.low, plan.high = low, high
    plan.mean, plan.scale = low, (high - low) or 1.0
    plan.fill = 0.0


def _samples(volume: Volume) -> npt.NDArray[np.float32]:
    """The volume's numbers, or every n-th: it tells the same, in bounded memory."""
    flat = np.asarray(volume).reshape(-1)
    values = flat[:: flat.size // _MOST_SAMPLES + 1] if flat.size > _MOST_SAMPLES else flat
    values = values.astype(np.float32)
    values = values[np.isfinite(values)]
    return values if values.size else np.zeros(1, np.float32)
