"""Training: the same by seed, the same after a kill, and a clear word on what is wrong."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from support.packages import (
    read_lines,
    training_config,
    write_config,
    write_images,
    write_index,
)

from core.errors import TrainingError
from models.registry import load
from models.training.checkpoint import CHECKPOINT, _essence
from models.training.config import Config, read_config
from models.training.data import read_groups, read_index
from models.training.dataset import split
from models.training.export import export
from models.training.loop import Training


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four groups to train on and two of the val split."""
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A small folder that a test may spoil."""
    return write_images(tmp_path / "images", train=1, val=1, slices=2)


def config(data: Path, **training: Any) -> Config:
    """With all that is random: dropout, augmentation, averages, a monitor."""
    return Config(
        **training_config(
            data,
            data={"monitor": 0.25},
            network={"params": {"channels": [4, 8, 16], "num_res_units": 1, "dropout": 0.2}},
            training={"average": 0.9, **training},
        )
    )


def run(training: Training) -> dict[str, torch.Tensor]:
    network = training.run(Console(file=io.StringIO()))
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def uninterrupted(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A training of three epochs that ran through, and its weights."""
    training = Training(config(images), tmp_path_factory.mktemp("through"))
    return training, run(training)


def test_it_learns_and_keeps_its_history(uninterrupted: Any) -> None:
    training, _ = uninterrupted
    assert [epoch.number for epoch in training.history] == [1, 2, 3]
    assert training.history[-1].loss < training.history[0].loss
    assert all(epoch.monitor_loss is not None for epoch in training.history)
    assert list((training.folder / "tensorboard").iterdir())


def test_the_same_seed_gives_the_same_weights(
    images: Path, uninterrupted: Any, tmp_path: Path
) -> None:
    torch.rand(1000)  # whatever happened before in this process does not matter
    again = Training(config(images), tmp_path)
    weights = run(again)
    assert same(weights, uninterrupted[1])
    assert again.history == uninterrupted[0].history


def test_another_seed_gives_other_weights(images: Path, uninterrupted: Any, tmp_path: Path) -> None:
    assert not same(run(Training(config(images, seed=4), tmp_path)), uninterrupted[1])


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("after", [1, 2])
def test_a_training_that_was_killed_goes_on_to_the_same_weights(
    images: Path,
    uninterrupted: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    first = Training(config(images), tmp_path)
    real = Training._step

    def step(self: Training, *batch: torch.Tensor) -> float:
        if len(self.history) == after:  # in the middle of the next epoch
            raise Killed
        return real(self, *batch)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Training, "_step", step)
        run(first)
    torch.rand(1000)
    second = Training(config(images), tmp_path)
    assert second.resume()
    assert [epoch.number for epoch in second.history] == list(range(1, after + 1))
    assert same(run(second), uninterrupted[1])
    assert second.history == uninterrupted[0].history


def test_a_training_that_is_done_stays_as_it_is(
    images: Path, uninterrupted: Any, tmp_path: Path
) -> None:
    (tmp_path / CHECKPOINT).write_bytes((uninterrupted[0].folder / CHECKPOINT).read_bytes())
    done = Training(config(images), tmp_path)
    assert done.resume()
    assert same(run(done), uninterrupted[1])


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(images: Path, tmp_path: Path) -> None:
    assert not Training(config(images), tmp_path).resume()


def test_a_checkpoint_of_another_configuration_is_refused(
    images: Path, uninterrupted: Any, tmp_path: Path
) -> None:
    (tmp_path / CHECKPOINT).write_bytes((uninterrupted[0].folder / CHECKPOINT).read_bytes())
    other = Training(config(images, learning_rate=0.02), tmp_path)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt belongs to another") as caught:
        other.resume()
    assert "--out" in caught.value.remedy


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_damaged_checkpoint_is_told(
    images: Path, uninterrupted: Any, tmp_path: Path, share: float
) -> None:
    data = (uninterrupted[0].folder / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(TrainingError, match=r"checkpoint\.pt cannot be read"):
        Training(config(images), tmp_path).resume()


def test_a_loss_that_is_no_number_ends_the_training(images: Path, tmp_path: Path) -> None:
    training = Training(config(images, learning_rate=1e30, warm_up=0.0), tmp_path)
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf)") as caught:
        run(training)
    assert "learning_rate" in caught.value.remedy


