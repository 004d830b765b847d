"""Both answers of one network: what it outlined, and what it says of the whole images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from core.domain import Finding
from core.modelspec import ModelSpec
from workers.analysis import Analysis
from workers.images.stack import ImageStack
from workers.lesions.classify import Scores, classify
from workers.lesions.where import looked_at

NOTHING_OUTLINED = "The two answers differ: a class is present, and no lesion was outlined."
NO_CLASS = "The two answers differ: a lesion was outlined, and no class that is sought is present."


def with_classes(
    outlined: Analysis,
    answers: Sequence[tuple[ImageStack, Scores]],
    spec: ModelSpec,
    *,
    job_id: str,
    uid_root: str = "",
    activations: Sequence[npt.NDArray[np.float16] | None] | None = None,
    ignored: Sequence[npt.NDArray[np.bool_] | None] | None = None,
) -> Analysis:
    """`outlined` with the classes of the same stacks before its lesions.

    A class also says where the network looked in its key image, by name. Where outline and
    class contradict each other, a remark says so; neither is changed by the other.

    Raises:
        ValueError, ResultError: as `classify`, which also explains the other arguments.
    """
    first = max((finding.number for finding in outlined.findings), default=0) + 1
    whole = classify(
        answers,
        spec,
        job_id=job_id,
        uid_root=uid_root,
        activations=activations,
        ignored=ignored,
        first=first,
    )
    parts = tuple(
        replace(part, activation=other.activation)
        for part, other in zip(outlined.parts, whole.parts, strict=True)
    )
    both = replace(outlined, parts=parts)
    classes = _placed(whole.findings, both, answers)
    remarks = [*outlined.remarks, *whole.remarks]
    for part in parts:
        named = {one.channel for one in part.structures}
        remarks += [
            f"{label.name}: nothing was outlined."
            for label in spec.output.labels
            if label.is_structure and label.channel not in named
        ]
    if any(not label.is_structure for label in spec.output.labels):
        present = any(finding.present for finding in classes)
        if present and not outlined.lesions:
            remarks.append(NOTHING_OUTLINED)
        if outlined.lesions and not present:
            remarks.append(NO_CLASS)
    return replace(
        both,
        findings=(*classes, *outlined.findings),
        remarks=tuple(dict.fromkeys(remarks)),
    )


def placed(analysis: Analysis, answers: Sequence[tuple[ImageStack, Scores]]) -> Analysis:
    """The answer of a classifier, its classes with the place where the network looked."""
    return replace(analysis, findings=_placed(analysis.findings, analysis, answers))


def _placed(
    findings: Sequence[Finding], analysis: Analysis, answers: Sequence[tuple[ImageStack, Scores]]
) -> tuple[Finding, ...]:
    """A map is of the class that is highest in its image: only that one gets its place."""
    channels = [finding.channel for finding in findings]

    def one(finding: Finding) -> Finding:
        if finding.key_image is None:
            return finding
        index = finding.key_image.index
        scores = answers[finding.part][1][:, index]
        if finding.channel != max(channels, key=lambda channel: float(scores[channel])):
            return finding
        found = looked_at(analysis.parts[finding.part], index)
        return replace(finding, evaluations=(*finding.evaluations, *found))

    return tuple(one(finding) for finding in findings)
