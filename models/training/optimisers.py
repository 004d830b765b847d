"""Optimisers and schedules by the name that a configuration gives them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from models.training.config import TrainingConfig


def make_optimiser(
    config: TrainingConfig, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimiser of `config.optimiser`.

    "gd" is "sgd" without momentum; that it sees the whole set in each step is the loop's part.
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    rate, decay = config.learning_rate, config.weight_decay
    match config.optimiser:
        case "gd":
            return torch.optim.SGD(wanted, lr=rate, weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(
                wanted, lr=rate, weight_decay=decay, momentum=config.momentum, nesterov=True
            )
        case "adam":
            return torch.optim.Adam(wanted, lr=rate, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(wanted, lr=rate, weight_decay=decay)


def make_schedule(config: TrainingConfig, optimiser: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """A linear warm-up over its share of all `steps`, then `config.schedule`."""
    warm = max(1, round(steps * config.warm_up))

    def rate(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        if config.schedule == "constant":
            return 1.0
        if config.schedule == "steps":
            return 0.1 ** ((done >= 0.5) + (done >= 0.75))
        return 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimiser, rate)
