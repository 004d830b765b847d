"""The training loop: deterministic by seed, resumable after a kill.

Everything random of an epoch comes from a generator seeded with (seed, epoch), so a training
that was killed and resumed makes the same weights as one that ran through.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from monai.losses.dice import DiceCELoss, DiceLoss
from monai.losses.focal_loss import FocalLoss
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter

from core.errors import TrainingError
from models.architectures import build, on_device
from models.preprocessing import prepare_volume
from models.training.augment import augment
from models.training.config import Config
from models.training.data import Group, read_groups, read_index

CHECKPOINT = "checkpoint.pt"
_SEED_STRIDE = 100_003


@dataclass
class Images:
    """Training images ready for the network: (n, 1, size, size), masks alike."""

    images: torch.Tensor
    masks: torch.Tensor


@dataclass
class Epoch:
    """What one epoch came to."""

    number: int
    loss: float
    monitor_loss: float | None
    monitor_dice: float | None
    learning_rate: float


def make_loss(name: str) -> nn.Module:
    """The loss of that name, on logits (batch, channels, rows, columns)."""
    losses: dict[str, nn.Module] = {
        # Milletari et al. 2016; over the whole batch, or empty slices would weigh too much
        "dice": DiceLoss(sigmoid=True, batch=True),
        "dice_ce": DiceCELoss(sigmoid=True, batch=True),
        "focal": FocalLoss(),
    }
    return losses[name]


def split(config: Config) -> tuple[list[Group], list[Group]]:
    """Training groups and monitoring groups; only lines of the `train` split, or
    of none, are used.

    Raises:
        TrainingError: faults in the data, or nothing to train on.
    """
    index = read_index(config.data.folder)
    entries = [item for item in index if item.split in {"", "train"}]
    if not entries:
        raise TrainingError(f"{config.data.folder}: no line belongs to the train split")
    both = {item.group for item in entries} & {item.group for item in index if item.split == "val"}
    if both:
        shown = ", ".join(sorted(both)[:3])
        raise TrainingError(f"{config.data.folder}: groups in train and val at once: {shown} …")
    groups = read_groups(entries)
    names = sorted({group.name for group in groups})
    rng = np.random.default_rng(config.training.seed)
    held = set(rng.permutation(names)[: round(len(names) * config.data.monitor)].tolist())
    training = [group for group in groups if group.name not in held]
    return training, [group for group in groups if group.name in held]


def to_images(groups: list[Group], config: Config) -> Images:
    """Preprocess groups, each as one volume, and cut or pad them to the training size."""
    size = config.data.size
    images, masks = [], []
    for group in groups:
        plan = prepare_volume(config.preprocessing, group.images, None)
        prepared = plan.prepare(group.images)
        masked = torch.from_numpy(group.masks).float().unsqueeze(1)
        if any(plan.padding):
            masked = functional.pad(masked, plan.padding)
        images.append(_fit(prepared, size, plan.fill))
        masks.append(_fit(masked, size, 0.0))
    return Images(torch.cat(images), torch.cat(masks))


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
        self.averaged = build(config.network).to(self.device)
        self.averaged.load_state_dict(self.network.state_dict())
        training, monitor = split(config)
        self.data = to_images(training, config)
        self.monitor = to_images(monitor, config) if monitor else None
        self._try_one()
        self.steps = max(1, len(self.data.images) // config.training.batch_size)
        self.loss = make_loss(config.training.loss)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.training.learning_rate,
            weight_decay=config.training.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)

    def _try_one(self) -> None:
        """One image through the network: what does not fit is told before the first epoch."""
        self.network.eval()
        size = self.config.data.size
        try:
            with torch.inference_mode():
                answer = self.network(self.data.images[:1].to(self.device))
        except RuntimeError as error:
            raise TrainingError(
                f"the network does not take images of {size} × {size}: {error}",
                remedy="data.size must be a multiple of 2 to the number of levels less one.",
            ) from error
        if answer.shape[1] != 1:
            raise TrainingError(f"the network makes {answer.shape[1]} channels, a mask has one")

    def resume(self) -> bool:
        """Go on from the checkpoint in the folder; False when there is none.

        Raises:
            TrainingError: the checkpoint is damaged or belongs to another configuration.
        """
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return False
        try:
            state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
            raise TrainingError(
                f"{path} cannot be read: {error}", remedy="Begin anew in another folder (--out)."
            ) from error
        if state["config"] != _essence(self.config):
            raise TrainingError(
                f"{path} belongs to another configuration",
                remedy="Begin anew in another folder (--out), or without --resume.",
            )
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
        total = 0.0
        for step, (images, masks) in enumerate(self._batches(generator), start=1):
            loss = self._step(images, masks)
            total += loss
            description = f"epoch {number}, loss {total / step:.4f}"
            progress.update(bar, advance=1, description=description)
        monitor_loss, monitor_dice = self._watch()
        rate = float(self.schedule.get_last_lr()[0])
        return Epoch(number, total / self.steps, monitor_loss, monitor_dice, rate)

    def _batches(self, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        size = self.config.training.batch_size
        order = torch.randperm(len(self.data.images), generator=generator)
        for step in range(self.steps):
            chosen = order[step * size : (step + 1) * size]
            yield augment(
                self.data.images[chosen],
                self.data.masks[chosen],
                self.config.augmentation,
                generator,
            )

    def _step(self, images: torch.Tensor, masks: torch.Tensor) -> float:
        try:
            images = images.to(self.device, memory_format=torch.channels_last)
            with self._autocast():
                logits = self.network(images)
            loss = self.loss(logits.float(), masks.to(self.device))
            value = float(loss.detach())
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} after {self.schedule.last_epoch} steps",
                    remedy="Lower training.learning_rate, or look for images of one value.",
                )
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimiser.step()
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"a batch of {len(images)} does not fit into the memory of {self.device}",
                remedy="Lower training.batch_size or data.size; then go on with --resume.",
            ) from error
        self.schedule.step()
        self._average()
        return value

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
    def _watch(self) -> tuple[float | None, float | None]:
        if self.monitor is None:
            return None, None
        network = self.averaged if self.config.training.average else self.network
        network.eval()
        size = self.config.training.batch_size
        loss, overlap, both = 0.0, 0.0, 0.0
        for start in range(0, len(self.monitor.images), size):
            images = self.monitor.images[start : start + size].to(self.device)
            masks = self.monitor.masks[start : start + size].to(self.device)
            with self._autocast():
                logits = network(images)
            loss += float(self.loss(logits.float(), masks)) * len(images)
            found = (logits > 0).float()
            overlap += float((found * masks).sum())
            both += float(found.sum() + masks.sum())
        return loss / len(self.monitor.images), 2 * overlap / both if both else 1.0

    def _autocast(self) -> torch.autocast:
        enabled = self.config.training.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _rate(self, step: int) -> float:
        """Linear warm-up, then a cosine down to zero (Loshchilov and Hutter 2017)."""
        total = self.config.training.epochs * self.steps
        warm = max(1, round(total * self.config.training.warm_up))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    def _save(self) -> None:
        path = self.folder / CHECKPOINT
        partial = path.with_suffix(".part")
        state = {
            "config": _essence(self.config),
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": [vars(item) for item in self.history],
        }
        torch.save(state, partial)
        partial.replace(path)

    def _tell(self, epoch: Epoch, writer: SummaryWriter, console: Console) -> None:
        writer.add_scalar("loss/train", epoch.loss, epoch.number)
        line = f"epoch {epoch.number}: loss {epoch.loss:.4f}"
        if epoch.monitor_loss is not None and epoch.monitor_dice is not None:
            writer.add_scalar("loss/monitor", epoch.monitor_loss, epoch.number)
            writer.add_scalar("dice/monitor", epoch.monitor_dice, epoch.number)
            line += f", held-out: loss {epoch.monitor_loss:.4f}, Dice {epoch.monitor_dice:.4f}"
        console.print(line, highlight=False)

    def _give_up(self) -> bool:
        patience = self.config.training.patience
        losses = [item.monitor_loss for item in self.history if item.monitor_loss is not None]
        return (
            bool(patience)
            and len(losses) > patience
            and min(losses[-patience:]) >= min(losses[:-patience])
        )


def _essence(config: Config) -> str:
    """What the weights depend on: a corrected title or a moved folder does not stop a resume."""
    parts = {"preprocessing", "network", "augmentation", "training"}
    return config.model_dump_json(
        include={**dict.fromkeys(parts, True), "data": {"size", "monitor"}}
    )


def _fit(images: torch.Tensor, size: int, fill: float) -> torch.Tensor:
    """Crop at the centre, or pad evenly, to size × size."""
    rows, columns = images.shape[-2:]
    top, left = (size - rows) // 2, (size - columns) // 2
    return functional.pad(images, (left, size - columns - left, top, size - rows - top), value=fill)
