"""Folds by group, labels, and weights against a set's own bias."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.packages import read_lines, training_config, write_images, write_index

from core.errors import TrainingError
from models.training.bias import chances, figures_outside, weights
from models.training.config import Config, with_fold
from models.training.dataset import held_out, split, to_images, training_entries
from models.training.metrics import roc_auc

LABELS = {"none": 0, "blob": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), train=7, val=1)


def config(folder: Path, **data: Any) -> Config:
    training = data.pop("training", {})
    return Config(**training_config(folder, data=data, training=training))


def test_every_group_is_held_out_once(images: Path) -> None:
    held: list[str] = []
    for fold in (1, 2, 3):
        one = with_fold(config(images), f"{fold}/3")
        training, out = split(one)
        names = {group.name for group in out}
        assert names == held_out(training_entries(one), one)
        assert not names & {group.name for group in training}
        held += names
    assert Counter(held) == {f"g{number}": 1 for number in range(7)}  # g7 is of the val split


def test_folds_share_out_the_rare_label(images: Path, tmp_path: Path) -> None:
    lines = [{**line, "split": ""} for line in read_lines(images)]
    for line in lines:
        line["label"] = "rare" if line["group"] in {"g1", "g4"} else "common"
        for column in ("image", "mask"):
            line[column] = str(images / line[column]) if line[column] else ""
    write_index(tmp_path, lines)
    for fold in ("1/2", "2/2"):
        one = with_fold(config(tmp_path, labels={"common": 0, "rare": 1}), fold)
        assert len({"g1", "g4"} & held_out(training_entries(one), one)) == 1


@pytest.mark.parametrize("fold", ["0/5", "6/5", "1/1", "x", "2", "/", "-1/4"])
def test_folds_that_are_none(images: Path, fold: str) -> None:
    with pytest.raises(TrainingError, match="no such fold"):
        with_fold(config(images), fold)


def test_more_folds_than_groups(images: Path) -> None:
    one = with_fold(config(images), "1/8")
    with pytest.raises(TrainingError, match="7 groups cannot be dealt into 8 folds"):
        held_out(training_entries(one), one)


def test_classes_and_balanced_weights(images: Path) -> None:
    one = config(images, labels=LABELS, training={"class_weights": "balanced"})
    ready = to_images(split(one)[0], one)
    assert ready.classes.tolist() == [0, 1, 1, 1] * 7
    assert float(ready.weights[ready.classes == 0].sum()) == pytest.approx(14)
    assert float(ready.weights[ready.classes == 1].sum()) == pytest.approx(14)
    batch = ready.batch(torch.tensor([0, 3]), one.data.classes)
    assert batch.targets is not None
    assert batch.targets.tolist() == [[1, 0], [0, 1]]


def test_a_label_that_the_configuration_lacks(images: Path) -> None:
    with pytest.raises(TrainingError, match=r"data\.labels lacks: blob") as caught:
        training_entries(config(images, labels={"none": 0, "other": 1}))
    assert "data.labels" in caught.value.remedy


def test_a_class_with_one_example(images: Path, tmp_path: Path) -> None:
    lines = read_lines(images)
    lines[0]["label"] = "odd"
    for line in lines:
        for column in ("image", "mask"):
            line[column] = str(images / line[column]) if line[column] else ""
    write_index(tmp_path, lines)
    with pytest.raises(TrainingError, match="too few groups have a label: odd in 1; at least 2"):
        training_entries(config(tmp_path, labels={**LABELS, "odd": 2}))


def test_masks_are_resized_with_their_images(images: Path) -> None:
    steps = [{"name": "resize", "params": {"rows": 64, "columns": 64}}]
    content = training_config(images, data={"size": 64})
    one = Config(**{**content, "preprocessing": steps})
    groups = split(one)[0]
    ready = to_images(groups, one)
    assert ready.images.shape[-2:] == ready.masks.shape[-2:] == (64, 64)
    before = float(sum(group.masks.sum() for group in groups))
    assert float(ready.masks.sum()) == pytest.approx(4 * before, rel=0.05)
    assert set(ready.masks.unique().tolist()) == {0.0, 1.0}


# The bias of a set.


def biased(count: int = 300) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Figures of which the first tells the label most of the time."""
    rng = np.random.default_rng(4)
    positive = rng.random(count) < 0.5
    figures = rng.normal(0, 1, (count, 4))
    figures[:, 0] += np.where(positive, 1.0, -1.0)
    return figures, positive, [str(number) for number in range(count)]


def test_a_bias_is_found_and_weighed_against() -> None:
    figures, positive, groups = biased()
    chance = chances(figures, positive, groups)
    before = roc_auc(chance, positive.tolist())
    assert before is not None
    assert before > 0.85
    heavy = weights(figures, positive, groups)
    assert heavy[positive].mean() == pytest.approx(1)
    assert heavy[~positive].mean() == pytest.approx(1)

    def gap(by: np.ndarray) -> float:
        means = [np.average(figures[side, 0], weights=by[side]) for side in (positive, ~positive)]
        return float(means[0] - means[1])

    assert gap(np.ones(len(positive))) > 1.5
    assert gap(heavy) < 0.5 * gap(np.ones(len(positive)))


def test_without_a_bias_the_weights_are_even() -> None:
    figures, positive, groups = biased()
    even = weights(figures[:, 1:], positive, groups)
    assert even.std() < 0.25


def test_what_lies_in_the_mask_is_no_bias() -> None:
    image = np.random.default_rng(1).integers(0, 200, (40, 40)).astype(np.uint8)
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:20, 10:20] = True
    changed = image.copy()
    changed[12:18, 12:18] = 255
    # the smoothing of fine detail reaches a little; the margin around the mask is wider
    assert figures_outside(changed, mask) == pytest.approx(figures_outside(image, mask), abs=0.5)
    assert np.isfinite(figures_outside(image, np.ones_like(mask))).all()


def test_weights_against_a_bias_need_two_classes(images: Path) -> None:
    one = config(images, unbiased=True)
    with pytest.raises(TrainingError, match=r"data\.unbiased needs two classes"):
        to_images(split(one)[0], one)
    two = config(images, unbiased=True, labels=LABELS)
    assert len(to_images(split(two)[0], two).weights) == 28
