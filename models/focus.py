"""Looking at one region only: cropped to it, freed of how the image was exposed.

A classifier that sees a whole radiograph learns the hospital: markers, collimation, exposure,
the look of a device's processing. Of a region (the lungs) cut out, stretched to one size and
equalised inside, only the region is left.
"""

from __future__ import annotations

import torch
from torch.nn import functional

_BINS = 256
_SAMPLE = 4
_COARSER = 4
_TAIL = 0.005
_UNIFORM_TO_UNIT = 3.0**0.5


def boxes(regions: torch.Tensor, margin: float) -> torch.Tensor:
    """Where the regions lie: (batch, 4) of centre and half width, x before y, in units of
    `affine_grid` (the image reaches from -1 to 1).

    Args:
        regions: (batch, 1, rows, columns), from 0.5 on inside. The outermost 0.5 % of a region
            on each side count as specks. An empty region is the whole image.
        margin: added on each side, as a share of the box's size.
    """
    inside = (regions >= 0.5).float()
    empty = inside.sum(dim=(1, 2, 3)) < 1
    inside = torch.where(empty[:, None, None, None], 1.0, inside)
    parts = []
    for axis in (2, 3):  # the sum over rows is a profile along x
        profile = inside.sum(dim=(1, axis)).cumsum(dim=1)
        share = profile / profile[:, -1:]
        count = share.shape[1]
        low = (share <= _TAIL).sum(dim=1) / count * 2 - 1
        high = ((share < 1 - _TAIL).sum(dim=1) + 1).clamp(max=count) / count * 2 - 1
        parts += [(low + high) / 2, (high - low) / 2 * (1 + 2 * margin)]
    return torch.stack([parts[0], parts[2], parts[1], parts[3]], dim=1)


def crop(
    images: torch.Tensor, regions: torch.Tensor, size: int, margin: float, jitter: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cut the boxes of the regions out and stretch them to size × size.

    `jitter` moves and scales each box at random by about this share of its size, for training:
    an outline is never quite the same.

    Returns:
        images and regions, (batch, 1, size, size) each, and the boxes, for `uncrop`.
    """
    found = boxes(regions, margin)
    if jitter:
        draw = torch.randn(len(found), 4, device=found.device) * jitter
        sizes = found[:, 2:]
        found = torch.cat([found[:, :2] + draw[:, :2] * sizes, sizes * (1 + draw[:, 2:])], dim=1)
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 0, 2] = found[:, 2], found[:, 0]
    theta[:, 1, 1], theta[:, 1, 2] = found[:, 3], found[:, 1]
    grid = functional.affine_grid(theta, [len(images), 1, size, size], align_corners=False)
    cut = functional.grid_sample(images, grid, align_corners=False, padding_mode="border")
    return cut, functional.grid_sample(regions, grid, align_corners=False), found


def uncrop(values: torch.Tensor, found: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Put what was found in crops (batch, 1, …) back to its place; around it is 0."""
    theta = torch.zeros(len(values), 2, 3, device=values.device)
    theta[:, 0, 0], theta[:, 0, 2] = 1 / found[:, 2], -found[:, 0] / found[:, 2]
    theta[:, 1, 1], theta[:, 1, 2] = 1 / found[:, 3], -found[:, 1] / found[:, 3]
    grid = functional.affine_grid(theta, [len(values), 1, rows, columns], align_corners=False)
    return functional.grid_sample(values, grid, align_corners=False)


def widen(regions: torch.Tensor, share: float) -> torch.Tensor:
    """Dilate by a share of the image's size: what an outline cuts off at the border belongs in."""
    reach = round(regions.shape[-1] * share)
    if reach < 1:
        return regions
    rows = functional.max_pool2d(regions, (2 * reach + 1, 1), 1, (reach, 0))
    return functional.max_pool2d(rows, (1, 2 * reach + 1), 1, (0, reach))


def equalise(images: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
    """Replace each value by its rank among the values in the region, uniform around 0, spread 1.

    Whatever curve an exposure or a display applied to the grey values, the result is the same.
    """
    flat, inside = images.flatten(1), regions.flatten(1) >= 0.5
    inside = inside | ~inside.any(dim=1, keepdim=True)
    # ranks against an even sample of the sorted values: exact but for 1 in `_BINS`
    few = torch.where(inside, flat, torch.inf)[:, ::_SAMPLE]
    values = few.sort(dim=1).values
    count = values.isfinite().sum(dim=1, keepdim=True).clamp_min(1)
    at = torch.linspace(0, 1, _BINS, device=images.device)[None] * (count - 1)
    edges = values.gather(1, at.long()).contiguous()
    left = torch.searchsorted(edges, flat.contiguous(), right=False)
    right = torch.searchsorted(edges, flat.contiguous(), right=True)
    rank = (left + right).float() / (2 * _BINS)
    return ((rank * 2 - 1) * _UNIFORM_TO_UNIT).view_as(images)


def local(images: torch.Tensor, regions: torch.Tensor, reach: float) -> torch.Tensor:
    """Z-score against the neighbourhood inside the region: texture without large shadows.

    `reach` is the neighbourhood's half width as a share of the image's size.
    """
    # the means are smooth: a quarter of the resolution shows them as well, 16 times as quickly
    factor = _COARSER if min(images.shape[-2:]) % _COARSER == 0 else 1
    width = 2 * max(1, round(images.shape[-1] / factor * reach)) + 1

    def smooth(values: torch.Tensor) -> torch.Tensor:
        values = functional.avg_pool2d(values, factor)
        for _ in range(2):  # twice a box is nearly a tent; its corners do not show
            values = functional.avg_pool2d(values, (width, 1), 1, (width // 2, 0))
            values = functional.avg_pool2d(values, (1, width), 1, (0, width // 2))
        return functional.interpolate(
            values, scale_factor=factor, mode="bilinear", align_corners=False
        )

    weights = (regions >= 0.5).float() + 1e-4
    total = smooth(weights)
    mean = smooth(images * weights) / total
    spread = (smooth((images - mean).square() * weights) / total).sqrt()
    return ((images - mean) / (spread + 0.1)).clamp(-4, 4)


def focus(
    images: torch.Tensor,
    regions: torch.Tensor,
    size: int,
    margin: float,
    border: float,
    jitter: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a classifier of a region sees.

    Args:
        images: (batch, 1, rows, columns), in any unit.
        regions: (batch, 1, rows, columns), from 0.5 on inside.
        size: rows and columns of the result.
        margin: around the region's box, as a share of its size.
        border: how far around the region is still seen, as a share of the size.
        jitter: see `crop`.

    Returns:
        Two channels (batch, 2, size, size): equalised in the region, and that against its
        neighbourhood; 0 outside. The region there (batch, 1, size, size), and the boxes.
    """
    cut, region, found = crop(images, regions, size, margin, jitter)
    seen = (widen(region, border) >= 0.5).float()
    level = equalise(cut, seen)
    both = torch.cat([level, local(level, seen, reach=1 / 16)], dim=1)
    return both * seen, seen, found
