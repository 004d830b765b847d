"""Augmentation: masks go with their images, everything comes from the generator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from models.training.augment import Batch, augment
from models.training.config import AugmentationConfig

SIZE = 48
EVERYTHING: dict[str, Any] = {
    "rotation_degrees": 20,
    "scale": 0.2,
    "shift": 0.1,
    "stretch": 0.2,
    "elastic": 0.03,
    "crop": 0.7,
    "flip_columns": True,
    "gain": 0.2,
    "offset": 0.2,
    "gamma": 0.3,
    "bias_field": 0.2,
    "noise": 0.1,
    "blur": 0.5,
    "sharpness": 1.0,
    "coarse": 0.5,
    "texture": 0.5,
    "edges": 0.5,
    "cutout": 0.3,
    "mixup": 0.4,
    "lonely": 0.5,
}


def batch(count: int = 6, channels: int = 1) -> Batch:
    """Images that are 10 inside their mask and 0 outside."""
    masks = torch.zeros(count, 1, SIZE, SIZE)
    for index in range(count):
        masks[index, 0, 10 + index : 26 + index, 8:30] = 1
    images = (masks * 10).repeat(1, channels, 1, 1)
    targets = torch.eye(2)[torch.arange(count) % 2]
    return Batch(images, masks, targets, torch.linspace(0.5, 2, count))


def changed(before: Batch, seed: int = 1, **amounts: Any) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return augment(before, AugmentationConfig(**amounts), generator)


def test_without_amounts_nothing_changes() -> None:
    before = batch()
    after = changed(before)
    assert torch.allclose(after.images, before.images, atol=1e-4)
    assert torch.equal(after.masks, before.masks)


@pytest.mark.parametrize(
    "amount",
    [
        {"rotation_degrees": 30},
        {"scale": 0.3},
        {"shift": 0.2},
        {"stretch": 0.4},
        {"elastic": 0.05},
        {"crop": 0.6},
        {"flip_columns": True},
    ],
    ids=lambda amount: next(iter(amount)),
)
def test_geometry_moves_the_mask_with_its_image(amount: dict[str, Any]) -> None:
    before = batch()
    after = changed(before, **amount)
    assert not torch.equal(after.masks, before.masks)
    bright = (after.images > 5).float()
    # one pixel of the outline may fall on either side of the threshold
    assert float((bright - after.masks).abs().sum()) <= 0.01 * float(after.masks.sum())


@pytest.mark.parametrize(
    "amount",
    [
        {"gain": 0.3},
        {"offset": 0.3},
        {"bias_field": 0.3},
        {"noise": 0.3},
        {"blur": 1.0},
        {"sharpness": 1.0},
        {"coarse": 1.0},
        {"texture": 1.0},
        {"edges": 1.0},
        {"cutout": 0.4},
    ],
    ids=lambda amount: next(iter(amount)),
)
def test_intensity_leaves_the_mask(amount: dict[str, Any]) -> None:
    before = batch()
    after = changed(before, **amount)
    assert not torch.allclose(after.images, before.images, atol=1e-3)
    assert torch.equal(after.masks, before.masks)
    assert torch.isfinite(after.images).all()


def test_gamma_keeps_the_range() -> None:
    values = torch.rand(4, 1, SIZE, SIZE) * 7 - 3
    after = changed(replace(batch(4), images=values), gamma=0.6)
    assert not torch.allclose(after.images, values, atol=1e-2)
    assert torch.allclose(after.images.amin(dim=(1, 2, 3)), values.amin(dim=(1, 2, 3)), atol=1e-4)
    assert torch.allclose(after.images.amax(dim=(1, 2, 3)), values.amax(dim=(1, 2, 3)), atol=1e-4)


def test_what_comes_in_from_outside() -> None:
    images = torch.full((4, 1, SIZE, SIZE), 5.0)
    images[..., 20, 20] = -1.0
    before = replace(batch(4), images=images)
    border = changed(before, shift=0.8, beyond="border").images
    darkest = changed(before, shift=0.8, beyond="darkest").images
    assert (border < 0).float().mean() < 0.01
    assert (darkest == -1).float().mean() > 0.1
    assert darkest.min() == -1


def test_mixed_images_have_shares_of_both_labels() -> None:
    after = changed(batch(), mixup=1.0)
    assert after.targets is not None
    assert torch.allclose(after.targets.sum(dim=1), torch.ones(6))
    assert ((after.targets > 0.01) & (after.targets < 0.99)).any()
    own = torch.eye(2)[torch.arange(6) % 2].bool()
    assert (after.targets[own] >= 0.5).all()  # an image keeps the larger share of itself
    # image and mask are mixed by the same share
    assert torch.allclose(after.images, after.masks * 10, atol=1e-3)


def test_lonely_slices_are_their_own_neighbours() -> None:
    before = batch(channels=3)
    before.images[:, 0] += 1
    after = changed(before, lonely=1.0)
    assert torch.allclose(after.images[:, 0], before.images[:, 1], atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_everything_at_once_by_seed(channels: int) -> None:
    one, same, other = (changed(batch(channels=channels), seed, **EVERYTHING) for seed in (4, 4, 5))
    assert one.images.shape == (6, channels, SIZE, SIZE)
    assert torch.isfinite(one.images).all()
    assert torch.equal(one.images, same.images)
    assert torch.equal(one.masks, same.masks)
    assert not torch.equal(one.images, other.images)
    assert 0 <= float(one.masks.min()) <= float(one.masks.max()) <= 1
