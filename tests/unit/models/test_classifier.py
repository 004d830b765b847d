"""Classifiers: scores for each image, and maps that are bright where the network looked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.packages import write_spec
from torch import nn

from core.errors import ModelError, ModelSpecError
from core.modelspec import ModelSpec, NetworkSpec, StepSpec, read_spec
from models.activation import classify_with_maps, scaled
from models.architectures import build
from models.preprocessing import prepare_volume
from models.registry import LoadedModel, load
from models.weights import save_weights

CODE = {"value": "52988006", "scheme": "SCT", "meaning": "Lesion"}
SIZE = 32


def label(channel: int, *, sought: bool = True) -> dict[str, Any]:
    name = f"class {channel}"
    return {"channel": channel, "name": name, "category": CODE, "type": CODE, "sought": sought}


def specification(folder: Path, **output: Any) -> ModelSpec:
    path = write_spec(
        folder,
        input={"modality": ["CR"], "kind": "image"},
        preprocessing=[{"name": "resize", "params": {"rows": SIZE, "columns": SIZE}}],
        network={"architecture": "cnn", "params": {"rows": SIZE, "columns": SIZE}},
        output={
            "kind": "classification",
            "activation": "softmax",
            "labels": [label(0, sought=False), label(1)],
            **output,
        },
    )
    return read_spec(path.parent)


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return specification(tmp_path / "p")


@pytest.fixture
def model(spec: ModelSpec) -> LoadedModel:
    torch.manual_seed(2)
    network = build(spec.network).eval()
    return LoadedModel(spec, network, torch.device("cpu"), autocast=False)


def images(count: int = 5, rows: int = 40, columns: int = 28) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1, (count, rows, columns)).astype(np.float32)


class Looking(nn.Module):
    """Weighs each place of the image by its weights for each class, and adds up."""

    def __init__(self, *looks_at: np.ndarray) -> None:
        super().__init__()
        places = torch.from_numpy(np.stack(looks_at).astype(np.float32))
        self.places = nn.Parameter(places[None])
        self.convolution = nn.Conv2d(len(looks_at), len(looks_at), 1, bias=False)
        with torch.no_grad():
            self.convolution.weight.copy_(torch.eye(len(looks_at))[..., None, None])

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.relu_(self.convolution(pictures * self.places)).mean(dim=(2, 3))


def looks_at(rows: slice = slice(None), columns: slice = slice(None)) -> np.ndarray:
    weights = np.zeros((SIZE, SIZE))
    weights[rows, columns] = 1
    return weights


def test_a_network_that_looks_at_a_corner_has_a_map_bright_in_that_corner(
    model: LoadedModel,
) -> None:
    """All four corners are bright; the network weighs one of them."""
    corner = slice(0, 8), slice(-8, None)
    network = Looking(looks_at(slice(12, 20), slice(12, 20)), looks_at(*corner) * 9)
    picture = np.zeros((3, SIZE, SIZE))
    for rows in (slice(0, 8), slice(-8, None)):
        for columns in (slice(0, 8), slice(-8, None)):
            picture[:, rows, columns] = 5
    scores, maps = replace(model, network=network).classify(picture, None, activations=True)
    assert (scores[1] > 0.9).all()
    assert maps is not None
    assert maps.dtype == np.float16
    for found in maps:
        assert found[corner].min() == 1
        found[corner] = 0
        assert not found.any()


def test_the_map_is_of_the_class_that_is_sought_and_highest(tmp_path: Path) -> None:
    """Class 0 is not sought and looks left; 1 looks at the top, 2 at the bottom."""
    spec = specification(
        tmp_path / "p",
        activation="sigmoid",
        labels=[label(0, sought=False), label(1), label(2)],
    )
    top, bottom = slice(0, 4), slice(-4, None)
    network = Looking(looks_at(columns=slice(0, 4)) * 9, looks_at(top), looks_at(bottom))
    pictures = np.ones((2, SIZE, SIZE))
    pictures[0, top], pictures[1, bottom] = 2, 2
    loaded = LoadedModel(spec, network, torch.device("cpu"), autocast=False)
    _, maps = loaded.classify(pictures, None, activations=True)
    assert maps is not None
    assert maps[0, top].min() == maps[1, bottom].min() == 1
    assert not maps[0, 4:].any()
    assert not maps[1, :-4].any()


def test_it_is_grad_cam() -> None:
    """Selvaraju et al. 2017, equations 1 and 2, by the letter."""
    torch.manual_seed(0)
    convolution, dense = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6 * 12 * 15, 3)
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), convolution, nn.Flatten(), dense)
    pictures = torch.randn(4, 1, 12, 15)
    logits, maps = classify_with_maps(network.eval(), pictures, [1, 2])
    assert maps is not None
    with torch.no_grad():
        features = convolution(network[0](pictures))
        best = logits[:, 1:].argmax(dim=1) + 1
        # the logit is linear in the features: its gradient is the dense layer's weight
        weights = dense.weight[best].view(4, 6, 12, 15).mean(dim=(2, 3), keepdim=True)
        expected = torch.relu((weights * features).sum(dim=1, keepdim=True))
    assert torch.allclose(maps, expected, atol=1e-6)


def test_asking_for_maps_changes_neither_scores_nor_network(model: LoadedModel) -> None:
    before = [value.clone() for value in model.network.state_dict().values()]
    plain, none = model.classify(images(), None)
    scores, maps = model.classify(images(), None, activations=True)
    assert none is None
    assert maps is not None
    assert np.allclose(plain, scores, atol=1e-6)
    assert scores.dtype == np.float32
    assert all(
        torch.equal(was, now)
        for was, now in zip(before, model.network.state_dict().values(), strict=True)
    )
    assert all(weight.grad is None for weight in model.network.parameters())
    assert not any(module._forward_hooks for module in model.network.modules())


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 20, 45), (2, 50, 33)])
def test_maps_lie_in_the_grid_of_the_images(
    model: LoadedModel, shape: tuple[int, int, int], frozen: bool
) -> None:
    model.network.requires_grad_(not frozen)
    scores, maps = model.classify(images(*shape), (1, 0.2, 0.2), activations=True)
    assert scores.shape == (2, shape[0])
    assert np.allclose(scores.sum(axis=0), 1, atol=1e-6)
    assert maps is not None
    assert maps.shape == shape
    assert (maps >= 0).all()
    for found in maps:
        assert found.max() in (0, 1)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_batch_size_changes_nothing(model: LoadedModel, batch_size: int) -> None:
    scores, maps = model.classify(images(), None, batch_size=5, activations=True)
    others, other_maps = model.classify(images(), None, batch_size=batch_size, activations=True)
    assert np.allclose(scores, others, atol=1e-5)
    assert np.allclose(maps, other_maps, atol=5e-3)


def test_mixed_precision_gives_maps_too(model: LoadedModel) -> None:
    scores, maps = replace(model, autocast=True).classify(images(), None, activations=True)
    exact, _ = model.classify(images(), None)
    assert np.allclose(scores, exact, atol=0.05)
    assert maps is not None
    assert np.isfinite(maps).all()


class Small(nn.Module):
    """A network on a device that holds only so many images at once."""

    def __init__(self, network: nn.Module, most: int) -> None:
        super().__init__()
        self.network, self.most = network, most

    def forward(self, pictures: torch.Tensor) -> Any:
        if len(pictures) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return self.network(pictures)


def test_a_batch_that_does_not_fit_is_halved(model: LoadedModel) -> None:
    scores, maps = model.classify(images(7), None, activations=True)
    small = replace(model, network=Small(model.network, 2))
    others, other_maps = small.classify(images(7), None, batch_size=8, activations=True)
    assert np.allclose(scores, others, atol=1e-5)
    assert np.allclose(maps, other_maps, atol=5e-3)
    with pytest.raises(ModelError, match="does not fit"):
        replace(model, network=Small(model.network, 0)).classify(images(1), None)


def test_a_network_without_places_has_no_map(model: LoadedModel) -> None:
    dense = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 2))
    scores, maps = replace(model, network=dense).classify(images(), None, activations=True)
    assert scores.shape == (2, 5)
    assert maps is None


@pytest.mark.parametrize("activations", [True, False])
def test_answers_of_the_wrong_kind_are_told(model: LoadedModel, activations: bool) -> None:
    everywhere = replace(model, network=nn.Conv2d(1, 2, 1))
    with pytest.raises(ModelSpecError, match="one answer for each image"):
        everywhere.classify(images(), None, activations=activations)
    with pytest.raises(ModelSpecError, match="one answer for every pixel"):
        model.predict(images(), None)


@pytest.mark.parametrize("activations", [True, False])
def test_a_label_without_a_class_is_told(tmp_path: Path, activations: bool) -> None:
    spec = specification(tmp_path / "p", labels=[label(0), label(4)])
    loaded = LoadedModel(spec, build(spec.network).eval(), torch.device("cpu"), autocast=False)
    with pytest.raises(ModelSpecError, match=r"channel 4.*2 channel"):
        loaded.classify(images(), None, activations=activations)


def test_softmax_of_a_segmentation_counts_channels_without_a_label(tmp_path: Path) -> None:
    path = write_spec(
        tmp_path / "p",
        preprocessing=[],
        output={"kind": "segmentation", "activation": "softmax", "labels": [label(1)]},
    )
    network = nn.Conv2d(1, 3, 1)
    loaded = LoadedModel(read_spec(path.parent), network, torch.device("cpu"), autocast=False)
    answer = loaded.predict(images(2, 8, 8), None)
    with torch.no_grad():
        expected = network(torch.from_numpy(images(2, 8, 8))[:, None]).softmax(dim=1)
    assert answer.shape == (2, 2, 8, 8)
    assert np.allclose(answer, expected[:, :2].movedim(1, 0).numpy(), atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(8, 70),
    columns=st.integers(8, 70),
    classes=st.integers(1, 5),
    channels=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    kernel=st.sampled_from([1, 3, 5]),
    activation=st.sampled_from(["relu", "elu", "gelu", "tanh"]),
)
def test_the_cnn_takes_any_size(
    rows: int, columns: int, classes: int, channels: list[int], kernel: int, activation: str
) -> None:
    parameters = {"rows": rows, "columns": columns, "out_channels": classes, "dense": 4}
    network = build_cnn(**parameters, channels=channels, kernel_size=kernel, activation=activation)
    assert network(torch.zeros(2, 1, rows, columns)).shape == (2, classes)
    with pytest.raises(ModelSpecError, match="resize"):
        network(torch.zeros(2, 1, rows + 1, columns))


def build_cnn(**parameters: Any) -> nn.Module:
    return build(NetworkSpec(architecture="cnn", params=parameters))


def test_the_cnn_is_the_one_of_the_text() -> None:
    network = build_cnn(rows=224, columns=224, out_channels=2, dense=64)
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [32, 64, 128]
    assert {layer.kernel_size for layer in convolutions} == {(3, 3)}
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in network) == 3
    assert network.dense.in_features == 128 * 28 * 28


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rows": 4, "columns": 224}, "too few"),
        ({"rows": 32, "columns": 32, "kernel_size": 4}, "odd"),
        ({"rows": 32, "columns": 32, "activation": "magic"}, "no activation 'magic'"),
        ({"rows": 32}, "columns"),
    ],
)
def test_a_cnn_that_cannot_be_is_told(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelSpecError, match=f"network.params of cnn: .*{words}"):
        build_cnn(**wrong)


def test_a_package_with_a_classifier_is_loaded_and_frozen(tmp_path: Path) -> None:
    spec = specification(tmp_path / "p")
    checksum = save_weights(build(spec.network), tmp_path / "p" / spec.weights.file)
    spec = spec.model_copy(update={"weights": spec.weights.model_copy(update={"sha256": checksum})})
    loaded = load(spec, device="cpu")
    assert not any(weight.requires_grad for weight in loaded.network.parameters())
    scores, maps = loaded.classify(images(), None, activations=True)
    assert scores.shape == (2, 5)
    assert maps is not None


def resized(rows: int, columns: int, target: Sequence[int], picture: np.ndarray) -> Any:
    step = StepSpec(name="resize", params={"rows": target[0], "columns": target[1]})
    return prepare_volume([step], picture.reshape(1, rows, columns), None)


@given(st.integers(1, 90), st.integers(1, 90), st.tuples(st.integers(1, 80), st.integers(1, 80)))
def test_resize_gives_the_size_that_is_asked_for_and_the_proportions(
    rows: int, columns: int, target: tuple[int, int]
) -> None:
    picture = np.random.default_rng(rows).normal(size=(1, rows, columns)).astype(np.float32)
    plan = resized(rows, columns, target, picture)
    prepared = plan.prepare(picture)
    assert tuple(prepared.shape[-2:]) == target
    assert plan.restore(prepared).shape == (1, 1, rows, columns)
    assert plan.resampled[0] == target[0] or plan.resampled[1] == target[1]
    scale = min(target[0] / rows, target[1] / columns)
    assert abs(plan.resampled[0] - max(rows * scale, 1)) <= 0.5 + 1e-9
    assert abs(plan.resampled[1] - max(columns * scale, 1)) <= 0.5 + 1e-9
    left, right, top, bottom = plan.padding
    assert min(plan.padding) >= 0
    assert 0 <= right - left <= 1
    assert 0 <= bottom - top <= 1


def test_what_was_resized_comes_back_in_its_place() -> None:
    y, x = np.mgrid[:60, :90]
    picture = np.exp(-((y - 20) ** 2 + (x - 61) ** 2) / 72)[None].astype(np.float32)
    plan = resized(60, 90, (48, 48), picture)
    restored = plan.restore(plan.prepare(picture))[0, 0].numpy()
    total = restored.sum()
    assert float((y * restored).sum() / total) == pytest.approx(20, abs=0.3)
    assert float((x * restored).sum() / total) == pytest.approx(61, abs=0.3)


def test_a_size_of_nothing_is_told() -> None:
    with pytest.raises(ModelSpecError, match=r"preprocessing\.resize"):
        resized(4, 4, (0, 10), np.zeros((1, 4, 4)))


def test_a_map_of_nothing_stays_nothing() -> None:
    maps = torch.zeros(2, 1, 3, 3)
    maps[1, 0, 2, 2] = 0.25
    done = scaled(maps)
    assert not done[0].any()
    assert done[1].max() == 1
