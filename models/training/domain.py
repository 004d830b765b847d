"""Measuring what a model's training images look like, and how well that keeps others out."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from torch.nn import functional

from core.errors import TrainingError
from core.modelspec import SPEC_FILE, ModelSpec, read_spec
from models.domain import Domain, Numbers, figures_of
from models.training.data import read_groups, read_index

DOMAIN_FILE = "domain.json"
# Copies of each group, changed as another scanner or hospital would; more where groups are few.
_COPIES, _COPIES_OF_FEW, _FEW = 2, 6, 200
_SHRINK = 0.1  # towards independent figures: few groups do not tell a whole covariance
_FOLDS = 5
# The limit lies beyond this share of the training images, times some room: another hospital is
# not refused. Where foreign images are given it lies halfway to the nearest of them, if farther.
_QUANTILE, _ROOM, _NEAREST = 0.995, 1.2, 0.01


def measure(
    spec: ModelSpec,
    folder: Path,
    foreign: Sequence[Path] = (),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Domain, dict[str, Any]]:
    """The domain of a model's training images, and how it does.

    The figures of each group's images as they are, and of copies changed in contrast, size,
    place, sharpness, noise and border. Groups are held out fold by fold: `refused_held_out` is
    the share of unchanged images (volumes) refused by a domain that did not see their group,
    `refused_NAME` that of the images of each foreign folder, `refused_noise` that of noise;
    `nearest_…` is the smallest distance among them.

    Raises:
        TrainingError: faults in a folder, or fewer groups than folds.
    """
    whole = spec.input.kind == "volume"
    entries = [entry for entry in read_index(folder) if entry.split in {"", "train"}]
    groups = read_groups(entries)
    if len(groups) < _FOLDS:
        raise TrainingError(f"{folder}: {len(groups)} groups are too few to tell what is usual")
    rng = np.random.default_rng(0)
    plain, changed = [], []
    for number, group in enumerate(groups, start=1):
        plain.append(_of(spec, group.images, whole))
        many = _COPIES_OF_FEW if len(groups) < _FEW else _COPIES
        copies = [_of(spec, _changed(group.images, rng), whole) for _ in range(many)]
        changed.append(np.concatenate(copies))
        if progress is not None:
            progress(number, len(groups))
    domain = _fit(plain, changed)
    others = {other.name: _foreign(spec, domain, other, whole) for other in foreign}
    usual = domain.limit / _ROOM
    nearest = [float(np.quantile(found, _NEAREST)) for found in others.values()]
    room = max(_ROOM, float(np.sqrt(min(nearest, default=0.0) / usual)))
    domain = replace(domain, limit=usual * room)
    refused = total = 0
    dealt = rng.permutation(len(groups))
    for fold in range(_FOLDS):
        held = set(dealt[fold::_FOLDS].tolist())
        rest = [index for index in range(len(groups)) if index not in held]
        seen = _fit([plain[index] for index in rest], [changed[index] for index in rest])
        for index in held:
            limit = seen.limit / _ROOM * room
            refused += int((seen.distance(plain[index]) > limit).sum())
            total += len(plain[index])
    figures: dict[str, Any] = {
        "limit": round(domain.limit, 3),
        "n_held_out": total,
        "refused_held_out": round(refused / total, 4),
    }
    for name, distances in others.items():
        figures[f"refused_{name}"] = round(float((distances > domain.limit).mean()), 4)
        figures[f"nearest_{name}"] = round(float(distances.min()), 2)
    shape = groups[0].images.shape[1:]
    noise = [rng.normal(100, 30, (12, *shape)), rng.uniform(0, 255, (12, *shape))]
    distances = domain.distance(np.concatenate([_of(spec, item, whole) for item in noise]))
    figures["refused_noise"] = round(float((distances > domain.limit).mean()), 4)
    figures["nearest_noise"] = round(float(distances.min()), 2)
    return domain, figures


def keep(domain: Domain, folder: Path) -> ModelSpec:
    """Write the domain into the package in `folder`, and name it in its specification."""
    data = domain.to_json()
    (folder / DOMAIN_FILE).write_bytes(data)
    path = folder / SPEC_FILE
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    content["domain"] = {"file": DOMAIN_FILE, "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(tomli_w.dumps(content), encoding="utf-8")
    return read_spec(folder)


def _foreign(spec: ModelSpec, domain: Domain, folder: Path, whole: bool) -> Numbers:
    """Distance of each image (volume) of a folder that the model is not for."""
    kept = [_of(spec, group.images, whole) for group in read_groups(read_index(folder))]
    return domain.distance(np.concatenate(kept))


def _of(spec: ModelSpec, images: Any, whole: bool) -> Numbers:
    found = figures_of(spec.preprocessing, images, None, whole=whole)
    return found.mean(axis=0, keepdims=True) if whole else found


def _fit(plain: Sequence[Numbers], changed: Sequence[Numbers]) -> Domain:
    every = np.concatenate([*plain, *changed])
    covariance: Numbers = np.cov(every, rowvar=False)
    own = np.diag(np.diag(covariance))
    covariance = (1 - _SHRINK) * covariance + _SHRINK * own + 1e-6 * np.eye(len(own))
    inverse: Numbers = np.linalg.inv(covariance).astype(np.float64)
    domain = Domain(every.mean(axis=0), inverse, 0.0)
    usual = float(np.quantile(domain.distance(every), _QUANTILE))
    return Domain(domain.mean, domain.inverse, usual * _ROOM)


def _changed(images: Any, rng: np.random.Generator) -> Any:
    """A copy as another scanner would have made it: (slices, rows, columns) float32."""
    values = torch.from_numpy(np.asarray(images, dtype=np.float32)).unsqueeze(1)
    low, high = values.amin(), values.amax()
    values = (values - low) / (high - low).clamp_min(1e-6)
    values = values ** float(np.exp(rng.uniform(-0.5, 0.5)))
    scale = float(rng.uniform(0.85, 1.18))
    shift = rng.uniform(-0.08, 0.08, 2)
    matrix = torch.tensor(
        [[[1 / scale, 0, float(shift[0])], [0, 1 / scale, float(shift[1])]]], dtype=torch.float32
    ).expand(len(values), 2, 3)
    places = functional.affine_grid(matrix, list(values.shape), align_corners=False)
    beyond = "border" if rng.random() < 0.5 else "zeros"
    values = functional.grid_sample(values, places, padding_mode=beyond, align_corners=False)
    if rng.random() < 0.5:  # a coarser matrix
        rows, columns = values.shape[-2:]
        share = float(rng.uniform(0.4, 0.9))
        coarse = (max(8, round(rows * share)), max(8, round(columns * share)))
        values = functional.interpolate(
            values, size=coarse, mode="bilinear", align_corners=False, antialias=True
        )
    noise = float(rng.uniform(0, 0.04))
    values = values + noise * torch.from_numpy(
        rng.standard_normal(tuple(values.shape)).astype(np.float32)
    )
    return values[:, 0].clamp_min(0).numpy() * 255
