"""Networks by the name that a specification gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from core.errors import ModelSpecError
from core.modelspec import NetworkSpec
from models.architectures.cascade import cascade
from models.architectures.classifiers import densenet, efficientnet, resnet
from models.architectures.cnn import cnn
from models.architectures.ensemble import ensemble
from models.architectures.fcn import fcn
from models.architectures.lite import lite, lite2d
from models.architectures.middle import middle
from models.architectures.multitask import multitask2d
from models.architectures.threshold import threshold
from models.architectures.unet import unet2d, unet3d
from models.architectures.zones import zones

_VOLUMES = 5  # axes of a 3D convolution's weights


def _part(network: Mapping[str, Any]) -> nn.Module:
    """A network that is part of another, by `architecture` and `params`."""
    if set(network) - {"architecture", "params"} or "architecture" not in network:
        raise ValueError(f"a part has 'architecture' and 'params', not {sorted(network)}")
    return build(NetworkSpec(**network))


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "cascade": partial(cascade, _part),
    "cnn": cnn,
    "densenet": densenet,
    "efficientnet": efficientnet,
    "ensemble": partial(ensemble, _part),
    "fcn": fcn,
    "lite": lite,
    "lite2d": lite2d,
    "middle": partial(middle, _part),
    "multitask2d": multitask2d,
    "resnet": resnet,
    "threshold": threshold,
    "unet2d": unet2d,
    "unet3d": unet3d,
    "zones": zones,
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
    if any(weight.ndim == _VOLUMES for weight in moved.parameters()):
        return moved  # that order is for images; mixed networks stay as they are
    return cast("nn.Module", moved.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
