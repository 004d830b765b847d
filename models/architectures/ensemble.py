"""Several networks asked together; and an image asked twice, once mirrored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from models.answer import Answer, as_answer

Build = Callable[[Mapping[str, Any]], nn.Module]
Mean = Literal["logits", "sigmoid"]
_OfSeveral = Callable[[torch.Tensor], torch.Tensor]


class Ensemble(nn.Module):
    """See `ensemble`."""

    def __init__(self, members: Sequence[nn.Module], mirrored: bool, mean: Mean) -> None:
        super().__init__()
        self.mean = _MEANS[mean]
        self.members = nn.ModuleList(members)
        self.mirrored = mirrored

    def forward(
        self, images: torch.Tensor, share: torch.Tensor | None = None
    ) -> torch.Tensor | Answer:
        """The mean of the members' answers, as logits and in the form of a member's answer."""
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
            pixels=self._of([answer.pixels for answer in answers]),
            image=self._of([answer.image for answer in answers]),
            where=_present([answer.where for answer in answers], _mean),
        )
        if not plain:
            return mean
        only = mean.pixels if mean.pixels is not None else mean.image
        assert only is not None
        return only

    def _of(self, given: list[torch.Tensor | None]) -> torch.Tensor | None:
        return _present(given, self.mean)


def _flipped(answer: Answer) -> Answer:
    def back(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else values.flip(-1)

    return answer._replace(pixels=back(answer.pixels), where=back(answer.where))


def _present(given: list[torch.Tensor | None], mean: _OfSeveral) -> torch.Tensor | None:
    values = [item.float() for item in given if item is not None]
    return mean(torch.stack(values)) if len(values) == len(given) else None


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.mean(dim=0)


def _mean_of_probabilities(values: torch.Tensor) -> torch.Tensor:
    mean = values.sigmoid().mean(dim=0).clamp(_LEAST, 1 - _LEAST)
    return mean.log() - (1 - mean).log()


_LEAST = 1e-6
_MEANS: dict[str, _OfSeveral] = {"logits": _mean, "sigmoid": _mean_of_probabilities}


def ensemble(
    build: Build,
    kinds: Sequence[Mapping[str, Any]],
    members: int = 1,
    mirrored: bool = False,
    mean: Mean = "logits",
) -> nn.Module:
    """`members` networks of each of `kinds`, their answers averaged.

    `mirrored` asks each of them twice, the second time about the image mirrored left to right
    (test-time augmentation). `mean` says of what the mean is taken: of logits, where a member
    that is very sure of "no" outweighs the others, or of probabilities ("sigmoid"), where each
    has one voice.

    Raises:
        ValueError: fewer than one member, or no such mean.
    """
    if members < 1 or not kinds:
        raise ValueError(f"{members} members of {len(kinds)} kinds are none")
    if mean not in _MEANS:
        raise ValueError(f"mean is one of {', '.join(_MEANS)}, not {mean!r}")
    return Ensemble([build(kind) for kind in kinds for _ in range(members)], mirrored, mean)
