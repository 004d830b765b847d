"""A training's report: curves, Dice histogram, worst cases, as Markdown with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from models.training.evaluate import GroupScore
from models.training.loop import Epoch

_WORST = 10


def write_report(
    folder: Path,
    title: str,
    history: list[Epoch],
    scores: list[GroupScore],
    summary: dict[str, Any],
) -> Path:
    """Write `report.md` and its pictures to `folder`. No image of a patient is in it."""
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
        _histogram(folder / "dice.png", scores)
        lines += [
            "",
            "## On the val split",
            "",
            "| figure | value |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in summary.items()),
            "",
            "![Dice by group](dice.png)",
            "",
            "## Worst groups",
            "",
            "| group | images | Dice of the volume |",
            "|---|---|---|",
            *(
                f"| {score.name} | {score.images} | {score.dice_volume:.3f} |"
                for score in sorted(scores, key=lambda item: item.dice_volume)[:_WORST]
            ),
        ]
    path = folder / "report.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _curves(path: Path, history: list[Epoch]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    numbers = [item.number for item in history]
    left.plot(numbers, [item.loss for item in history], label="training")
    watched = [item for item in history if item.monitor_loss is not None]
    if watched:
        at = [item.number for item in watched]
        left.plot(at, [item.monitor_loss for item in watched], label="held-out groups")
        right.plot(at, [item.monitor_dice for item in watched])
    left.set(xlabel="epoch", ylabel="loss")
    left.legend()
    right.set(xlabel="epoch", ylabel="Dice, held-out groups", ylim=(0, 1))
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _histogram(path: Path, scores: list[GroupScore]) -> None:
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    axes.hist([score.dice_volume for score in scores], bins=20, range=(0, 1))
    axes.set(xlabel="Dice of the volume", ylabel="groups")
    figure.savefig(path, dpi=90)
    plt.close(figure)
