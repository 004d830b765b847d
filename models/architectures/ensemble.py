"""Several networks asked together; and an image asked twice, once mirrored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from models.answer import Answer, as_answer

Build = Callable[[Mapping[str, Any]], nn.Module]


class Ensemble(nn.Module):
    """See `ensemble`."""

    def __init__(self, members: Sequence[nn.Module], mirrored: bool) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.mirrored = mirrored

    def forward(
        self, images: torch.Tensor, share: torch.Tensor | None = None
    ) -> torch.Tensor | Answer:
        """The mean of the members' logits, in the form of a member's answer."""
        answers: list[Answer] = []
        plain = True
        for mirrored in (False, True) if self.mirrored else (False,):
            seen = [
                item.flip(-1) if mirrored else item for item in (images, share) if item is not None
            ]
            for member in self.members:
                said = member(*seen)
                plain = plain and not isinstance(said, Answer)
                answer = as_answer(said)
                answers.append(_flipped(answer) if mirrored else answer)
        mean = Answer(
            pixels=_mean([answer.pixels for answer in answers]),
            image=_mean([answer.image for answer in answers]),
            where=_mean([answer.where for answer in answers]),
        )
        if not plain:
            return mean
        only = mean.pixels if mean.pixels is not None else mean.image
        assert only is not None
        return only


def _flipped(answer: Answer) -> Answer:
    def back(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else values.flip(-1)

    return answer._replace(pixels=back(answer.pixels), where=back(answer.where))


def _mean(given: list[torch.Tensor | None]) -> torch.Tensor | None:
    values = [item.float() for item in given if item is not None]
    return torch.stack(values).mean(dim=0) if len(values) == len(given) else None


def ensemble(
    build: Build, kinds: Sequence[Mapping[str, Any]], members: int = 1, mirrored: bool = False
) -> nn.Module:
    """`members` networks of each of `kinds`, their logits averaged.

    `mirrored` asks each of them twice, the second time about the image mirrored left to right
    (test-time augmentation).

    Raises:
        ValueError: fewer than one member.
    """
    if members < 1 or not kinds:
        raise ValueError(f"{members} members of {len(kinds)} kinds are none")
    return Ensemble([build(kind) for kind in kinds for _ in range(members)], mirrored)
