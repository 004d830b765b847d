"""Structured pruning: whole channels go, the weakest first, and a smaller network stays.

What belongs together (the channels of a convolution, its norm, and what reads them) is found by
`torch-pruning` (Fang et al. 2023, DepGraph). The result is the same architecture with smaller
widths, so it is a package like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from core.errors import ModelError, ModelSpecError
from core.modelspec import NetworkSpec
from models.answer import as_answer
from models.architectures import build

# Parameters of architectures that say how wide a network is.
_WIDTHS = ("channels", "features", "head_features", "init_features", "growth_rate", "dense")


def narrower(network: NetworkSpec, share: float) -> NetworkSpec:
    """The same architecture, each width less `share` of itself, rounded down.

    Raises:
        ModelSpecError: it has no width that could be less.
    """
    params: dict[str, Any] = _with_defaults(network)
    changed = {name: _less(params[name], share) for name in _WIDTHS if params.get(name)}
    if not changed:
        raise ModelSpecError(f"{network.architecture} has no width that could be less")
    return NetworkSpec(architecture=network.architecture, params={**network.params, **changed})


def prune(
    network: nn.Module, spec: NetworkSpec, share: float, images: torch.Tensor
) -> tuple[nn.Module, NetworkSpec]:
    """A network without the `share` of channels with the smallest weights.

    `images` are an input of the network, to follow its channels. Gives the smaller network and
    what its package says of it; `network` itself stays as it is.

    Raises:
        ModelError: torch-pruning is not installed.
        ModelSpecError: the architecture cannot be pruned evenly.
    """
    try:
        import torch_pruning  # noqa: PLC0415 - only who prunes needs it
    except ImportError as error:
        raise ModelError(
            "pruning needs torch-pruning", remedy="pip install 'sentinode[compress]'"
        ) from error
    smaller_spec = narrower(spec, share)
    smaller = build(smaller_spec)
    pruned = build(spec)
    pruned.load_state_dict(network.state_dict())
    last = _last(pruned)
    _in_its_words(pruned)
    pruner = torch_pruning.pruner.MagnitudePruner(
        _Plain(pruned.eval()),
        images,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=share,
        ignored_layers=[last],
    )
    pruner.step()
    state = {**network.state_dict(), **pruned.state_dict()}  # slopes that all channels share
    try:
        smaller.load_state_dict({name: state[name] for name in smaller.state_dict()})
    except RuntimeError as error:
        raise ModelSpecError(
            f"{spec.architecture} cannot be pruned evenly: {str(error)[:300]}",
            remedy="Use --method distil, which trains a smaller one of its own.",
        ) from error
    return smaller, smaller_spec


class _Plain(nn.Module):
    """The network with one tensor as its answer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of pixels, else of images."""
        answer = as_answer(self.network(images))
        found = answer.pixels if answer.pixels is not None else answer.image
        assert found is not None
        return found


def _in_its_words(network: nn.Module) -> None:
    """Exchange what torch-pruning loses count of channels at; the weights keep their names.

    That is a PReLU with one slope for all channels, and an instance norm before a convolution.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.PReLU) and child.num_parameters == 1:
            setattr(network, name, nn.LeakyReLU())
        elif isinstance(child, nn.InstanceNorm2d | nn.InstanceNorm3d) and child.affine:
            flat = isinstance(child, nn.InstanceNorm2d)
            norm = (nn.BatchNorm2d if flat else nn.BatchNorm3d)(child.num_features)
            norm.weight, norm.bias = child.weight, child.bias
            setattr(network, name, norm)
        else:
            _in_its_words(child)


def _last(network: nn.Module) -> nn.Module:
    """The layer that makes the logits: its channels are the labels."""
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
    return [layer for layer in network.modules() if isinstance(layer, kinds)][-1]


def _with_defaults(network: NetworkSpec) -> dict[str, Any]:
    from inspect import signature  # noqa: PLC0415 - beside its only use

    from models.architectures import BUILDERS  # noqa: PLC0415

    builder = BUILDERS.get(network.architecture)
    if builder is None:
        raise ModelSpecError(f"there is no architecture {network.architecture!r} to be narrower")
    known: Mapping[str, Any] = signature(builder).parameters
    defaults = {
        name: item.default for name, item in known.items() if item.default is not item.empty
    }
    return {**defaults, **network.params}


def _less(width: Any, share: float) -> Any:
    if isinstance(width, int):
        return max(1, int(width * (1 - share)))
    return [_less(one, share) for one in width]
