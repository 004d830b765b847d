"""MONAI Bundles and ONNX packages, tiny and made by code: they find what is bright."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import tomli_w
import torch
from monai.networks.nets import UNet
from onnx import TensorProto, helper
from torch import nn

_CODE = {"value": "52988006", "scheme": "SCT", "meaning": "Lesion"}
_ALTERED = {"value": "49755003", "scheme": "SCT", "meaning": "Morphologically Abnormal Structure"}
NETWORK: dict[str, Any] = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [2, 2],
    "strides": [1],
    "num_res_units": 0,
    "norm": None,
    "act": "RELU",
}
LESIONS: dict[str, Any] = {
    "output": {
        "labels": [{"channel": 1, "name": "bright region", "category": _ALTERED, "type": _CODE}]
    }
}


def bright(level: float, steepness: float = 40.0) -> UNet:
    """A U-Net whose channel 1 speaks for what is above `level` (of at least 0), 0 against it."""
    network = UNet(**{key: value for key, value in NETWORK.items() if key != "_target_"})
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
        first = next(item for item in network.modules() if isinstance(item, nn.Conv3d))
        last = next(item for item in network.modules() if isinstance(item, nn.ConvTranspose3d))
        first.weight[0, 0, 1, 1, 1] = 1
        last.weight[0, 1, 1, 1, 1] = steepness
        last.bias[1] = -steepness * level
    return network


def config(low: float, high: float, roi: int = 16) -> dict[str, Any]:
    """An inference.json as MONAI's model zoo has them."""
    return {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": NETWORK,
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {"_target_": "Spacingd", "keys": "image", "pixdim": [2, 2, 2], "mode": "bilinear"},
                {
                    "_target_": "monai.transforms.ScaleIntensityRanged",
                    "keys": "image",
                    "a_min": low,
                    "a_max": high,
                    "b_min": 0.0,
                    "b_max": 1.0,
                    "clip": True,
                },
                {"_target_": "EnsureTyped", "keys": "image", "device": "@device"},
            ],
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [roi, roi, roi],
            "sw_batch_size": 2,
            "overlap": 0.25,
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "KeepLargestConnectedComponentd", "keys": "pred"},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$@bundle_root"},
            ],
        },
    }


def write_bundle(
    folder: Path,
    modality: str,
    *,
    low: float,
    high: float,
    level: float = 0.5,
    state: Any = None,
    script: bool = False,
    **changes: Any,
) -> Path:
    """Write a bundle; `changes` replace parts of its inference.json, None takes them out."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    content = {**config(low, high), **changes}
    content = {key: value for key, value in content.items() if value is not None}
    (folder / "configs/inference.json").write_text(json.dumps(content))
    metadata = {
        "version": "0.3.1",
        "name": f"Bright {modality}",
        "task": f"Bright regions in {modality}",
        "description": "tests",
        "license": "none",
        "network_data_format": {
            "inputs": {"image": {"type": "image", "modality": modality, "num_channels": 1}},
            "outputs": {"pred": {"channel_def": {"0": "background", "1": "bright region"}}},
        },
    }
    (folder / "configs/metadata.json").write_text(json.dumps(metadata))
    network = bright(level)
    if script:
        torch.jit.script(network).save(folder / "models/model.ts")
    else:
        torch.save(network.state_dict() if state is None else state, folder / "models/model.pt")
    return folder


def write_parts(path: Path, **sections: Any) -> Path:
    """Write a file for --spec."""
    path.write_text(tomli_w.dumps({**LESIONS, **sections}), encoding="utf-8")
    return path


def write_onnx(path: Path, level: float, *, ends_in: str = "", axes: int = 4) -> Path:
    """Write an ONNX file: 40 × (image - level), through an operator such as Sigmoid, if any."""
    sides = ["n", 1, *"dhw"[-(axes - 2) :]]
    nodes = [
        helper.make_node("Sub", ["images", "level"], ["above"]),
        helper.make_node("Mul", ["above", "steepness"], ["logits"]),
    ]
    if ends_in:
        nodes.append(helper.make_node(ends_in, ["logits"], ["answer"]))
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, sides)],
        [
            helper.make_tensor("level", TensorProto.FLOAT, [], [level]),
            helper.make_tensor("steepness", TensorProto.FLOAT, [], [40.0]),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, path)
    return path
