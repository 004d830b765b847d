"""From groups of files to what a network trains on: split by group, preprocessed, in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from core.errors import TrainingError
from models.preprocessing import prepare_volume
from models.training.augment import Batch
from models.training.bias import figures_outside, weights
from models.training.config import Config
from models.training.data import Entry, Group, read_groups, read_index


@dataclass
class Images:
    """Training images ready for the network.

    Attributes:
        images: (n, channels, size, size); with `data.depth` the channels are neighbouring slices.
        masks: (n, 1, size, size), or one for each of those slices.
        classes: (n,) int64, the class of each image; empty without classes.
        weights: (n,): how much each image's class counts.
    """

    images: torch.Tensor
    masks: torch.Tensor
    classes: torch.Tensor
    weights: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, chosen: torch.Tensor | slice, classes: int) -> Batch:
        """The chosen images, with targets of so many classes, or none with 0."""
        targets = None
        if classes:
            targets = functional.one_hot(self.classes[chosen], classes).float()
        return Batch(self.images[chosen], self.masks[chosen], targets, self.weights[chosen])


def training_entries(config: Config) -> list[Entry]:
    """The index's lines of the `train` split, or of none.

    Raises:
        TrainingError: faults in the data, or nothing to train on.
    """
    folder = config.data.folder
    index = read_index(folder)
    entries = [item for item in index if item.split in {"", "train"}]
    if not entries:
        raise TrainingError(f"{folder}: no line belongs to the train split")
    both = {item.group for item in entries} & {item.group for item in index if item.split == "val"}
    if both:
        shown = ", ".join(sorted(both)[:3])
        raise TrainingError(f"{folder}: groups in train and val at once: {shown} …")
    _check_labels(entries, config)
    return entries


def held_out(entries: list[Entry], config: Config) -> frozenset[str]:
    """Names of the groups that are not trained on: a fold's, or the monitor's.

    Folds are dealt label by label, so that each has its part of the rare ones.

    Raises:
        TrainingError: fewer groups than folds.
    """
    data = config.data
    rng = np.random.default_rng(config.training.seed if not data.folds else data.folds)
    if not data.folds:
        names = sorted({entry.group for entry in entries})
        held = rng.permutation(names)[: round(len(names) * data.monitor)]
        return frozenset(held.tolist())
    labels: dict[str, str] = {}
    for entry in entries:  # a group counts for the last label in the alphabet that it has
        labels[entry.group] = max(entry.label, labels.get(entry.group, ""))
    if len(labels) < data.folds:
        raise TrainingError(f"{len(labels)} groups cannot be dealt into {data.folds} folds")
    shuffled = rng.permutation(sorted(labels)).tolist()
    dealt = sorted(shuffled, key=lambda name: labels[name])
    return frozenset(dealt[data.fold - 1 :: data.folds])


def split(config: Config) -> tuple[list[Group], list[Group]]:
    """Training groups and monitoring groups.

    Raises:
        TrainingError: faults in the data, or nothing to train on.
    """
    entries = training_entries(config)
    held = held_out(entries, config)
    groups = read_groups(entries)
    training = [group for group in groups if group.name not in held]
    return training, [group for group in groups if group.name in held]


def to_images(groups: list[Group], config: Config) -> Images:
    """Preprocess groups, each as one volume, and cut or pad them to the training size."""
    size = config.data.size
    images, masks = [], []
    for group in groups:
        plan = prepare_volume(config.preprocessing, group.images, None)
        prepared = plan.prepare_between(group.images, 0, len(group.images))
        masked = torch.from_numpy(group.masks).float().unsqueeze(1)
        if plan.resampled != plan.shape:
            masked = functional.interpolate(
                masked, size=plan.resampled, mode="bilinear", align_corners=False, antialias=True
            )
            masked = (masked >= 0.5).float()
        if any(plan.padding):
            masked = functional.pad(masked, plan.padding)
        shown, outlined = _fit(prepared, size, plan.fill), _fit(masked, size, 0.0)
        if config.data.depth:
            shown, outlined = (_stacks(item, config.data.depth) for item in (shown, outlined))
        images.append(shown)
        masks.append(outlined)
    if config.data.depth:
        together = torch.cat(images)
        return Images(together, torch.cat(masks), torch.tensor([]), torch.ones(len(together)))
    entries = [entry for group in groups for entry in group.entries]
    labels = config.data.labels
    classes = torch.tensor([labels[entry.label] for entry in entries] if labels else [])
    heavy = torch.ones(len(entries))
    if config.data.unbiased:
        heavy = heavy * _against_bias(groups, classes)
    if config.training.class_weights == "balanced" and labels:
        counts = torch.bincount(classes, minlength=config.data.classes).clamp_min(1)
        heavy = heavy * (len(entries) / len(counts) / counts)[classes]
    return Images(torch.cat(images), torch.cat(masks), classes.long(), heavy.float())


def _stacks(slices: torch.Tensor, depth: int) -> torch.Tensor:
    """(slices, 1, rows, columns) to (stacks, depth, rows, columns), half of each in the next.

    The last slice stands in for those that a short volume lacks.
    """
    count = len(slices)
    starts = sorted({*range(0, max(1, count - depth), max(1, depth // 2)), max(0, count - depth)})
    return torch.stack(
        [slices[torch.arange(at, at + depth).clamp(max=count - 1), 0] for at in starts]
    )


def _against_bias(groups: list[Group], classes: torch.Tensor) -> torch.Tensor:
    if len(classes) == 0 or int(classes.max()) > 1:
        raise TrainingError("data.unbiased needs two classes: data.labels of 0 and 1")
    pairs = [
        (image, mask, group.name)
        for group in groups
        for image, mask in zip(group.images, group.masks, strict=True)
    ]
    figures = np.stack([figures_outside(image, mask) for image, mask, _ in pairs])
    names = [name for _, _, name in pairs]
    return torch.from_numpy(weights(figures, classes.numpy() == 1, names))


def _check_labels(entries: list[Entry], config: Config) -> None:
    known = config.data.labels
    if not known:
        return
    strange = sorted({entry.label for entry in entries} - set(known))
    if strange:
        raise TrainingError(
            f"{config.data.folder}: label(s) that data.labels lacks: {', '.join(strange)}",
            remedy="Name each label's class in data.labels, or take its lines out of the index.",
        )
    groups: dict[str, set[str]] = {label: set() for label in known}
    for entry in entries:
        groups[entry.label].add(entry.group)
    rare = sorted(
        label for label, names in groups.items() if len(names) < max(2, config.data.folds)
    )
    if rare:
        counts = ", ".join(f"{label} in {len(groups[label])}" for label in rare)
        raise TrainingError(
            f"{config.data.folder}: too few groups have a label: {counts}; at least "
            f"{max(2, config.data.folds)} are needed",
            remedy="Add images, or leave the label out of the index and of data.labels.",
        )


def _fit(images: torch.Tensor, size: int, fill: float) -> torch.Tensor:
    """Crop at the centre, or pad evenly, to size × size."""
    rows, columns = images.shape[-2:]
    top, left = (size - rows) // 2, (size - columns) // 2
    return functional.pad(images, (left, size - columns - left, top, size - rows - top), value=fill)
