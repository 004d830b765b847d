"""What the training images looked like, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.packages import write_images, write_index, write_network
from typer.testing import CliRunner

import cli
from core.errors import ModelSpecError, WeightsError
from core.modelspec import read_spec
from models.domain import KINDS, Domain, figures_of
from models.registry import load
from models.training.ensemble import merge
from models.training.evaluate import score_groups, summarise


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of volumes of blobs with its domain, measured by the command."""
    folder = tmp_path_factory.mktemp("domain")
    images = write_images(folder / "blobs", train=14, val=2, slices=5)
    stripes = folder / "stripes"
    stripes.mkdir()
    rows = np.indices((32, 32))[0]
    lines = []
    for number in range(6):
        image = 120 + 100 * np.sin(rows * (0.9 + 0.1 * number))
        Image.fromarray(image.astype(np.uint8)).save(stripes / f"{number}.png")
        lines.append({"image": f"{number}.png", "mask": "", "label": "none", "group": str(number)})
    write_index(stripes, lines)
    network = {
        "architecture": "unet2d",
        "params": {"channels": [4, 8], "num_res_units": 1},
    }
    made = write_network(
        folder, "blobs-model", network, preprocessing=[{"name": "standardise_foreground"}]
    )
    arguments = ["models", "domain", str(made), str(images), "--foreign", str(stripes), "--json"]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout.splitlines()[-1])
    (folder / "figures.json").write_text(json.dumps(figures))
    return made


def test_the_command_says_how_well_it_tells_them_apart(package: Path) -> None:
    figures = json.loads((package.parent / "figures.json").read_text())
    assert figures["n_held_out"] == 14  # volumes of the train split
    assert figures["refused_held_out"] <= 0.15
    assert figures["refused_stripes"] == 1.0
    assert figures["limit"] < figures["nearest_stripes"]


def test_judging_refuses_what_is_foreign_and_counts_it(package: Path) -> None:
    model = load(read_spec(package), device="cpu")
    assert model.domain is not None
    own = score_groups(model, package.parent / "blobs", "val")
    assert sum(score.refused for score in own) == 0
    foreign = score_groups(model, package.parent / "stripes")
    summary = summarise(foreign)
    assert summary["n_refused"] == summary["n_images"] == 6
    assert {score.dice_volume for score in foreign} == {0.0}


def test_brightness_does_not_matter_and_noise_does(package: Path) -> None:
    model = load(read_spec(package), device="cpu")
    (first, *_) = (package.parent / "blobs").glob("g3-2.png")
    image = np.asarray(Image.open(first), dtype=np.float32)
    volume = np.stack([image] * 3)
    (usual,) = model.strangeness(volume, None)
    (brighter,) = model.strangeness(volume * 7 + 100, None)
    assert usual.distance == pytest.approx(brighter.distance, abs=1e-3)
    noise = np.random.default_rng(0).normal(0, 1, volume.shape)
    (strange,) = model.strangeness(noise, None)
    assert strange.outside
    assert "looks like none of the training images" in str(strange)
    assert strange.kind in KINDS
    (constant,) = model.strangeness(np.zeros_like(volume), None)
    assert constant.outside
    (no_number,) = model.strangeness(np.full_like(volume, np.nan), None)
    assert no_number.outside


def test_a_changed_or_missing_file_is_not_used(package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    (copy / "domain.json").write_bytes((copy / "domain.json").read_bytes() + b" ")
    with pytest.raises(WeightsError, match=r"domain\.json is not the file"):
        load(read_spec(copy), device="cpu")
    (copy / "domain.json").unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        load(read_spec(copy), device="cpu")


def test_figures_of_another_version_are_not_used(package: Path, tmp_path: Path) -> None:
    import hashlib
    import tomllib

    import tomli_w

    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    data = json.dumps({"version": 0, "limit": 1, "mean": [], "inverse": []}).encode()
    (copy / "domain.json").write_bytes(data)
    content = tomllib.loads((copy / "model.toml").read_text())
    content["domain"]["sha256"] = hashlib.sha256(data).hexdigest()
    (copy / "model.toml").write_text(tomli_w.dumps(content))
    with pytest.raises(ModelSpecError, match="another version"):
        load(read_spec(copy), device="cpu")


def test_an_ensemble_has_no_domain_until_it_is_measured(package: Path, tmp_path: Path) -> None:
    merged = merge([package, package], tmp_path / "merged")
    assert merged.domain is None
    assert load(merged, device="cpu").domain is None


def test_the_distance_of_the_mean_is_nought() -> None:
    domain = Domain(np.arange(len(KINDS), dtype=float), np.eye(len(KINDS)), 1.0)
    assert domain.distance(domain.mean[None]) == pytest.approx([0])
    assert domain.distance(domain.mean[None] + 2) == pytest.approx([2])
    figures = figures_of([], np.random.default_rng(0).normal(size=(2, 40, 50)), None, whole=False)
    assert figures.shape == (2, len(KINDS))
