"""Losses by the name that a configuration gives them, for pixels and for images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.losses.dice import DiceCELoss, DiceLoss
from monai.losses.focal_loss import FocalLoss
from torch import nn
from torch.nn import functional

PixelLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
ClassLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_FOCUS = 2.0  # Lin et al. 2017
_DEEPER = 0.5  # each level below counts half of the one above


class _PixelMse(nn.Module):
    """Mean squared error of probabilities."""

    def forward(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return functional.mse_loss(logits.sigmoid(), masks)


def pixel_loss(name: str) -> PixelLoss:
    """A loss on logits (batch, labels, rows, columns) and masks of the same shape, 0 to 1."""
    losses: dict[str, nn.Module] = {
        # Milletari et al. 2016; over the whole batch, or empty slices would weigh too much
        "dice": DiceLoss(sigmoid=True, batch=True),
        "dice_ce": DiceCELoss(sigmoid=True, batch=True),
        "ce": nn.BCEWithLogitsLoss(),
        "mse": _PixelMse(),
        "focal": FocalLoss(),
    }
    return losses[name]


def with_deeper(
    loss: PixelLoss, logits: torch.Tensor, deeper: tuple[torch.Tensor, ...], masks: torch.Tensor
) -> torch.Tensor:
    """The loss at full resolution and at the levels below, each half as heavy (Lee et al. 2015)."""
    total, weight, weights = loss(logits, masks), 1.0, 1.0
    for below in deeper:
        weight *= _DEEPER
        weights += weight
        smaller = functional.adaptive_avg_pool2d(masks, (below.shape[-2], below.shape[-1]))
        total = total + weight * loss(below.float(), smaller)
    return total / weights


def class_loss(name: str, *, exclusive: bool) -> ClassLoss:
    """A loss on logits and targets, both (batch, classes), for each image: (batch,).

    Targets are shares of each class, so that mixed images and smoothed labels have one. With
    `exclusive`, classes exclude each other (softmax); otherwise each has its own sigmoid.
    """

    def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return _entropies(logits, targets, exclusive).sum(dim=1)

    def focal(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        chances = _chances(logits, exclusive)
        missed = (targets - chances).abs() if not exclusive else 1 - chances
        return (missed**_FOCUS * _entropies(logits, targets, exclusive)).sum(dim=1)

    def mean_square(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (_chances(logits, exclusive) - targets).square().mean(dim=1)

    losses: dict[str, ClassLoss] = {"ce": cross_entropy, "focal": focal, "mse": mean_square}
    return losses[name]


def _chances(logits: torch.Tensor, exclusive: bool) -> torch.Tensor:
    return logits.softmax(dim=1) if exclusive else logits.sigmoid()


def _entropies(logits: torch.Tensor, targets: torch.Tensor, exclusive: bool) -> torch.Tensor:
    if exclusive:
        return -targets * logits.log_softmax(dim=1)
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
