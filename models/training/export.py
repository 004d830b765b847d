"""From a finished training to a model package: weights and specification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w
from torch import nn

from core.modelspec import SPEC_FILE, ModelSpec, read_spec
from models.training.config import Config
from models.weights import save_weights

WEIGHTS_FILE = "weights.safetensors"


def export(network: nn.Module, config: Config, config_name: str, folder: Path) -> ModelSpec:
    """Write the package to `folder` and read it back.

    Raises:
        ModelSpecError: what was written is no package; a fault of ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checksum = save_weights(network, folder / WEIGHTS_FILE)
    package = config.package
    content: dict[str, Any] = {
        "schema_version": 1,
        "name": package.name,
        "version": package.version,
        "title": package.title,
        "intended_use": package.intended_use,
        "licence": package.licence,
        "family": package.family.model_dump(),
        "input": config.input.model_dump(mode="json", exclude_none=True),
        "preprocessing": [step.model_dump() for step in config.preprocessing],
        "network": config.network.model_dump(),
        "weights": {"file": WEIGHTS_FILE, "sha256": checksum, "dtype": "float16"},
        "output": config.output.model_dump(mode="json", exclude_none=True),
        "postprocessing": config.postprocessing.model_dump(),
        "training": {
            "data": config.data.description,
            "licence": config.data.licence,
            "citation": config.data.citation,
            "config": config_name,
            "labels": config.data.labels,
        },
    }
    if config.window is not None:
        content["window"] = config.window.model_dump(mode="json")
    text = tomli_w.dumps(content, multiline_strings=False)
    (folder / SPEC_FILE).write_text(text, encoding="utf-8")
    return read_spec(folder)
