"""How the slices of one volume become the network's input, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from core.errors import ModelSpecError

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
        depth: slices after resampling across them, which only a network in 3D sees; None: as
            they are.
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
    depth: int | None = None

    def prepare_between(self, volume: Volume, start: int, stop: int) -> torch.Tensor:
        """Slices `start` to `stop` of a volume, with their neighbours as channels.

        Gives (stop - start, 1 + 2 × neighbours, rows', columns'); beyond the first and the last
        slice these stand in for their missing neighbours.

        Raises:
            ModelSpecError: the slices are resampled, so single ones are not asked about.
        """
        if self.depth is not None:
            raise ModelSpecError(
                "preprocessing.resample changes the number of slices: the network needs a [window] "
                "of three sides"
            )
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
