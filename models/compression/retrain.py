"""A smaller network learns from the images, and from what the larger one says of them.

Distillation (Hinton et al. 2015): the loss is that of the training, and beside it how far the
answers are from the teacher's.
"""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from torch import nn
from torch.nn import functional

from core.modelspec import NetworkSpec
from models.answer import Answer, as_answer
from models.quicker import quicker
from models.training.augment import Batch
from models.training.config import Config
from models.training.loop import Training


class Taught(Training):
    """A training with a teacher.

    Args:
        config: of the training; its network is the pupil's.
        folder: of the training.
        teacher: is not changed.
        share: of the teacher's part of the loss.
        begin: weights that the pupil begins with; random without.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        teacher: nn.Module,
        *,
        share: float = 0.5,
        begin: nn.Module | None = None,
    ) -> None:
        super().__init__(config, folder)
        self.teacher, self.share = teacher.to(self.device).eval().requires_grad_(False), share
        if self.device.type == "cpu":
            quicker(self.teacher)
            quicker(self.network)  # the weights stay where the optimiser knows them
        if begin is not None:
            self.network.load_state_dict(begin.state_dict())
            self.averaged.load_state_dict(begin.state_dict())

    def _loss(self, answer: Answer, batch: Batch) -> torch.Tensor:
        """The training's own, and the distance from the teacher's answers while it learns."""
        own = super()._loss(answer, batch)
        if not self.network.training:
            return own
        with torch.inference_mode():
            said = as_answer(self._ask(self.teacher, batch))
        return (1 - self.share) * own + self.share * _distance(answer, said)


def _distance(answer: Answer, said: Answer) -> torch.Tensor:
    parts = []
    if answer.pixels is not None and said.pixels is not None:
        wanted = said.pixels.float().sigmoid().clone()
        parts.append(functional.binary_cross_entropy_with_logits(answer.pixels.float(), wanted))
    if answer.image is not None and said.image is not None:
        shares = said.image.float().softmax(dim=1).clone()
        parts.append(functional.cross_entropy(answer.image.float(), shares))
    return torch.stack(parts).sum()


def retrain(
    config: Config,
    network: NetworkSpec,
    teacher: nn.Module,
    folder: Path,
    console: Console,
    *,
    epochs: int,
    learning_rate: float,
    begin: nn.Module | None = None,
) -> tuple[nn.Module, Config]:
    """Train `network` on the data of `config`, taught by `teacher`; also gives its configuration.

    Raises:
        TrainingError: faults in the data or the configuration.
    """
    training = config.training.model_copy(
        update={"epochs": epochs, "learning_rate": learning_rate, "start": {}, "rest": ()}
    )
    pupil = config.model_copy(update={"network": network, "training": training})
    taught = Taught(pupil, folder, teacher, begin=begin)
    return taught.run(console), pupil
