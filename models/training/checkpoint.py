"""A training's state on disk, so that it goes on after a kill."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from core.errors import TrainingError
from models.training.config import Config

CHECKPOINT = "checkpoint.pt"


def write_checkpoint(path: Path, config: Config, state: dict[str, Any]) -> None:
    """Write the state whole or not at all."""
    partial = path.with_suffix(".part")
    torch.save({"config": _essence(config), **state}, partial)
    partial.replace(path)


def read_checkpoint(path: Path, config: Config, device: torch.device) -> dict[str, Any] | None:
    """Read the state of the same configuration; None when there is none.

    Raises:
        TrainingError: the checkpoint is damaged or belongs to another configuration.
    """
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
        raise TrainingError(
            f"{path} cannot be read: {error}", remedy="Begin anew in another folder (--out)."
        ) from error
    if state["config"] != _essence(config):
        raise TrainingError(
            f"{path} belongs to another configuration",
            remedy="Begin anew in another folder (--out), or without --resume.",
        )
    return state


def _essence(config: Config) -> str:
    """What the weights depend on: a corrected title or a moved folder does not stop a resume."""
    parts = {"preprocessing", "network", "augmentation", "training"}
    data = {"size", "monitor", "folds", "fold", "labels", "unbiased"}
    # what came later counts only where it is used, or older trainings could not go on
    if config.data.depth:
        data.add("depth")
    return config.model_dump_json(include={**dict.fromkeys(parts, True), "data": data})
