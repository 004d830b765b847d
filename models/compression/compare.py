"""Before and after: how good, how large, how quick, on the same images in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.modelspec import ModelSpec
from models.registry import LoadedModel
from models.training.data import read_groups, read_index
from models.training.evaluate import score_groups, summarise

_ROUNDS = 5
_MOST_IMAGES = 48
_SCORES = ("dice_volume_mean", "dice_mean", "accuracy", "auc")


@dataclass(frozen=True)
class Line:
    """One model of a comparison.

    Attributes:
        scores: as `sentinode models evaluate` gives them.
        megabytes: of the weights' file, in 10⁶ bytes.
        images_per_second: of our inference path, preprocessing included; median of rounds.
    """

    name: str
    scores: dict[str, Any]
    megabytes: float
    images_per_second: float


def compare(models: Sequence[LoadedModel], folder: Path, split: str = "") -> list[Line]:
    """Judge models on the same folder; their speed is measured in turns, round by round.

    Raises:
        TrainingError: faults in the folder, or nothing in that split.
    """
    summaries = [summarise(score_groups(model, folder, split), model.spec) for model in models]
    speeds = _speeds(models, folder, split)
    return [
        Line(_name(model.spec), scores, model.spec.weights_path.stat().st_size / 1e6, speed)
        for model, scores, speed in zip(models, summaries, speeds, strict=True)
    ]


def table(lines: Sequence[Line]) -> str:
    """The comparison as Markdown; the first line is what the others are held against."""
    first = lines[0]
    known = [name for name in _SCORES if name in first.scores]
    rows = ["| model | " + " | ".join(known) + " | MB | images/s | smaller | quicker |"]
    rows.append("|" + " --- |" * (len(known) + 5))
    for line in lines:
        scores = " | ".join(f"{line.scores[name]:.4f}" for name in known)
        rows.append(
            f"| {line.name} | {scores} | {line.megabytes:.2f} | {line.images_per_second:.1f} | "
            f"{first.megabytes / line.megabytes:.2f} × | "
            f"{line.images_per_second / first.images_per_second:.2f} × |"
        )
    return "\n".join(rows)


def _speeds(models: Sequence[LoadedModel], folder: Path, split: str) -> list[float]:
    entries = [item for item in read_index(folder) if not split or item.split == split]
    volumes, images = [], 0
    for group in read_groups(entries[:_MOST_IMAGES]):
        volumes.append(group.images)
        images += len(group.images)
    taken: list[list[float]] = [[] for _ in models]
    for _ in range(_ROUNDS):
        for model, seconds in zip(models, taken, strict=True):
            began = time.perf_counter()
            for volume in volumes:
                model.examine(volume, None)
            seconds.append(time.perf_counter() - began)
    return [images / statistics.median(seconds) for seconds in taken]


def _name(spec: ModelSpec) -> str:
    return f"{spec.name} {spec.version}"
