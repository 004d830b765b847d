"""Classes of whole images made into findings: is what was sought in this series, or not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from core.domain import Finding, FindingKind
from core.errors import ResultError
from core.identifiers import derived_uid
from core.modelspec import Code, LabelSpec, ModelSpec
from workers.analysis import Analysis, Part
from workers.images.stack import ImageStack
from workers.lesions.concepts import LEFT, RIGHT
from workers.lesions.place import key_image

Scores = npt.NDArray[np.floating]


def classify(
    answers: Sequence[tuple[ImageStack, Scores]],
    spec: ModelSpec,
    *,
    job_id: str,
    uid_root: str = "",
    activations: Sequence[npt.NDArray[np.float16] | None] | None = None,
    ignored: Sequence[npt.NDArray[np.bool_] | None] | None = None,
    first: int = 1,
) -> Analysis:
    """One answer for all stacks together.

    `answers` pairs each stack with (classes, frames) probabilities, 0 to 1; frames that did not
    come are passed over. The probability of a class is the mean or the greatest over all frames
    (`combine` of the output, or of its classes). With sigmoid a class is present from the
    threshold on; with softmax only the most probable of all classes can be. Every class that is
    sought is a finding, present or not, present ones first, the more probable first; its key
    image is the frame with the highest probability of it. Classes that are not sought are named
    in a remark.

    `activations` are (frames, rows, columns), 0 to 1, one per stack: where the classifier
    looked. `ignored` says which frames count for nothing, bool (frames,), one per stack; at least
    one must be left. `first` is the number of the first class, for a model that also finds lesions.

    Raises:
        ValueError: no stack, or arrays that do not fit a stack, or a class that is lacking.
        ResultError: probabilities that are not numbers from 0 to 1.
    """
    if not answers:
        raise ValueError("no stack to classify")
    activations = [None] * len(answers) if activations is None else activations
    for (stack, scores), activation in zip(answers, activations, strict=True):
        _check(stack, scores, activation, spec)

    # where each column of `scores` comes from: stack, frame
    origin = [
        (part, index)
        for part, (stack, _) in enumerate(answers)
        for index, frame in enumerate(stack.frames)
        if frame is not None and not _is_ignored(ignored, part, index)
    ]
    scores = np.stack([answers[part][1][:, index] for part, index in origin], axis=1)
    scores = scores.astype(np.float64)
    if not np.all((scores >= 0) & (scores <= 1)):
        raise ResultError("the model's probabilities are not all numbers from 0 to 1")
    output = spec.output.classes or spec.output
    whole = scores.max(axis=1) if output.combine == "max" else scores.mean(axis=1)
    winner = int(whole.argmax()) if output.activation == "softmax" else None

    def is_present(label: LabelSpec) -> bool:
        passes = bool(whole[label.channel] >= output.threshold)
        return passes and winner in (None, label.channel)

    sought = [label for label in output.labels if label.sought]
    sought.sort(key=lambda label: (not is_present(label), -whole[label.channel], label.channel))
    findings = []
    for number, label in enumerate(sought, start=first):
        part, index = origin[int(scores[label.channel].argmax())]
        stack = answers[part][0]
        findings.append(
            Finding(
                number=number,
                label=label.name,
                category=label.category,
                type=label.type,
                tracking_uid=derived_uid(job_id, "tracking", str(number), root=uid_root),
                kind=FindingKind.CLASSIFICATION,
                present=is_present(label),
                part=part,
                channel=label.channel,
                site=label.site,
                laterality=_side(stack, label),
                color=label.color,
                key_image=key_image(stack, index),
                probability=float(whole[label.channel]),
            )
        )
    remarks = [remark for stack, _ in answers for remark in stack.remarks]
    others = [label for label in output.labels if not label.sought]
    if others:
        named = ", ".join(f"{label.name} {whole[label.channel]:.2f}" for label in others)
        remarks.append(f"Probability of classes that are not sought: {named}.")
    return Analysis(
        spec=spec,
        parts=tuple(
            Part(
                stack=stack,
                label_map=np.zeros(stack.array.shape, dtype=np.uint16),
                activation=activation,
            )
            for (stack, _), activation in zip(answers, activations, strict=True)
        ),
        findings=tuple(findings),
        remarks=tuple(dict.fromkeys(remarks)),
    )


def _is_ignored(
    ignored: Sequence[npt.NDArray[np.bool_] | None] | None, part: int, index: int
) -> bool:
    mask = None if ignored is None else ignored[part]
    return mask is not None and bool(mask[index])


def _check(
    stack: ImageStack, scores: Scores, activation: npt.NDArray[np.float16] | None, spec: ModelSpec
) -> None:
    output = spec.output.classes or spec.output
    classes = max(label.channel for label in output.labels) + 1
    if scores.ndim != 2 or scores.shape[1] != len(stack.frames):
        raise ValueError(f"scores {scores.shape} for {len(stack.frames)} frames")
    if scores.shape[0] < classes:
        raise ValueError(f"{scores.shape[0]} classes, the labels need {classes}")
    if activation is not None and activation.shape != stack.array.shape:
        raise ValueError(f"activation {activation.shape} for a stack {stack.array.shape}")


def _side(stack: ImageStack, label: LabelSpec) -> Code | None:
    """The side that the images show, by their own attribute; a volume's only where it has one."""
    if not stack.laterality or (stack.is_volume and not label.sided):
        return None
    return LEFT if stack.laterality == "L" else RIGHT
