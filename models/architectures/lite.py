"""Networks on the encoder of EfficientNet-Lite0 (Tan and Le 2019; without squeeze-and-excitation).

The encoder is small, quick on a CPU, and there are weights for it that have seen a million
photographs (`models.training.pretrained`). A few hundred medical images teach such a network more
than one that begins with random weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from models.answer import Answer
from models.architectures.classifiers import Evidence
from models.architectures.reading import figures_of

# kernel, stride, expansion, features, repeats
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM = 32
# the last block of each resolution: 1/2, 1/4, 1/8, 1/16, 1/32
_TOLD = {0: 16, 2: 24, 4: 40, 10: 112, 15: 320}
_LEVELS_READ = 2
_EPSILON = 1e-3
_MOMENTUM = 0.03


def _convolution(given: int, made: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """A convolution and its norm; with a stride, padded as TensorFlow does."""
    layers: list[nn.Module] = []
    padding = kernel // 2
    if stride > 1:
        before = (kernel - stride) // 2
        after = kernel - stride - before
        layers.append(nn.ZeroPad2d((before, after, before, after)))
        padding = 0
    layers.append(nn.Conv2d(given, made, kernel, stride, padding, groups=groups, bias=False))
    layers.append(nn.BatchNorm2d(made, eps=_EPSILON, momentum=_MOMENTUM))
    return nn.Sequential(*layers)


class Block(nn.Module):
    """Wider, across, narrower (Sandler et al. 2018); added to what came in where that fits."""

    def __init__(self, given: int, made: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = given * expansion
        self.expand = _convolution(given, wide, 1) if expansion > 1 else None
        self.across = _convolution(wide, wide, kernel, stride, groups=wide)
        self.narrow = _convolution(wide, made, 1)
        self.added = stride == 1 and given == made
        self.class_features = False

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, given, rows, columns) to (batch, made, rows / stride, columns / stride)."""
        wide = features if self.expand is None else functional.relu6(self.expand(features))
        narrow: torch.Tensor = self.narrow(functional.relu6(self.across(wide)))
        return features + narrow if self.added else narrow


class LiteEncoder(nn.Module):
    """EfficientNet-Lite0 without its classes."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.stem = _convolution(in_channels, _STEM, 3, stride=2)
        blocks: list[nn.Module] = []
        given = _STEM
        for kernel, stride, expansion, made, repeats in _STAGES:
            for turn in range(repeats):
                blocks.append(Block(given, made, kernel, 1 if turn else stride, expansion))
                given = made
        self.blocks = nn.ModuleList(blocks)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """(batch, in, rows, columns) to features at 1/2, 1/4, 1/8, 1/16 and 1/32."""
        features = functional.relu6(self.stem(images))
        told = []
        for number, block in enumerate(self.blocks):
            features = block(features)
            if number in _TOLD:
                told.append(features)
        return told


class LiteMultiTask(nn.Module):
    """See `lite2d`."""

    def __init__(
        self, in_channels: int, out_channels: int, classes: int, widths: Sequence[int], drop: float
    ) -> None:
        super().__init__()
        self.encoder = LiteEncoder(in_channels)
        told = list(_TOLD.values())
        layers: list[nn.Module] = []
        given = told[-1]
        for skip, width in zip(reversed(told[:-1]), widths, strict=True):
            layers.append(
                nn.Sequential(
                    _convolution(given + skip, width, 3),
                    nn.ReLU(inplace=True),
                    _convolution(width, width, 3),
                    nn.ReLU(inplace=True),
                )
            )
            given = width
        self.decoder = nn.ModuleList(layers)
        # four pixels from each place at half the resolution (Shi et al. 2016)
        self.pixels = nn.Conv2d(given, out_channels * 4, 1)
        self.head: nn.Module | None = None
        if classes:
            read = sum(told[-_LEVELS_READ:])
            self.head = nn.Sequential(nn.Dropout(drop), nn.Linear(3 * read, classes))
            # the decoder's convolutions come later and say nothing of the classes
            cast("Block", self.encoder.blocks[-1]).class_features = True

    def forward(self, images: torch.Tensor) -> torch.Tensor | Answer:
        """(batch, in, rows, columns) to an `Answer`; to plain logits without classes."""
        levels = self.encoder(images)
        features = levels[-1]
        for layer, skip in zip(self.decoder, levels[-2::-1], strict=True):
            larger = functional.interpolate(features, scale_factor=2.0, mode="nearest")
            features = layer(torch.cat([larger, skip], dim=1))
        pixels = functional.pixel_shuffle(self.pixels(features), 2)
        if self.head is None:
            return pixels
        return Answer(pixels, self.head(figures_of(levels[-_LEVELS_READ:], pixels)))


class LitePlaces(nn.Module):
    """See `lite`."""

    def __init__(self, in_channels: int, classes: int, sharpness: float, dropout: float) -> None:
        super().__init__()
        self.encoder = LiteEncoder(in_channels)
        self.head = Evidence(list(_TOLD.values())[-1], classes, sharpness, dropout)

    def forward(self, images: torch.Tensor, share: torch.Tensor | None = None) -> Answer:
        """(batch, in, rows, columns) to an `Answer`; see `Evidence` about `share`."""
        features = self.encoder(images)[-1]
        if share is not None:
            share = functional.adaptive_avg_pool2d(share, features.shape[-2:])
        answer: Answer = self.head(features, share)
        return answer


def lite2d(
    in_channels: int = 1,
    out_channels: int = 1,
    classes: int = 0,
    widths: Sequence[int] = (96, 64, 48, 32),
    dropout: float = 0.0,
) -> nn.Module:
    """A U-Net on EfficientNet-Lite0, with a head for `classes`, or none with 0.

    Rows and columns must be multiples of 32.

    Args:
        in_channels: channels of the input.
        out_channels: labels of a pixel.
        classes: classes of an image.
        widths: features of the decoder at 1/16, 1/8, 1/4 and 1/2.
        dropout: before the class head.

    Raises:
        ValueError: not four widths.
    """
    if len(widths) != len(_TOLD) - 1:
        raise ValueError(f"widths: {len(_TOLD) - 1} numbers, not {len(widths)}")
    return LiteMultiTask(in_channels, out_channels, classes, widths, dropout)


def lite(
    in_channels: int = 1, out_channels: int = 2, sharpness: float = 1.0, dropout: float = 0.0
) -> nn.Module:
    """EfficientNet-Lite0 that answers for each place of 32 × 32 pixels, then for the image."""
    return LitePlaces(in_channels, out_channels, sharpness, dropout)
