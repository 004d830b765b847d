"""U-Nets (Ronneberger et al. 2015), with residual units (Kerfoot et al. 2018), from MONAI."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.unet import UNet
from torch import nn


def unet2d(
    in_channels: int = 1,
    out_channels: int = 1,
    channels: Sequence[int] = (16, 32, 64, 128, 256),
    num_res_units: int = 2,
    norm: str = "instance",
    dropout: float = 0.0,
) -> nn.Module:
    """A 2D U-Net: (batch, in, rows, columns) to logits (batch, out, rows, columns).

    Rows and columns must be multiples of 2 to the number of levels less one. `channels` gives
    the features of each level; every level halves the image.
    """
    return UNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=list(channels),
        strides=[2] * (len(channels) - 1),
        num_res_units=num_res_units,
        norm=norm,
        dropout=dropout,
    )
