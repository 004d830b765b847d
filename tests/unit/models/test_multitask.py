"""Networks that outline and classify at once: trained, judged, put together."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from support.packages import training_config, write_config, write_images
from typer.testing import CliRunner

import cli
from core.errors import ModelSpecError, TrainingError
from core.modelspec import NetworkSpec, read_spec
from models.answer import Answer, as_answer
from models.architectures import build
from models.registry import load
from models.training.config import Config
from models.training.ensemble import merge
from models.training.export import export
from models.training.loop import Training

CODE = {"value": "52988006", "scheme": "SCT", "meaning": "Lesion"}
LABELS = {"none": 0, "blob": 1}
NETWORK = {
    "architecture": "multitask2d",
    "params": {"features": 4, "blocks": [1, 1, 1], "norm": "batch", "classes": 2, "deeper": 1},
}
STEPS = [{"name": "resize", "params": {"rows": 32, "columns": 32}}, {"name": "standardise_image"}]


def classes() -> dict[str, Any]:
    labels = [
        {"channel": number, "name": name, "category": CODE, "type": CODE, "sought": bool(number)}
        for name, number in LABELS.items()
    ]
    return {"activation": "softmax", "labels": labels}


def sections(**changes: Any) -> dict[str, Any]:
    output = training_config(Path("/"))["output"]
    return {
        "data": {"labels": LABELS},
        "preprocessing": STEPS,
        "network": NETWORK,
        "output": {**output, "classes": classes()},
        "training": {"epochs": 2, "learning_rate": 0.02, "batch_size": 4},
        **changes,
    }


def config(folder: Path, **changes: Any) -> Config:
    return Config(**{**training_config(folder, **sections()), **changes})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), train=6, val=2)


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """Two folds, trained by the command: out-1/ and out-2/, and sentinode.toml."""
    folder = tmp_path_factory.mktemp("folds")
    path = write_config(folder / "two.toml", images, **sections(training={"epochs": 8}))
    for fold in (1, 2):
        out = folder / f"out-{fold}"
        command = ["train", str(path), "--out", str(out), "--fold", f"{fold}/2"]
        done = CliRunner().invoke(cli.app, command)
        assert done.exit_code == 0, done.output
    (folder / "sentinode.toml").write_text(
        '[models]\nfolders = ["packages"]\n[worker]\ndevice = "cpu"\n'
    )
    return folder


def package(folds: Path, fold: int) -> Path:
    return folds / f"out-{fold}" / "package" / "tiny"


def test_every_pixel_and_every_image_is_answered() -> None:
    network = build(NetworkSpec(**NETWORK))
    images = torch.rand(2, 1, 32, 40)
    training = network.train()(images)
    assert training.pixels.shape == (2, 1, 32, 40)
    assert training.image.shape == (2, 2)
    assert [tuple(item.shape) for item in training.deeper] == [(2, 1, 16, 20)]
    assert network.eval()(images).deeper == ()


@pytest.mark.parametrize("packed", [1, 2])
@pytest.mark.parametrize("norm", ["batch", "group", "instance"])
def test_without_classes_it_is_a_plain_segmenter(packed: int, norm: str) -> None:
    params = {"features": 8, "blocks": [1, 1], "packed": packed, "norm": norm, "in_channels": 3}
    network = build(NetworkSpec(architecture="multitask2d", params=params)).eval()
    answer = network(torch.rand(1, 3, 32, 32))
    assert isinstance(answer, torch.Tensor)
    assert answer.shape == (1, 1, 32, 32)


@pytest.mark.parametrize(
    ("params", "says"),
    [({"norm": "none"}, "there is no norm"), ({"blocks": [1, 1], "deeper": 1}, "deeper: 2 levels")],
)
def test_parameters_that_do_not_fit(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelSpecError, match=says):
        build(NetworkSpec(architecture="multitask2d", params=params))


@pytest.mark.parametrize("architecture", ["densenet", "resnet"])
def test_classifiers_of_the_library(architecture: str) -> None:
    small: dict[str, Any] = (
        {"init_features": 4, "growth_rate": 4, "block_config": [1, 1]}
        if architecture == "densenet"
        else {"features": [4, 4, 8, 8], "blocks": [1, 1, 1, 1]}
    )
    network = build(NetworkSpec(architecture=architecture, params={**small, "out_channels": 3}))
    answer = as_answer(network.eval()(torch.rand(2, 1, 64, 64)))
    assert answer.image is not None
    assert answer.image.shape == (2, 3)


def test_a_place_that_does_not_count_says_nothing() -> None:
    torch.manual_seed(0)
    params = {"features": [4, 4, 8, 8], "blocks": [1, 1, 1, 1], "norm": "instance"}
    network = build(NetworkSpec(architecture="resnet", params=params)).eval()
    share = torch.zeros(1, 1, 64, 128)
    share[..., :64] = 1
    images = torch.rand(1, 1, 64, 128)
    answer = network(images, share)
    assert not answer.where[..., answer.where.shape[-1] // 2 :].any()
    mean_of_all = network(images).image
    assert not torch.allclose(answer.image, mean_of_all)


def test_it_learns_both(images: Path, tmp_path: Path) -> None:
    training = Training(config(images), tmp_path)
    assert (training.learns_pixels, training.learns_classes) == (True, True)
    before = [parameter.clone() for parameter in training.network.parameters()]
    training.run(Console(file=io.StringIO()))
    moved = [
        not torch.equal(one, other)
        for one, other in zip(before, training.network.parameters(), strict=True)
    ]
    assert sum(moved) > 0.9 * len(moved)


def test_with_a_class_share_of_one_the_pixels_are_left_out(images: Path, tmp_path: Path) -> None:
    content = training_config(images, **sections())
    content["training"] |= {"class_share": 1.0, "epochs": 1}
    training = Training(Config(**content), tmp_path)
    training.run(Console(file=io.StringIO()))
    assert not training.learns_pixels
    assert training.history[0].monitor_dice is None


def test_plain_gradient_descent_steps_once_an_epoch(images: Path, tmp_path: Path) -> None:
    content = training_config(images, **sections())
    content["training"] |= {"optimiser": "gd", "epochs": 3}
    training = Training(Config(**content), tmp_path)
    training.run(Console(file=io.StringIO()))
    assert training.steps > 1
    assert training.schedule.last_epoch == 3


def test_parts_begin_with_a_package_and_rest(images: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    plain = {**NETWORK["params"], "classes": 0, "deeper": 0}  # type: ignore[dict-item]
    segmenter = {"architecture": "multitask2d", "params": plain}
    content = training_config(images, network=segmenter)
    weights = build(NetworkSpec(**segmenter))
    start = tmp_path / "start"
    export(weights, Config(**content), "a.toml", start)
    classifier = {
        "architecture": "resnet",
        "params": {"in_channels": 2, "features": [4, 4, 8, 8], "blocks": [1, 1, 1, 1]},
    }
    whole = {
        "architecture": "cascade",
        "params": {"segmenter": segmenter, "classifier": classifier, "size": 64},
    }
    content = training_config(images, **{**sections(), "network": whole})
    content["training"] |= {"regions": True, "start": {"segmenter": start}, "rest": ["segmenter"]}
    training = Training(Config(**content), tmp_path / "out")
    assert (training.learns_pixels, training.learns_classes) == (False, True)
    network = training.run(Console(file=io.StringIO()))
    kept = network.get_submodule("segmenter").state_dict()
    for name, value in weights.state_dict().items():
        assert torch.equal(kept[name], value.half().float() if value.is_floating_point() else value)
    assert training.history[-1].loss != training.history[0].loss
    # and the whole goes into a package that outlines, classifies and says where
    spec = export(network, Config(**content), "b.toml", tmp_path / "package")
    loaded = load(spec, device="cpu")
    volume = np.random.default_rng(0).normal(50, 9, (2, 40, 40))
    pixels, scores, _ = loaded.examine(volume, None)
    assert pixels is not None
    assert scores is not None
    assert pixels.shape == (1, 2, 40, 40)
    assert scores.sum(axis=0) == pytest.approx([1, 1], abs=1e-5)
    again, maps = loaded.classify(volume, None, activations=True)
    assert again == pytest.approx(scores, abs=1e-5)
    assert maps is not None
    assert maps.shape == (2, 40, 40)
    assert loaded.predict(volume, None) == pytest.approx(pixels, abs=1e-3)


def test_a_part_that_is_none(images: Path, tmp_path: Path) -> None:
    content = training_config(images, **sections())
    content["training"] |= {"rest": ["wheel"]}
    with pytest.raises(TrainingError, match="the network has no part 'wheel'"):
        Training(Config(**content), tmp_path)


@pytest.mark.parametrize(
    ("labels", "network", "says"),
    [
        ({"none": 0, "blob": 2}, NETWORK, "makes 2 classes, data.labels name 3"),
        (
            LABELS,
            {"architecture": "multitask2d", "params": {"features": 4, "blocks": [1, 1]}},
            "answers for pixels only",
        ),
    ],
)
def test_classes_that_do_not_fit(
    images: Path, tmp_path: Path, labels: dict[str, int], network: dict[str, Any], says: str
) -> None:
    params = {**network["params"], "norm": "batch"}
    content = training_config(
        images, **sections(data={"labels": labels}, network={**network, "params": params})
    )
    with pytest.raises(TrainingError, match=says):
        Training(Config(**content), tmp_path)


def test_a_fold_is_judged_on_what_it_held_out(folds: Path) -> None:
    names = []
    for fold in (1, 2):
        scores = json.loads((folds / f"out-{fold}" / "scores.json").read_text())
        assert all(len(item["classes"]) == item["images"] == 4 for item in scores)
        names += [item["name"] for item in scores]
        report = (folds / f"out-{fold}" / "report.md").read_text()
        assert f"## On fold {fold} of 2" in report
        assert "| accuracy |" in report
        assert (folds / f"out-{fold}" / "roc.png").stat().st_size > 1000
    assert sorted(names) == [f"g{number}" for number in range(6)]  # the val split is left alone


def test_both_kinds_of_scores_are_printed(folds: Path, images: Path) -> None:
    target = folds / "packages" / "tiny"
    command = ["models", "merge", str(target), str(package(folds, 1)), str(package(folds, 2))]
    done = CliRunner().invoke(cli.app, [*command, "--mirrored"])
    assert done.exit_code == 0, done.output
    assert "2 members" in done.output
    done = CliRunner().invoke(
        cli.app,
        [
            *("--config", str(folds / "sentinode.toml")),
            *("models", "evaluate", "tiny", str(images), "--split", "val", "--json"),
        ],
    )
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["auc_positive"] == "blob"
    assert set(summary) >= {"accuracy", "auc", "auc_ci95", "ece", "dice_mean", "dice_ci95"}
    assert summary["n_images"] == 8
    assert 0 <= summary["ece"] <= 1


def test_an_ensemble_is_the_mean_of_its_members(folds: Path, tmp_path: Path) -> None:
    spec = merge([package(folds, 1), package(folds, 2)], tmp_path / "both")
    volume = np.random.default_rng(2).normal(60, 20, (3, 32, 32))
    answers = []
    for one in (read_spec(package(folds, 1)), read_spec(package(folds, 2)), spec):
        loaded = load(one, device="cpu")
        with torch.inference_mode():
            answer = loaded.network(torch.from_numpy(volume[:, None]).float())
        assert isinstance(answer, Answer)
        answers.append(answer)
    for field in ("pixels", "image"):
        first, second, both = (getattr(answer, field) for answer in answers)
        assert torch.allclose(both, (first + second) / 2, atol=1e-5)
    assert spec.output == read_spec(package(folds, 1)).output
    assert spec.training.labels == LABELS


def test_mirrored_answers_lie_where_the_image_shows_them(folds: Path, tmp_path: Path) -> None:
    spec = merge([package(folds, 1)], tmp_path / "twice", mirrored=True)
    network = load(spec, device="cpu").network
    images = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        straight, mirrored = network(images), network(images.flip(-1))
    assert torch.allclose(straight.pixels, mirrored.pixels.flip(-1), atol=1e-5)
    assert torch.allclose(straight.image, mirrored.image, atol=1e-5)


def test_cascades_with_other_classifiers_make_one(images: Path, tmp_path: Path) -> None:
    segmenter = {"architecture": "multitask2d", "params": {"features": 4, "blocks": [1, 1]}}
    segmenter["params"] |= {"norm": "batch"}  # type: ignore[operator]
    resnet = {"in_channels": 2, "features": [4, 4, 8, 8], "blocks": [1, 1, 1, 1]}
    packages, images_seen = [], torch.rand(2, 1, 32, 32)
    for number, classifier in enumerate(
        (
            {"architecture": "resnet", "params": resnet},
            {"architecture": "zones", "params": {"count": 2, "shrink": 2}},
        )
    ):
        params = {"segmenter": segmenter, "classifier": classifier, "size": 64}
        content = training_config(images, **sections())
        content["network"] = {"architecture": "cascade", "params": params}
        torch.manual_seed(4)  # the same segmenter
        packages.append(tmp_path / f"p{number}")
        network = build(NetworkSpec(**content["network"]))
        export(network, Config(**content), "a.toml", packages[-1])
    spec = merge(packages, tmp_path / "merged")
    answers = []
    for one in (*map(read_spec, packages), spec):
        with torch.inference_mode():
            answers.append(load(one, device="cpu").network(images_seen))
    assert torch.allclose(answers[2].image, (answers[0].image + answers[1].image) / 2, atol=1e-4)
    assert torch.equal(answers[2].pixels, answers[0].pixels)


def test_packages_that_do_not_belong_together(folds: Path, images: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    content = training_config(images)
    export(build(NetworkSpec(**content["network"])), Config(**content), "a.toml", other)
    with pytest.raises(ModelSpecError, match=r"differs from .* in its preprocessing"):
        merge([package(folds, 1), other], tmp_path / "out")
    with pytest.raises(ModelSpecError, match="at least one"):
        merge([], tmp_path / "out")


def _one_more(images: Path, folder: Path, channels: int, neighbours: int) -> Path:
    content = training_config(images)
    content["network"] = {
        "architecture": "unet2d",
        "params": {"in_channels": channels, "channels": [4, 8], "num_res_units": 1},
    }
    steps = list(content["preprocessing"])
    if neighbours:
        steps.append({"name": "neighbours", "params": {"count": neighbours}})
    content["preprocessing"] = steps
    export(build(NetworkSpec(**content["network"])), Config(**content), "a.toml", folder)
    return folder


def test_a_network_for_single_slices_among_others(images: Path, tmp_path: Path) -> None:
    wide = _one_more(images, tmp_path / "wide", 3, 1)
    flat = _one_more(images, tmp_path / "flat", 1, 0)
    spec = merge([wide, flat], tmp_path / "both", mean="sigmoid")
    seen = torch.rand(2, 3, 32, 32)
    first, second, both = (
        load(one, device="cpu").network for one in (read_spec(wide), read_spec(flat), spec)
    )
    with torch.inference_mode():
        wanted = (first(seen).sigmoid() + second(seen[:, 1:2]).sigmoid()) / 2
        assert torch.allclose(both(seen).sigmoid(), wanted, atol=1e-4)
    assert spec.preprocessing == read_spec(wide).preprocessing
    with pytest.raises(ModelSpecError, match="another number of slices"):
        merge([flat, wide], tmp_path / "other_order")
    with pytest.raises(ModelSpecError, match="another number of slices"):
        merge([_one_more(images, tmp_path / "wider", 5, 2), wide], tmp_path / "two_counts")


def test_one_voice_each_where_probabilities_are_averaged() -> None:
    kinds = [{"architecture": "threshold", "params": {"level": level}} for level in (0.2, 0.8)]
    params = {"kinds": kinds, "mean": "sigmoid"}
    network = build(NetworkSpec(architecture="ensemble", params=params))
    with torch.inference_mode():
        said = network(torch.tensor([[[[0.1, 0.5, 0.9]]]])).sigmoid()
    assert torch.allclose(said, torch.tensor([[[[0.0, 0.5, 1.0]]]]), atol=1e-4)
    with pytest.raises(ModelSpecError, match="mean is one of"):
        build(NetworkSpec(architecture="ensemble", params={"kinds": kinds, "mean": "votes"}))
