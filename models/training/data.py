"""Folders of images with an `index.csv`: image, mask, label, group, and perhaps slice and split.

Paths are relative to the folder. An empty mask means that there is nothing to segment. What
belongs together (a patient) shares a group, and a split never divides a group.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from core.errors import TrainingError

_NEEDED = ("image", "mask", "label", "group")
Pixels = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an index. `order` is the slice's place in its group's volume."""

    image: Path
    mask: Path | None
    label: str
    group: str
    split: str
    order: float


@dataclass(frozen=True, slots=True)
class Group:
    """All images of one patient as a volume: (slices, rows, columns)."""

    name: str
    entries: tuple[Entry, ...]
    images: Pixels
    masks: Mask


def read_index(folder: Path) -> list[Entry]:
    """Read a folder's index.

    Raises:
        TrainingError: no index there, a column is missing, or a file that it names.
    """
    path = folder / "index.csv"
    try:
        # -sig: a spreadsheet program begins its file with a byte order mark
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                raise TrainingError(f"{path} lacks the column(s) {', '.join(missing)}")
            entries = [_entry(folder, row, reader.line_num) for row in reader]
    except FileNotFoundError as error:
        raise TrainingError(f"{folder} has no index.csv") from error
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path} is no UTF-8 text: {error}") from error
    except csv.Error as error:
        raise TrainingError(f"{path} is no CSV: {error}") from error
    if not entries:
        raise TrainingError(f"{path} names no images")
    absent = [
        str(item)
        for entry in entries
        for item in (entry.image, entry.mask)
        if item is not None and not item.is_file()
    ]
    if absent:
        shown = ", ".join(absent[:3])
        raise TrainingError(f"{path} names {len(absent)} file(s) that are not there: {shown} …")
    return entries


def read_groups(entries: list[Entry]) -> list[Group]:
    """Read the images group by group, in the order of their names.

    Images of one group that differ in size become groups of their own.

    Raises:
        TrainingError: an image that cannot be read, or a mask of another size.
    """
    by_key: dict[tuple[str, tuple[int, ...]], list[tuple[Entry, Pixels, Mask]]] = {}
    for entry in entries:
        image = _read_image(entry.image)
        mask = np.zeros(image.shape, dtype=np.bool_)
        if entry.mask is not None:
            mask = _read_image(entry.mask) > 0
            if mask.shape != image.shape:
                found, wanted = ("×".join(map(str, item.shape)) for item in (mask, image))
                raise TrainingError(f"{entry.mask}: the mask is {found}, its image {wanted}")
        by_key.setdefault((entry.group, image.shape), []).append((entry, image, mask))
    groups = []
    for (name, _), items in sorted(by_key.items(), key=_by_key):
        items.sort(key=lambda item: item[0].order)
        groups.append(
            Group(
                name,
                tuple(entry for entry, _, _ in items),
                np.stack([image for _, image, _ in items]),
                np.stack([mask for _, _, mask in items]),
            )
        )
    return groups


def _by_key(pair: tuple[tuple[str, tuple[int, ...]], object]) -> tuple[str, tuple[int, ...]]:
    return pair[0]


def _entry(folder: Path, row: dict[str, str | None], line: int) -> Entry:
    where = f"{folder / 'index.csv'}, line {line}"
    values = {name: row[name] for name in _NEEDED}
    short = [name for name, value in values.items() if value is None]
    if short:
        raise TrainingError(f"{where}: it ends before {', '.join(short)}")
    if not values["image"]:
        raise TrainingError(f"{where}: it names no image")
    order = row.get("slice") or ""
    try:
        place = float(order) if order else float(line)
    except ValueError:
        place = math.nan
    if not math.isfinite(place):
        raise TrainingError(f"{where}: slice {order!r} is no number")
    return Entry(
        image=folder / values["image"],
        mask=folder / values["mask"] if values["mask"] else None,
        label=values["label"] or "",
        group=values["group"] or "",
        split=row.get("split") or "",
        order=place,
    )


def _read_image(path: Path) -> Pixels:
    try:
        with Image.open(path) as image:
            # 16 and 32 bits, or floating point: Pillow would cut them off at 255
            wide = image.mode.startswith(("I", "F"))
            return np.asarray(image if wide else image.convert("L"))
    # Pillow's readers raise these, too, on files that are damaged
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read as an image: {error}") from error
