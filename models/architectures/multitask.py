"""One encoder, two answers: what every pixel is, and what the whole image is.

The encoder and the decoder are MONAI's SegResNet (Myronenko 2018). The classes are read from
the two deepest levels of the encoder: their mean, their maximum, and their mean over what the
decoder outlined, so that the class of a lesion is read where the lesion lies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets.segresnet import SegResNet
from torch import nn
from torch.nn import functional

from models.answer import Answer
from models.architectures.reading import figures_of

_LEVELS_READ = 2


class MultiTask(nn.Module):
    """See `multitask2d`."""

    def __init__(
        self, net: SegResNet, classes: int, deeper: int, dropout: float, packed: int
    ) -> None:
        super().__init__()
        self.net, self.packed = net, packed
        levels = [net.init_filters * 2**level for level in range(len(net.blocks_down))]
        channels = net.conv_final[-1].out_channels // packed**2
        # the decoder's levels below full resolution, finest first
        self.deeper = nn.ModuleList(
            nn.Conv2d(levels[level], channels, 1) for level in range(1, deeper + 1)
        )
        self.head: nn.Module | None = None
        if classes:
            read = sum(levels[-_LEVELS_READ:])
            self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(3 * read, classes))
            # the decoder's convolutions come later and say nothing of the classes
            net.down_layers[-1].class_features = True

    def forward(self, images: torch.Tensor) -> torch.Tensor | Answer:
        """(batch, in, rows, columns) to an `Answer`; to plain logits without classes."""
        if self.packed > 1:
            images = functional.pixel_unshuffle(images, self.packed)
        deepest, levels = self.net.encode(images)
        decoded, below = deepest, levels[-2::-1]
        outputs = []
        for up, layer, skip in zip(self.net.up_samples, self.net.up_layers, below, strict=True):
            decoded = layer(up(decoded) + skip)
            outputs.append(decoded)
        pixels: torch.Tensor = self.net.conv_final(decoded)
        deeper: tuple[torch.Tensor, ...] = ()
        if self.training and len(self.deeper):
            finest_first = outputs[-2::-1]
            deeper = tuple(
                head(features) for head, features in zip(self.deeper, finest_first, strict=False)
            )
        image = None if self.head is None else self.head(figures_of(levels[-_LEVELS_READ:], pixels))
        if self.packed > 1:
            pixels = functional.pixel_shuffle(pixels, self.packed)
        if image is None and not deeper:
            return pixels
        return Answer(pixels, image, deeper)


def multitask2d(
    in_channels: int = 1,
    out_channels: int = 1,
    classes: int = 0,
    features: int = 16,
    blocks: Sequence[int] = (1, 2, 2, 2),
    norm: str = "instance",
    dropout: float = 0.0,
    deeper: int = 0,
    packed: int = 1,
) -> nn.Module:
    """A residual encoder and decoder with a head for `classes`, or none with 0.

    Rows and columns must be multiples of 2 to the number of levels less one.

    Args:
        in_channels: channels of the input.
        out_channels: labels of a pixel.
        classes: classes of an image.
        features: features at full resolution; every level below has twice as many.
        blocks: residual blocks of each level of the encoder.
        norm: "instance", "group" or "batch".
        dropout: before the class head.
        deeper: levels below full resolution that answer while training (deep supervision,
            Lee et al. 2015).
        packed: this many rows and columns of pixels are packed into channels before the first
            convolution and unpacked after the last (Shi et al. 2016); 2 is about three times as
            quick.

    Raises:
        ValueError: more levels answer than there are.
    """
    if deeper > len(blocks) - 2:
        raise ValueError(f"deeper: {len(blocks)} levels have at most {len(blocks) - 2} between")
    norms: dict[str, tuple[str, dict[str, object]]] = {
        "instance": ("instance", {"affine": True}),
        "group": ("group", {"num_groups": 8}),
        "batch": ("batch", {}),
    }
    if norm not in norms:
        raise ValueError(f"there is no norm {norm!r} (there is: {', '.join(sorted(norms))})")
    net = SegResNet(
        spatial_dims=2,
        init_filters=features,
        in_channels=in_channels * packed**2,
        out_channels=out_channels * packed**2,
        norm=norms[norm],
        blocks_down=tuple(blocks),
        blocks_up=(1,) * (len(blocks) - 1),
    )
    return MultiTask(net, classes, deeper, dropout, packed)
