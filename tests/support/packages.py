"""Model packages, training configurations and folders of images, tiny and made by code."""

from __future__ import annotations

import csv
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from PIL import Image

from core.modelspec import NetworkSpec
from models.architectures import build
from models.architectures.threshold import Threshold
from models.weights import save_weights

SIZE = 32

_CODE = {"value": "52988006", "scheme": "SCT", "meaning": "Lesion"}
_CATEGORY = {
    "value": "49755003",
    "scheme": "SCT",
    "meaning": "Morphologically Abnormal Structure",
}
_PACKAGE: dict[str, Any] = {
    "name": "tiny",
    "version": "1.0.0",
    "title": "A tiny network",
    "intended_use": "tests",
    "licence": "none",
    "family": {"value": "123109", "scheme": "DCM", "meaning": "Artificial Intelligence"},
}
_MODEL: dict[str, Any] = {
    "input": {"modality": ["MR"], "kind": "volume"},
    "preprocessing": [
        {"name": "standardise_foreground", "params": {}},
        {"name": "pad", "params": {"least": SIZE, "multiple": 4}},
    ],
    "network": {
        "architecture": "unet2d",
        "params": {"channels": [4, 8, 16], "num_res_units": 1},
    },
    "output": {
        "kind": "segmentation",
        "activation": "sigmoid",
        "threshold": 0.5,
        "labels": [{"channel": 0, "name": "blob", "category": _CODE, "type": _CODE}],
    },
}


