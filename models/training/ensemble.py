"""From several trainings, such as the folds of a configuration, to one package.

The members' answers are averaged; each saw other patients, or is another network, so they err
differently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import nn

from core.errors import ModelSpecError
from core.modelspec import SPEC_FILE, ModelSpec, NetworkSpec, read_spec
from models.architectures import build
from models.architectures.cascade import Cascade
from models.architectures.ensemble import Mean
from models.architectures.middle import Middle
from models.training.export import WEIGHTS_FILE
from models.weights import load_weights, save_weights


def merge(
    packages: Sequence[Path], folder: Path, *, mirrored: bool = False, mean: Mean = "logits"
) -> ModelSpec:
    """Write a package to `folder` that asks all `packages` and averages.

    Of cascades the classifiers are averaged, which may be of several kinds; they share the first
    one's segmenter, so that an image is outlined once. A network for single slices may stand among
    others that see a slice with its neighbours. Everything else is said as the first package says
    it.

    Args:
        packages: folders of packages with the same preprocessing and output; of cascades all
            but the classifiers is the same, too.
        folder: of the new package.
        mirrored: ask each member a second time, about the mirrored image.
        mean: of what the mean is taken, see `models.architectures.ensemble`.

    Raises:
        ModelSpecError: none is given, or they differ in network, preprocessing or output.
    """
    specs = [read_spec(package) for package in packages]
    if not specs:
        raise ModelSpecError("an ensemble needs at least one package")
    first = specs[0]
    for spec in specs[1:]:
        for part in ("network", "preprocessing", "output"):
            if _comparable(spec, part) != _comparable(first, part):
                raise ModelSpecError(
                    f"{spec.folder} differs from {first.folder} in its {part}: no ensemble"
                )
        if _neighbours(spec) not in {0, _neighbours(first)}:
            raise ModelSpecError(f"{spec.folder} sees another number of slices: no ensemble")
    members = [build(spec.network) for spec in specs]
    for member, spec in zip(members, specs, strict=True):
        load_weights(member, spec)
    alone = [_neighbours(spec) < _neighbours(first) for spec in specs]
    members = [Middle(one) if it else one for one, it in zip(members, alone, strict=True)]
    network = first.network
    if network.architecture == "cascade":
        inner = _ensemble([spec.network.params["classifier"] for spec in specs], mirrored, mean)
        network = NetworkSpec(
            architecture="cascade", params={**network.params, "classifier": inner}
        )
    else:
        kinds = [
            {"architecture": "middle", "params": {"network": spec.network.model_dump()}}
            if it
            else spec.network.model_dump()
            for spec, it in zip(specs, alone, strict=True)
        ]
        network = NetworkSpec(**_ensemble(kinds, mirrored, mean))
    merged = build(network)
    merged.load_state_dict(_weights(members))
    folder.mkdir(parents=True, exist_ok=True)
    content = first.model_dump(mode="json", exclude_none=True, exclude={"folder", "domain", "rule"})
    checksum = save_weights(merged, folder / WEIGHTS_FILE)
    content["network"] = network.model_dump()
    content["weights"] = {"file": WEIGHTS_FILE, "sha256": checksum, "dtype": "float16"}
    (folder / SPEC_FILE).write_text(tomli_w.dumps(content), encoding="utf-8")
    return read_spec(folder)


def _neighbours(spec: ModelSpec) -> int:
    """How many slices on each side its network sees."""
    return sum(
        int(step.params.get("count", 1)) for step in spec.preprocessing if step.name == "neighbours"
    )


def _comparable(spec: ModelSpec, part: str) -> Any:
    """What must be the same in all members; of a cascade's network all but its classifier."""
    if part == "preprocessing":
        return [step for step in spec.preprocessing if step.name != "neighbours"]
    if part != "network":
        return getattr(spec, part)
    if spec.network.architecture == "cascade":
        return {**spec.network.params, "classifier": None}
    return None  # whatever it is: the output is the same


def _ensemble(networks: Sequence[Mapping[str, Any]], mirrored: bool, mean: Mean) -> dict[str, Any]:
    kinds = [dict(network) for network in networks]
    members = 1
    if all(kind == kinds[0] for kind in kinds):
        kinds, members = kinds[:1], len(kinds)
    params = {"kinds": kinds, "members": members, "mirrored": mirrored}
    if mean != "logits":
        params["mean"] = mean
    return {"architecture": "ensemble", "params": params}


def _weights(members: Sequence[nn.Module]) -> dict[str, torch.Tensor]:
    """The members' weights by the names that they have in the merged network."""
    found: dict[str, torch.Tensor] = {}
    for number, member in enumerate(members):
        for name, value in member.state_dict().items():
            if not isinstance(member, Cascade):
                found[f"members.{number}.{name}"] = value
            elif name.startswith("classifier."):
                rest = name.removeprefix("classifier.")
                found[f"classifier.members.{number}.{rest}"] = value
            elif number == 0:
                found[name] = value
    return found
