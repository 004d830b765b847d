"""Judging a model on any folder with an `index.csv`. Nothing is left out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import TrainingError
from models.registry import LoadedModel
from models.training.data import Group, read_groups, read_index
from models.training.metrics import bootstrap, dice, roc_auc

# A slice's score for "something is there": the mean of its highest probabilities. One pixel
# alone would be noise.
_TOP_PIXELS = 20


@dataclass(frozen=True, slots=True)
class GroupScore:
    """How one group (patient) went.

    Attributes:
        dice_volume: of all its slices as one volume; 1 when neither has anything.
        dice_slices: of each slice that has a mask.
        presence: score of each slice, and whether it has a mask.
    """

    name: str
    images: int
    dice_volume: float
    dice_slices: tuple[float, ...]
    presence: tuple[tuple[float, bool], ...]
    seconds: float


def score_groups(
    model: LoadedModel,
    folder: Path,
    split: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> list[GroupScore]:
    """Score every group of a folder, or of one split of it.

    Raises:
        TrainingError: faults in the folder, or nothing in that split.
    """
    entries = [item for item in read_index(folder) if not split or item.split == split]
    if not entries:
        raise TrainingError(f"{folder}: no line belongs to the split {split!r}")
    groups = read_groups(entries)
    scores = []
    for number, group in enumerate(groups, start=1):
        scores.append(_score(model, group))
        if progress is not None:
            progress(number, len(groups))
    return scores


def summarise(scores: list[GroupScore]) -> dict[str, Any]:
    """The scores as one flat object; keys are those that exist for a segmentation."""
    slices = [value for score in scores for value in score.dice_slices]
    volumes = np.array([score.dice_volume for score in scores])
    images = sum(score.images for score in scores)
    presence = [pair for score in scores for pair in score.presence]

    def auc_of(indices: Any) -> float | None:
        drawn = [pair for index in indices for pair in scores[int(index)].presence]
        return roc_auc([value for value, _ in drawn], [there for _, there in drawn])

    summary: dict[str, Any] = {
        "n_images": images,
        "n_groups": len(scores),
        "n_refused": 0,
        "dice_mean": _rounded(float(np.mean(slices)) if slices else None),
        "dice_volume_mean": _rounded(float(volumes.mean())),
        "dice_ci95": _interval(bootstrap(lambda i: float(volumes[i].mean()), len(scores))),
        "auc": _rounded(roc_auc([value for value, _ in presence], [it for _, it in presence])),
        "auc_positive": "slice with a mask",
        "auc_ci95": _interval(bootstrap(auc_of, len(scores), rounds=200)),
        "seconds_per_image": _rounded(sum(score.seconds for score in scores) / images),
    }
    return {key: value for key, value in summary.items() if value is not None}


def _score(model: LoadedModel, group: Group) -> GroupScore:
    began = time.monotonic()
    probabilities = model.predict(group.images, None)[0].astype(np.float32)
    seconds = time.monotonic() - began
    found = probabilities >= model.spec.output.threshold
    there = [bool(mask.any()) for mask in group.masks]
    flat = probabilities.reshape(len(probabilities), -1)
    top = min(_TOP_PIXELS, flat.shape[1])
    highest = np.partition(flat, -top, axis=1)[:, -top:].mean(axis=1)
    return GroupScore(
        name=group.name,
        images=len(group.images),
        dice_volume=dice(found, group.masks),
        dice_slices=tuple(
            dice(found[index], group.masks[index]) for index in np.flatnonzero(there)
        ),
        presence=tuple(
            (float(score), is_there) for score, is_there in zip(highest, there, strict=True)
        ),
        seconds=seconds,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _interval(value: tuple[float, float] | None) -> list[float] | None:
    return None if value is None else [round(value[0], 4), round(value[1], 4)]