def test_memory_that_does_not_do_is_told(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(config(images), tmp_path)

    def full(_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(training.network, "forward", full)
    with pytest.raises(TrainingError, match="a batch of 4 does not fit") as caught:
        run(training)
    assert "batch_size" in caught.value.remedy


def test_a_network_that_does_not_fit_the_images_is_told_before_the_training(
    images: Path, tmp_path: Path
) -> None:
    content = training_config(images, data={"size": 33})
    with pytest.raises(TrainingError, match="does not take images of 33 × 33"):
        Training(Config(**content), tmp_path)
    content = training_config(images, network={"params": {"channels": [4, 8], "out_channels": 3}})
    with pytest.raises(TrainingError, match="3 channels, a mask has one"):
        Training(Config(**content), tmp_path)


@pytest.mark.parametrize("loss", ["dice_ce", "dice", "focal"])
def test_every_loss_trains(copy: Path, tmp_path: Path, loss: str) -> None:
    training = Training(config(copy, loss=loss, epochs=1, batch_size=2), tmp_path / "out")
    run(training)
    assert training.history[0].loss > 0


def test_it_gives_up_when_nothing_gets_better(images: Path, tmp_path: Path) -> None:
    # steps that change no bit of the weights are no progress
    given = config(images, learning_rate=1e-30, weight_decay=0.0, epochs=9, patience=2)
    training = Training(given, tmp_path)
    run(training)
    assert len(training.history) == 3


def test_no_image_of_the_val_split_is_trained_on(images: Path) -> None:
    training, monitor = split(config(images))
    names = {group.name for group in training} | {group.name for group in monitor}
    assert names == {"g0", "g1", "g2", "g3"}
    assert len(monitor) == 1
    assert not {group.name for group in training} & {group.name for group in monitor}


# What is wrong with a folder, and the words that a person reads about it.


def change(lines: list[dict[str, Any]], **values: Any) -> list[dict[str, Any]]:
    return [{**lines[0], **values}, *lines[1:]]


def test_a_folder_without_an_index(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nowhere has no index\.csv"):
        Training(config(tmp_path / "nowhere"), tmp_path / "out")


@pytest.mark.parametrize("column", ["image", "mask", "label", "group"])
def test_a_column_that_is_missing(copy: Path, column: str) -> None:
    lines = [{k: v for k, v in line.items() if k != column} for line in read_lines(copy)]
    write_index(copy, lines)
    with pytest.raises(TrainingError, match=rf"index\.csv lacks the column\(s\) {column}$"):
        read_index(copy)


def test_files_that_are_missing_are_named(copy: Path) -> None:
    (copy / "g0-1.png").unlink()
    (copy / "g1-1-mask.png").unlink()
    with pytest.raises(TrainingError, match=r"index\.csv names 2 file\(s\).*g0-1\.png.*g1-1-mask"):
        read_index(copy)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda lines: change(lines, slice="first"), r"index\.csv.*slice 'first' is no number"),
        (lambda lines: change(lines, slice="nan"), r"index\.csv.*slice 'nan' is no number"),
        (lambda lines: change(lines, image=""), r"index\.csv.*names no image"),
    ],
)
def test_a_line_that_says_nothing_of_use(
    copy: Path, spoil: Callable[[Any], Any], words: str
) -> None:
    write_index(copy, spoil(read_lines(copy)))
    with pytest.raises(TrainingError, match=words):
        read_index(copy)


def test_a_line_that_is_cut_short(copy: Path) -> None:
    path = copy / "index.csv"
    path.write_text(path.read_text() + "\n")
    assert len(read_index(copy)) == 4  # an empty line is none
    path.write_text(path.read_text() + "g0-0.png\n")
    with pytest.raises(TrainingError, match=r"index\.csv, line \d+.*group"):
        read_index(copy)


def test_an_index_of_no_lines(copy: Path) -> None:
    path = copy / "index.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(TrainingError, match=r"index\.csv names no images"):
        read_index(copy)


def test_an_index_of_a_spreadsheet_program_is_read(copy: Path) -> None:
    path = copy / "index.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # a byte order mark
    assert len(read_index(copy)) == 4


def test_an_index_that_is_no_text(copy: Path) -> None:
    (copy / "index.csv").write_bytes(b"image,mask,label,group\n\xff\xfe\n")
    with pytest.raises(TrainingError, match=r"index\.csv is no UTF-8 text"):
        read_index(copy)


def test_a_mask_of_another_size(copy: Path) -> None:
    Image.new("L", (16, 8)).save(copy / "g0-1-mask.png")
    with pytest.raises(TrainingError, match=r"g0-1-mask\.png: the mask is 8×16, its image 32×32"):
        read_groups(read_index(copy))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_an_image_that_is_none(copy: Path, share: float) -> None:
    data = (copy / "g0-1.png").read_bytes()
    (copy / "g0-1.png").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(TrainingError, match=r"g0-1\.png cannot be read as an image"):
        read_groups(read_index(copy))


