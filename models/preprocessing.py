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
        filters: applied to each resampled slice by itself, (batch, 1, rows, columns) to the same.
        neighbours: slices on each side that the network sees beside a slice, as channels.
    """

    shape: tuple[int, int]
    resampled: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    mean: float = 0.0
    scale: float = 1.0
    low: float = -np.inf
    high: float = np.inf
    fill: float = field(default=0.0)
    filters: list[Callable[[torch.Tensor], torch.Tensor]] = field(default_factory=list)
    neighbours: int = 0

    def prepare_between(self, volume: Volume, start: int, stop: int) -> torch.Tensor:
        """Slices `start` to `stop` of a volume, with their neighbours as channels.

        Gives (stop - start, 1 + 2 × neighbours, rows', columns'); beyond the first and the last
        slice these stand in for their missing neighbours.
        """
        reach = self.neighbours
        first, last = max(0, start - reach), min(len(volume), stop + reach)
        images = self.prepare(volume[first:last])
        if not reach:
            return images
        places = torch.arange(start, stop).unsqueeze(1) + torch.arange(-reach, reach + 1)
        return images[places.clamp(0, len(volume) - 1) - first, 0]

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
        for apply in self.filters:
            images = apply(images)
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


def neighbours(
    plan: Preparation, volume: Volume, spacing_mm: Spacing | None, count: int = 1
) -> None:
    """Show the network `count` slices on each side of every slice, as channels (2.5D)."""
    if count < 0:
        raise ValueError(f"count is {count}")
    plan.neighbours = count


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


_MOST_SAMPLES = 4_000_000
_MOST_QUANTILE = 1_000_000

STEPS: dict[str, Callable[..., None]] = {
    "standardise_foreground": standardise_foreground,
    "resample_in_plane": resample_in_plane,
    "pad": pad,
    "resize": resize,
    "standardise_image": standardise_image,
    "neighbours": neighbours,
}
