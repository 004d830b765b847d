"""The training loop: deterministic by seed, resumable after a kill.

Everything random of an epoch comes from a generator seeded with (seed, epoch), so a training
that was killed and resumed makes the same weights as one that ran through.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from core.errors import TrainingError
from core.modelspec import read_spec
from models.answer import Answer, as_answer
from models.architectures import build, on_device
from models.training.augment import Batch, augment
from models.training.checkpoint import CHECKPOINT, read_checkpoint, write_checkpoint
from models.training.config import Config
from models.training.dataset import split, to_images
from models.training.losses import class_loss, pixel_loss, with_deeper
from models.training.metrics import roc_auc
from models.training.optimisers import make_optimiser, make_schedule
from models.training.pretrained import begin_with_imagenet
from models.weights import load_weights

_SEED_STRIDE = 100_003


@dataclass
class Epoch:
    """What one epoch came to.

    Attributes:
        monitor_dice: of all held-out images as one.
        monitor_auc: of the last class against the rest, over held-out images.
    """

    number: int
    loss: float
    monitor_loss: float | None
    monitor_dice: float | None
    learning_rate: float
    monitor_auc: float | None = None


class Training:
    """One training of one configuration, in a folder of its own.

    Raises:
        TrainingError: faults in the data or the configuration.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.history: list[Epoch] = []
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.training.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = on_device(build(config.network), self.device)
        self._start()
        self.averaged = build(config.network).to(self.device)
        self.averaged.load_state_dict(self.network.state_dict())
        training, monitor = split(config)
        self.data = to_images(training, config)
        self.monitor = to_images(monitor, config) if monitor else None
        self.learns_pixels, self.learns_classes = self._try_one()
        self.steps = max(1, len(self.data) // config.training.batch_size)
        self.pixel_loss = pixel_loss(config.training.loss)
        exclusive = config.class_output.activation == "softmax"
        self.class_loss = class_loss(config.training.class_loss, exclusive=exclusive)
        self.optimiser = make_optimiser(config.training, self.network.parameters())
        # plain gradient descent sees the whole set before each of its steps
        self.moves = 1 if config.training.optimiser == "gd" else self.steps
        self.schedule = make_schedule(
            config.training, self.optimiser, config.training.epochs * self.moves
        )

    def _start(self) -> None:
        """Begin parts with a package's weights; let parts rest."""
        for part, package in self.config.training.start.items():
            spec = read_spec(package)
            load_weights(self._part(part), spec)
        for part in self.config.training.imagenet:
            begin_with_imagenet(self._part(part))
        for part in self.config.training.rest:
            self._part(part).requires_grad_(False)

    def _part(self, name: str) -> nn.Module:
        try:
            return self.network.get_submodule(name)
        except AttributeError as error:
            raise TrainingError(f"the network has no part {name!r}: {error}") from error

    def _try_one(self) -> tuple[bool, bool]:
        """One image through the network: what does not fit is told before the first epoch.

        Returns:
            Whether the network learns pixels, and whether it learns classes.
        """
        self.network.eval()
        size, share = self.config.data.size, self.config.training.class_share
        batch = self.data.batch(slice(0, 1), self.config.data.classes)
        try:
            with torch.inference_mode():
                answer = self._ask(self.network, batch)
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"the network does not take images of {size} × {size}: {error}",
                remedy="data.size (and data.depth, which a network in 3D needs) must be a multiple "
                "of 2 to the number of levels less one.",
            ) from error
        masks = max(1, self.config.data.depth)
        if answer.pixels is not None and answer.pixels.shape[1] != masks:
            raise TrainingError(
                f"the network makes {answer.pixels.shape[1]} channels, a mask has one"
            )
        classes = self.config.data.classes
        if answer.image is not None and answer.image.shape[1] != classes:
            raise TrainingError(
                f"the network makes {answer.image.shape[1]} classes, data.labels name {classes}",
                remedy="Give each label its channel in data.labels, counted from 0.",
            )
        if answer.image is None and classes:
            raise TrainingError("data.labels name classes, but the network answers for pixels only")
        return (
            answer.pixels is not None and (share < 1 or answer.image is None),
            answer.image is not None,
        )

    def _ask(self, network: nn.Module, batch: Batch) -> Answer:
        """Forward pass; a cascade's classifier is shown the masks where that is wanted."""
        images = batch.images.to(self.device, memory_format=torch.channels_last)
        with self._autocast():
            if self.config.data.depth:
                # slices were channels for the augmentation; the network sees them as an axis
                answer = as_answer(network(images.unsqueeze(1).contiguous()))
                return answer if answer.pixels is None else self._of_slices(answer, answer.pixels)
            if self.config.training.regions:
                return as_answer(network(images, batch.masks.to(self.device)))
            return as_answer(network(images))

    @staticmethod
    def _of_slices(answer: Answer, pixels: torch.Tensor) -> Answer:
        if pixels.shape[1] != 1:
            raise TrainingError(f"the network makes {pixels.shape[1]} channels, a mask has one")
        return answer._replace(pixels=pixels.squeeze(1))

    def resume(self) -> bool:
        """Go on from the checkpoint in the folder; False when there is none.

        Raises:
            TrainingError: the checkpoint is damaged or belongs to another configuration.
        """
        state = read_checkpoint(self.folder / CHECKPOINT, self.config, self.device)
        if state is None:
            return False
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = [Epoch(**item) for item in state["history"]]
        return True

    def run(self, console: Console) -> nn.Module:
        """Train to the end of the schedule; returns the network to use.

        Raises:
            TrainingError: the loss is no number any more, or memory does not do.
        """
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        total = self.config.training.epochs
        with (
            SummaryWriter(str(self.folder / "tensorboard")) as writer,
            Progress(*columns, TimeRemainingColumn(), console=console) as progress,
        ):
            done = len(self.history)
            bar = progress.add_task("training", total=total * self.steps)
            progress.update(bar, completed=done * self.steps)
            for number in range(done + 1, total + 1):
                epoch = self._epoch(number, progress, bar)
                self.history.append(epoch)
                self._save()
                self._tell(epoch, writer, console)
                if self._give_up():
                    console.print(f"no progress for {self.config.training.patience} epochs: ended")
                    break
        return self.averaged if self.config.training.average else self.network

    def _epoch(self, number: int, progress: Progress, bar: Any) -> Epoch:
        generator = torch.Generator().manual_seed(self.config.training.seed * _SEED_STRIDE + number)
        torch.manual_seed(self.config.training.seed * _SEED_STRIDE + number)  # dropout
        self.network.train()
        for part in self.config.training.rest:
            self._part(part).eval()  # its running statistics rest, too
        total = 0.0
        for step, batch in enumerate(self._batches(generator), start=1):
            loss = self._step(batch)
            total += loss
            if self.moves > 1 or step == self.steps:
                self._move()
            description = f"epoch {number}, loss {total / step:.4f}"
            progress.update(bar, advance=1, description=description)
        watched = self._watch()
        rate = float(self.schedule.get_last_lr()[0])
        return Epoch(number, total / self.steps, watched[0], watched[1], rate, watched[2])

    def _batches(self, generator: torch.Generator) -> Iterator[Batch]:
        size, classes = self.config.training.batch_size, self.config.data.classes
        order = torch.randperm(len(self.data), generator=generator)
        for step in range(self.steps):
            batch = self.data.batch(order[step * size : (step + 1) * size], classes)
            yield augment(batch, self.config.augmentation, generator)

    def _step(self, batch: Batch) -> float:
        """Gradients of one batch, added to those that are there; gives the loss."""
        try:
            loss = self._loss(self._ask(self.network, batch), batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} after {self.schedule.last_epoch} steps",
                    remedy="Lower training.learning_rate, or look for images of one value.",
                )
            torch.autograd.backward(loss * self.moves / self.steps)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"a batch of {len(batch.images)} does not fit into the memory of {self.device}",
                remedy="Lower training.batch_size or data.size; then go on with --resume.",
            ) from error
        return value

    def _loss(self, answer: Answer, batch: Batch) -> torch.Tensor:
        """Pixels and classes, weighed by `training.class_share`."""
        parts: list[torch.Tensor] = []
        share = self.config.training.class_share if self.learns_classes else 0.0
        if self.learns_pixels and answer.pixels is not None:
            masks = batch.masks.to(self.device)
            deeper = answer.deeper
            found = with_deeper(self.pixel_loss, answer.pixels.float(), deeper, masks)
            parts.append(found * (1 - share) if share else found)
        if self.learns_classes and answer.image is not None and batch.targets is not None:
            smoothing = self.config.training.label_smoothing
            targets = batch.targets.to(self.device)
            targets = targets * (1 - smoothing) + smoothing / targets.shape[1]
            each = self.class_loss(answer.image.float(), targets) * batch.weights.to(self.device)
            parts.append(each.mean() * (share if self.learns_pixels else 1.0))
        return torch.stack(parts).sum()

    def _move(self) -> None:
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.schedule.step()
        self._average()

    @torch.no_grad()
    def _average(self) -> None:
        """Exponential moving average of the weights; steadier than the last step's."""
        decay = self.config.training.average
        # early averages would remember the random beginning
        decay = min(decay, (1 + self.schedule.last_epoch) / (10 + self.schedule.last_epoch))
        source = self.network.state_dict()
        for name, value in self.averaged.state_dict().items():
            if value.is_floating_point():
                value.lerp_(source[name], 1 - decay)
            else:
                value.copy_(source[name])

    @torch.inference_mode()
    def _watch(self) -> tuple[float | None, float | None, float | None]:
        """Loss, Dice and AUC over the held-out groups."""
        if self.monitor is None:
            return None, None, None
        network = self.averaged if self.config.training.average else self.network
        network.eval()
        size, classes = self.config.training.batch_size, self.config.data.classes
        loss, overlap, both = 0.0, 0.0, 0.0
        scores: list[float] = []
        for start in range(0, len(self.monitor), size):
            batch = self.monitor.batch(slice(start, start + size), classes)
            answer = self._ask(network, batch)
            loss += float(self._loss(answer, batch)) * len(batch.images)
            if self.learns_pixels and answer.pixels is not None:
                masks = batch.masks.to(self.device)
                found = (answer.pixels > 0).float()
                overlap += float((found * masks).sum())
                both += float(found.sum() + masks.sum())
            if self.learns_classes and answer.image is not None:
                scores += answer.image.float().softmax(dim=1)[:, -1].tolist()
        dice = (2 * overlap / both if both else 1.0) if self.learns_pixels else None
        positive = (self.monitor.classes == classes - 1).tolist()
        auc = roc_auc(scores, positive) if scores else None
        return loss / len(self.monitor), dice, auc

    def _autocast(self) -> torch.autocast:
        enabled = self.config.training.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _save(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": [vars(item) for item in self.history],
        }
        write_checkpoint(self.folder / CHECKPOINT, self.config, state)

    def _tell(self, epoch: Epoch, writer: SummaryWriter, console: Console) -> None:
        writer.add_scalar("loss/train", epoch.loss, epoch.number)
        line = f"epoch {epoch.number}: loss {epoch.loss:.4f}"
        for name, value in (
            ("loss", epoch.monitor_loss),
            ("Dice", epoch.monitor_dice),
            ("AUC", epoch.monitor_auc),
        ):
            if value is not None:
                writer.add_scalar(f"{name.lower()}/monitor", value, epoch.number)
                line += f", held-out {name} {value:.4f}"
        console.print(line, highlight=False)

    def _give_up(self) -> bool:
        patience = self.config.training.patience
        losses = [item.monitor_loss for item in self.history if item.monitor_loss is not None]
        return (
            bool(patience)
            and len(losses) > patience
            and min(losses[-patience:]) >= min(losses[:-patience])
        )
