"""Networks by the name that a specification gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from core.errors import ModelSpecError
from core.modelspec import NetworkSpec
from models.architectures.cnn import cnn
from models.architectures.threshold import threshold
from models.architectures.unet import unet2d

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "cnn": cnn,
    "threshold": threshold,
    "unet2d": unet2d,
}


def build(network: NetworkSpec) -> nn.Module:
    """Build a network from its specification, with random weights.

    Raises:
        ModelSpecError: no such architecture, or parameters that it does not take.
    """
    builder = BUILDERS.get(network.architecture)
    if builder is None:
        known = ", ".join(sorted(BUILDERS))
        raise ModelSpecError(
            f"network.architecture: there is no {network.architecture!r} (there is: {known})"
        )
    parameters: dict[str, Any] = network.params
    try:
        return builder(**parameters)
    except (TypeError, ValueError) as error:
        raise ModelSpecError(f"network.params of {network.architecture}: {error}") from error


def on_device(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, its weights in the order that convolutions are quickest in."""
    moved: nn.Module = network.to(device)
    return cast("nn.Module", moved.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
