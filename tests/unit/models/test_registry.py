"""A package is found, loaded and asked: whatever the batch, one answer in the volume's grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.packages import training_config, write_spec
from torch import nn

from core.errors import ModelError, ModelSpecError
from core.modelspec import find_specs, read_spec
from models.architectures import build
from models.registry import LoadedModel, load
from models.training.config import Config
from models.training.export import export


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one package, exported as a training does, its weights random."""
    folder = tmp_path_factory.mktemp("packages")
    config = Config(**training_config(folder))
    torch.manual_seed(4)
    export(build(config.network), config, "tiny.toml", folder / "tiny")
    return folder


@pytest.fixture
def model(packages: Path) -> LoadedModel:
    """It is loaded without mixed precision, so that answers compare exactly enough."""
    return replace(load("tiny", (packages,), "cpu"), autocast=False)


def volume(slices: int = 7, rows: int = 30, columns: int = 37) -> np.ndarray:
    made = np.random.default_rng(1).normal(100, 20, (slices, rows, columns)).astype(np.float32)
    made[:, 5:15, 5:15] += 300
    return made


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 20, 45), (5, 64, 33)])
def test_the_answer_has_the_grid_of_the_volume(
    model: LoadedModel, shape: tuple[int, int, int]
) -> None:
    answer = model.predict(volume(*shape), None)
    assert answer.shape == (1, *shape)
    assert answer.dtype == np.float16
    assert ((answer >= 0) & (answer <= 1)).all()
    assert answer.std() > 0


def test_spacing_changes_the_input_not_the_grid(packages: Path) -> None:
    steps = [
        {"name": "resample_in_plane", "params": {"spacing": 0.9}},
        {"name": "pad", "params": {"multiple": 4}},
    ]
    config = Config(**{**training_config(packages), "preprocessing": steps})
    network = build(config.network)
    spec = export(network, config, "c", packages.parent / "resampling" / "tiny")
    loaded = load(spec, device="cpu")
    assert loaded.predict(volume(), (5, 0.5, 1.7)).shape == (1, 7, 30, 37)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_the_batch_size_does_not_change_the_answer(model: LoadedModel, batch_size: int) -> None:
    one = model.predict(volume(), None, batch_size=7).astype(np.float32)
    other = model.predict(volume(), None, batch_size=batch_size).astype(np.float32)
    assert np.abs(one - other).max() <= 2e-3  # float16 keeps three digits


def test_the_same_question_has_the_same_answer(packages: Path) -> None:
    first = load("tiny", (packages,), "cpu").predict(volume(), None)
    second = load("tiny", (packages,), "cpu").predict(volume(), None)
    assert np.array_equal(first, second)


def test_a_brighter_scanner_gets_the_same_answer(model: LoadedModel) -> None:
    plain = model.predict(volume(), None)
    assert np.array_equal(model.predict(volume() * 8, None), plain)


def test_progress_counts_every_slice(model: LoadedModel) -> None:
    told: list[tuple[int, int]] = []
    model.predict(volume(7), None, batch_size=3, progress=lambda *pair: told.append(pair))
    assert told == [(3, 7), (6, 7), (7, 7)]


class Small(nn.Module):
    """A network on a device that holds only so many slices at once."""

    def __init__(self, network: nn.Module, most: int) -> None:
        super().__init__()
        self.network, self.most, self.sizes = network, most, []

    def forward(self, images: torch.Tensor) -> Any:
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return self.network(images)


@pytest.mark.parametrize(("most", "sizes"), [(2, [8, 4, 2, 2, 2, 1]), (1, [8, 4, 2, *[1] * 7])])
def test_a_batch_that_does_not_fit_is_halved_and_no_slice_is_lost(
    model: LoadedModel, most: int, sizes: list[int]
) -> None:
    small = Small(model.network, most)
    sizes = [min(size, 7) if index == 0 else size for index, size in enumerate(sizes)]
    answer = replace(model, network=small).predict(volume(7), None, batch_size=8)
    assert small.sizes == sizes
    whole = model.predict(volume(7), None, batch_size=7)
    assert np.abs(answer.astype(np.float32) - whole.astype(np.float32)).max() <= 2e-3


def test_one_slice_that_does_not_fit_is_told(model: LoadedModel) -> None:
    with pytest.raises(ModelError, match="one slice of 30 × 37 does not fit") as caught:
        replace(model, network=Small(model.network, 0)).predict(volume(), None)
    assert "worker.device" in caught.value.remedy


def test_a_network_that_has_not_the_channels_of_its_labels_is_refused(
    packages: Path, tmp_path: Path
) -> None:
    content = training_config(packages)
    label = content["output"]["labels"][0]
    content["output"] = {**content["output"], "labels": [label, {**label, "channel": 1}]}
    config = Config(**content)
    spec = export(build(config.network), config, "c", tmp_path / "two")
    with pytest.raises(ModelSpecError, match=r"labels.*channel 1.*1 channel"):
        load(spec, device="cpu").predict(volume(), None)


def test_channels_without_a_label_are_left_out(packages: Path, tmp_path: Path) -> None:
    content = training_config(packages)
    content["network"]["params"] = {**content["network"]["params"], "out_channels": 3}
    content["output"] = {
        **content["output"],
        "labels": [{**content["output"]["labels"][0], "channel": 1}],
    }
    config = Config(**content)
    spec = export(build(config.network), config, "c", tmp_path / "three")
    # findings are looked for in answer[label.channel]
    assert load(spec, device="cpu").predict(volume(), None).shape == (2, 7, 30, 37)


def test_who_is_not_there_is_told_with_who_is(packages: Path) -> None:
    with pytest.raises(ModelError, match=r"no model 'other' \(there is: .*tiny"):
        load("other", (packages,))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_told(packages: Path) -> None:
    with pytest.raises(ModelError, match="no CUDA device"):
        load("tiny", (packages,), "cuda")


def test_a_package_of_the_same_name_replaces_the_built_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_spec(tmp_path / "zoo" / "a", name="a", version="1.0.0")
    write_spec(tmp_path / "own" / "a", name="a", version="2.0.0")
    monkeypatch.setattr("core.modelspec.BUILT_IN_ZOO", tmp_path / "zoo")
    assert find_specs()["a"].version == "1.0.0"
    assert find_specs((tmp_path / "own", tmp_path / "absent"))["a"].version == "2.0.0"


def _broken(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: write_spec(folder, **changes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_broken(version="1.0"), "version"),
        (_broken(name="No Name"), "name"),
        (_broken(surprise=1), "surprise"),
        (_broken(weights={"file": "w", "sha256": "short"}), r"weights\.sha256"),
        (lambda folder: folder.mkdir(), r"no model\.toml"),
        (
            lambda folder: (folder.mkdir(), (folder / "model.toml").write_text("[")),
            "cannot be read",
        ),
    ],
)
def test_a_specification_with_faults_names_them(
    tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    make(tmp_path / "p")
    with pytest.raises(ModelSpecError, match=words):
        read_spec(tmp_path / "p")


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"architecture": "oracle"}, r"network\.architecture: there is no 'oracle'.*unet2d"),
        (
            {"architecture": "unet2d", "params": {"colour": 1}},
            r"network\.params of unet2d: .*colour",
        ),
    ],
)
def test_a_network_that_cannot_be_built_is_told(
    tmp_path: Path, network: dict[str, Any], words: str
) -> None:
    spec = read_spec(write_spec(tmp_path / "p", network=network).parent)
    with pytest.raises(ModelSpecError, match=words):
        load(spec, device="cpu")
