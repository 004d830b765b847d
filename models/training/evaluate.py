"""Judging a model on any folder with an `index.csv`. Nothing is left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from core.errors import TrainingError
from core.modelspec import ModelSpec
from models.registry import Examined, LoadedModel, Probabilities, Scores
from models.training.data import Entry, Group, read_groups, read_index
from models.training.metrics import bootstrap, calibration_error, dice, roc_auc

# A slice's score for "something is there": the mean of its highest probabilities. One pixel
# alone would be noise.
_TOP_PIXELS = 20


@dataclass(frozen=True, slots=True)
class ClassScore:
    """The classes of one image: probability of each, and which is true."""

    chances: tuple[float, ...]
    truth: int


@dataclass(frozen=True, slots=True)
class GroupScore:
    """How one group (patient) went.

    Attributes:
        dice_volume: of all its slices as one volume; 1 when neither has anything. None for a
            model that outlines nothing.
        dice_slices: of each slice that has a mask.
        presence: score of each slice, and whether it has a mask.
        classes: of each image, for a model that classifies.
        refused: how many of its images the model refused.
    """

    name: str
    images: int
    dice_volume: float | None
    dice_slices: tuple[float, ...]
    presence: tuple[tuple[float, bool], ...]
    seconds: float
    classes: tuple[ClassScore, ...] = field(default=())
    refused: int = 0


class Judged(NamedTuple):
    """What a model said of one group's images, and which of them it refused: bool (images,)."""

    found: Examined
    refused: npt.NDArray[np.bool_]


Examine = Callable[[Group], Judged]


def examine_directly(model: LoadedModel) -> Examine:
    """Ask a model about the images as they are in the folder.

    What looks like none of its training images is refused: a volume as a whole, images each for
    themselves.
    """

    def examine(group: Group) -> Judged:
        refused = np.zeros(len(group.images), dtype=bool)
        strange = [item.outside for item in model.strangeness(group.images, None)]
        if strange:
            refused |= np.array(strange)
        if refused.all():
            return Judged(Examined(None, None, None), refused)
        return Judged(model.examine(group.images, None), refused)

    return examine


def score_groups(
    model: LoadedModel,
    folder: Path,
    split: str = "",
    progress: Callable[[int, int], None] | None = None,
    only: Collection[str] | None = None,
    examine: Examine | None = None,
) -> list[GroupScore]:
    """Score every group of a folder, or of one split of it, or only those that are named.

    A refused image counts: Dice 0, and as probability the share of its class, or of images with
    a mask, among all that are scored. `examine` asks the model in another way than directly.

    Raises:
        TrainingError: faults in the folder, nothing in that split, or a label that the model
            does not know.
    """
    entries = [item for item in read_index(folder) if not split or item.split == split]
    if not entries:
        raise TrainingError(f"{folder}: no line belongs to the split {split!r}")
    entries = [item for item in entries if only is None or item.group in only]
    labels = _labels(model.spec)
    strange = sorted({item.label for item in entries} - set(labels)) if labels else []
    if strange:
        raise TrainingError(
            f"{folder}: label(s) that {model.spec.name} does not know: {', '.join(strange)}",
            remedy=f"It knows {', '.join(sorted(labels))}.",
        )
    groups = read_groups(entries)
    ask = examine or examine_directly(model)
    base = _Base.of(entries, labels)
    scores = []
    for number, group in enumerate(groups, start=1):
        scores.append(_score(model, group, labels, ask, base))
        if progress is not None:
            progress(number, len(groups))
    return scores


def summarise(scores: list[GroupScore], spec: ModelSpec | None = None) -> dict[str, Any]:
    """The scores as one flat object; keys are those that exist for the model."""
    images = sum(score.images for score in scores)
    summary: dict[str, Any] = {"n_images": images, "n_groups": len(scores)}
    summary["n_refused"] = sum(score.refused for score in scores)
    if any(score.dice_volume is not None for score in scores):
        summary |= _outlines(scores)
    if any(score.classes for score in scores):
        summary |= _classes(scores, spec)
    summary["seconds_per_image"] = _rounded(sum(score.seconds for score in scores) / images)
    return {key: value for key, value in summary.items() if value is not None}


def _outlines(scores: list[GroupScore]) -> dict[str, Any]:
    slices = [value for score in scores for value in score.dice_slices]
    volumes = np.array([score.dice_volume for score in scores], dtype=np.float64)
    presence = [pair for score in scores for pair in score.presence]

    def auc_of(indices: Any) -> float | None:
        drawn = [pair for index in indices for pair in scores[int(index)].presence]
        return roc_auc([value for value, _ in drawn], [there for _, there in drawn])

    return {
        "dice_mean": _rounded(float(np.mean(slices)) if slices else None),
        "dice_volume_mean": _rounded(float(volumes.mean())),
        "dice_ci95": _interval(bootstrap(lambda i: float(volumes[i].mean()), len(scores))),
        "auc": _rounded(roc_auc([value for value, _ in presence], [it for _, it in presence])),
        "auc_positive": "slice with a mask",
        "auc_ci95": _interval(bootstrap(auc_of, len(scores), rounds=200)),
    }


