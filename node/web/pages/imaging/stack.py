"""The frames of a series in the order in which a person scrolls through them.

Slices that share an orientation are sorted along its normal (PS3.3 C.7.6.2.1.1). Where several
lie at one place (echoes, time points) all first ones come first, then all second ones. Anything
else is sorted by Instance Number, and by frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from node.web.pages.imaging.header import number_of, numbers_of, whole_of

# Cosines of the angle between normals that still count as one orientation.
_PARALLEL = 0.999
# Positions are written with DS's 16 characters.
_SAME_PLACE_MM = 1e-2
_NO_IMAGES = frozenset({"SEG", "SR", "KO", "PR", "RTSTRUCT", "RTPLAN", "DOC", "ECG", "REG"})


@dataclass(frozen=True, slots=True)
class StackFrame:
    """One frame.

    Attributes:
        instance: id of the stored instance's row.
        frame: from 1; of a single-frame instance 1 as well.
        multi: whether its instance has several frames, so that references name the frame.
        place: along the normal, mm; None where the image has no place in the patient.
    """

    instance: int
    sop_instance_uid: str
    frame: int
    multi: bool
    number: int
    normal: tuple[float, ...] | None
    place: float | None


@dataclass(frozen=True, slots=True)
class Stack:
    """A series for the viewer.

    Attributes:
        spacing: (row, column) distances of pixels, mm; None where nothing says it.
        aspect: how many times as high as wide a pixel is.
        orientation: (left, right, top, bottom) letters of the image's edges, or empty.
        gone: how many instances were removed from the store.
    """

    frames: tuple[StackFrame, ...]
    rows: int
    columns: int
    spacing: tuple[float, float] | None
    aspect: float
    orientation: tuple[str, str, str, str] | None
    modality: str
    gone: int


TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "InstanceNumber",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
    "SequenceOfUltrasoundRegions",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]


def is_image(modality: str) -> bool:
    """Whether series of a modality hold images for the viewer."""
    return modality not in _NO_IMAGES


def arrange(headers: Iterable[tuple[int, Dataset]], gone: int = 0) -> Stack:
    """A stack from the headers of its instances, each with the id of its row.

    Instances without rows and columns are left out.
    """
    frames: list[StackFrame] = []
    first: Dataset | None = None
    cosines: Sequence[float] | None = None
    for instance, dataset in headers:
        if not whole_of(dataset, "Rows") or not whole_of(dataset, "Columns"):
            continue
        if first is None:
            first = dataset
            cosines = _cosines(dataset, 0)
        frames += _frames_of(instance, dataset)
    if first is None:
        return Stack((), 0, 0, None, 1.0, None, "", gone)
    spacing = _spacing(first)
    return Stack(
        frames=tuple(_sorted(frames)),
        rows=whole_of(first, "Rows"),
        columns=whole_of(first, "Columns"),
        spacing=spacing,
        aspect=_aspect(first, spacing),
        orientation=_letters(cosines) if cosines is not None else None,
        modality=str(first.get("Modality") or ""),
        gone=gone,
    )


def _frames_of(instance: int, dataset: Dataset) -> list[StackFrame]:
    count = max(1, whole_of(dataset, "NumberOfFrames"))
    multi = "NumberOfFrames" in dataset and (count > 1 or _groups(dataset) is not None)
    number = whole_of(dataset, "InstanceNumber")
    made = []
    for index in range(count):
        normal, place = _place(dataset, index)
        uid = str(dataset.get("SOPInstanceUID") or "")
        made.append(StackFrame(instance, uid, index + 1, multi, number, normal, place))
    return made


def _groups(dataset: Dataset) -> Any:
    return dataset.get("PerFrameFunctionalGroupsSequence")


def functional(dataset: Dataset, index: int, sequence: str) -> Dataset | None:
    """A functional group's item of a frame (PS3.3 C.7.6.16): its own, or the shared one."""
    groups = _groups(dataset) or ()
    shared = dataset.get("SharedFunctionalGroupsSequence") or ()
    for holder in (groups[index] if index < len(groups) else None, *list(shared)[:1]):
        items = holder.get(sequence) if holder is not None else None
        if items:
            item: Dataset = items[0]
            return item
    return None


def _cosines(dataset: Dataset, index: int) -> Sequence[float] | None:
    holder = functional(dataset, index, "PlaneOrientationSequence") or dataset
    return numbers_of(holder, "ImageOrientationPatient", 6)


def _place(dataset: Dataset, index: int) -> tuple[tuple[float, ...] | None, float | None]:
    cosines = _cosines(dataset, index)
    holder = functional(dataset, index, "PlanePositionSequence") or dataset
    position = numbers_of(holder, "ImagePositionPatient", 3)
    if cosines is None or position is None:
        return None, None
    normal = np.cross(cosines[:3], cosines[3:])
    length = float(np.linalg.norm(normal))
    if length < 1e-6:
        return None, None
    normal = normal / length
    return tuple(float(value) for value in normal), float(np.dot(normal, position))


def _sorted(frames: list[StackFrame]) -> list[StackFrame]:
    plain = sorted(frames, key=lambda item: (item.number, item.instance, item.frame))
    normals = [item.normal for item in plain]
    if any(normal is None for normal in normals) or len({f.place for f in plain}) < 2:
        return plain
    first = np.array(normals[0])
    if any(float(np.dot(first, np.array(normal))) < _PARALLEL for normal in normals):
        return plain
    seen: Counter[int] = Counter()
    ranked = []
    for item in plain:
        slot = round((item.place or 0.0) / _SAME_PLACE_MM)
        ranked.append((seen[slot], item.place or 0.0, item))
        seen[slot] += 1
    ranked.sort(key=lambda entry: entry[:2])
    return [item for _, _, item in ranked]


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    measures = functional(dataset, 0, "PixelMeasuresSequence")
    for holder, keyword in (
        (measures, "PixelSpacing"),
        (dataset, "PixelSpacing"),
        (dataset, "ImagerPixelSpacing"),
        (dataset, "NominalScannedPixelSpacing"),
    ):
        values = numbers_of(holder, keyword, 2) if holder is not None else None
        if values is not None and min(values) > 0:
            return values[0], values[1]
    return None


def _aspect(dataset: Dataset, spacing: tuple[float, float] | None) -> float:
    if spacing is not None:
        return spacing[0] / spacing[1]
    ratio = numbers_of(dataset, "PixelAspectRatio", 2)
    if ratio is not None and min(ratio) > 0:
        return ratio[0] / ratio[1]
    regions = dataset.get("SequenceOfUltrasoundRegions") or ()
    for region in list(regions)[:1]:
        across = number_of(region, "PhysicalDeltaX")
        down = number_of(region, "PhysicalDeltaY")
        units = (
            whole_of(region, "PhysicalUnitsXDirection"),
            whole_of(region, "PhysicalUnitsYDirection"),
        )
        # both centimetres (PS3.3 C.8.5.5.1.15)
        if across and down and units == (3, 3):
            return abs(down / across)
    return 1.0


def _letters(cosines: Sequence[float]) -> tuple[str, str, str, str] | None:
    """Letters of the left, right, upper and lower edge, by the direction that points there."""

    def towards(vector: Sequence[float]) -> str:
        axis = int(np.abs(vector).argmax())
        # LPS: x grows to the left, y to the back, z to the head
        return ("LR", "PA", "HF")[axis][0 if vector[axis] > 0 else 1]

    row, column = list(cosines[:3]), list(cosines[3:])
    if not any(row) or not any(column):
        return None
    return (
        towards([-value for value in row]),
        towards(row),
        towards([-value for value in column]),
        towards(column),
    )
