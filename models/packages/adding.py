"""Packages into the node's folder, and whether what lies there can be used."""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from core.errors import ModelSpecError
from core.modelspec import SPEC_FILE, ModelSpec, read_spec
from models.packages.bundle import METADATA
from models.packages.digest import package_hash
from models.packages.drafting import draft_bundle, merged
from models.registry import load
from models.weights import sha256

_ONNX_FILE = "model.onnx"
_TRIAL_SLICES, _TRIAL_SIDE = 8, 64


@dataclass(frozen=True)
class Verdict:
    """What a look at a package told.

    Attributes:
        hash: of the whole package (`models.packages.digest`).
        answer: shape of its answer about a small volume of noise.
    """

    spec: ModelSpec
    hash: str
    answer: tuple[int, ...]


def add(
    source: Path,
    zoo: Path,
    written: Path | None = None,
    *,
    replace: bool = False,
    allowed: Collection[str] = (),
) -> Verdict:
    """Copy a package into the folder `zoo`, verify it there, and only then give it its name.

    Args:
        source: a package, a MONAI Bundle, or an ONNX file.
        zoo: a folder of models.folders.
        written: a specification (TOML) for an ONNX file, or parts of one that win over what a
            bundle says of itself.
        replace: an installed package of the same name.
        allowed: hashes of packages whose own code may run.

    Raises:
        ModelSpecError: it is no package, or its specification has faults.
        WeightsError: its weights cannot be used.
        ModelError: the network cannot be built.
    """
    zoo.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=zoo, prefix=".adding-") as place:
        # a dot before the name: the node does not see it before it is whole
        copy = Path(place) / "package" / source.stem
        _copy(source, copy)
        _specify(copy, written)
        verdict = verify(copy, allowed)
        target = zoo / verdict.spec.name
        if target.exists() and not replace:
            raise ModelSpecError(
                f"{target} is there already", remedy="Say --replace to put this one in its place."
            )
        if target.exists():
            target.rename(Path(place) / "former")
        copy.rename(target)
    return Verdict(read_spec(target), verdict.hash, verdict.answer)


def verify(folder: Path, allowed: Collection[str] = ()) -> Verdict:
    """Read, check, load and ask a package about a small volume of noise.

    Raises:
        ModelSpecError: its specification has faults, or does not fit its network.
        WeightsError: its weights are missing, changed, truncated, or hold code.
        ModelError: the network cannot be built.
    """
    spec = read_spec(folder)
    found = package_hash(folder)
    model = load(spec, device="cpu", allowed=allowed)
    count = max(_TRIAL_SLICES, spec.input.min_slices) if spec.input.kind == "volume" else 2
    noise = np.random.default_rng(0).normal(100, 30, (count, _TRIAL_SIDE, _TRIAL_SIDE))
    volume = noise.astype(np.float32)
    if spec.output.kind == "classification":
        return Verdict(spec, found, model.classify(volume, None)[0].shape)
    answer = model.predict(volume, (3.0, 1.0, 1.0) if spec.input.kind == "volume" else None)
    return Verdict(spec, found, answer.shape)


def _copy(source: Path, copy: Path) -> None:
    if source.is_dir():
        package_hash(source)  # refuses links, so that nothing else is copied
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    elif source.is_file() and source.suffix.lower() == ".onnx":
        copy.mkdir(parents=True)
        shutil.copyfile(source, copy / _ONNX_FILE)
    elif source.exists():
        raise ModelSpecError(f"{source} is neither a folder nor an .onnx file")
    else:
        raise ModelSpecError(f"{source}: there is no such file or folder")


def _specify(folder: Path, written: Path | None) -> None:
    """Write `model.toml` where it is missing, or where a person wrote more."""
    own = folder / SPEC_FILE
    said = _read(written) if written is not None else {}
    if own.is_file():
        if not said:
            return
        content = merged(_read(own), said)
    elif (folder / METADATA).is_file():
        content = merged(draft_bundle(folder), said)
        if not content["input"]["modality"] or not content["output"]["labels"]:
            raise ModelSpecError(
                f"{folder.name}: its metadata do not say the modality and the labels",
                remedy="Write them into a file, and name it with --spec.",
            )
    elif (folder / _ONNX_FILE).is_file():
        weights = {"file": _ONNX_FILE, "sha256": sha256(folder / _ONNX_FILE)}
        draft = {
            "schema_version": 1,
            "network": {"architecture": "onnx"},
            "weights": weights,
        }
        content = merged(draft, said)
    else:
        raise ModelSpecError(
            f"{folder.name} is no package: it has neither {SPEC_FILE} nor {METADATA}"
        )
    own.write_text(tomli_w.dumps(content), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ModelSpecError(f"{path} cannot be read: {error}") from error
