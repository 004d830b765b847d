"""A fully convolutional network (Long et al. 2015): a classifier whose answer stays a map.

MONAI's own needs weights and layers of torchvision, so the few lines are here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

_LEVELS_SUMMED = 3  # FCN-8s: the deepest level and the two above it


class FCN(nn.Module):
    """See `fcn`."""

    def __init__(self, in_channels: int, out_channels: int, features: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        given = in_channels
        for wider in features:
            self.stages.append(nn.Sequential(_block(given, wider), _block(wider, wider)))
            given = wider
        read = list(features[-_LEVELS_SUMMED:])
        self.scores = nn.ModuleList(nn.Conv2d(wide, out_channels, 1) for wide in read)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, in, rows, columns) to logits (batch, out, rows, columns)."""
        levels, features = [], images
        for number, stage in enumerate(self.stages):
            # odd sizes keep their last row and column
            features = functional.max_pool2d(features, 2, ceil_mode=True) if number else features
            features = stage(features)
            levels.append(features)
        summed: torch.Tensor | None = None
        pairs = list(zip(levels[-len(self.scores) :], self.scores, strict=True))
        for level, score in reversed(pairs):
            found = score(level)
            summed = found if summed is None else found + _larger(summed, found)
        assert summed is not None
        return _larger(summed, images)


def _block(given: int, made: int) -> nn.Module:
    convolution = nn.Conv2d(given, made, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(made), nn.ReLU())


def _larger(small: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    size = (like.shape[-2], like.shape[-1])
    return functional.interpolate(small, size=size, mode="bilinear", align_corners=False)


def fcn(
    in_channels: int = 1, out_channels: int = 1, features: Sequence[int] = (32, 64, 128, 256)
) -> nn.Module:
    """An FCN for images of any size: (batch, in, rows, columns) to logits of the same size.

    Every level of `features` has two 3 × 3 convolutions; between levels 2 × 2 maximum pooling.
    The scores of the three deepest levels are enlarged and summed.

    Raises:
        ValueError: fewer than three levels.
    """
    if len(features) < _LEVELS_SUMMED:
        raise ValueError(f"features: {_LEVELS_SUMMED} levels are summed, {len(features)} given")
    return FCN(in_channels, out_channels, features)
