"""A network in an ONNX file, run by ONNX Runtime (the extra `onnx`)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from core.errors import ModelError, ModelSpecError, WeightsError
from core.modelspec import ModelSpec
from models.weights import read_weights

Output = Literal["logits", "sigmoid", "softmax"]

_SURE = 1e-6  # probabilities of 0 and 1 have no logit
_TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}


class OnnxNetwork(nn.Module):
    """(batch, in, …) to logits, by a session of ONNX Runtime.

    `output` says what the file gives: logits, or probabilities after sigmoid or softmax, which
    are turned back into logits.
    """

    def __init__(self, session: Any, output: Output, name: str) -> None:
        super().__init__()
        self.session, self.output, self.name = session, output, name
        given = session.get_inputs()
        if len(given) != 1 or given[0].type not in _TYPES:
            kinds = ", ".join(item.type for item in given)
            raise ModelSpecError(f"{name}: one input of floating point is needed, it has: {kinds}")
        self.input = given[0].name
        self.dtype = _TYPES[given[0].type]
        self.one_by_one = given[0].shape[:1] == [1]
        self.shape = given[0].shape

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits float32, of the session's first output.

        Raises:
            ModelSpecError: images of a size that the file does not take.
        """
        values = images.to("cpu", self.dtype).contiguous()
        parts = torch.split(values, 1) if self.one_by_one else (values,)
        try:
            found = [self.session.run(None, {self.input: part.numpy()})[0] for part in parts]
        except Exception as error:
            sides = " × ".join(map(str, images.shape))
            raise ModelSpecError(
                f"{self.name}: the network takes {self.shape}, and cannot do with {sides}: "
                f"{str(error)[:200]}",
                remedy="Let the preprocessing resize or pad, or give the package a [window].",
            ) from error
        answer = torch.cat([torch.from_numpy(item) for item in found]).float().to(images.device)
        if self.output == "sigmoid":
            return torch.logit(answer, eps=_SURE)
        return answer.clamp_min(_SURE).log() if self.output == "softmax" else answer


def open_onnx(spec: ModelSpec, device: torch.device) -> nn.Module:
    """Open the package's ONNX file.

    Raises:
        ModelError: ONNX Runtime is not installed.
        WeightsError: the file is not the one that the specification names, or is no ONNX.
        ModelSpecError: parameters that are not known.
    """
    params = {"output": "logits", **spec.network.params}
    if set(params) != {"output"} or params["output"] not in {"logits", "sigmoid", "softmax"}:
        raise ModelSpecError(
            f"{spec.name}: network.params of onnx take output = logits, sigmoid or softmax"
        )
    try:
        import onnxruntime  # noqa: PLC0415 - only packages of this kind need it
    except ImportError as error:
        raise ModelError(
            f"{spec.name} is an ONNX package, and ONNX Runtime is not installed",
            remedy="pip install 'sentinode[onnx]'",
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    known = onnxruntime.get_available_providers()
    cuda = device.type == "cuda" and "CUDAExecutionProvider" in known
    providers = [*(["CUDAExecutionProvider"] if cuda else []), "CPUExecutionProvider"]
    data = read_weights(spec)
    try:
        session = onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:
        raise WeightsError(
            f"{spec.name}: {spec.weights.file} is no ONNX file that can be run: {str(error)[:300]}"
        ) from error
    return OnnxNetwork(session, params["output"], spec.name)
