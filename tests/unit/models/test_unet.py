"""The U-Net learns what it is for, and says which parameters it does not take."""

from __future__ import annotations

import pytest
import torch

from core.errors import ModelSpecError
from core.modelspec import NetworkSpec
from models.architectures import build
from models.training.losses import pixel_loss

SMALL = {"channels": [8, 16], "num_res_units": 1, "head_features": 8}


def test_output_has_the_input_s_grid_and_one_channel_per_label() -> None:
    network = build(NetworkSpec(architecture="unet2d", params={**SMALL, "out_channels": 2}))
    assert network(torch.zeros(3, 1, 16, 24)).shape == (3, 2, 16, 24)


def test_a_slice_with_a_blob_and_an_empty_slice_are_both_learned_quickly() -> None:
    """A normalised output channel cannot: every slice's logits get the same spread."""
    torch.manual_seed(3)
    images = 0.1 * torch.randn(4, 1, 32, 32)
    masks = torch.zeros(4, 1, 32, 32)
    masks[:2, :, 8:16, 10:18] = 1
    images += 2 * masks
    network = build(NetworkSpec(architecture="unet2d", params=SMALL))
    loss = pixel_loss("dice_ce")
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        value = loss(network(images), masks)
        value.backward()
        optimiser.step()
    assert float(value.detach()) < 0.3
    assert not bool((network(images)[2:] > 0).any())


def test_an_unknown_architecture_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ModelSpecError, match=r"'unet9d'.*unet2d"):
        build(NetworkSpec(architecture="unet9d"))


def test_a_parameter_that_the_network_does_not_take_is_named() -> None:
    with pytest.raises(ModelSpecError, match="colour"):
        build(NetworkSpec(architecture="unet2d", params={"colour": 1}))
