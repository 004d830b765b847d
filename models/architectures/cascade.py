"""First where the organ is, then what is in it: a segmenter, and a classifier of the region.

The classifier sees nothing else (`models.focus`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from models.answer import Answer, as_answer
from models.focus import focus, uncrop

Build = Callable[[Mapping[str, Any]], nn.Module]


class Cascade(nn.Module):
    """See `cascade`."""

    def __init__(
        self,
        segmenter: nn.Module,
        classifier: nn.Module,
        size: int,
        margin: float,
        border: float,
        coarse: int,
        jitter: float,
    ) -> None:
        super().__init__()
        self.segmenter, self.classifier = segmenter, classifier
        self.size, self.margin, self.border, self.coarse = size, margin, border, coarse
        self.jitter = jitter

    def forward(self, images: torch.Tensor, regions: torch.Tensor | None = None) -> Answer:
        """(batch, 1, rows, columns) to an `Answer`.

        With `regions` (batch, 1, rows, columns) the segmenter is not asked; for the training of
        the classifier.
        """
        pixels = None
        if regions is None:
            pixels = self._outline(images)
            regions = torch.sigmoid(pixels[:, :1].detach().float())
        with torch.autocast(images.device.type, enabled=False):
            # while training, outlines are wide and narrow, as a segmenter's are
            border = self.border * (2 * float(torch.rand(1)) if self.training else 1.0)
            jitter = self.jitter if self.training else 0.0
            seen, share, found = focus(
                images.float(), regions.float(), self.size, self.margin, border, jitter
            )
        answer = as_answer(self.classifier(seen, share))
        where = answer.where
        if where is not None:
            fine = functional.interpolate(
                where.detach().float(), size=seen.shape[-2:], mode="bilinear", align_corners=False
            )
            rows, columns = images.shape[-2:]
            where = uncrop(fine, found, rows, columns)
        return Answer(pixels=pixels, image=answer.image, where=where)

    def _outline(self, images: torch.Tensor) -> torch.Tensor:
        if not self.coarse:
            return _pixels(self.segmenter(images))
        small = functional.interpolate(
            images,
            size=(self.coarse, self.coarse),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        logits = _pixels(self.segmenter(small))
        return functional.interpolate(
            logits.float(), size=images.shape[-2:], mode="bilinear", align_corners=False
        )


def _pixels(given: torch.Tensor | Answer) -> torch.Tensor:
    pixels = as_answer(given).pixels
    if pixels is None:
        raise ValueError("the segmenter of a cascade gives no answer for every pixel")
    return pixels


def cascade(
    build: Build,
    segmenter: Mapping[str, Any],
    classifier: Mapping[str, Any],
    size: int = 224,
    margin: float = 0.04,
    border: float = 0.03,
    coarse: int = 0,
    jitter: float = 0.04,
) -> nn.Module:
    """A segmenter, then a classifier of what it outlined.

    Args:
        build: makes a network of `architecture` and `params`.
        segmenter: its first label is the region.
        classifier: takes two channels of size × size, and how much each place counts.
        size, margin, border: see `models.focus.focus`.
        coarse: rows and columns at which the segmenter works; 0 is the image's own size.
        jitter: how unsteady the region's box is while training, as a share of its size.
    """
    return Cascade(build(segmenter), build(classifier), size, margin, border, coarse, jitter)
