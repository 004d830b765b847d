"""Augmentation of grey values: exposure, look and sharpness of another device."""

from __future__ import annotations

import torch
from torch.nn import functional

from models.training.config import AugmentationConfig

_FIELD_GRID = 4
_COARSEST = 3  # times fewer pixels each way
_TEXTURE_SPREAD = 0.12  # of the kernel's weights around the identity
_EDGE = 0.12  # widest border, as a share of the side


def change_intensity(
    images: torch.Tensor, config: AugmentationConfig, generator: torch.Generator
) -> torch.Tensor:
    """Change the grey values of (batch, channels, rows, columns), each image by its own draw."""
    shape = (len(images), 1, 1, 1)

    def draw(amount: float) -> torch.Tensor:
        return (torch.rand(shape, generator=generator) * 2 - 1) * amount

    def chosen(share: float) -> torch.Tensor:
        return torch.rand(shape, generator=generator) < share

    if config.bias_field:
        images = _bias_field(images, config.bias_field, generator)
    if config.gamma:
        low = images.amin(dim=(1, 2, 3), keepdim=True)
        span = (images.amax(dim=(1, 2, 3), keepdim=True) - low).clamp_min(1e-6)
        images = ((images - low) / span).pow(torch.exp(draw(config.gamma))) * span + low
    images = images * torch.exp(draw(config.gain)) + draw(config.offset)
    if config.texture:
        images = torch.where(chosen(config.texture), _textured(images, generator), images)
    if config.blur:
        images = torch.where(chosen(config.blur), _smooth(images), images)
    if config.sharpness:
        images = images + draw(config.sharpness) * (images - _smooth(images))
    if config.coarse:
        images = torch.where(chosen(config.coarse), _coarsened(images, generator), images)
    if config.noise:
        amount = torch.rand(shape, generator=generator) * config.noise
        images = images + amount * torch.randn(images.shape, generator=generator)
    if config.edges:
        images = _edges(images, config.edges, generator)
    if config.cutout:
        images = _cutout(images, config.cutout, generator)
    return images


def _smooth(images: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)


def _bias_field(images: torch.Tensor, spread: float, generator: torch.Generator) -> torch.Tensor:
    coarse = torch.randn((len(images), 1, _FIELD_GRID, _FIELD_GRID), generator=generator)
    smooth = functional.interpolate(
        coarse, size=images.shape[-2:], mode="bicubic", align_corners=False
    )
    floor = images.amin(dim=(1, 2, 3), keepdim=True)
    return floor + (images - floor) * torch.exp(spread * smooth)


def _textured(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    count, channels, rows, columns = images.shape
    kernels = torch.randn((count, 1, 3, 3), generator=generator) * _TEXTURE_SPREAD
    kernels[:, :, 1, 1] += 1
    kernels = kernels.repeat_interleave(channels, dim=0)
    flat = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    flat = flat.reshape(1, count * channels, rows + 2, columns + 2)
    return functional.conv2d(flat, kernels, groups=count * channels).view_as(images)


def _coarsened(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One resolution for the whole batch: the draw decides who sees it."""
    factor = 1 + (_COARSEST - 1) * float(torch.rand(1, generator=generator))
    size = [max(1, round(side / factor)) for side in images.shape[-2:]]
    small = functional.interpolate(
        images, size=size, mode="bilinear", align_corners=False, antialias=True
    )
    return functional.interpolate(
        small, size=images.shape[-2:], mode="bilinear", align_corners=False
    )


def _places(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres of rows and columns, 0 to 1, ready to be compared with (batch, 1, 1, 1)."""
    rows, columns = images.shape[-2:]
    row = ((torch.arange(rows) + 0.5) / rows).view(1, 1, -1, 1)
    return row, ((torch.arange(columns) + 0.5) / columns).view(1, 1, 1, -1)


def _edges(images: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    count = len(images)
    row, column = _places(images)
    widths = torch.rand((4, count, 1, 1, 1), generator=generator) * _EDGE
    widths = widths * (torch.rand(widths.shape, generator=generator) < 0.5)
    widths = widths * (torch.rand((count, 1, 1, 1), generator=generator) < share)
    outside = (row < widths[0]) | (row > 1 - widths[1])
    outside = outside | (column < widths[2]) | (column > 1 - widths[3])
    low = images.amin(dim=(1, 2, 3), keepdim=True)
    high = images.amax(dim=(1, 2, 3), keepdim=True)
    white = torch.rand((count, 1, 1, 1), generator=generator) < 0.2
    return torch.where(outside, torch.where(white, high, low), images)


def _cutout(images: torch.Tensor, most: float, generator: torch.Generator) -> torch.Tensor:
    row, column = _places(images)
    half, down, right = torch.rand((3, len(images), 1, 1, 1), generator=generator)
    half = half * most / 2
    hidden = ((row - down).abs() < half) & ((column - right).abs() < half)
    return torch.where(hidden, images.mean(dim=(1, 2, 3), keepdim=True), images)
