"""Losses, optimisers and schedules: small and known answers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.training.config import TrainingConfig
from models.training.losses import class_loss, pixel_loss, with_deeper
from models.training.optimisers import make_optimiser, make_schedule

PIXEL_LOSSES = ["dice_ce", "dice", "ce", "mse", "focal"]


def masks() -> torch.Tensor:
    truth = torch.zeros(2, 1, 8, 8)
    truth[:, :, 2:5, 2:6] = 1
    return truth


@pytest.mark.parametrize("name", PIXEL_LOSSES)
def test_the_truth_costs_least(name: str) -> None:
    loss = pixel_loss(name)
    sure = masks() * 20 - 10
    assert float(loss(sure, masks())) < 0.01
    assert float(loss(-sure, masks())) > 0.3
    assert 0.01 < float(loss(sure * 0, masks())) < float(loss(-sure, masks()))


def test_levels_below_count_half_of_the_one_above() -> None:
    loss = pixel_loss("mse")
    right, wrong = masks() * 40 - 20, 20 - masks() * 40
    small = functional.avg_pool2d(masks(), 2)
    assert float(with_deeper(loss, right, (), masks())) < 0.01
    below = (small.clamp(1e-6, 1 - 1e-6)).logit()
    assert float(with_deeper(loss, right, (below,), masks())) < 0.01
    assert float(with_deeper(loss, wrong, (below,), masks())) == pytest.approx(1 / 1.5, abs=0.02)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("name", ["ce", "mse", "focal"])
def test_the_true_class_costs_least(name: str, exclusive: bool) -> None:
    loss = class_loss(name, exclusive=exclusive)
    targets = torch.eye(3)
    right, unsure, wrong = (loss(targets * k, targets) for k in (20.0, 0.0, -20.0))
    assert right.shape == (3,)
    assert (right < unsure).all()
    assert (unsure < wrong).all()


def test_cross_entropy_is_torchs_and_focal_is_less_for_what_is_easy() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(6) % 4
    targets = functional.one_hot(labels, 4).float()
    found = class_loss("ce", exclusive=True)(logits, targets)
    assert torch.allclose(found, functional.cross_entropy(logits, labels, reduction="none"))
    focal = class_loss("focal", exclusive=True)(logits, targets)
    chance = logits.softmax(dim=1)[torch.arange(6), labels]
    assert torch.allclose(focal, (1 - chance) ** 2 * found, atol=1e-6)


def config(**values: object) -> TrainingConfig:
    return TrainingConfig(**{"epochs": 1, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gd", "sgd", "adam", "adamw"])
def test_every_optimiser_goes_downhill(name: str) -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 3.0)
    optimiser = make_optimiser(
        config(optimiser=name, learning_rate=0.1, weight_decay=0.0), layer.parameters()
    )
    for _ in range(60):
        optimiser.zero_grad()
        torch.autograd.backward(layer.weight.square().sum())
        optimiser.step()
    assert abs(float(layer.weight.detach())) < 0.5


def test_plain_gradient_descent_has_no_memory() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    optimiser = make_optimiser(
        config(optimiser="gd", learning_rate=0.5, weight_decay=0.0), [weight]
    )
    for _ in range(2):
        weight.grad = torch.tensor([1.0])
        optimiser.step()
    assert float(weight.detach()) == pytest.approx(0.0)


def test_what_rests_is_not_moved() -> None:
    moving, resting = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1), requires_grad=False)
    optimiser = make_optimiser(config(), [moving, resting])
    assert [item for group in optimiser.param_groups for item in group["params"]] == [moving]


@pytest.mark.parametrize(
    ("schedule", "middle", "late"),
    [
        ("cosine", 0.5, 0.5 * (1 + math.cos(math.pi * 0.8))),
        ("constant", 1, 1),
        ("steps", 0.1, 0.01),
    ],
)
def test_schedules(schedule: str, middle: float, late: float) -> None:
    optimiser = make_optimiser(config(learning_rate=1.0), [nn.Parameter(torch.ones(1))])
    rates = []
    plan = make_schedule(config(schedule=schedule, warm_up=0.2), optimiser, steps=125)
    for _ in range(125):
        rates.append(plan.get_last_lr()[0])
        optimiser.step()
        plan.step()
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[25] == pytest.approx(1)
    assert rates[75] == pytest.approx(middle)
    assert rates[105] == pytest.approx(late)
