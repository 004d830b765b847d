"""Every architecture by its name: sizes, what it refuses, and that it can learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.errors import ModelSpecError
from core.modelspec import NetworkSpec
from models.answer import as_answer
from models.architectures import build, on_device

TINY: list[tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]]] = [
    ("cnn", {"rows": 32, "columns": 40, "out_channels": 3}, (2, 1, 32, 40), (2, 3)),
    ("cnn", {"rows": 32, "columns": 32, "dense": 0}, (1, 1, 32, 32), (1, 2)),
    ("cnn", {"rows": 16, "columns": 16, "kernel_size": 5}, (1, 1, 16, 16), (1, 2)),
    ("efficientnet", {"out_channels": 3}, (2, 1, 32, 32), (2, 3)),
    ("fcn", {"features": [4, 6, 8], "out_channels": 2}, (2, 1, 33, 47), (2, 2, 33, 47)),
    ("unet3d", {"channels": [4, 6, 8]}, (1, 1, 8, 16, 12), (1, 1, 8, 16, 12)),
    (
        "unet3d",
        {"channels": [4, 6, 8], "strides": [[1, 2, 2], 2], "out_channels": 2},
        (1, 1, 2, 16, 16),
        (1, 2, 2, 16, 16),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "params", "given", "made"), TINY)
def test_logits_have_the_size_that_is_said(
    name: str, params: dict[str, Any], given: tuple[int, ...], made: tuple[int, ...]
) -> None:
    network = build(NetworkSpec(architecture=name, params=params))
    network = on_device(network, torch.device("cpu")).eval()
    with torch.inference_mode():
        answer = as_answer(network(torch.randn(given)))
    found = answer.pixels if len(made) > 2 else answer.image
    assert found is not None
    assert tuple(found.shape) == made
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(("name", "params", "given", "made"), TINY)
def test_a_few_steps_lower_the_loss(
    name: str, params: dict[str, Any], given: tuple[int, ...], made: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    network = build(NetworkSpec(architecture=name, params=params)).train()
    images, wanted = torch.randn(2, *given[1:]), torch.rand(2, *made[1:]).round()
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(images), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert min(losses) < losses[0] * 0.97


def test_the_sequential_cnn_is_the_text_s() -> None:
    """Three blocks of 3 × 3 convolution 32, 64, 128, ReLU, 2 × 2 max pooling; then dense."""
    network = build(NetworkSpec(architecture="cnn", params={"rows": 64, "columns": 64, "dense": 0}))
    kinds = [type(layer).__name__ for layer in network][1:]
    assert kinds == ["Conv2d", "ReLU", "MaxPool2d"] * 3 + ["Flatten", "Linear"]
    convolutions = [layer for layer in network if isinstance(layer, torch.nn.Conv2d)]
    assert [(it.out_channels, it.kernel_size) for it in convolutions] == [
        (32, (3, 3)),
        (64, (3, 3)),
        (128, (3, 3)),
    ]


@pytest.mark.parametrize(
    ("name", "params", "match"),
    [
        ("fcn", {"features": [4, 8]}, "3 levels are summed"),
        ("efficientnet", {"size": 9}, "EfficientNet-B9"),
        ("unet3d", {"channels": [4, 8, 16], "strides": [2]}, "2 strides between"),
        ("cnn", {"rows": 4, "columns": 4}, "too few"),
        ("cnn", {"rows": 8, "columns": 8, "activation": "step"}, "sigmoid"),
        ("unet4d", {}, "there is no 'unet4d'"),
    ],
)
def test_what_cannot_be_built_is_told(name: str, params: dict[str, Any], match: str) -> None:
    with pytest.raises(ModelSpecError, match=match):
        build(NetworkSpec(architecture=name, params=params))
