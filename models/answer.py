"""What a network with more than one answer gives."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Answer(NamedTuple):
    """Answers of one network about a batch of images, as logits.

    Attributes:
        pixels: (batch, labels, rows, columns): one answer for every pixel, or None.
        image: (batch, classes): one answer for each image, or None.
        deeper: answers for every pixel at lower resolutions, finest first; only while training.
        where: (batch, 1, rows, columns), 0 and more: how much each place spoke for the last
            class, or None where the network cannot say it by itself.
    """

    pixels: torch.Tensor | None = None
    image: torch.Tensor | None = None
    deeper: tuple[torch.Tensor, ...] = ()
    where: torch.Tensor | None = None


def as_answer(given: torch.Tensor | Answer) -> Answer:
    """A plain tensor with four axes or more answers for every pixel, else for each image."""
    if isinstance(given, Answer):
        return given
    return Answer(pixels=given) if given.ndim >= 4 else Answer(image=given)
