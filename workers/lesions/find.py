"""Lesions out of a model's probabilities: connected, sorted, numbered, measured.

The other files of this folder each measure one thing; here it is put together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from core.domain import Finding, FindingKind, Measurement
from core.identifiers import derived_uid
from core.modelspec import LabelSpec, ModelSpec
from workers.analysis import Analysis, Part
from workers.images.stack import Basis, ImageStack
from workers.lesions.boundary import boundary_of
from workers.lesions.colors import color_of
from workers.lesions.components import Component, Mask, components_of, masks_of
from workers.lesions.concepts import AREA, MILLILITRE, VOLUME, VOXEL_COUNT
from workers.lesions.density import density_of
from workers.lesions.midline import Body
from workers.lesions.outline import outlines_of
from workers.lesions.place import key_image, place_of, side_of
from workers.lesions.region import Region
from workers.lesions.shape import shape_of
from workers.lesions.size import size_of
from workers.lesions.uptake import uptake_of

IN_PIXELS = "No pixel spacing is known: sizes are in pixels."
PARTLY_IN_PIXELS = "Sizes of lesions outside the calibrated region of the image are in pixels."
AT_DETECTOR = "Sizes are at the detector: in the patient they are smaller."
MAGNIFIED = "Sizes rest on the estimated radiographic magnification."
ACROSS_GAP = (
    "A slice is missing within a lesion: its volume counts only the slices that came, "
    "surface and shape in space are not stated."
)


@dataclass(frozen=True, eq=False)
class _Answer:
    """One stack with what the model said of it."""

    stack: ImageStack
    components: list[Component]
    foreground: Mask
    anatomy: list[Component]

    @cached_property
    def body(self) -> Body | None:
        """The body in a volume, sampled when it is first asked for."""
        return Body(self.stack) if self.stack.is_volume else None


def find_lesions(
    answers: Sequence[tuple[ImageStack, npt.NDArray[np.floating]]],
    spec: ModelSpec,
    *,
    job_id: str,
    min_volume_ml: float | None = None,
    max_findings: int = 50,
    uid_root: str = "",
    keep_probabilities: bool = False,
) -> Analysis:
    """Threshold, connect, number and measure.

    `answers` pairs each stack with (channels, frames, rows, columns) probabilities, 0 to 1, in
    the stack's own grid; float16 is the quick way. In a volume voxels connect in space (26
    neighbours), in images within one frame (8 neighbours). The least size in volumes is
    `min_volume_ml`, or the model's own without it; in images the model's `min_area_mm2`, where
    the pixel size is known, and `min_pixels`. The findings are numbered over all stacks, the
    largest first; tracking UIDs follow from the job, so a retry makes the same findings.
    A label that names anatomy (`LabelSpec.is_structure`) is no lesion: what it outlines in a
    stack is one structure, of any size.

    Raises:
        ValueError: no stack, or probabilities that are not in the stack's grid or lack a
            channel.
        ResultError: probabilities that are not numbers from 0 to 1.
    """
    if not answers:
        raise ValueError("no stack to find lesions in")
    read = [_answer(stack, probabilities, spec) for stack, probabilities in answers]
    least_ml = spec.postprocessing.min_volume_ml if min_volume_ml is None else min_volume_ml

    large: list[tuple[int, Component]] = []
    too_small = 0
    too_small_ml = 0.0
    for part, answer in enumerate(read):
        for component in answer.components:
            if _is_large(component, answer.stack, spec, least_ml):
                large.append((part, component))
            else:
                too_small += 1
                too_small_ml += _millilitres(component, answer.stack)
    # Equal ones from the first voxel on, so that a retry numbers them alike.
    large.sort(key=lambda item: _rank(item[0], item[1], read[item[0]].stack))
    kept, rest = large[:max_findings], large[max_findings:]

    label_maps = [np.zeros(answer.stack.array.shape, dtype=np.uint16) for answer in read]
    found: list[list[Finding]] = [[] for _ in read]
    findings = []
    remarks = [remark for answer in read for remark in answer.stack.remarks]
    for number, (part, component) in enumerate(kept, start=1):
        segment = len(found[part]) + 1
        label_maps[part][component.box][component.mask] = segment
        finding, remark = _finding(
            component,
            read[part],
            part,
            segment,
            number,
            job_id,
            uid_root,
            by_rule=spec.rule is not None,
        )
        found[part].append(finding)
        findings.append(finding)
        remarks += remark
    structures = [
        _structures(answer, part, len(found[part]), label_maps[part], job_id, uid_root)
        for part, answer in enumerate(read)
    ]
    sought = [label for label in spec.output.labels if not label.is_structure]
    if not (sought or any(structures) or spec.output.classes):
        sought = list(spec.output.labels)
    if sought and not findings:
        findings.append(_absent(sought[0], job_id, uid_root))
    return Analysis(
        spec=spec,
        parts=tuple(
            Part(
                stack=answer.stack,
                label_map=label_map,
                findings=tuple(lesions),
                probabilities=_float16(probabilities) if keep_probabilities else None,
                structures=anatomy,
            )
            for answer, label_map, lesions, (_, probabilities), anatomy in zip(
                read, label_maps, found, answers, structures, strict=True
            )
        ),
        findings=tuple(findings),
        too_small=too_small,
        too_small_ml=too_small_ml,
        left_out=len(rest),
        left_out_ml=sum(_millilitres(component, read[part].stack) for part, component in rest),
        remarks=tuple(dict.fromkeys(remarks)),
    )


def _answer(stack: ImageStack, probabilities: npt.NDArray[np.floating], spec: ModelSpec) -> _Answer:
    channels = max(label.channel for label in spec.output.labels) + 1
    if probabilities.ndim != 4 or probabilities.shape[1:] != stack.array.shape:
        raise ValueError(f"probabilities {probabilities.shape} for a stack {stack.array.shape}")
    if probabilities.shape[0] < channels:
        raise ValueError(f"{probabilities.shape[0]} channels, the labels need {channels}")
    masks = masks_of(probabilities, spec)
    components: list[Component] = []
    anatomy: list[Component] = []
    foreground = np.zeros(stack.array.shape, dtype=bool)
    for mask, label in zip(masks, spec.output.labels, strict=True):
        probability = probabilities[label.channel]
        if label.is_structure:
            whole = _whole(mask, probability, label, stack)
            anatomy += [] if whole is None else [whole]
            continue
        components += components_of(mask, probability, label, stack)
        foreground |= mask
    return _Answer(stack, components, foreground, anatomy)


def _whole(
    mask: Mask, probability: npt.NDArray[np.floating], label: LabelSpec, stack: ImageStack
) -> Component | None:
    """All of a mask as one; None where there is nothing in images that came."""
    inside = mask.copy()
    inside[list(stack.missing)] = False
    sides = []
    for axis in range(3):
        across = tuple(other for other in range(3) if other != axis)
        held = np.flatnonzero(inside.any(axis=across))
        if not len(held):
            return None
        sides.append(slice(int(held[0]), int(held[-1]) + 1))
    box = (sides[0], sides[1], sides[2])
    voxels = int(np.count_nonzero(inside))
    mean = float(probability[inside].mean(dtype=np.float64))
    return Component(label, box, inside[box], voxels, mean)


def _is_large(component: Component, stack: ImageStack, spec: ModelSpec, least_ml: float) -> bool:
    """Whether it has the least size; sizes are products of decimals, the last bit counts not."""
    least = spec.postprocessing
    if stack.is_volume:
        return component.voxels * stack.voxel_ml >= least_ml * (1 - 1e-9)
    if component.voxels < least.min_pixels:
        return False
    known = stack.calibration_at(component.box[1], component.box[2])
    if known is None:
        return True
    area = component.voxels * known.row_mm * known.column_mm
    return area >= least.min_area_mm2 * (1 - 1e-9)


def _millilitres(component: Component, stack: ImageStack) -> float:
    return component.voxels * stack.voxel_ml if stack.is_volume else 0.0


def _rank(part: int, component: Component, stack: ImageStack) -> tuple[float | int, ...]:
    size = component.voxels * (stack.voxel_mm3 if stack.is_volume else 1.0)
    first = np.argwhere(component.mask[0])[0]
    frames, rows, columns = component.box
    place = (frames.start, rows.start + int(first[0]), columns.start + int(first[1]))
    return (-size, part, *place, component.label.channel)


def _finding(
    component: Component,
    answer: _Answer,
    part: int,
    segment: int,
    number: int,
    job_id: str,
    uid_root: str,
    *,
    by_rule: bool,
) -> tuple[Finding, list[str]]:
    """Place and measure one component; and what a reader must know about its sizes.

    A rule has no certainty.
    """
    label, stack = component.label, answer.stack
    region = Region(stack, component.box, component.mask, answer.foreground)
    outlines = outlines_of(region.mask, *region.pixel)
    size, axes = size_of(region, outlines)
    margin, reading = boundary_of(region, outlines)
    place = place_of(region)
    body = answer.body if label.sided else None
    finding = Finding(
        number=number,
        label=f"{label.name} {number}",
        category=label.category,
        type=label.type,
        tracking_uid=derived_uid(job_id, "tracking", str(number), root=uid_root),
        part=part,
        segment=segment,
        channel=label.channel,
        site=label.site,
        laterality=side_of(stack, label, place, body),
        color=color_of(label, number),
        space=place.space,
        centre=place.centre,
        box=place.box,
        slices=place.slices,
        key_image=key_image(stack, axes.index),
        axes=axes,
        probability=None if by_rule else component.probability,
        measurements=(
            *size,
            *shape_of(region, outlines),
            *margin,
            *density_of(region),
            *uptake_of(region),
        ),
        evaluations=tuple(reading),
    )
    return finding, _remarks(region)


def _structures(
    answer: _Answer,
    part: int,
    segments: int,
    label_map: npt.NDArray[np.uint16],
    job_id: str,
    uid_root: str,
) -> tuple[Finding, ...]:
    """The anatomy of one stack, its segments after the first `segments`; into `label_map`, too.

    The size is that of all its voxels; of images only where it lies in one: areas in several
    images are not added up.
    """
    made: list[Finding] = []
    for component in answer.anatomy:
        label, stack = component.label, answer.stack
        here = label_map[component.box]
        free = component.mask & (here == 0)
        if not free.any():
            continue
        segment = segments + len(made) + 1
        here[free] = segment
        region = Region(stack, component.box, free, answer.foreground)
        place = place_of(region)
        size: list[Measurement] = []
        if stack.is_volume:
            volume = region.voxels * stack.voxel_ml
            size = [Measurement(VOLUME, volume, MILLILITRE, method=VOXEL_COUNT)]
        elif len(free) == 1:
            row, column = region.pixel
            size = [Measurement(AREA, region.voxels * row * column, region.area_unit)]
        key = str(part), str(label.channel)
        made.append(
            Finding(
                number=0,
                label=label.name if part == 0 else f"{label.name}, part {part + 1}",
                category=label.category,
                type=label.type,
                tracking_uid=derived_uid(job_id, "tracking", "structure", *key, root=uid_root),
                kind=FindingKind.STRUCTURE,
                part=part,
                segment=segment,
                channel=label.channel,
                color=label.color,
                space=place.space,
                centre=place.centre,
                box=place.box,
                slices=place.slices,
                measurements=tuple(size),
            )
        )
    return tuple(made)


def _remarks(region: Region) -> list[str]:
    """What a reader must know about the sizes of one lesion."""
    if region.stack.is_volume:
        return [ACROSS_GAP] if region.across_gap else []
    known = region.calibration
    if known is None:
        return [PARTLY_IN_PIXELS if region.stack.calibrations else IN_PIXELS]
    if known.basis is Basis.DETECTOR:
        return [AT_DETECTOR]
    return [MAGNIFIED] if known.basis is Basis.MAGNIFIED else []


def _absent(label: LabelSpec, job_id: str, uid_root: str) -> Finding:
    return Finding(
        number=0,
        label=label.name,
        category=label.category,
        type=label.type,
        tracking_uid=derived_uid(job_id, "tracking", "0", root=uid_root),
        present=False,
        channel=label.channel,
        site=label.site,
        color=label.color,
    )


def _float16(probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.float16]:
    """Without a copy where it is float16 already."""
    return probabilities.astype(np.float16, copy=False)
