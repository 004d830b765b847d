"""No network at all: what is bright enough is found. For fixed thresholds and for tests."""

from __future__ import annotations

import torch
from torch import nn

# Logits of ±20 are probabilities of 0 and 1 to any precision that is kept.
_MOST = 20.0
# Half precision must not move a pixel across the threshold.
_STEEPNESS = 1e4


class Threshold(nn.Module):
    """(batch, 1, rows, columns) to logits of the same shape: positive from `level` on.

    With `pooled`, one logit for each image instead, (batch, 1): whether any pixel reaches it.
    """

    def __init__(self, level: float, pooled: bool = False) -> None:
        super().__init__()
        self.register_buffer("level", torch.tensor(float(level)))
        self.pooled = pooled

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Steep around the level; a pixel at the level itself is in."""
        with torch.autocast(images.device.type, enabled=False):
            level: torch.Tensor = self.get_buffer("level")
            logits = ((images.float() - level) * _STEEPNESS + 1e-3).clamp(-_MOST, _MOST)
            return logits.amax(dim=(2, 3)) if self.pooled else logits


def threshold(level: float, pooled: bool = False) -> nn.Module:
    """See `Threshold`; `level` is in units of the preprocessed image."""
    return Threshold(level, pooled)
