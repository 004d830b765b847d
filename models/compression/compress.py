"""From a package to a smaller one, with what that costs written on its card."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tomli_w
import torch
from rich.console import Console
from torch import nn

from core.errors import ModelSpecError
from core.modelspec import SPEC_FILE, ModelSpec, NetworkSpec, read_spec
from models.architectures import build
from models.compression.compare import Line, compare, table
from models.compression.onnx_files import in_eight_bits, to_onnx
from models.compression.prune import narrower, prune
from models.compression.retrain import retrain
from models.preprocessing import prepare_volume
from models.registry import load
from models.training.config import Config
from models.training.data import read_groups, read_index
from models.training.export import WEIGHTS_FILE
from models.weights import load_weights, save_eighth, save_weights, sha256

Method = Literal["prune", "quantise", "half", "distil"]
METHODS: tuple[Method, ...] = ("prune", "quantise", "half", "distil")

_ONNX_FILE = "model.onnx"
_EXAMPLES = 48


@dataclass(frozen=True)
class Options:
    """How far to go.

    Attributes:
        share: of the channels that go (prune, distil).
        epochs: of learning afterwards (prune; 0 leaves it as it is), or in all (distil).
        learning_rate: of that.
        dynamic: quantise without examples.
        weights_only: quantise the weights on the disk; the network computes as before.
        split: of the folder that both are judged on; what is learned from is "train".
    """

    share: float = 0.3
    epochs: int = 5
    learning_rate: float = 5e-4
    dynamic: bool = False
    weights_only: bool = False
    split: str = "val"


def compress(
    spec: ModelSpec,
    method: Method,
    folder: Path,
    data: Path,
    options: Options,
    console: Console,
    config: Config | None = None,
) -> tuple[ModelSpec, list[Line]]:
    """Make a smaller package of `spec` in `folder`, and compare the two on `data`.

    Args:
        spec: a package of ours, with a network of `models.architectures`.
        method: see `docs/models.md`.
        folder: of the new package.
        data: a folder with an index.csv; examples and lessons come from its train split.
        options: how far to go.
        console: for progress.
        config: the training's configuration, for what learns (prune, distil).

    Raises:
        ModelSpecError: a method that does not suit the package, or needs a configuration.
        TrainingError: faults in the data.
        ModelError: what the method needs is not installed.
    """
    network = build(spec.network)
    load_weights(network, spec)
    network.eval()
    folder.mkdir(parents=True, exist_ok=True)
    if method == "half":
        if spec.weights.dtype != "float32":
            raise ModelSpecError(f"{spec.name} has weights of 16 bits already")
        _write(spec, method, folder, spec.network, network)
    elif method == "quantise" and options.weights_only:
        _write(spec, method, folder, spec.network, network, eight_bits=True)
    elif method == "quantise":
        _quantise(spec, network, folder, data, options)
    else:
        _learn(spec, method, network, folder, data, options, console, config)
    made = read_spec(folder)
    lines = compare([load(spec, device="cpu"), load(made, device="cpu")], data, options.split)
    _write_card(made, spec, method, lines)
    return made, lines


def _quantise(
    spec: ModelSpec, network: nn.Module, folder: Path, data: Path, options: Options
) -> None:
    seen = _examples(spec, data)
    file = in_eight_bits(to_onnx(network, seen[0]), [] if options.dynamic else seen)
    (folder / _ONNX_FILE).write_bytes(file)
    _write(spec, "quantise", folder, NetworkSpec(architecture="onnx"))


def _learn(
    spec: ModelSpec,
    method: Method,
    network: nn.Module,
    folder: Path,
    data: Path,
    options: Options,
    console: Console,
    config: Config | None,
) -> None:
    if config is None:
        raise ModelSpecError(
            f"{method} learns from images", remedy="Name the training's configuration: --config."
        )
    begin: nn.Module | None = None
    if method == "prune":
        begin, smaller = prune(network, spec.network, options.share, _examples(spec, data)[0])
        if not options.epochs:
            _write(spec, method, folder, smaller, begin)
            return
    else:
        smaller = narrower(spec.network, options.share)
    there = config.model_copy(update={"data": config.data.model_copy(update={"folder": data})})
    learned, _ = retrain(
        there,
        smaller,
        network,
        folder / "training",
        console,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        begin=begin,
    )
    _write(spec, method, folder, smaller, learned)


def _examples(spec: ModelSpec, data: Path) -> list[torch.Tensor]:
    """Inputs of the network, one image each, from all over the train split."""
    entries = [item for item in read_index(data) if item.split in {"", "train"}]
    outlined = [item for item in entries if item.mask is not None] or entries
    groups = read_groups(outlined[:: max(1, len(outlined) // _EXAMPLES)])
    found = []
    for group in groups:
        plan = prepare_volume(spec.preprocessing, group.images, None)
        prepared = plan.prepare_between(group.images, 0, len(group.images))
        found += list(prepared.split(1))  # type: ignore[no-untyped-call]
    if not found:
        raise ModelSpecError(f"{data}: no image of the train split to learn ranges from")
    return found[:_EXAMPLES]


def _write(
    spec: ModelSpec,
    method: Method,
    folder: Path,
    network: NetworkSpec,
    weights: nn.Module | None = None,
    *,
    eight_bits: bool = False,
) -> None:
    """The specification, and the weights unless they lie there as an ONNX file."""
    if weights is not None and eight_bits:
        save_eighth(weights, folder / WEIGHTS_FILE)
    elif weights is not None:
        save_weights(weights, folder / WEIGHTS_FILE, torch.float16)
    if spec.domain is not None:  # it sees the network's input, which is the same
        shutil.copyfile(spec.folder / spec.domain.file, folder / spec.domain.file)
    file = _ONNX_FILE if weights is None else WEIGHTS_FILE
    content = spec.model_dump(mode="json", exclude_none=True, exclude={"folder"})
    content["name"] = f"{spec.name}-{method}"[:63]
    content["network"] = network.model_dump()
    content["weights"] = {
        "file": file,
        "sha256": sha256(folder / file),
        "dtype": "float32" if weights is None else "int8" if eight_bits else "float16",
    }
    text = tomli_w.dumps(content, multiline_strings=False)
    (folder / SPEC_FILE).write_text(text, encoding="utf-8")


def _write_card(made: ModelSpec, spec: ModelSpec, method: Method, lines: list[Line]) -> None:
    text = (
        f"# {made.name} {made.version}\n\n"
        f"Made of {spec.name} {spec.version} by `sentinode models compress --method {method}`. "
        "Judged on the same images in one run; speed is of this machine's CPU.\n\n"
        f"{table(lines)}\n\nAll else is as on the card of {spec.name}.\n"
    )
    (made.folder / "card.md").write_text(text, encoding="utf-8")
