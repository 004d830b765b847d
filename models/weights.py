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

_SCALE = ".scale_of_eight_bits"
_LEAST_AXES, _LEAST_WEIGHTS = 2, 256
_MOST, _TINY = 127.0, 1e-4


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


def save_eighth(network: nn.Module, path: Path) -> str:
    """Write a network's weights in 8 bits; returns the file's SHA-256.

    Of each convolution and dense layer every output channel has a scale of its own (Jacob et al.
    2018, symmetric), so that its largest weight is 127. They are read back as float32: such a file
    is small, and no quicker. What is small anyway (biases, norms) stays in 16 bits.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, value in network.state_dict().items():
        given = value.detach().cpu()
        if not given.is_floating_point():
            tensors[name] = given.contiguous()
        elif given.ndim < _LEAST_AXES or given.numel() < _LEAST_WEIGHTS:
            tensors[name] = given.half().contiguous()
        else:
            largest = given.float().flatten(1).abs().amax(dim=1).clamp_min(_TINY)
            scale = (largest / _MOST).half().float()  # as it is read back
            shape = (-1, *[1] * (given.ndim - 1))
            steps = (given.float() / scale.view(shape)).round().clamp(-_MOST, _MOST)
            tensors[name] = steps.to(torch.int8).contiguous()
            tensors[name + _SCALE] = scale.half().contiguous()
    path.write_bytes(save(tensors))
    return sha256(path)


def _whole(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as float32, also those that lie in 8 bits beside their scales."""
    found = {}
    for name, value in tensors.items():
        scale = tensors.get(name + _SCALE)
        if name.endswith(_SCALE) and name.removesuffix(_SCALE) in tensors:
            continue
        if scale is not None:
            found[name] = value.float() * scale.float().view(-1, *[1] * (value.ndim - 1))
        else:
            found[name] = value.float() if value.is_floating_point() else value
    return found


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
        network.load_state_dict(_whole(load(data)))
    except (SafetensorError, RuntimeError) as error:
        raise WeightsError(f"{spec.name}: the weights do not fit the network: {error}") from error