def test_images_of_sixteen_bits_keep_their_values(copy: Path) -> None:
    values = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 60
    Image.fromarray(values).save(copy / "g0-1.png")
    (group,) = [item for item in read_groups(read_index(copy)) if item.name == "g0"]
    assert np.array_equal(group.images[1], values)


def test_slices_are_in_the_order_of_the_index(copy: Path) -> None:
    write_index(copy, read_lines(copy)[::-1])
    for group in read_groups(read_index(copy)):
        assert [entry.order for entry in group.entries] == [0, 1]
        assert group.masks.any(axis=(1, 2)).tolist() == [False, True]


def test_only_val_lines_are_nothing_to_train_on(copy: Path) -> None:
    write_index(copy, [{**line, "split": "val"} for line in read_lines(copy)])
    with pytest.raises(TrainingError, match="images: no line belongs to the train split"):
        split(config(copy))


def test_a_group_in_both_splits_is_refused(copy: Path) -> None:
    write_index(copy, change(read_lines(copy), group="g1"))
    with pytest.raises(TrainingError, match="train and val at once: g1"):
        split(config(copy))


# The configuration file.


def test_a_configuration_is_read_and_its_folder_is_found(tmp_path: Path, images: Path) -> None:
    (tmp_path / "configs").mkdir()
    path = write_config(tmp_path / "configs" / "a.toml", Path("../images"))
    assert read_config(path).data.folder == tmp_path / "images"
    assert read_config(write_config(path, images)).data.folder == images


def test_every_fault_of_a_configuration_is_told_at_once_by_its_full_key(
    tmp_path: Path, images: Path
) -> None:
    path = write_config(
        tmp_path / "a.toml",
        images,
        data={"size": 3, "monitor": 0.9},
        training={"epochs": 0, "loss": "hope", "speed": 1},
        augmentation={"blur": 2.0},
        package={"version": "one"},
        surprise={"x": 1},
    )
    with pytest.raises(TrainingError) as caught:
        read_config(path)
    told = str(caught.value)
    assert str(path) in told
    for key in (
        "data.size",
        "data.monitor",
        "training.epochs",
        "training.loss",
        "training.speed",
        "augmentation.blur",
        "package.version",
        "surprise",
    ):
        assert f"\n  {key}: " in told
    assert "8 fault(s)" in told


def test_a_configuration_that_is_not_there_or_no_toml(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no such file"):
        read_config(tmp_path / "absent.toml")
    (tmp_path / "a.toml").write_text("[data\n")
    with pytest.raises(TrainingError, match=r"not valid TOML.*line 1"):
        read_config(tmp_path / "a.toml")
    with pytest.raises(TrainingError, match="cannot be read"):
        read_config(tmp_path)


def test_the_configurations_that_are_delivered_are_whole() -> None:
    folder = Path(__file__).resolve().parents[3] / "models" / "training" / "configs"
    paths = sorted(folder.glob("*.toml"))
    assert paths
    for path in paths:
        read_config(path)


def test_a_network_in_3d_trains_on_stacks_and_is_asked_through_windows(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", train=3, val=1, slices=6)
    config = write_config(
        tmp_path / "config.toml",
        folder,
        data={"size": 16, "depth": 4},
        preprocessing=[{"name": "standardise_volume"}],
        network={"architecture": "unet3d", "params": {"channels": [4, 8, 8]}},
        window={"size": [4, 16, 16], "overlap": 0.5},
        training={"epochs": 2, "batch_size": 2},
    )
    parsed = read_config(config)
    training = Training(parsed, tmp_path / "run")
    assert tuple(training.data.images.shape) == (6, 4, 16, 16)  # 3 volumes, 2 stacks of each
    network = training.run(Console(quiet=True))
    assert np.isfinite([epoch.loss for epoch in training.history]).all()
    spec = export(network, parsed, "config.toml", tmp_path / "package")
    answer = load(spec, device="cpu").predict(np.ones((7, 20, 33), np.float32), None)
    assert answer.shape == (1, 7, 20, 33)


def test_trainings_from_before_stacks_go_on(tmp_path: Path) -> None:
    """Their checkpoint knows nothing of `data.depth`."""
    config = read_config(write_config(tmp_path / "c.toml", write_images(tmp_path / "images")))
    assert "depth" not in _essence(config)
    deep = config.model_copy(update={"data": config.data.model_copy(update={"depth": 4})})
    assert _essence(deep) != _essence(config)
