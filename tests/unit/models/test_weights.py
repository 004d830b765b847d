"""Weights on disk: what is missing, cut, changed or of another network is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from support.packages import write_spec

from core.errors import WeightsError
from core.modelspec import ModelSpec, read_spec
from models.architectures import build
from models.registry import load
from models.weights import load_weights, save_weights, sha256


@pytest.fixture
def package(tmp_path: Path) -> ModelSpec:
    """A whole package with random weights."""
    folder = tmp_path / "tiny"
    network = build(read_spec(write_spec(folder).parent).network)
    checksum = save_weights(network, folder / "weights.safetensors")
    return name_weights(folder, checksum)


def name_weights(folder: Path, checksum: str) -> ModelSpec:
    weights = {"file": "weights.safetensors", "sha256": checksum, "dtype": "float16"}
    return read_spec(write_spec(folder, weights=weights).parent)


def test_weights_come_back_as_they_were_written(package: ModelSpec) -> None:
    first, second = build(package.network), build(package.network)
    load_weights(first, package)
    load_weights(second, package)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        assert value.dtype == torch.float32
        assert torch.equal(value, value.half().float())  # they were written as float16


def test_the_same_network_makes_the_same_file(package: ModelSpec, tmp_path: Path) -> None:
    network = build(package.network)
    load_weights(network, package)
    again = tmp_path / "again.safetensors"
    assert save_weights(network, again) == package.weights.sha256 == sha256(again)


def test_missing_weights(package: ModelSpec) -> None:
    package.weights_path.unlink()
    with pytest.raises(WeightsError, match=r"tiny: its weights cannot be read: .*weights\.safe"):
        load(package, device="cpu")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_truncated_weights(package: ModelSpec, share: float) -> None:
    data = package.weights_path.read_bytes()
    package.weights_path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError, match=r"not the file that tiny/model\.toml names") as caught:
        load(package, device="cpu")
    assert "truncated or changed" in caught.value.remedy
    assert package.weights.sha256[:12] in str(caught.value)


def test_one_bit_that_was_changed(package: ModelSpec) -> None:
    data = bytearray(package.weights_path.read_bytes())
    data[-1] ^= 1
    package.weights_path.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="not the file"):
        load(package, device="cpu")


@pytest.mark.parametrize("data", [b"", b"no weights at all", b"\xff" * 64])
def test_a_file_that_is_none_although_its_checksum_fits(package: ModelSpec, data: bytes) -> None:
    package.weights_path.write_bytes(data)
    spec = name_weights(package.folder, hashlib.sha256(data).hexdigest())
    with pytest.raises(WeightsError, match="tiny: the weights do not fit"):
        load(spec, device="cpu")


def test_weights_of_another_network(package: ModelSpec) -> None:
    other = package.model_copy(
        update={
            "network": package.network.model_copy(
                update={"params": {**package.network.params, "channels": [4, 8, 8]}}
            )
        }
    )
    with pytest.raises(WeightsError, match=r"(?s)tiny: the weights do not fit .*size"):
        load(other, device="cpu")
