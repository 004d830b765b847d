"""From a specification to a network in memory, whatever the package's kind."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from core.modelspec import ModelSpec
from models.architectures import build, on_device
from models.packages.bundle import open_bundle
from models.packages.onnx import open_onnx
from models.quicker import quicker
from models.weights import load_weights

BUNDLE, ONNX = "monai_bundle", "onnx"


def open_network(spec: ModelSpec, device: torch.device, allowed: Collection[str] = ()) -> nn.Module:
    """The package's network with its weights, on `device`, ready to be asked.

    `allowed` are hashes of packages whose own code may run.

    Raises:
        ModelError: the network cannot be built, or its runtime is not installed.
        WeightsError: its weights are missing, not those named, or do not fit.
    """
    if spec.network.architecture == BUNDLE:
        bundle = open_bundle(spec, device, allowed)
        return quicker(bundle) if device.type == "cpu" else bundle
    if spec.network.architecture == ONNX:
        return open_onnx(spec, device).eval()
    network = build(spec.network)
    load_weights(network, spec)
    network = on_device(network, device).eval().requires_grad_(False)
    return quicker(network) if device.type == "cpu" else network