def _classes(scores: list[GroupScore], spec: ModelSpec | None) -> dict[str, Any]:
    """The last class against the rest; calibration is of the class that is said."""
    every = [item for score in scores for item in score.classes]
    last = len(every[0].chances) - 1
    said = [int(np.argmax(item.chances)) for item in every]
    right = [one == item.truth for one, item in zip(said, every, strict=True)]

    def auc_of(indices: Any) -> float | None:
        drawn = [item for index in indices for item in scores[int(index)].classes]
        return roc_auc([item.chances[last] for item in drawn], [it.truth == last for it in drawn])

    names = {channel: name for name, channel in _labels(spec).items()} if spec else {}
    return {
        "accuracy": _rounded(float(np.mean(right))),
        "auc": _rounded(auc_of(range(len(scores)))),
        "auc_positive": names.get(last, f"class {last}"),
        "auc_ci95": _interval(bootstrap(auc_of, len(scores), rounds=200)),
        "ece": _rounded(calibration_error([max(item.chances) for item in every], right)),
    }


def _labels(spec: ModelSpec) -> Mapping[str, int]:
    """The index's labels, for a model that classifies; otherwise none."""
    classifies = spec.output.kind == "classification" or spec.output.classes is not None
    return spec.training.labels if classifies else {}


@dataclass(frozen=True, slots=True)
class _Base:
    """What is known without looking: how frequent each class is, and a mask."""

    classes: tuple[float, ...]
    mask: float

    @staticmethod
    def of(entries: Sequence[Entry], labels: Mapping[str, int]) -> _Base:
        counts = [0] * (max(labels.values(), default=-1) + 1)
        for entry in entries if labels else ():
            counts[labels[entry.label]] += 1
        shares = tuple(count / len(entries) for count in counts)
        return _Base(shares, sum(entry.mask is not None for entry in entries) / len(entries))


def _score(
    model: LoadedModel, group: Group, labels: Mapping[str, int], ask: Examine, base: _Base
) -> GroupScore:
    began = time.monotonic()
    (pixels, scores, _), refused = ask(group)
    seconds = time.monotonic() - began
    count, output = len(group.images), model.spec.output
    classes: tuple[ClassScore, ...] = ()
    if labels:
        truths = [labels[entry.label] for entry in group.entries]
        classes = tuple(
            ClassScore(_chances(scores, index, base, refused=bool(refused[index])), truth)
            for index, truth in enumerate(truths)
        )
    whole: float | None = None
    slices: tuple[float, ...] = ()
    presence: tuple[tuple[float, bool], ...] = ()
    if output.kind == "segmentation":
        if pixels is None:
            pixels = np.zeros((1, *group.images.shape), dtype=np.float16)
        whole, slices, presence = _overlap(pixels, group, output.threshold, refused, base.mask)
    return GroupScore(
        group.name, count, whole, slices, presence, seconds, classes, int(refused.sum())
    )


def _chances(scores: Scores | None, index: int, base: _Base, *, refused: bool) -> tuple[float, ...]:
    if scores is None or refused:
        return base.classes
    return tuple(float(value) for value in scores[:, index])


def _overlap(
    pixels: Probabilities,
    group: Group,
    threshold: float,
    refused: npt.NDArray[np.bool_],
    base: float,
) -> tuple[float, tuple[float, ...], tuple[tuple[float, bool], ...]]:
    """Dice of the volume and of its slices, and what each slice scores for having a mask.

    A refused slice has Dice 0 and the score `base`, a group of refused ones Dice 0 as well.
    """
    probabilities = pixels[0].astype(np.float32)
    found = (probabilities >= threshold) & ~refused[:, None, None]
    there = [bool(mask.any()) for mask in group.masks]
    flat = probabilities.reshape(len(probabilities), -1)
    top = min(_TOP_PIXELS, flat.shape[1])
    highest = np.partition(flat, -top, axis=1)[:, -top:].mean(axis=1)
    highest[refused] = base
    slices = tuple(
        0.0 if refused[index] else dice(found[index], group.masks[index])
        for index in np.flatnonzero(there)
    )
    presence = tuple((float(score), it) for score, it in zip(highest, there, strict=True))
    whole = 0.0 if refused.all() else dice(found, group.masks)
    return whole, slices, presence


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _interval(value: tuple[float, float] | None) -> list[float] | None:
    return None if value is None else [round(value[0], 4), round(value[1], 4)]
