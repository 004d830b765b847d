"""A specification for a package that has none: drafted from what a MONAI Bundle says of itself.

What a person writes beside it wins. A region that no code is known for is called by its name
and coded as tissue: it claims no more than the bundle does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import ModelSpecError
from models.packages.bundle import CONFIG, METADATA
from models.packages.configs import SafeConfig, read_json
from models.weights import sha256

_WEIGHTS = ("models/model.pt", "models/model.ts")
_MODALITIES = {"CT": ["CT"], "MR": ["MR"], "MRI": ["MR"], "PT": ["PT"], "PET": ["PT"]}
_ARTIFICIAL = {"value": "123110", "scheme": "DCM", "meaning": "Artificial Intelligence"}
_ANATOMY = {"value": "123037004", "scheme": "SCT", "meaning": "Anatomical Structure"}
_TISSUE = {"value": "85756007", "scheme": "SCT", "meaning": "Tissue"}
# PS3.16 CID 7166 and CID 4030 name these; others are written in the specification by hand.
_ORGANS = {
    "spleen": ("78961009", "Spleen"),
    "liver": ("10200004", "Liver"),
    "pancreas": ("15776009", "Pancreas"),
    "kidney": ("64033007", "Kidney"),
    "lung": ("39607008", "Lung"),
    "brain": ("12738006", "Brain"),
    "heart": ("80891009", "Heart"),
    "prostate": ("41216001", "Prostate"),
}
_COLORS = [(255, 64, 64), (64, 160, 255), (64, 220, 120), (255, 200, 64), (200, 96, 255)]


def draft_bundle(folder: Path) -> dict[str, Any]:
    """What `model.toml` would say of the bundle in `folder`.

    Raises:
        ModelSpecError: no bundle there, or it says too little.
    """
    metadata = read_json(folder / METADATA)
    weights = next((name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise ModelSpecError(f"{folder} has neither {' nor '.join(_WEIGHTS)}")
    formats = metadata.get("network_data_format") or {}
    given = _first(formats.get("inputs"))
    made = _first(formats.get("outputs"))
    name = str(metadata.get("name") or folder.name)
    version = str(metadata.get("version", ""))
    softmax, threshold = _activation(folder, made)
    return {
        "schema_version": 1,
        "name": _slug(name),
        "version": version if re.fullmatch(r"\d+\.\d+\.\d+", version) else "0.1.0",
        "title": _line(metadata.get("task") or name),
        "intended_use": _line(metadata.get("intended_use") or metadata.get("description") or name),
        "licence": _line(metadata.get("license") or metadata.get("copyright") or "not said"),
        "family": _ARTIFICIAL,
        "input": {
            "modality": _MODALITIES.get(str(given.get("modality", "")).upper(), []),
            "kind": "volume",
        },
        "network": {"architecture": "monai_bundle", "params": {"config": CONFIG}},
        "weights": {"file": weights, "sha256": sha256(folder / weights)},
        "output": {
            "kind": "segmentation",
            "activation": "softmax" if softmax else "sigmoid",
            "threshold": threshold,
            "labels": _labels(made),
        },
        "training": {
            "data": _line(metadata.get("data_source") or "not said"),
            "licence": "not said",
            "config": METADATA,
            "citation": _line("; ".join(map(str, metadata.get("references") or []))),
        },
    }


def merged(draft: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """The draft, and over it what a person wrote; tables are merged, all else is replaced."""
    result = dict(draft)
    for key, value in written.items():
        known = result.get(key)
        both = isinstance(known, Mapping) and isinstance(value, Mapping)
        result[key] = merged(known, value) if both else value  # type: ignore[arg-type]
    return result


def _activation(folder: Path, made: Mapping[str, Any]) -> tuple[bool, float]:
    """Whether it is softmax, and the threshold: from its postprocessing, else from its labels."""
    softmax: bool | None = None
    threshold = 0.5
    config = SafeConfig(read_json(folder / CONFIG), folder.name)
    for step in _listed(config.content.get("postprocessing")):
        kind = str(step.get("_target_", "")).rpartition(".")[2]
        if kind.startswith("Activations") and (step.get("softmax") or step.get("sigmoid")):
            softmax = bool(step.get("softmax"))
        if kind.startswith("AsDiscrete"):
            if step.get("argmax") and softmax is None:
                softmax = True
            if isinstance(step.get("threshold"), float):
                threshold = step["threshold"]
    if softmax is None:
        softmax = str((made.get("channel_def") or {}).get("0", "")).lower() == "background"
    return softmax, threshold


def _listed(part: Any) -> list[dict[str, Any]]:
    listed = part.get("transforms", [part]) if isinstance(part, dict) else part
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _labels(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = made.get("channel_def") or {}
    labels = []
    for number, (channel, name) in enumerate(sorted(names.items(), key=lambda pair: str(pair[0]))):
        if str(name).lower() == "background" or not str(channel).isdecimal():
            continue
        code = _ORGANS.get(str(name).lower())
        organ = code and {"value": code[0], "scheme": "SCT", "meaning": code[1]}
        labels.append(
            {
                "channel": int(channel),
                "name": _line(name)[:58],
                "category": _ANATOMY if organ else _TISSUE,
                "type": organ or _TISSUE,
                "color": list(_COLORS[number % len(_COLORS)]),
            }
        )
    return labels


def _first(section: Any) -> dict[str, Any]:
    values = list(section.values()) if isinstance(section, dict) else []
    return values[0] if values and isinstance(values[0], dict) else {}


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63] or "bundle"


def _line(text: Any) -> str:
    """One printable line."""
    plain = " ".join(str(text).replace("\\", "/").split())
    return "".join(letter for letter in plain if letter.isprintable())
