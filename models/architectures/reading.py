"""What a class head reads of an image that the same network outlines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional


def figures_of(levels: Sequence[torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """Features in figures: their mean, their maximum, and their mean over what is outlined.

    So the class of a lesion is read where the lesion lies. The outline guides the reading; the
    class does not bend the outline.

    Args:
        levels: each (batch, features, rows, columns).
        pixels: (batch, labels, rows, columns), logits.

    Returns:
        (batch, 3 × all features), float32.
    """
    region = torch.sigmoid(pixels.detach().float()).amax(dim=1, keepdim=True)
    parts = []
    for features in levels:
        values = features.float()
        share = functional.adaptive_avg_pool2d(region, (features.shape[-2], features.shape[-1]))
        inside = (values * share).sum(dim=(2, 3)) / share.sum(dim=(2, 3)).clamp_min(1.0)
        parts += [values.mean(dim=(2, 3)), values.amax(dim=(2, 3)), inside]
    return torch.cat(parts, dim=1)
