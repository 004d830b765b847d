"""From a configuration to a package, a report and its scores, by the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.packages import read_lines, write_config, write_images, write_index
from typer.testing import CliRunner

import cli
from core.errors import TrainingError
from core.modelspec import read_spec
from models.registry import Examined, load
from models.training.evaluate import Judged, score_groups, summarise

KEYS = {
    "n_images": int,
    "n_groups": int,
    "n_refused": int,
    "dice_mean": float,
    "dice_volume_mean": float,
    "dice_ci95": list,
    "auc": float,
    "auc_positive": str,
    "auc_ci95": list,
    "seconds_per_image": float,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/, out/ (a training by `sentinode train`) and sentinode.toml."""
    folder = tmp_path_factory.mktemp("trained")
    images = write_images(folder / "images", train=5, val=3)
    config = write_config(
        folder / "tiny.toml",
        images,
        network={"params": {"channels": [4, 8, 16], "num_res_units": 1, "head_features": 4}},
        training={"epochs": 8, "average": 0.5, "batch_size": 2},
    )
    done = CliRunner().invoke(cli.app, ["train", str(config), "--out", str(folder / "out")])
    assert done.exit_code == 0, done.output
    (folder / "sentinode.toml").write_text(
        '[models]\nfolders = ["out/package"]\n[worker]\ndevice = "cpu"\n'
    )
    return folder


def evaluate(trained: Path, *arguments: str) -> Any:
    command = ["--config", str(trained / "sentinode.toml"), "models", "evaluate", *arguments]
    return CliRunner().invoke(cli.app, command)


def test_a_training_makes_a_package_and_a_report(trained: Path) -> None:
    spec = read_spec(trained / "out" / "package" / "tiny")
    assert (spec.name, spec.version, spec.training.config) == ("tiny", "1.0.0", "tiny.toml")
    load(spec, device="cpu")
    report = (trained / "out" / "report.md").read_text()
    assert "8 epochs" in report
    for key in KEYS:
        assert f"| {key} |" in report
    for picture in ("curves.png", "dice.png"):
        assert (trained / "out" / picture).stat().st_size > 1000


def test_a_training_is_not_begun_twice_in_one_folder(trained: Path) -> None:
    command = ["train", str(trained / "tiny.toml"), "--out", str(trained / "out")]
    done = CliRunner().invoke(cli.app, command)
    assert isinstance(done.exception, TrainingError)
    assert "--resume" in done.exception.remedy


@pytest.mark.parametrize("split", ["", "val"])
def test_one_object_as_the_last_line_with_all_its_keys(trained: Path, split: str) -> None:
    options = ["--split", split] if split else []
    done = evaluate(trained, "tiny", str(trained / "images"), *options, "--json")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    objects = [line for line in lines if line.startswith("{")]
    assert objects == lines[-1:]
    summary = json.loads(lines[-1])
    assert {key: type(value) for key, value in summary.items()} == KEYS
    assert summary["n_images"] == (12 if split else 32)
    assert summary["n_groups"] == (3 if split else 8)
    assert summary["n_refused"] == 0
    for mean, interval in (("dice_volume_mean", "dice_ci95"), ("auc", "auc_ci95")):
        low, high = summary[interval]
        assert 0 <= low <= high <= 1
        assert low <= summary[mean] <= high
    # the blobs are bright: a network that learned anything finds them
    assert summary["dice_volume_mean"] > 0.5
    assert summary["auc"] > 0.8


def test_as_dicom_the_scores_are_the_same(trained: Path) -> None:
    summaries = []
    for way in ((), ("--as-dicom",)):
        done = evaluate(trained, "tiny", str(trained / "images"), *way, "--json")
        assert done.exit_code == 0, done.output
        summaries.append(json.loads(done.stdout.splitlines()[-1]))
    plain, wrapped = summaries
    assert wrapped.keys() == plain.keys()
    assert wrapped["n_images"] == plain["n_images"]
    for key in ("dice_mean", "dice_volume_mean", "auc"):
        assert wrapped[key] == pytest.approx(plain[key], abs=0.03), key  # 32 pixels are few


def test_a_refused_image_counts_as_nothing_found(trained: Path) -> None:
    model = load(read_spec(trained / "out" / "package" / "tiny"), device="cpu")
    groups = []

    def refuse_the_last(group: Any) -> Judged:
        groups.append(group.name)
        refused = np.full(len(group.images), group.name == "g7")
        if refused.all():
            return Judged(Examined(None, None, None), refused)
        return Judged(model.examine(group.images, None), refused)

    scores = score_groups(model, trained / "images", "val", examine=refuse_the_last)
    refused = scores[-1]
    assert (refused.name, refused.refused, refused.dice_volume) == ("g7", 4, 0.0)
    assert refused.dice_slices == (0.0, 0.0, 0.0)
    assert {chance for chance, _ in refused.presence} == {0.75}  # three of four have a mask
    summary = summarise(scores)
    assert summary["n_refused"] == 4
    assert summary["n_images"] == 12


def test_for_a_person_it_is_a_line_for_each_score(trained: Path) -> None:
    done = evaluate(trained, "tiny", str(trained / "images"), "--split", "val")
    assert done.exit_code == 0, done.output
    assert {line.partition(":")[0] for line in done.stdout.splitlines()} == set(KEYS)


def test_a_split_that_nothing_belongs_to(trained: Path) -> None:
    done = evaluate(trained, "tiny", str(trained / "images"), "--split", "tset")
    assert isinstance(done.exception, TrainingError)
    assert "no line belongs to the split 'tset'" in str(done.exception)


def test_the_summary_is_what_the_groups_say(trained: Path, tmp_path: Path) -> None:
    model = load(read_spec(trained / "out" / "package" / "tiny"), device="cpu")
    scores = score_groups(model, trained / "images", "val")
    assert [score.name for score in scores] == ["g5", "g6", "g7"]
    assert all(len(score.dice_slices) == 3 for score in scores)  # the first slice has no blob
    summary = summarise(scores)
    volumes = [score.dice_volume for score in scores]
    assert summary["dice_volume_mean"] == pytest.approx(sum(volumes) / 3, abs=1e-4)
    # without a single mask there is no AUC and no Dice of slices; nothing is invented
    images = write_images(tmp_path / "images", train=0, val=2, slices=1)
    nothing = summarise(score_groups(model, images))
    assert set(KEYS) - set(nothing) == {"auc", "auc_ci95", "dice_mean"}


def test_images_of_one_group_may_differ_in_size(trained: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "a", train=0, val=1)
    larger = write_images(tmp_path / "a" / "b", train=0, val=1, size=48)
    lines = read_lines(images)
    for line in read_lines(larger):
        mask = f"b/{line['mask']}" if line["mask"] else ""
        lines.append({**line, "image": f"b/{line['image']}", "mask": mask})
    write_index(images, lines)
    model = load(read_spec(trained / "out" / "package" / "tiny"), device="cpu")
    assert sum(score.images for score in score_groups(model, images)) == 8
