"""Augmentation of a batch, on whatever device it lies.

Every image of a batch gets its own draw. Geometry changes image and mask alike, with one
interpolation; intensity changes the image only. Amounts are those of `AugmentationConfig`, in
units of the standardised intensity.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from models.training.config import AugmentationConfig

_FIELD_GRID = 4


def augment(
    images: torch.Tensor,
    masks: torch.Tensor,
    config: AugmentationConfig,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change images and masks, both (batch, channels, rows, columns) float32."""
    grid = _grid(images, config, generator)
    masks = functional.grid_sample(masks, grid, align_corners=False, padding_mode="zeros")
    images = functional.grid_sample(images, grid, align_corners=False, padding_mode="border")
    return _intensity(images, config, generator), (masks > 0.5).float()


def _grid(
    images: torch.Tensor, config: AugmentationConfig, generator: torch.Generator
) -> torch.Tensor:
    count = len(images)

    def draw(amount: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * amount

    angle = draw(config.rotation_degrees) * math.pi / 180
    scale = torch.exp(draw(math.log1p(config.scale)))
    flip = torch.ones(count)
    if config.flip_columns:
        flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = [
        torch.stack([cosine * flip, -sine, draw(config.shift)], dim=1),
        torch.stack([sine * flip, cosine, draw(config.shift)], dim=1),
    ]
    theta = torch.stack(rows, dim=1)
    return functional.affine_grid(theta, list(images.shape), align_corners=False)


def _intensity(
    images: torch.Tensor, config: AugmentationConfig, generator: torch.Generator
) -> torch.Tensor:
    shape = (len(images), 1, 1, 1)

    def draw(amount: float) -> torch.Tensor:
        return (torch.rand(shape, generator=generator) * 2 - 1) * amount

    if config.bias_field:
        coarse = torch.randn((len(images), 1, _FIELD_GRID, _FIELD_GRID), generator=generator)
        smooth = functional.interpolate(
            coarse, size=images.shape[-2:], mode="bicubic", align_corners=False
        )
        floor = images.amin(dim=(1, 2, 3), keepdim=True)
        images = floor + (images - floor) * torch.exp(config.bias_field * smooth)
    if config.gamma:
        low = images.amin(dim=(1, 2, 3), keepdim=True)
        span = (images.amax(dim=(1, 2, 3), keepdim=True) - low).clamp_min(1e-6)
        images = ((images - low) / span).pow(torch.exp(draw(config.gamma))) * span + low
    images = images * torch.exp(draw(config.gain)) + draw(config.offset)
    if config.blur:
        chosen = torch.rand(shape, generator=generator) < config.blur
        blurred = functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
        images = torch.where(chosen, blurred, images)
    if config.noise:
        amount = torch.rand(shape, generator=generator) * config.noise
        images = images + amount * torch.randn(images.shape, generator=generator)
    return images
