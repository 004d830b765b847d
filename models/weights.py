"""Weights on disk: safetensors, checked by SHA-256 before they are loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from core.errors import WeightsError
from core.modelspec import ModelSpec


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_weights(network: nn.Module, path: Path, dtype: torch.dtype = torch.float16) -> str:
    """Write a network's weights, floating point ones as `dtype`; returns their SHA-256."""
    tensors = {
        name: (value.to(dtype) if value.is_floating_point() else value).contiguous().cpu()
        for name, value in network.state_dict().items()
    }
    # safetensors' own save_file makes a file that only its owner may read
    path.write_bytes(save(tensors))
    return sha256(path)


def read_weights(spec: ModelSpec) -> bytes:
    """The package's weights file, checked.

    Raises:
        WeightsError: it is missing, or not the one that the specification names.
    """
    path = spec.weights_path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{spec.name}: its weights cannot be read: {error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != spec.weights.sha256:
        raise WeightsError(
            f"{spec.name}: {path.name} is not the file that {spec.folder.name}/model.toml names "
            f"(SHA-256 {found[:12]}…, not {spec.weights.sha256[:12]}…)",
            remedy="It was truncated or changed. Install the package again.",
        )
    return data


def load_weights(network: nn.Module, spec: ModelSpec) -> None:
    """Read the package's weights into `network`, as float32.

    Raises:
        WeightsError: they are missing, not the ones that the specification names, or do not fit.
    """
    data = read_weights(spec)
    try:
        tensors = {
            name: value.float() if value.is_floating_point() else value
            for name, value in load(data).items()
        }
        network.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise WeightsError(f"{spec.name}: the weights do not fit the network: {error}") from error