def write_spec(folder: Path, **changes: Any) -> Path:
    """Write a package without weights; gives the specification's path."""
    content = {
        "schema_version": 1,
        **_PACKAGE,
        **_MODEL,
        "weights": {"file": "weights.safetensors", "sha256": "0" * 64},
        "training": {"data": "none", "licence": "none", "config": "none"},
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.toml"
    path.write_text(tomli_w.dumps(content), encoding="utf-8")
    return path


def write_threshold(
    folder: Path,
    name: str,
    *,
    kind: str = "volume",
    modality: tuple[str, ...] = ("CT", "MR", "PT"),
    level: float = 1.5,
    preprocessing: tuple[dict[str, Any], ...] = ({"name": "standardise_foreground"},),
    output: dict[str, Any] | None = None,
    label: dict[str, Any] | None = None,
    **sections: dict[str, Any],
) -> Path:
    """Write a package without a network, which finds what is brighter than `level`.

    `output` and `label` change those parts; a classifier (`kind` of the output) says whether
    anything in the image is so bright. Returns the package's folder.
    """
    pooled = (output or {}).get("kind") == "classification"
    package = folder / name
    package.mkdir(parents=True)
    checksum = save_weights(
        Threshold(level, pooled), package / "weights.safetensors", torch.float32
    )
    write_spec(
        package,
        **{
            "name": name,
            "title": f"Bright regions ({name})",
            "family": {"value": "123110", "scheme": "DCM", "meaning": "Artificial Intelligence"},
            "input": {"modality": list(modality), "kind": kind, **sections.pop("input", {})},
            "preprocessing": list(preprocessing),
            "network": {
                "architecture": "threshold",
                "params": {"level": level, "pooled": pooled},
            },
            "weights": {"file": "weights.safetensors", "sha256": checksum},
            "output": {
                "labels": [
                    {"channel": 0, "name": "bright region", "category": _CATEGORY, "type": _CODE}
                    | (label or {})
                ],
                **(output or {}),
            },
            **sections,
        },
    )
    return package


def write_network(
    folder: Path, name: str, network: dict[str, Any], *, seed: int = 1, **sections: Any
) -> Path:
    """Write a package with a network of random weights; the same seed makes the same ones."""
    torch.manual_seed(seed)
    package = folder / name
    package.mkdir(parents=True)
    checksum = save_weights(build(NetworkSpec(**network)), package / "weights.safetensors")
    sections.setdefault("preprocessing", [{"name": "standardise_image"}])
    weights = {"file": "weights.safetensors", "sha256": checksum}
    write_spec(package, name=name, network=network, weights=weights, **sections)
    return package


def write_chest(folder: Path, name: str = "chest", **sections: Any) -> Path:
    """A package in the form of `cxr-tb`: what is bright is lung, the classes are anything's."""
    network = {
        "architecture": "cascade",
        "params": {
            "size": 64,
            "segmenter": {"architecture": "threshold", "params": {"level": -0.5}},
            "classifier": {
                "architecture": "resnet",
                "params": {"in_channels": 2, "features": [4, 4, 8, 8], "blocks": [1, 1, 1, 1]},
            },
        },
    }
    lung = {"value": "39607008", "scheme": "SCT", "meaning": "Lung"}
    anatomy = {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"}
    return write_network(
        folder,
        name,
        network,
        **{
            "title": "Chest of a test",
            "input": {"modality": ["CR", "DX"], "kind": "image"},
            "preprocessing": [{"name": "standardise_foreground"}],
            "output": {
                "labels": [
                    {
                        "channel": 0,
                        "name": "Lung fields",
                        "category": anatomy,
                        "type": lung,
                        "color": [80, 160, 255],
                    }
                ],
                "classes": {
                    "labels": [
                        {
                            "channel": 0,
                            "name": "No signs",
                            "category": _CATEGORY,
                            "type": _CODE,
                            "sought": False,
                        },
                        {
                            "channel": 1,
                            "name": "Signs of it",
                            "category": _CATEGORY,
                            "type": _CODE,
                            "site": lung,
                        },
                    ]
                },
            },
            **sections,
        },
    )


def write_breast(folder: Path, name: str = "breast", **sections: Any) -> Path:
    """A package in the form of `us-breast`, tiny and untrained."""
    network = {
        "architecture": "multitask2d",
        "params": {"features": 4, "blocks": [1, 1, 1], "norm": "batch", "classes": 3},
    }
    classes = [
        {"channel": n, "name": label, "category": _CATEGORY, "type": _CODE, "sought": n > 0}
        for n, label in enumerate(("No lesion", "Benign lesion", "Suspicious lesion"))
    ]
    return write_network(
        folder,
        name,
        network,
        **{
            "title": "Breast of a test",
            "input": {"modality": ["US"], "kind": "image"},
            "preprocessing": [
                {"name": "resize", "params": {"rows": 64, "columns": 64}},
                {"name": "standardise_image"},
            ],
            "output": {
                "labels": [{"channel": 0, "name": "Lesion", "category": _CATEGORY, "type": _CODE}],
                "classes": {"labels": classes},
            },
            **sections,
        },
    )


def training_config(folder: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """A configuration as its file would hold it; sections are merged into it."""
    content: dict[str, Any] = {
        "package": _PACKAGE,
        "data": {"folder": str(folder), "size": SIZE, "description": "blobs", "licence": "none"},
        **deepcopy(_MODEL),
        "augmentation": {"rotation_degrees": 10.0, "noise": 0.05, "flip_columns": True},
        "training": {"seed": 3, "epochs": 3, "batch_size": 4, "learning_rate": 0.01},
    }
    for name, values in sections.items():
        known = content.get(name)
        content[name] = {**known, **values} if isinstance(known, dict) else values
    return content


def write_config(path: Path, folder: Path, **sections: dict[str, Any]) -> Path:
    """Write a configuration file."""
    path.write_text(tomli_w.dumps(training_config(folder, **sections)), encoding="utf-8")
    return path


def write_images(
    folder: Path, *, train: int = 4, val: int = 2, slices: int = 4, size: int = SIZE
) -> Path:
    """Write images of bright blobs with masks and an index.csv, `slices` for each group.

    The first slice of every group has no blob and an empty mask.
    """
    rng = np.random.default_rng(5)
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.arange(size)
    lines = []
    for group in range(train + val):
        for number in range(slices):
            image = rng.normal(60, 8, (size, size))
            mask = np.zeros((size, size), dtype=bool)
            if number:
                row, column = rng.integers(8, size - 8, 2)
                mask = (rows[:, None] - row) ** 2 + (rows[None, :] - column) ** 2 < 25
                image[mask] += 120
            name = f"g{group}-{number}"
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{name}-mask.png")
            lines.append(
                {
                    "image": f"{name}.png",
                    "mask": f"{name}-mask.png" if number else "",
                    "label": "blob" if number else "none",
                    "group": f"g{group}",
                    "slice": number,
                    "split": "val" if group >= train else "train",
                }
            )
    write_index(folder, lines)
    return folder


def write_index(folder: Path, lines: list[dict[str, Any]]) -> Path:
    """Write an index.csv; the first line's keys are the columns."""
    path = folder / "index.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of an index.csv."""
    with (folder / "index.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
