"""A network for single slices, among others that see a slice with its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from models.answer import Answer

Build = Callable[[Mapping[str, Any]], nn.Module]


class Middle(nn.Module):
    """(batch, 1 + 2 × neighbours, rows, columns): `network` sees the middle channel alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor | Answer:
        """What the network says of the slice itself."""
        own = images.shape[1] // 2
        said: torch.Tensor | Answer = self.network(images[:, own : own + 1])
        return said


def middle(build: Build, network: Mapping[str, Any]) -> nn.Module:
    """`network` (architecture and params) for the middle one of several neighbouring slices."""
    return Middle(build(network))
