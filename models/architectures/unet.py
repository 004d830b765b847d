"""U-Nets (Ronneberger et al. 2015), with residual units (Kerfoot et al. 2018), from MONAI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.networks.nets.unet import UNet
from torch import nn


def unet2d(
    in_channels: int = 1,
    out_channels: int = 1,
    channels: Sequence[int] = (16, 32, 64, 128, 256),
    num_res_units: int = 2,
    norm: str = "instance",
    dropout: float = 0.0,
    head_features: int = 0,
) -> nn.Module:
    """A 2D U-Net: (batch, in, rows, columns) to logits (batch, out, rows, columns).

    Rows and columns must be multiples of 2 to the number of levels less one. `channels` gives
    the features of each level; every level halves the image.

    With `head_features`, the U-Net ends in that many features at full resolution, and a 1 × 1
    convolution makes the logits of them; norms then learn a scale and an offset. Without, MONAI
    normalises the one output channel itself: each slice's logits are forced to the same spread,
    and the few weights behind that set the size of all logits, so training creeps.
    """
    unet = UNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=head_features or out_channels,
        channels=list(channels),
        strides=[2] * (len(channels) - 1),
        num_res_units=num_res_units,
        norm=(norm, {"affine": True}) if head_features else norm,
        dropout=dropout,
    )
    if not head_features:
        return unet
    return nn.Sequential(unet, nn.Conv2d(head_features, out_channels, kernel_size=1))


def unet3d(
    in_channels: int = 1,
    out_channels: int = 1,
    channels: Sequence[int] = (16, 32, 64, 128),
    strides: Sequence[int | Sequence[int]] = (),
    num_res_units: int = 1,
    norm: str = "instance",
    dropout: float = 0.0,
) -> nn.Module:
    """A 3D U-Net (Çiçek et al. 2016): (batch, in, slices, rows, columns) to logits of that size.

    `strides` says how much each level shrinks the one above, one number or (slices, rows,
    columns); 2 each way without it. Where slices are thick, (1, 2, 2) keeps their number. Asked
    through `[window]`, whose sides must be multiples of the product of the strides.

    Raises:
        ValueError: not one stride between any two levels.
    """
    wanted = list(strides) or [2] * (len(channels) - 1)
    steps: list[Any] = [step if isinstance(step, int) else tuple(step) for step in wanted]
    if len(steps) != len(channels) - 1:
        raise ValueError(f"{len(channels)} levels have {len(channels) - 1} strides between them")
    return UNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=list(channels),
        strides=steps,
        num_res_units=num_res_units,
        norm=(norm, {"affine": True}),
        dropout=dropout,
    )
