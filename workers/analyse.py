"""One series, one model: from stored instances to what was found.

    instances → stacks (volume in LPS, or images) → the model's own preprocessing → logits
    → lesions or classes

Nothing is written here: the pipeline commits, `workers.results` makes the objects.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from core.errors import NotApplicableError
from core.modelspec import ModelSpec
from core.settings import Settings
from workers.analysis import Analysis
from workers.asking import Answered, ask, within_domain, without
from workers.images.attributes import text
from workers.images.build import build_stacks
from workers.images.read import read_series
from workers.images.stack import ImageStack, instances_of
from workers.inference import Models
from workers.lesions.both import placed, with_classes
from workers.lesions.classify import classify
from workers.lesions.find import find_lesions
from workers.rules import apply_rule, chosen

if TYPE_CHECKING:
    from models.registry import LoadedModel


@dataclass(slots=True)
class Clock:
    """How long each step took, in seconds, for the job's summary."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to the step `name`."""
        began = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


def analyse(
    files: Sequence[Any],
    spec: ModelSpec,
    models: Models,
    settings: Settings,
    *,
    job_id: str,
    check: Callable[[], None],
    clock: Clock,
    announced: int | None = None,
) -> tuple[Analysis, dict[str, Any]]:
    """Read `files` (one series), ask the model of `spec`, and say what it found.

    `check` is called between the steps and between batches; it raises when the work is not
    wanted any more. `announced` is how many images there should be, where anybody said so.
    Returns the analysis and a summary for people: counts, sizes, device.

    Raises:
        NotApplicableError: the images are not what the model is for; the message says why.
        DecodeError: an instance cannot be read.
        ResultError: the instances belong to different patients, studies or series.
        ModelError: the model cannot be had, or does not fit into memory (MemoryShortError).
    """
    with clock("read"):
        stacks = build_stacks(read_series(files), spec.input, max_voxels=settings.worker.max_voxels)
        _check_input(spec, stacks)
    check()
    if spec.rule is not None:
        spec = chosen(spec, settings.models.windows.get(spec.name, ()))
        with clock("infer"):
            answers = [Answered(stack, apply_rule(spec, stack)) for stack in stacks]
        device = "rule"
    else:
        model = models.get(spec, settings.worker.device)
        answers, device = _answers(stacks, model, settings, check, clock), str(model.device)
    check()
    analysis = _understood(answers, spec, settings, job_id, clock)
    if spec.rule is not None:
        analysis = replace(analysis, remarks=(spec.rule.remark, *analysis.remarks))
    strange = [remark for item in answers for remark in item.remarks]
    if strange:
        analysis = replace(analysis, remarks=(*dict.fromkeys(strange), *analysis.remarks))
    if announced is not None and len(files) < announced:
        remark = f"{len(files)} of {announced} images had come: the series is incomplete."
        analysis = replace(analysis, announced=announced, remarks=(remark, *analysis.remarks))
    return analysis, _summary(analysis, device, len(files))


def _answers(
    stacks: Sequence[ImageStack],
    model: LoadedModel,
    settings: Settings,
    check: Callable[[], None],
    clock: Clock,
) -> list[Answered]:
    answers = []
    with clock("domain"):
        known = within_domain(stacks, model)
    for stack, inside in known:
        with clock("infer"):
            answered = ask(stack, model, settings.worker.batch_size, check)
        answers.append(without(answered, ~inside))
        check()
    return answers


def _understood(
    answers: Sequence[Answered], spec: ModelSpec, settings: Settings, job_id: str, clock: Clock
) -> Analysis:
    """Lesions, classes, or both: whatever the model answered, as one analysis."""
    limits = settings.results
    pixels = [(item.stack, item.pixels) for item in answers if item.pixels is not None]
    scores = [(item.stack, item.scores) for item in answers if item.scores is not None]
    maps = [item.activation for item in answers]
    ignored = [item.ignored for item in answers]
    with clock("measure"):
        if not pixels:
            found = classify(
                scores,
                spec,
                job_id=job_id,
                uid_root=limits.uid_root,
                activations=maps,
                ignored=ignored,
            )
            return placed(found, scores)
        outlined = find_lesions(
            pixels,
            spec,
            job_id=job_id,
            min_volume_ml=limits.min_volume_ml,
            max_findings=limits.max_segments,
            uid_root=limits.uid_root,
            keep_probabilities=limits.segmentation == "fractional",
        )
        if not scores:
            return outlined
        return with_classes(
            outlined,
            scores,
            spec,
            job_id=job_id,
            uid_root=limits.uid_root,
            activations=maps,
            ignored=ignored,
        )


def _check_input(spec: ModelSpec, stacks: Sequence[ImageStack]) -> None:
    modality = str(stacks[0].source.get("Modality", ""))
    if modality not in spec.input.modality:
        wanted = ", ".join(spec.input.modality)
        raise NotApplicableError(f"{spec.name} is for {wanted}, the series is {modality}")
    _check_named(spec, stacks, "BodyPartExamined", spec.input.body_part)
    _check_named(spec, stacks, "ViewPosition", spec.input.view)
    frames = sum(len(stack.present) for stack in stacks)
    if frames < spec.input.min_slices:
        raise NotApplicableError(
            f"{frames} slices, {spec.name} needs at least {spec.input.min_slices}"
        )


def _check_named(
    spec: ModelSpec, stacks: Sequence[ImageStack], keyword: str, accepted: Sequence[str]
) -> None:
    """Images that say what they show must say what the model takes; many say nothing."""
    if not accepted:
        return
    wanted = {value.upper() for value in accepted}
    said = {text(dataset, keyword).upper() for dataset in instances_of(stacks)} - {""}
    if not said <= wanted:
        others = ", ".join(sorted(said - wanted))
        raise NotApplicableError(
            f"{spec.name} is for {keyword} {', '.join(accepted)}, the images say {others}"
        )


def _summary(analysis: Analysis, device: str, instances: int) -> dict[str, Any]:
    stacks = [part.stack for part in analysis.parts]
    first = stacks[0]
    spacing = first.spacing_mm
    return {
        "images": sum(len(stack.present) for stack in stacks),
        "expected": sum(len(stack.frames) for stack in stacks),
        "instances": instances,
        "announced": analysis.announced,
        "shape": list(first.array.shape),
        "spacing_mm": None if spacing is None else [round(value, 4) for value in spacing],
        "device": device,
        "too_small": analysis.too_small,
        "too_small_ml": round(analysis.too_small_ml, 4),
        "left_out": analysis.left_out,
        "remarks": list(analysis.remarks),
    }
