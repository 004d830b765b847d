"""The same network, quicker on a CPU: what torch does slowly is said in another way.

`instance_norm` copies its input into another order of memory and back, twice for each
convolution; `group_norm` with as many groups as channels is the same sum, and works in place of
where the numbers lie, in bfloat16, too. Weights and their names stay as they are.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.instancenorm import _InstanceNorm


class ChannelNorm(nn.Module):
    """An instance norm without running statistics, as a group norm of single channels."""

    def __init__(self, norm: _InstanceNorm) -> None:
        super().__init__()
        self.channels, self.eps = norm.num_features, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(batch, channels, …) to the same."""
        return functional.group_norm(values, self.channels, self.weight, self.bias, self.eps)


def quicker(network: nn.Module) -> nn.Module:
    """Exchange the slow modules of `network`, in place; gives it back."""
    for name, child in network.named_children():
        if isinstance(child, _InstanceNorm) and not child.track_running_stats:
            setattr(network, name, ChannelNorm(child))
        else:
            quicker(child)
    return network
