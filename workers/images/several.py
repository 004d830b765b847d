"""Several volumes in one series: by which attribute they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

from pydicom.dataset import Dataset

from workers.images.attributes import first_item, numbers, private_text
from workers.images.frames import Frame

Value = float | str | tuple[float, ...] | None
_Reader = Callable[[Frame], Value]
_SHOWN = 6
# What a volume must share with the largest of several, as a part of that one's places.
_SAME_PLACES = 0.9
# How many slices a stack must have, as a part of the largest one's.
_LEAST_STACK = 0.5
# GE adds this to b-values of some sequences.
_GE_OFFSET = 1e9


class Several(NamedTuple):
    """How the frames of a series fall into volumes.

    Attributes:
        attribute: the attribute, or the attributes, that tells them apart.
        values: its value in each volume, for people.
        groups: indices of the frames of each volume, in the order of the values.
    """

    attribute: str
    values: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]

    @property
    def reason(self) -> str:
        """What the series holds, for people."""
        shown = ", ".join(self.values[:_SHOWN]) + (", …" if len(self.values) > _SHOWN else "")
        count = len(self.groups)
        return f"the series holds {count} volumes that {self.attribute} tells apart: {shown}"


def tell_apart(frames: Sequence[Frame], places: Sequence[int]) -> Several | None:
    """Find the attribute by which frames at the same place differ, one volume for each value.

    Takes the number of each frame's place along the stack. Attributes are tried in the order of
    the table below, then two of them together, then times by their order at each place (a cine
    has other times at each slice). None if nothing tells them apart.
    """
    most = max(Counter(places).values())
    stacks = len(set(places))
    read: dict[str, list[Value]] = {}
    for name, reader in _READERS.items():
        values = [reader(frame) for frame in frames]
        if len(set(values)) > 1:
            read[name] = values
            if _parts(values, places, most, stacks):
                return _grouped(name, values)
    for (one, first), (other, second) in combinations(read.items(), 2):
        both = list(zip(first, second, strict=True))
        if _parts(both, places, most, stacks):
            return _grouped(f"{one} and {other}", both)
    for name in _TIMES:
        if name in read and (ranks := _ranks(read[name], places, most)):
            groups = [[i for i, rank in enumerate(ranks) if rank == k] for k in range(most)]
            starts = [str(min(str(read[name][i]) for i in group)) for group in groups]
            return Several(name, tuple(starts), tuple(tuple(group) for group in groups))
    return None


def by_stack(frames: Sequence[Frame]) -> Several | None:
    """Stacks of an enhanced object (Stack ID (0020,9056)); None if there is only one."""
    values: list[Value] = [frame.text("StackID") or None for frame in frames]
    return _grouped("StackID", values) if len(set(values)) > 1 else None


def why_not_whole(several: Several, number: int, places: Sequence[int] | None) -> str:
    """Why volume `number` is a stray part and no whole one; empty if it is whole.

    It must lie at nearly all places (one of `places` for each frame) of the largest volume.
    Without `places` the volumes lie in different ones, and must only not be much smaller.
    """
    group, largest = several.groups[number], max(several.groups, key=len)
    if places is None:
        shared, wanted = len(group), _LEAST_STACK * len(largest)
    else:
        shared = len({places[i] for i in group} & {places[i] for i in largest})
        wanted = _SAME_PLACES * len({places[i] for i in largest})
    if shared >= wanted:
        return ""
    return (
        f"the one with {several.values[number]} covers {shared} of the {len(largest)} slices of "
        "the largest"
    )


def _parts(values: Sequence[Hashable], places: Sequence[int], most: int, stacks: int) -> bool:
    """Whether each value is a volume: no place twice, and no more values than volumes.

    A value that changes with every slice parts the frames too, but into single slices.
    """
    if len(set(zip(values, places, strict=True))) < len(places):
        return False
    count = len(set(values))
    return count == most or len(places) / count > stacks / 2


def _ranks(values: Sequence[Value], places: Sequence[int], most: int) -> list[int] | None:
    """Which in order of its value each frame is at its place; None if any place differs."""
    at: dict[int, list[tuple[str, int]]] = {}
    for index, (value, place) in enumerate(zip(values, places, strict=True)):
        if not isinstance(value, (float, str)):
            return None
        at.setdefault(place, []).append((_sortable(value), index))
    ranks = [0] * len(places)
    for members in at.values():
        if len(members) != most or len({value for value, _ in members}) != most:
            return None
        for rank, (_, index) in enumerate(sorted(members)):
            ranks[index] = rank
    return ranks


def _sortable(value: float | str) -> str:
    return f"{value:020.6f}" if isinstance(value, float) else value


def _grouped(name: str, values: Sequence[Hashable]) -> Several:
    groups: dict[Hashable, list[int]] = {}
    for index, value in enumerate(values):
        groups.setdefault(value, []).append(index)
    ordered = sorted(groups, key=_order)
    return Several(
        name,
        tuple(_shown(value) for value in ordered),
        tuple(tuple(groups[value]) for value in ordered),
    )


def _order(value: Hashable) -> tuple[tuple[int, float, str], ...]:
    """Numbers by size, then texts; what is missing comes first."""
    if isinstance(value, tuple):
        return tuple(part for item in value for part in _order(item))
    if value is None:
        return ((0, 0.0, ""),)
    if isinstance(value, float):
        return ((1, value, ""),)
    return ((2, 0.0, str(value)),)


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "/".join(_shown(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(*keywords: str) -> _Reader:
    def read(frame: Frame) -> Value:
        return next((v for k in keywords if (v := frame.number(k)) is not None), None)

    return read


def _text(*keywords: str) -> _Reader:
    def read(frame: Frame) -> Value:
        return next((v for k in keywords if (v := frame.text(k))), None)

    return read


def _b_value(frame: Frame) -> Value:
    """Diffusion b-value, s/mm², also from where older scanners of three makers wrote it."""
    found = frame.number("DiffusionBValue")
    if found is not None:
        return found
    for group, creator, element in (
        (0x0019, "SIEMENS MR HEADER", 0x0C),
        (0x2001, "Philips Imaging DD 001", 0x03),
        (0x0043, "GEMS_PARM_01", 0x39),
    ):
        private = _private(frame.dataset, group, creator, element)
        if private is not None:
            return private % _GE_OFFSET if group == 0x0043 else private
    return None


def _private(dataset: Dataset, group: int, creator: str, element: int) -> float | None:
    """First number of a private element; None where there is none that can be read."""
    try:
        return float(private_text(dataset, group, creator, element).split("\\")[0])
    except ValueError:
        return None


def _gradient(frame: Frame) -> Value:
    for holder in frame.group("MRDiffusionSequence"):
        direction = first_item(holder, "DiffusionGradientDirectionSequence")
        if direction is not None:
            return numbers(direction, "DiffusionGradientOrientation")
    return numbers(frame.dataset, "DiffusionGradientOrientation")


def _kind(frame: Frame) -> Value:
    return "\\".join(frame.kind) or None


_READERS: dict[str, _Reader] = {
    "TemporalPositionIdentifier": _number("TemporalPositionIdentifier"),
    "TemporalPositionIndex": _number("TemporalPositionIndex"),
    "TemporalPositionTimeOffset": _number("TemporalPositionTimeOffset"),
    "DiffusionBValue": _b_value,
    "DiffusionGradientOrientation": _gradient,
    "EchoTime": _number("EchoTime", "EffectiveEchoTime"),
    "EchoNumbers": _number("EchoNumbers"),
    "ComplexImageComponent": _text("ComplexImageComponent"),
    "ImageType": _kind,
    "FlipAngle": _number("FlipAngle"),
    "InversionTime": _number("InversionTime", "InversionTimes"),
    "NominalCardiacTriggerDelayTime": _number("NominalCardiacTriggerDelayTime"),
    "KVP": _number("KVP"),
    "ConvolutionKernel": _text("ConvolutionKernel"),
    "AcquisitionNumber": _number("AcquisitionNumber", "FrameAcquisitionNumber"),
    "TriggerTime": _number("TriggerTime"),
    "FrameReferenceTime": _number("FrameReferenceTime"),
    "AcquisitionTime": _text("AcquisitionDateTime", "FrameAcquisitionDateTime", "AcquisitionTime"),
    "ContentTime": _text("ContentTime"),
    "FrameReferenceDateTime": _text("FrameReferenceDateTime"),
}
# Last resort: by the order of these at each place.
_TIMES: Iterable[str] = (
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
    "FrameReferenceTime",
    "FrameReferenceDateTime",
    "AcquisitionTime",
    "ContentTime",
)
