"""ONNX files out of networks, and the same in 8 bits (the extra `compress`)."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.errors import ModelError, ModelSpecError
from models.answer import Answer, as_answer

_OPSET = 17
_INPUT, _OUTPUT = "images", "logits"


class _One(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answer = as_answer(self.network(images))
        return answer.pixels if answer.pixels is not None else answer.image  # type: ignore[return-value]


def to_onnx(network: nn.Module, images: torch.Tensor) -> bytes:
    """An ONNX file of `network`; batch and sides may vary.

    Raises:
        ModelError: the package onnx is not installed.
        ModelSpecError: the network has two answers, or parts that ONNX cannot say.
    """
    with torch.inference_mode():
        given = network(images)
    if isinstance(given, Answer) and given.pixels is not None and given.image is not None:
        raise ModelSpecError(
            "a network with two answers does not go into an ONNX file",
            remedy="Quantise its weights only: --weights-only.",
        )
    sides = {0: "n", **{axis: f"side{axis}" for axis in range(2, images.ndim)}}
    pixels = as_answer(given).pixels is not None
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="sentinode-") as place:
            made = Path(place) / "made.onnx"
            # the exporter warns of itself, and of every shape that it takes for a constant
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _One(network).eval(),
                (images,),
                made,
                dynamo=False,
                opset_version=_OPSET,
                input_names=[_INPUT],
                output_names=[_OUTPUT],
                dynamic_axes={_INPUT: sides, _OUTPUT: sides if pixels else {0: "n"}},
            )
            return made.read_bytes()
    except ImportError as error:
        raise ModelError(
            f"an ONNX file needs another package: {error}",
            remedy="pip install 'sentinode[compress]'",
        ) from error
    except RuntimeError as error:
        raise ModelSpecError(f"the network does not go into an ONNX file: {error}") from error


def in_eight_bits(file: bytes, examples: Sequence[torch.Tensor]) -> bytes:
    """The network of an ONNX file with weights in 8 bits.

    With `examples` (inputs of the network, one a tensor) the convolutions work in 8 bits, too,
    within the ranges that were seen there (static). Without, only the weights are 8 bits, and
    ranges are found anew for each input (dynamic).

    Raises:
        ModelError: onnx or onnxruntime is not installed.
    """
    try:
        import onnx  # noqa: PLC0415 - only who compresses needs it
        from onnxruntime import quantization  # noqa: PLC0415
    except ImportError as error:
        raise ModelError(
            f"quantisation needs another package: {error}",
            remedy="pip install 'sentinode[compress]'",
        ) from error

    class Examples(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[torch.Tensor] = iter(examples)

        def get_next(self) -> dict[str, Any] | None:
            one = next(self.left, None)
            return None if one is None else {_INPUT: one.numpy()}

    with tempfile.TemporaryDirectory(prefix="sentinode-") as place:
        source, made = Path(place) / "source.onnx", Path(place) / "made.onnx"
        # its quantiser wants to know every shape on the way
        onnx.save(onnx.shape_inference.infer_shapes(onnx.load_from_string(file)), source)
        if examples:
            quantization.quantize_static(
                source,
                made,
                Examples(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "ConvTranspose", "Gemm", "MatMul"],
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={"ActivationSymmetric": False},
            )
        else:
            quantization.quantize_dynamic(
                source, made, per_channel=True, weight_type=quantization.QuantType.QInt8
            )
        return made.read_bytes()
