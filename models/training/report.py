"""A training's report: curves, Dice histogram, worst cases, as Markdown with pictures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt

from models.training.evaluate import ClassScore, GroupScore
from models.training.loop import Epoch

_WORST = 10


def write_report(
    folder: Path,
    title: str,
    history: list[Epoch],
    scores: list[GroupScore],
    summary: dict[str, Any],
    judged: str = "the val split",
) -> Path:
    """Write `report.md` and its pictures to `folder`. No image of a patient is in it.

    `judged` says what the scores are of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _curves(folder / "curves.png", history)
    lines = [
        f"# Training of {title}",
        "",
        f"{len(history)} epochs; last training loss {history[-1].loss:.4f}.",
        "",
        "![curves](curves.png)",
    ]
    if scores:
        lines += [
            "",
            f"## On {judged}",
            "",
            "| figure | value |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in summary.items()),
            *_overlaps(folder, scores),
            *_chances(folder, scores),
        ]
    path = folder / "report.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_scores(folder: Path, scores: list[GroupScore]) -> Path:
    """Write `scores.json`, every group's own, so that folds can be put together."""
    path = folder / "scores.json"
    path.write_text(json.dumps([asdict(score) for score in scores]), encoding="utf-8")
    return path


def _overlaps(folder: Path, scores: list[GroupScore]) -> list[str]:
    measured = [(score.dice_volume, score) for score in scores if score.dice_volume is not None]
    if not measured:
        return []
    _histogram(folder / "dice.png", [value for value, _ in measured])
    measured.sort(key=lambda pair: pair[0])
    return [
        "",
        "![Dice by group](dice.png)",
        "",
        "## Worst groups",
        "",
        "| group | images | Dice of the volume |",
        "|---|---|---|",
        *(f"| {score.name} | {score.images} | {value:.3f} |" for value, score in measured[:_WORST]),
    ]


def _chances(folder: Path, scores: list[GroupScore]) -> list[str]:
    every = [(score.name, item) for score in scores for item in score.classes]
    if not every:
        return []
    _roc(folder / "roc.png", [item for _, item in every])
    missed = sorted(every, key=lambda pair: pair[1].chances[pair[1].truth])[:_WORST]
    return [
        "",
        "![ROC and calibration](roc.png)",
        "",
        "## Images furthest from their label",
        "",
        "| group | true class | its probability |",
        "|---|---|---|",
        *(f"| {name} | {item.truth} | {item.chances[item.truth]:.3f} |" for name, item in missed),
    ]


def _roc(path: Path, items: list[ClassScore]) -> None:
    """The last class against the rest; and how often the class that is said is right."""
    last = len(items[0].chances) - 1
    scores = np.array([item.chances[last] for item in items])
    positive = np.array([item.truth == last for item in items])
    order = np.argsort(-scores, kind="stable")
    hits, alarms = np.cumsum(positive[order]), np.cumsum(~positive[order])
    sure = np.array([max(item.chances) for item in items])
    right = np.array([int(np.argmax(item.chances)) == item.truth for item in items])
    bins = np.clip((sure * 10).astype(int), 0, 9)
    figure, (left, other) = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
    left.plot([0, *alarms / max(1, alarms[-1])], [0, *hits / max(1, hits[-1])])
    left.set(xlabel="false alarms", ylabel="found", title=f"class {last} against the rest")
    other.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    other.plot(
        [sure[bins == index].mean() for index in np.unique(bins)],
        [right[bins == index].mean() for index in np.unique(bins)],
        marker="o",
    )
    other.set(xlabel="probability said", ylabel="share that is right", title="calibration")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _curves(path: Path, history: list[Epoch]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    numbers = [item.number for item in history]
    left.plot(numbers, [item.loss for item in history], label="training")
    watched = [item for item in history if item.monitor_loss is not None]
    if watched:
        at = [item.number for item in watched]
        left.plot(at, [item.monitor_loss for item in watched], label="held-out groups")
        for label, values in (
            ("Dice", [item.monitor_dice for item in watched]),
            ("AUC", [item.monitor_auc for item in watched]),
        ):
            if values[-1] is not None:
                right.plot(at, values, label=label)
        right.legend()
    left.set(xlabel="epoch", ylabel="loss")
    left.legend()
    right.set(xlabel="epoch", ylabel="held-out groups", ylim=(0, 1))
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _histogram(path: Path, values: list[float]) -> None:
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    axes.hist(values, bins=20, range=(0, 1))
    axes.set(xlabel="Dice of the volume", ylabel="groups")
    figure.savefig(path, dpi=90)
    plt.close(figure)
