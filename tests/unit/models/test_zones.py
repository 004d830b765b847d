"""Figures of lung zones: of both sides, only where the region is."""

from __future__ import annotations

import pytest
import torch

from core.modelspec import NetworkSpec
from models.architectures import build
from models.architectures.zones import Zones


@pytest.fixture
def network() -> Zones:
    torch.manual_seed(1)
    network = build(NetworkSpec(architecture="zones", params={"count": 4})).eval()
    assert isinstance(network, Zones)
    return network


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    share = torch.zeros(2, 1, 64, 64)
    share[:, :, 8:56, 6:28] = 1
    share[:, :, 8:56, 36:58] = 1
    return torch.randn(2, 2, 64, 64, generator=torch.Generator().manual_seed(3)) * share, share


def test_a_mirrored_film_says_the_same(network: Zones) -> None:
    images, share = pictures()
    first = network(images, share).image
    assert first.shape == (2, 2)
    assert torch.allclose(first, network(images.flip(-1), share.flip(-1)).image, atol=1e-5)


def test_one_side_that_differs_is_seen(network: Zones) -> None:
    images, share = pictures()
    shadow = images.clone()
    shadow[:, :, 8:24, 6:28] += 1.5
    figures, changed = network.figures(images, share), network.figures(shadow, share)
    half = figures.shape[1] // 2
    assert float((changed[:, half:] - figures[:, half:]).max()) > 0.5
    lower = shadow.clone()
    lower[:, :, 8:24] = images[:, :, 8:24]
    lower[:, :, 40:56, 6:28] += 1.5
    assert not torch.allclose(network.figures(lower, share), changed, atol=0.1)


def test_what_does_not_count_changes_nothing(network: Zones) -> None:
    images, share = pictures()
    loud = images.clone()
    loud[(share == 0).expand_as(loud)] = 50.0
    assert torch.allclose(network.figures(images, share), network.figures(loud, share), atol=1e-4)
    nothing = network(images, torch.zeros_like(share))
    assert torch.isfinite(nothing.image).all()
