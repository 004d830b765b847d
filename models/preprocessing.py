"""Preprocessing, one definition for training and inference, chosen by name in `model.toml`.

A `Preparation` is made once per volume: it takes the statistics that a step needs from all
slices, then prepares batches of slices and brings the network's answer back to the input's
grid. Geometry uses the half-pixel convention throughout (`align_corners=False`): resampling
keeps the image's outer edges where they are, so what comes back is not shifted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from core.errors import ModelSpecError
from core.modelspec import StepSpec

Volume = npt.NDArray[Any]
Spacing = tuple[float, float, float]


@dataclass
class Preparation:
    """How the slices of one volume become the network's input, and back.

    Attributes:
        shape: (rows, columns) of the volume's slices.
        resampled: (rows, columns) after resampling.
        padding: (left, right, top, bottom), in pixels, around the resampled slices.
        mean, scale, low, high: intensity is clipped to low..high, less mean, over scale.
    """

    shape: tuple[int, int]
    resampled: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    mean: float = 0.0
    scale: float = 1.0
    low: float = -np.inf
    high: float = np.inf
    fill: float = field(default=0.0)

    def prepare(self, slices: Volume) -> torch.Tensor:
        """(batch, rows, columns), any real dtype, to (batch, 1, rows', columns') float32."""
        array = np.ascontiguousarray(slices, dtype=np.float32)
        images = torch.from_numpy(array).unsqueeze(1)
        images = (images.clamp(self.low, self.high) - self.mean) / self.scale
        images = torch.where(images.isnan(), self.fill, images)
        if self.resampled != self.shape:
            images = functional.interpolate(
                images, size=self.resampled, mode="bilinear", align_corners=False, antialias=True
            )
        if any(self.padding):
            images = functional.pad(images, self.padding, value=self.fill)
        return images

    def restore(self, answers: torch.Tensor) -> torch.Tensor:
        """(batch, channels, rows', columns') back to (batch, channels, rows, columns)."""
        left, right, top, bottom = self.padding
        height, width = answers.shape[-2:]
        answers = answers[..., top : height - bottom, left : width - right]
        if self.resampled != self.shape:
            answers = functional.interpolate(
                answers, size=self.shape, mode="bilinear", align_corners=False, antialias=True
            )
        return answers


def prepare_volume(
    steps: Sequence[StepSpec], volume: Volume, spacing_mm: Spacing | None
) -> Preparation:
    """Plan the preprocessing of `volume`, (slices, rows, columns).

    `spacing_mm` is (slice, row, column), or None where it is unknown.

    Raises:
        ModelSpecError: a step that is not known, or parameters that it does not take.
    """
    rows, columns = volume.shape[1:]
    plan = Preparation((rows, columns), (rows, columns))
    for step in steps:
        apply = STEPS.get(step.name)
        if apply is None:
            known = ", ".join(sorted(STEPS))
            raise ModelSpecError(f"preprocessing: there is no {step.name!r} (there is: {known})")
        try:
            apply(plan, volume, spacing_mm, **step.params)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise ModelSpecError(f"preprocessing.{step.name}: {error}") from error
    return plan


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
    values = np.asarray(volume, dtype=np.float32).ravel()
    if values.size > _MOST_SAMPLES:  # every n-th voxel tells the same, in bounded memory
        values = values[:: values.size // _MOST_SAMPLES + 1]
    values = values[np.isfinite(values)]
    if values.size == 0:
        values = np.zeros(1, np.float32)
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


def resample_in_plane(
    plan: Preparation, volume: Volume, spacing_mm: Spacing | None, spacing: float
) -> None:
    """Resample slices to `spacing` mm in both directions. Unknown spacing is left as it is."""
    if spacing_mm is None:
        return
    rows, columns = plan.shape
    plan.resampled = (
        max(1, round(rows * spacing_mm[1] / spacing)),
        max(1, round(columns * spacing_mm[2] / spacing)),
    )


def pad(
    plan: Preparation,
    volume: Volume,
    spacing_mm: Spacing | None,
    least: int = 0,
    multiple: int = 1,
) -> None:
    """Pad evenly to at least `least` pixels and to multiples of `multiple`; nothing is cropped."""
    rows, columns = plan.resampled
    height, width = (-(-max(size, least) // multiple) * multiple for size in (rows, columns))
    left, top = (width - columns) // 2, (height - rows) // 2
    plan.padding = (left, width - columns - left, top, height - rows - top)


def resize(
    plan: Preparation, volume: Volume, spacing_mm: Spacing | None, rows: int, columns: int
) -> None:
    """Bring slices to exactly `rows` × `columns`, for a network that takes one size only.

    The proportions are kept, and what is left over is padded evenly; nothing is cropped. It
    comes after `resample_in_plane`, if that is wanted, and takes the place of `pad`.
    """
    if min(rows, columns) < 1:
        raise ValueError(f"{rows} × {columns} pixels")
    height, width = plan.resampled
    scale = min(rows / height, columns / width)
    plan.resampled = (
        min(rows, max(1, round(height * scale))),
        min(columns, max(1, round(width * scale))),
    )
    top, left = (rows - plan.resampled[0]) // 2, (columns - plan.resampled[1]) // 2
    plan.padding = (
        left,
        columns - plan.resampled[1] - left,
        top,
        rows - plan.resampled[0] - top,
    )


_MOST_SAMPLES = 4_000_000

STEPS: dict[str, Callable[..., None]] = {
    "standardise_foreground": standardise_foreground,
    "resample_in_plane": resample_in_plane,
    "pad": pad,
    "resize": resize,
}
