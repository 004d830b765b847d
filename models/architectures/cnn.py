"""A plain convolutional network that classifies whole images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import nn

from core.errors import ModelSpecError

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def cnn(
    rows: int,
    columns: int,
    in_channels: int = 1,
    out_channels: int = 2,
    channels: Sequence[int] = (32, 64, 128),
    kernel_size: int = 3,
    activation: str = "relu",
    dense: int = 128,
    dropout: float = 0.0,
) -> nn.Module:
    """The sequential CNN: convolution, activation, 2 × 2 max pooling for each of `channels`.

    Then flatten, a dense layer with `dense` features (none with 0) and the dense layer of the
    logits. The head is the specification's `output.activation`: softmax, or sigmoid.

    (batch, in, rows, columns) to logits (batch, out). The first dense layer sees every place of
    the last block, so the input's size is part of the network: let the preprocessing `resize`
    to it.

    Raises:
        ValueError: an even kernel, an activation that is not known, or images so small that
            pooling leaves nothing.
    """
    if activation not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        raise ValueError(f"there is no activation {activation!r} (there is: {known})")
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, not {kernel_size}")
    shrink = 2 ** len(channels)
    if min(rows, columns) < shrink:
        raise ValueError(f"{rows} × {columns} pixels are too few: {shrink} are needed each way")
    layers: OrderedDict[str, nn.Module] = OrderedDict(size=_ExpectSize(rows, columns))
    features = in_channels
    for block, wider in enumerate(channels, start=1):
        layers[f"convolution{block}"] = nn.Conv2d(features, wider, kernel_size, padding="same")
        layers[f"activation{block}"] = ACTIVATIONS[activation]()
        layers[f"pooling{block}"] = nn.MaxPool2d(2)
        features = wider
    layers["flatten"] = nn.Flatten()
    features *= (rows // shrink) * (columns // shrink)
    if dense:
        layers["dense"] = nn.Linear(features, dense)
        layers["activation"] = ACTIVATIONS[activation]()
        features = dense
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    layers["logits"] = nn.Linear(features, out_channels)
    return nn.Sequential(layers)


class _ExpectSize(nn.Module):
    """Says what is wrong before a matrix product says it in its own words."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.size = rows, columns

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pass images of the right size.

        Raises:
            ModelSpecError: they have another.
        """
        found = tuple(images.shape[-2:])
        if found != self.size:
            raise ModelSpecError(
                f"the network takes {self.size[0]} × {self.size[1]} pixels, the preprocessing "
                f"makes {found[0]} × {found[1]}: add the step 'resize'"
            )
        return images
