"""A network asked window by window about a volume that it could not see whole.

Windows overlap, and where they do their logits are averaged, the middle of a window counting
more than its border (Isensee et al. 2021). The volume is walked through from its first slice to
its last, and only as many slices of sums are kept as a window is thick: memory does not grow
with the number of slices, except for the answer itself, float16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from monai.data.utils import compute_importance_map
from torch.nn import functional

from core.errors import ModelSpecError
from core.modelspec import WindowSpec
from models.preprocessing import Preparation, Volume

Ask = Callable[[torch.Tensor], torch.Tensor]
Finish = Callable[[torch.Tensor], torch.Tensor]
Found = npt.NDArray[np.float16]

_LEAST_WEIGHT = 1e-3  # of a window's border, so that the sum of weights is never 0


def starts_of(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin so that they cover `length`; the last one ends with it."""
    if length <= window:
        return [0]
    step = max(1, round(window * (1 - overlap)))
    return sorted({*range(0, length - window, step), length - window})


def ask_in_windows(
    ask: Ask,
    finish: Finish,
    plan: Preparation,
    volume: Volume,
    window: WindowSpec,
    channels: int,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Ask about `volume` (slices, rows, columns), window by window.

    Args:
        ask: (batch, in, [slices,] rows, columns) to logits of the same size.
        finish: logits (slices, channels, rows', columns') to probabilities in the grid of the
            volume's slices, (slices, `channels`, rows, columns).
        plan: how slices are prepared.
        volume: any real dtype.
        window: sizes after preprocessing.
        channels: that `finish` gives.
        progress: called with slices done and slices in all.

    Returns:
        Probabilities float16 (channels, slices, rows, columns).

    Raises:
        ModelSpecError: the network's answer has not the size of its window.
    """
    thick = window.size[0] if len(window.size) == 3 else 1
    slices = _Slices(plan, volume, flat=len(window.size) == 2)
    answer = np.empty((channels, slices.depth, *volume.shape[1:]), dtype=np.float16)
    slab: _Slab | None = None
    starts = starts_of(slices.depth, thick, window.overlap)
    for number, start in enumerate(starts):
        prepared = slices.between(start, start + thick)
        slab = slab or _Slab(window, prepared.shape[-2:], plan.fill)
        slab.add(ask, prepared)
        last = number + 1 == len(starts)
        stop = slices.depth if last else starts[number + 1]
        done = finish(slab.take(stop - start))
        answer[:, start:stop] = done.half().movedim(1, 0).numpy()
        if progress is not None:
            progress(len(volume) * stop // slices.depth, len(volume))
    return answer if slices.depth == len(volume) else _across(answer, len(volume))


class _Slices:
    """The prepared slices, resampled across where the plan says so."""

    def __init__(self, plan: Preparation, volume: Volume, *, flat: bool) -> None:
        if flat and plan.depth is not None:
            raise ModelSpecError(
                "preprocessing.resample changes the number of slices: window.size needs three sides"
            )
        if not flat and plan.neighbours:
            raise ModelSpecError("preprocessing.neighbours is for networks in 2D")
        self.plan, self.volume, self.flat = plan, volume, flat
        self.depth = plan.depth or len(volume)

    def between(self, start: int, stop: int) -> torch.Tensor:
        """(1, in, [slices,] rows', columns'); the last slice stands in for those beyond it."""
        if self.flat:
            return self.plan.prepare_between(self.volume, start, stop)
        wanted = np.arange(start, stop).clip(0, self.depth - 1)
        places = (wanted + 0.5) * (len(self.volume) / self.depth) - 0.5
        places = places.clip(0, len(self.volume) - 1)
        below = np.floor(places).astype(int)
        above = np.minimum(below + 1, len(self.volume) - 1)
        first = int(below.min())
        images = self.plan.prepare(self.volume[first : int(above.max()) + 1])[:, 0]
        share = torch.from_numpy((places - below).astype(np.float32)).view(-1, 1, 1)
        mixed = images[below - first]
        if share.any():
            mixed = mixed * (1 - share) + images[above - first] * share
        return mixed[None, None]


class _Slab:
    """Sums of logits and of weights over as many slices as a window is thick."""

    def __init__(self, window: WindowSpec, plane: Sequence[int], fill: float) -> None:
        self.window, self.fill, self.plane = window, fill, (int(plane[0]), int(plane[1]))
        self.size = (1, *window.size) if len(window.size) == 2 else window.size
        self.weight = compute_importance_map(
            self.size, mode=window.blend, sigma_scale=0.125
        ).clamp_min(_LEAST_WEIGHT)
        self.sums: torch.Tensor | None = None
        self.weights = torch.zeros((self.size[0], *self._padded))

    @property
    def _padded(self) -> tuple[int, int]:
        return max(self.plane[0], self.size[1]), max(self.plane[1], self.size[2])

    def add(self, ask: Ask, prepared: torch.Tensor) -> None:
        """Ask about all windows of these slices."""
        rows, columns = self._padded
        margin = (0, columns - self.plane[1], 0, rows - self.plane[0])
        prepared = functional.pad(prepared, margin, value=self.fill)
        height, width = self.size[1:]
        places = [
            (row, column)
            for row in starts_of(rows, height, self.window.overlap)
            for column in starts_of(columns, width, self.window.overlap)
        ]
        for first in range(0, len(places), self.window.batch):
            chosen = places[first : first + self.window.batch]
            seen = [
                prepared[..., row : row + height, column : column + width] for row, column in chosen
            ]
            logits = ask(torch.cat(seen)).float().cpu()
            if logits.shape[2:] != seen[0].shape[2:]:
                raise ModelSpecError(
                    f"the network answers a window of {_sides(seen[0])} with {_sides(logits)}",
                    remedy="window.size must be multiples of what the network shrinks by.",
                )
            logits = logits.unsqueeze(2) if logits.ndim == 4 else logits
            if self.sums is None:
                self.sums = torch.zeros((logits.shape[1], *self.weights.shape))
            for (row, column), found in zip(chosen, logits, strict=True):
                box = (..., slice(row, row + height), slice(column, column + width))
                self.sums[box] += found * self.weight
                self.weights[box] += self.weight

    def take(self, count: int) -> torch.Tensor:
        """The mean logits of the first `count` slices, (slices, channels, rows, columns).

        They are done with: the others move up.
        """
        assert self.sums is not None
        done = (self.sums[:, :count] / self.weights[:count]).movedim(0, 1)
        for kept in (self.sums, self.weights.unsqueeze(0)):
            left = kept.shape[1] - count
            kept[:, :left] = kept[:, count:].clone()
            kept[:, max(0, left) :] = 0
        return done[..., : self.plane[0], : self.plane[1]]


def _sides(tensor: torch.Tensor) -> str:
    return " × ".join(str(side) for side in tensor.shape[2:])


def _across(found: Found, slices: int) -> Found:
    """(channels, depth, rows, columns) to so many slices, linear between neighbours."""
    answer = np.empty((found.shape[0], slices, *found.shape[2:]), dtype=np.float16)
    depth = found.shape[1]
    for number in range(slices):
        place = min(max((number + 0.5) * depth / slices - 0.5, 0.0), depth - 1.0)
        below = int(place)
        share = np.float32(place - below)
        above = min(below + 1, depth - 1)
        answer[:, number] = found[:, below] * (1 - share) + found[:, above] * share
    return answer
