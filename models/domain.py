"""Does an image look like those that a model was trained on? A few figures, and a distance.

The figures are of the network's own input, so what the preprocessing evens out does not count:
quantiles of the grey levels, the share of each band of spatial frequencies, a coarse layout, and
how alike the halves are. Their mean and covariance over the training images are kept in the
package; the distance is Mahalanobis', over the root of the number of figures, so that 1 is usual.
A gross check: it refuses noise and other kinds of images, not a rare finding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from core.errors import ModelSpecError, WeightsError
from core.modelspec import ModelSpec, StepSpec
from models.preprocessing import Spacing, Volume, prepare_volume

Numbers = npt.NDArray[np.float64]

VERSION = 1
_SIZE = 64  # pixels of a side that the figures are taken at
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BANDS = (1, 2, 4, 8, 14, 20, 32)  # cycles across the image
_GRID = 4
_FLOOR = 1e-6
# A volume is judged by so many slices at most, evenly spaced.
_MOST_SLICES = 48
_BATCH = 16

KINDS = (
    *("grey levels",) * len(_QUANTILES),
    *("spatial frequencies",) * (len(_BANDS) - 1),
    *("layout",) * (_GRID * _GRID),
    *("symmetry",) * 2,
)


@dataclass(frozen=True, slots=True)
class Strange:
    """How far an image, or a volume, lies from the training images.

    Attributes:
        distance: 1 is usual.
        limit: from more than this on it is refused.
        kind: the figures that are farthest off.
    """

    distance: float
    limit: float
    kind: str

    @property
    def outside(self) -> bool:
        """Whether it looks like none of the training images."""
        return not self.distance <= self.limit

    def __str__(self) -> str:
        return (
            f"it looks like none of the training images: distance {self.distance:.1f}, "
            f"at most {self.limit:.1f} is accepted (mostly by its {self.kind})"
        )


@dataclass(frozen=True, eq=False)
class Domain:
    """What the training images look like.

    Attributes:
        mean: (figures,).
        inverse: (figures, figures), of the covariance.
        limit: largest distance that is accepted.
    """

    mean: Numbers
    inverse: Numbers
    limit: float

    def distance(self, figures: Numbers) -> Numbers:
        """(n, figures) to (n,)."""
        off = figures - self.mean
        squares = np.einsum("nf,fg,ng->n", off, self.inverse, off)
        found: Numbers = np.sqrt(np.maximum(squares, 0) / len(self.mean))
        return found

    def judge(
        self,
        steps: Sequence[StepSpec],
        volume: Volume,
        spacing_mm: Spacing | None,
        *,
        whole: bool,
    ) -> list[Strange]:
        """One figure for all slices together, or for each image by itself."""
        found = figures_of(steps, volume, spacing_mm, whole=whole)
        if whole:
            found = found.mean(axis=0, keepdims=True)
        return [
            Strange(float(distance), self.limit, self._farthest(figures))
            for distance, figures in zip(self.distance(found), found, strict=True)
        ]

    def _farthest(self, figures: Numbers) -> str:
        off = figures - self.mean
        parts = off * (self.inverse @ off)
        kinds = np.array(KINDS)
        return max(dict.fromkeys(KINDS), key=lambda kind: float(parts[kinds == kind].sum()))

    def to_json(self) -> bytes:
        """As it is kept in a package."""
        content = {
            "version": VERSION,
            "limit": round(self.limit, 4),
            "mean": [float(f"{value:.8g}") for value in self.mean],
            "inverse": [[float(f"{value:.8g}") for value in row] for row in self.inverse],
        }
        return json.dumps(content).encode()


def read_domain(spec: ModelSpec) -> Domain | None:
    """The domain that a package keeps, or None where it keeps none.

    Raises:
        WeightsError: the file is missing, or not the one that the specification names.
        ModelSpecError: it does not hold what it should.
    """
    if spec.domain is None:
        return None
    path = spec.folder / spec.domain.file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{spec.name}: {path.name} cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != spec.domain.sha256:
        raise WeightsError(
            f"{spec.name}: {path.name} is not the file that model.toml names",
            remedy="It was truncated or changed. Install the package again.",
        )
    try:
        content: dict[str, Any] = json.loads(data)
        domain = Domain(
            np.array(content["mean"], dtype=np.float64),
            np.array(content["inverse"], dtype=np.float64),
            float(content["limit"]),
        )
        fits = content["version"] == VERSION and domain.mean.shape == (len(KINDS),)
        if not fits or domain.inverse.shape != (len(KINDS), len(KINDS)):
            raise ValueError("of another version")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelSpecError(f"{spec.name}: {path.name} cannot be used: {error}") from error
    return domain


def figures_of(
    steps: Sequence[StepSpec], volume: Volume, spacing_mm: Spacing | None, *, whole: bool
) -> Numbers:
    """The figures of each image, or of slices that stand for a volume: (n, figures).

    `volume` is (slices, rows, columns), as for a model's `predict`.
    """
    plan = prepare_volume(steps, volume, spacing_mm)
    plan.neighbours = 0  # each slice for itself
    places = np.arange(len(volume))
    if whole and len(volume) > _MOST_SLICES:
        places = np.unique(np.linspace(0, len(volume) - 1, _MOST_SLICES).round().astype(int))
    found = [
        _figures(plan.prepare(volume[places[start : start + _BATCH]]))
        for start in range(0, len(places), _BATCH)
    ]
    return np.concatenate(found)


@torch.no_grad()
def _figures(images: torch.Tensor) -> Numbers:
    """(batch, 1, rows, columns), prepared, to (batch, figures)."""
    small = functional.interpolate(
        images.float(), size=(_SIZE, _SIZE), mode="bilinear", align_corners=False, antialias=True
    )[:, 0]
    small = torch.nan_to_num(small)
    flat = small.flatten(1)
    shares = torch.tensor(_QUANTILES)
    quantiles = torch.quantile(flat, shares, dim=1).T
    spread = flat.std(dim=1, correction=0, keepdim=True).clamp_min(_FLOOR)
    level = (small - flat.mean(dim=1)[:, None, None]) / spread[:, :, None]
    window = torch.hann_window(_SIZE, periodic=False)
    power = torch.fft.fft2(level * window[:, None] * window[None, :]).abs().square()
    steps = torch.fft.fftfreq(_SIZE) * _SIZE
    radius = torch.sqrt(steps[:, None].square() + steps[None, :].square())
    bands = torch.stack(
        [power[:, (radius >= low) & (radius < high)].sum(dim=1) for low, high in pairwise(_BANDS)],
        dim=1,
    )
    share = torch.log(bands / bands.sum(dim=1, keepdim=True).clamp_min(_FLOOR) + _FLOOR)
    layout = functional.adaptive_avg_pool2d(level[:, None], _GRID).flatten(1)
    alike = torch.stack([(level * level.flip(axis)).mean(dim=(1, 2)) for axis in (1, 2)], dim=1)
    found: Numbers = torch.cat([quantiles, share, layout, alike], dim=1).double().numpy()
    return found
