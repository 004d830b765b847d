"""Smaller packages: what they keep, what they weigh, and that the comparison is honest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from support.packages import training_config, write_images
from torch import nn

from core.errors import ModelSpecError
from core.modelspec import ModelSpec, NetworkSpec, WeightsSpec
from models.architectures import build
from models.compression.compare import compare, table
from models.compression.compress import Options, compress
from models.compression.onnx_files import to_onnx
from models.compression.prune import narrower, prune
from models.quicker import ChannelNorm, quicker
from models.registry import load
from models.training.config import Config
from models.training.export import export
from models.training.loop import Training
from models.weights import load_weights, save_eighth, save_weights

QUIET = Console(quiet=True)
NETWORK = {
    "architecture": "unet2d",
    "params": {"channels": [8, 16, 16], "num_res_units": 1, "head_features": 8},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), train=6, val=2)


@pytest.fixture(scope="module")
def config(data: Path) -> Config:
    return Config(
        **training_config(
            data,
            network=NETWORK,
            training={"epochs": 12, "learning_rate": 0.02, "batch_size": 4},
            augmentation={"noise": 0.0},
        )
    )


@pytest.fixture(scope="module")
def trained(config: Config, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = tmp_path_factory.mktemp("trained")
    network = Training(config, folder).run(QUIET)
    return export(network, config, "tiny.toml", folder / "tiny")


def run(
    spec: ModelSpec, method: Any, tmp_path: Path, data: Path, config: Config, **options: Any
) -> tuple[ModelSpec, list[Any]]:
    return compress(spec, method, tmp_path / "made", data, Options(**options), QUIET, config)


def test_pruning_keeps_the_strongest_channels() -> None:
    """A network whose weak channels are zero says the same without them."""
    spec = NetworkSpec(architecture="cnn", params={"rows": 8, "columns": 8, "channels": [8, 8]})
    torch.manual_seed(2)
    network = build(spec).eval()
    keep: dict[str, list[int]] = {"convolution1": [0, 3, 5, 6], "convolution2": [1, 2, 4, 7]}
    with torch.no_grad():
        for name, kept in keep.items():
            layer = network.get_submodule(name)
            weak = [at for at in range(8) if at not in kept]
            layer.weight[weak] *= 1e-6
            layer.bias[weak] = 0
    images = torch.randn(3, 1, 8, 8)
    smaller, made = prune(network, spec, 0.5, images)
    assert made.params["channels"] == [4, 4]
    assert made.params["dense"] == 64
    assert sum(item.numel() for item in smaller.parameters()) < 0.4 * sum(
        item.numel() for item in network.parameters()
    )
    with torch.inference_mode():
        first = network.get_submodule("convolution1")(images)[:, keep["convolution1"]]
        assert torch.allclose(smaller.get_submodule("convolution1")(images), first, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    [
        {"architecture": "unet2d", "params": {"channels": [8, 16, 24], "head_features": 8}},
        {"architecture": "fcn", "params": {"features": [8, 8, 16]}},
        {"architecture": "multitask2d", "params": {"features": 8, "blocks": [1, 1, 1]}},
        {"architecture": "cnn", "params": {"rows": 32, "columns": 32, "channels": [8, 8]}},
    ],
)
def test_architectures_that_can_be_pruned(network: dict[str, Any]) -> None:
    spec = NetworkSpec(**network)
    smaller, made = prune(build(spec).eval(), spec, 0.5, torch.randn(1, 1, 32, 32))
    assert made.architecture == spec.architecture
    with torch.inference_mode():
        given = smaller.eval()(torch.randn(2, 1, 32, 32))
    assert torch.isfinite(given).all()


def test_what_has_no_width_cannot_be_narrower() -> None:
    with pytest.raises(ModelSpecError, match="no width"):
        narrower(NetworkSpec(architecture="threshold", params={"level": 1.0}), 0.5)


@pytest.mark.parametrize("method", ["prune", "distil"])
def test_smaller_networks_learn_back(
    method: str, trained: ModelSpec, config: Config, data: Path, tmp_path: Path
) -> None:
    made, (before, after) = run(
        trained, method, tmp_path, data, config, share=0.5, epochs=12, learning_rate=0.02
    )
    assert made.network.params["channels"] == [4, 8, 8]
    assert before.scores["dice_volume_mean"] > 0.8
    assert after.scores["dice_volume_mean"] > before.scores["dice_volume_mean"] - 0.15
    assert after.megabytes < before.megabytes / 2
    card = (made.folder / "card.md").read_text()
    assert f"{after.scores['dice_volume_mean']:.4f}" in card
    assert load(made, device="cpu").spec.name == f"tiny-{method}"


@pytest.mark.parametrize("dynamic", [False, True])
def test_eight_bits_say_nearly_the_same(
    dynamic: bool, trained: ModelSpec, config: Config, data: Path, tmp_path: Path
) -> None:
    made, (before, after) = run(trained, "quantise", tmp_path, data, config, dynamic=dynamic)
    assert made.network.architecture == "onnx"
    assert abs(after.scores["dice_volume_mean"] - before.scores["dice_volume_mean"]) < 0.05
    import onnx

    kinds = {item.data_type for item in onnx.load(made.weights_path).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds


def test_half_precision_halves(
    trained: ModelSpec, config: Config, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelSpecError, match="16 bits already"):
        run(trained, "half", tmp_path, data, config)
    network = load(trained, device="cpu").network
    whole = tmp_path / "whole"
    whole.mkdir()
    checksum = save_weights(network, whole / "weights.safetensors", torch.float32)
    text = (trained.folder / "model.toml").read_text()
    text = text.replace(trained.weights.sha256, checksum).replace('"float16"', '"float32"')
    (whole / "model.toml").write_text(text)
    from core.modelspec import read_spec

    made, (before, after) = run(read_spec(whole), "half", tmp_path, data, config)
    assert after.megabytes < 0.65 * before.megabytes
    assert after.scores["dice_volume_mean"] == pytest.approx(
        before.scores["dice_volume_mean"], abs=0.01
    )
    assert made.weights.dtype == "float16"


def test_learning_needs_a_configuration(trained: ModelSpec, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelSpecError, match="learns from images"):
        compress(trained, "distil", tmp_path / "made", data, Options(), QUIET)


def test_a_table_holds_every_model_against_the_first(trained: ModelSpec, data: Path) -> None:
    model = load(trained, device="cpu")
    lines = table(compare([model, model], data, "val")).splitlines()
    assert len(lines) == 4
    assert lines[2].split("|")[2:4] == lines[3].split("|")[2:4]
    assert "1.00 ×" in lines[3]


def test_the_same_file_in_onnx_says_the_same() -> None:
    network = build(NetworkSpec(**NETWORK)).eval()
    images = torch.randn(2, 1, 24, 40)
    import onnxruntime

    session = onnxruntime.InferenceSession(to_onnx(network, torch.randn(1, 1, 16, 16)))
    with torch.inference_mode():
        wanted = network(images).numpy()
    found = session.run(None, {"images": images.numpy()})[0]
    assert np.abs(found - wanted).max() < 1e-3


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, nn.InstanceNorm3d])
@pytest.mark.parametrize("affine", [True, False])
def test_quicker_norms_are_the_same_norms(norm: Any, affine: bool) -> None:
    torch.manual_seed(0)
    slow = nn.Sequential(norm(6, affine=affine), nn.PReLU())
    if affine:
        nn.init.normal_(slow[0].weight)
        nn.init.normal_(slow[0].bias)
    images = torch.randn(2, 6, *[5, 7, 9][: 2 if norm is nn.InstanceNorm2d else 3]) * 30 + 100
    wanted = slow(images)
    names = list(slow.state_dict())
    quick = quicker(slow)
    assert isinstance(quick[0], ChannelNorm)
    assert torch.allclose(quick(images), wanted, atol=2e-4)
    assert list(quick.state_dict()) == names
    tracking = nn.Sequential(norm(6, track_running_stats=True))
    assert not isinstance(quicker(tracking)[0], ChannelNorm)


def test_weights_in_eight_bits_are_half_as_large_and_nearly_the_same(tmp_path: Path) -> None:
    torch.manual_seed(2)
    spec = NetworkSpec(architecture="lite2d", params={"classes": 2})
    network = build(spec).eval()
    save_weights(network, tmp_path / "half", torch.float16)
    save_eighth(network, tmp_path / "eighth")
    sizes = [(tmp_path / name).stat().st_size for name in ("half", "eighth")]
    assert sizes[0] > 1.9 * sizes[1]
    folder = tmp_path / "package"
    folder.mkdir()
    checksum = save_eighth(network, folder / "weights.safetensors")
    again = build(spec).eval()
    package = ModelSpec.model_construct(
        name="it",
        folder=folder,
        weights=WeightsSpec(file="weights.safetensors", sha256=checksum, dtype="int8"),
    )
    load_weights(again, package)
    for name, value in network.state_dict().items():
        if value.ndim > 1 and value.numel() >= 256:  # a step is 1/127 of a channel's largest weight
            step = value.flatten(1).abs().amax(dim=1) / 127
            off = (again.state_dict()[name] - value).flatten(1).abs().amax(dim=1)
            assert (off <= step * 0.6 + 1e-5).all()
