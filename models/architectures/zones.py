"""A classifier without convolutions: figures of the lung's zones, and one linear layer.

Radiologists read a chest film zone by zone and side against side. Each half of the region is cut
into horizontal zones; of each zone come the spread of its grey values and how much detail there
is at several scales. With a few hundred images such figures learn less that is wrong than a
network of a million weights, and the two err differently.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from models.answer import Answer

_LEVELS = (-1.2, -0.6, 0.0, 0.6, 1.2)
_STEEPNESS = 6.0
_SCALES = (1, 2, 4)
_LEAST = 1e-3  # a zone with less of the region than this says nothing


class Zones(nn.Module):
    """See `zones`."""

    def __init__(
        self, in_channels: int, classes: int, count: int, dropout: float, shrink: int
    ) -> None:
        super().__init__()
        self.count, self.shrink = count, shrink
        figures = in_channels * (len(_LEVELS) + 2 + 2 * len(_SCALES)) * count
        self.norm = nn.BatchNorm1d(2 * figures, affine=False, momentum=0.02)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * figures, classes))

    def forward(self, images: torch.Tensor, share: torch.Tensor | None = None) -> Answer:
        """(batch, in, rows, columns) to classes; `share` says how much each place counts."""
        with torch.autocast(images.device.type, enabled=False):
            values = images.float()
            counts = torch.ones_like(values[:, :1]) if share is None else share.float()
            if self.shrink > 1:
                values = functional.avg_pool2d(values, self.shrink)
                counts = functional.avg_pool2d(counts, self.shrink)
            return Answer(image=self.head(self.norm(self.figures(values, counts))))

    def figures(self, images: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """(batch, figures): of both sides together, and how far they differ."""
        middle = images.shape[-1] // 2
        left = self._side(images[..., :middle], share[..., :middle])
        right = self._side(images[..., middle:].flip(-1), share[..., middle:].flip(-1))
        return torch.cat([left + right, (left - right).abs()], dim=1)

    def _side(self, images: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        maps = [torch.sigmoid((images - level) * _STEEPNESS) for level in _LEVELS]
        maps += [images, images.square()]
        for step in _SCALES:
            for axis in (2, 3):
                ahead = images.narrow(axis, step, images.shape[axis] - step)
                behind = images.narrow(axis, 0, images.shape[axis] - step)
                inside = share.narrow(axis, step, share.shape[axis] - step)
                inside = inside * share.narrow(axis, 0, share.shape[axis] - step)
                change = (ahead - behind).abs() * inside
                pad = (0, step, 0, 0) if axis == 3 else (0, 0, 0, step)
                maps.append(functional.pad(change, pad))
        stacked = torch.cat(maps, dim=1)
        whole = self._zones(share)
        figures = self._zones(stacked * share) / whole.clamp_min(_LEAST)
        return (figures * (whole > _LEAST)).flatten(1)

    def _zones(self, values: torch.Tensor) -> torch.Tensor:
        return functional.adaptive_avg_pool2d(values, (self.count, 1))[..., 0]


def zones(
    in_channels: int = 2,
    out_channels: int = 2,
    count: int = 4,
    dropout: float = 0.0,
    shrink: int = 1,
) -> nn.Module:
    """Figures of `count` zones of each half, and a linear layer: (batch, in, rows, columns).

    `shrink` averages squares of pixels first, so that the figures are of coarser detail.
    """
    return Zones(in_channels, out_channels, count, dropout, shrink)
