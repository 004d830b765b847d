"""Augmentation of a batch, on whatever device it lies.

Every image of a batch gets its own draw. Geometry changes image and mask alike, with one
interpolation; intensity (`models.training.intensity`) changes the image only. Amounts are those
of `AugmentationConfig`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from models.training.config import AugmentationConfig
from models.training.intensity import change_intensity

_ELASTIC_GRID = 6


@dataclass(frozen=True)
class Batch:
    """What one step learns from.

    Attributes:
        images: (batch, channels, rows, columns) float32.
        masks: (batch, labels, rows, columns) float32, 0 to 1.
        targets: (batch, classes) float32: the share of each class; None without classes.
        weights: (batch,) float32: how much each image's class counts.
    """

    images: torch.Tensor
    masks: torch.Tensor
    targets: torch.Tensor | None
    weights: torch.Tensor


def augment(batch: Batch, config: AugmentationConfig, generator: torch.Generator) -> Batch:
    """Change a batch as the configuration says."""
    images = batch.images
    if config.lonely and images.shape[1] > 1:
        images = _lonely(images, config.lonely, generator)
    grid = _grid(images, config, generator)
    masks = functional.grid_sample(batch.masks, grid, align_corners=False, padding_mode="zeros")
    images = _sampled(images, grid, config)
    images = change_intensity(images, config, generator)
    changed = replace(batch, images=images, masks=(masks > 0.5).float())
    return _mixed(changed, config.mixup, generator) if config.mixup else changed


def _sampled(images: torch.Tensor, grid: torch.Tensor, config: AugmentationConfig) -> torch.Tensor:
    if config.beyond == "border":
        return functional.grid_sample(images, grid, align_corners=False, padding_mode="border")
    floor = images.amin(dim=(1, 2, 3), keepdim=True)  # outside is 0, which is then the darkest
    return functional.grid_sample(images - floor, grid, align_corners=False) + floor


def _lonely(images: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    chosen = torch.rand((len(images), 1, 1, 1), generator=generator) < share
    centre = images.shape[1] // 2
    return torch.where(chosen, images[:, centre : centre + 1], images)


def _grid(
    images: torch.Tensor, config: AugmentationConfig, generator: torch.Generator
) -> torch.Tensor:
    count = len(images)

    def draw(amount: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * amount

    angle = draw(config.rotation_degrees) * math.pi / 180
    scale = torch.exp(draw(math.log1p(config.scale)))
    across, along = torch.ones(count), torch.ones(count)
    shifts = [draw(config.shift), draw(config.shift)]
    if config.flip_columns:
        across = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    if config.stretch:
        stretch = torch.exp(draw(math.log1p(config.stretch)) / 2)
        across, along = across * stretch, along / stretch
    if config.crop:
        for place in range(2):
            kept = config.crop + (1 - config.crop) * torch.rand(count, generator=generator)
            shifts[place] = shifts[place] + draw(1.0) * (1 - kept)
            across, along = (across * kept, along) if place == 0 else (across, along * kept)
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = [
        torch.stack([cosine * across, -sine * along, shifts[0]], dim=1),
        torch.stack([sine * across, cosine * along, shifts[1]], dim=1),
    ]
    theta = torch.stack(rows, dim=1)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    if not config.elastic:
        return grid
    coarse = torch.randn((count, 2, _ELASTIC_GRID, _ELASTIC_GRID), generator=generator)
    bent = functional.interpolate(
        coarse, size=images.shape[-2:], mode="bicubic", align_corners=False
    )
    return grid + config.elastic * bent.movedim(1, -1)


def _mixed(batch: Batch, alpha: float, generator: torch.Generator) -> Batch:
    """Each image mixed with another one; masks and targets become shares (mix-up)."""
    count = len(batch.images)
    # a beta variable from two gamma variables; torch draws those with a generator
    pair = torch._standard_gamma(torch.full((2, count), alpha), generator=generator)
    share = (pair[0] / pair.sum(dim=0).clamp_min(1e-12)).clamp(0, 1)
    share = torch.maximum(share, 1 - share)
    other = torch.randperm(count, generator=generator)

    def mix(values: torch.Tensor) -> torch.Tensor:
        part = share.view(-1, *[1] * (values.ndim - 1))
        return part * values + (1 - part) * values[other]

    return Batch(
        mix(batch.images),
        mix(batch.masks),
        None if batch.targets is None else mix(batch.targets),
        mix(batch.weights),
    )
