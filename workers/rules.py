"""Rules in place of a network: voxels whose values lie in a window.

What such a region is made of, or whether it is normal, a rule does not know; its label says no
more than the window.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from core.errors import ModelSpecError, NotApplicableError
from core.modelspec import Code, LabelSpec, ModelSpec, RangeSpec, RuleSpec
from workers.images.concepts import G_ML_BW
from workers.images.stack import ImageStack
from workers.images.suv import check_uptake
from workers.lesions.concepts import PRIVATE_SCHEME

Mask = npt.NDArray[np.bool_]

_OWN_WINDOW = re.compile(r"(-?\d+(?:\.\d+)?)?\.\.(-?\d+(?:\.\d+)?)?")
_OWN_TYPE = Code(value="VALUE_WINDOW", scheme=PRIVATE_SCHEME, meaning="Region in a value window")
_UNIT_NAMES = {"[hnsf'U]": "HU", "g/ml{SUVbw}": "SUV"}
# Values are float32 and limits decimal: a value at the limit itself is in.
_SLACK = 1e-6
# Between air (-1000 HU) and fat (-100 HU), above most of what a patient lies on.
_SKIN_HU = -300.0
# Arms may lie apart from the trunk; a table is less than this share of it.
_LEAST_PART = 0.2


def chosen(spec: ModelSpec, wanted: Sequence[str]) -> ModelSpec:
    """`spec` with the windows that the settings want, or those that it looks for by itself.

    A window is wanted by its name, or as "LOW..HIGH" in the rule's unit, where either may be
    left out.

    Raises:
        ModelSpecError: no window of that name.
    """
    rule = spec.rule
    if rule is None:
        raise ModelSpecError(f"{spec.name} is no rule")
    labels = {label.channel: label for label in spec.output.labels}
    pairs = []
    if not wanted:
        pairs = [(w, labels[w.channel]) for w in rule.windows if labels[w.channel].sought]
    for name in dict.fromkeys(wanted):
        known = next((window for window in rule.windows if window.name == name), None)
        pairs.append(_own(name, spec) if known is None else (known, labels[known.channel]))
    return spec.model_copy(
        update={
            "rule": rule.model_copy(
                update={
                    "windows": tuple(
                        window.model_copy(update={"channel": channel})
                        for channel, (window, _) in enumerate(pairs)
                    )
                }
            ),
            "output": spec.output.model_copy(
                update={
                    "labels": tuple(
                        label.model_copy(update={"channel": channel})
                        for channel, (_, label) in enumerate(pairs)
                    )
                }
            ),
        }
    )


def _own(text: str, spec: ModelSpec) -> tuple[RangeSpec, LabelSpec]:
    """A window that the settings give by its limits, and its label."""
    assert spec.rule is not None
    names = ", ".join(window.name for window in spec.rule.windows)
    limits = _OWN_WINDOW.fullmatch(text)
    if limits is None:
        raise ModelSpecError(
            f"models.windows: {spec.name} has no window {text!r}",
            remedy=f"It has {names}; a window of your own is written LOW..HIGH.",
        )
    low, high = (None if limit is None else float(limit) for limit in limits.groups())
    try:
        window = RangeSpec(name="own", channel=0, low=low, high=high)
    except ValueError as error:
        raise ModelSpecError(f"models.windows: {spec.name}: {text!r} holds nothing") from error
    first = spec.output.labels[0]
    unit = _UNIT_NAMES[spec.rule.unit]
    if low is None or high is None:
        said = f"{high:g} {unit} or less" if low is None else f"{low:g} {unit} or more"
    else:
        said = f"{low:g} to {high:g} {unit}"
    update = {"name": f"Region of {said}", "type": _OWN_TYPE, "sought": True}
    return window, first.model_copy(update=update)


def apply_rule(spec: ModelSpec, stack: ImageStack) -> npt.NDArray[np.float16]:
    """1 where a voxel lies in a window and 0 elsewhere, (windows, frames, rows, columns).

    Where windows overlap, a voxel belongs to the first.

    Raises:
        NotApplicableError: the values are not in the rule's unit, or for SUV what they rest on
            is missing or implausible; the message says what.
    """
    rule = spec.rule
    assert rule is not None
    _check_unit(rule, spec.name, stack)
    free = np.isfinite(stack.array)
    if stack.padding is not None:
        free &= ~stack.padding
    if rule.inside_body:
        free &= body_of(stack.array)
    answer = np.zeros((len(rule.windows), *stack.array.shape), dtype=np.float16)
    for window in rule.windows:
        inside = free.copy()
        if window.low is not None:
            inside &= stack.array >= window.low - _SLACK * abs(window.low)
        if window.high is not None:
            inside &= stack.array <= window.high + _SLACK * abs(window.high)
        free &= ~inside
        answer[window.channel][inside] = 1
    return answer


def _check_unit(rule: RuleSpec, name: str, stack: ImageStack) -> None:
    if stack.unit.value != rule.unit:
        why = [remark for remark in stack.remarks if remark.startswith("The values are ")]
        wanted = _UNIT_NAMES[rule.unit]
        told = why[0] if why else f"The values are in {stack.unit.meaning}."
        raise NotApplicableError(f"{name} needs values in {wanted}. {told}")
    if rule.unit == G_ML_BW.value:
        check_uptake(stack.datasets)


def body_of(array: npt.NDArray[np.float32]) -> Mask:
    """The body in a CT volume (frames, rows, columns) in HU, with the air inside it.

    Above -300 HU, the largest connected part and others of at least a fifth of it; in each
    image everything that they enclose. A table, its mattress and the air around are outside.
    """
    solid = array > _SKIN_HU
    # parts are told apart on blocks of 2 × 2 pixels: a quarter of the memory
    frames, rows, columns = solid.shape
    padded = np.zeros((frames, rows + rows % 2, columns + columns % 2), dtype=bool)
    padded[:, :rows, :columns] = solid
    coarse = (
        padded[:, ::2, ::2] | padded[:, 1::2, ::2] | padded[:, ::2, 1::2] | padded[:, 1::2, 1::2]
    )
    numbered, count = ndimage.label(coarse)
    if not count:
        return solid
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0
    kept = (sizes >= _LEAST_PART * sizes.max())[numbered]
    body = np.repeat(np.repeat(kept, 2, axis=1), 2, axis=2)[:, :rows, :columns] & solid
    for plane in body:
        outside, _ = ndimage.label(~plane)
        edge = np.unique(np.concatenate([outside[0], outside[-1], outside[:, 0], outside[:, -1]]))
        around = np.zeros(int(outside.max()) + 1, dtype=bool)
        around[edge] = True
        around[0] = False
        plane[:] = ~around[outside]
    return body
