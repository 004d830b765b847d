"""The borders of a segmentation's pixels, image by image, as lines that a browser can draw.

Every border is exact: it runs between pixels that belong to a segment and pixels that do not.
Coordinates count pixels from the upper left corner of the image, so that the centre of its first
pixel is (0.5, 0.5), as SCOORD has it (PS3.3 C.18.6.1.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels

from core.errors import DecodeError, SentinodeError
from node.web.pages.imaging.header import numbers_of, whole_of

_BATCH = 8  # eight frames of bits always end at a byte's end
_MOST_FRAMES = 50_000
_HALF = 0.5
_FALLBACK = (255, 64, 64)
# White of CIELab. PS3.3 C.10.7.1.1 means D50; what makes such objects, ours too, takes D65.
_WHITE = (0.95047, 1.0, 1.08883)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Border:
    """The border of one segment on one image.

    Attributes:
        across: y, x0, x1, y, x0, x1, … of its horizontal pieces.
        down: x, y0, y1, x, y0, y1, … of its vertical pieces.
        box: x0, y0, x1, y1.
    """

    segment: int
    across: list[int]
    down: list[int]
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Outlines:
    """A segmentation for the viewer.

    Attributes:
        segments: number, label and sRGB colour of each.
        borders: by the image that they lie on: "SOP Instance UID" or "SOP Instance UID:frame".
    """

    rows: int
    columns: int
    segments: tuple[tuple[int, str, tuple[int, int, int]], ...]
    borders: dict[str, list[Border]]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "rows": self.rows,
            "columns": self.columns,
            "segments": [
                {"number": number, "label": label, "colour": f"rgb({r}, {g}, {b})"}
                for number, label, (r, g, b) in self.segments
            ],
            "borders": {
                image: [
                    {
                        "segment": item.segment,
                        "across": item.across,
                        "down": item.down,
                        "box": list(item.box),
                    }
                    for item in borders
                ]
                for image, borders in self.borders.items()
            },
        }


def read_outlines(path: Path) -> Outlines:
    """Read a segmentation (PS3.3 A.51; BINARY, FRACTIONAL from one half on, LABELMAP).

    Frames that name no source image are left out.

    Raises:
        DecodeError: it is no segmentation, or cannot be decoded.
    """
    try:
        return _outlines(dcmread(path))
    except SentinodeError:
        raise
    except Exception as error:  # every decoder has its own exceptions
        raise DecodeError(f"the segmentation cannot be read: {error}") from error


def _outlines(seg: Dataset) -> Outlines:
    groups = seg.PerFrameFunctionalGroupsSequence
    if len(groups) > _MOST_FRAMES or len(groups) != whole_of(seg, "NumberOfFrames"):
        raise DecodeError(f"a segmentation of {len(groups)} frames is not drawn here")
    shared = (seg.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    kind = str(seg.get("SegmentationType") or "BINARY")
    half = _HALF * whole_of(seg, "MaximumFractionalValue", 255)
    borders: dict[str, list[Border]] = {}
    for group, frame in zip(groups, _frames(seg, len(groups)), strict=True):
        image = _source(shared, group)
        if image is None or not frame.any():
            continue
        if kind == "LABELMAP":
            for number in np.unique(frame[frame > 0]):
                borders.setdefault(image, []).append(border_of(frame == number, int(number)))
            continue
        identity = _item(shared, group, "SegmentIdentificationSequence")
        number = whole_of(identity, "ReferencedSegmentNumber") if identity else 0
        mask = frame >= half if kind == "FRACTIONAL" else frame > 0
        if mask.any():
            borders.setdefault(image, []).append(border_of(mask, number))
    segments = tuple(
        (whole_of(item, "SegmentNumber"), str(item.get("SegmentLabel") or ""), _colour(item))
        for item in seg.SegmentSequence
        if whole_of(item, "SegmentNumber") > 0  # 0 is the background of a label map
    )
    return Outlines(int(seg.Rows), int(seg.Columns), segments, borders)


def border_of(mask: Mask, segment: int) -> Border:
    """The border of the pixels that are True, (rows, columns); at least one is."""
    padded = np.pad(mask, 1)
    ys, xs = np.nonzero(mask)
    box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    # between a row and the next one, inside the image's columns; and the same for columns
    across = _runs(padded[1:, 1:-1] != padded[:-1, 1:-1])
    down = _runs((padded[1:-1, 1:] != padded[1:-1, :-1]).T)
    return Border(segment, across, down, box)


def _runs(lines: Mask) -> list[int]:
    """For each line the runs of True: line, first, last + 1, and so on."""
    edges = np.diff(np.pad(lines.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    begin_line, begin = np.nonzero(edges == 1)
    _, end = np.nonzero(edges == -1)
    flat: list[int] = np.stack([begin_line, begin, end], axis=1).ravel().tolist()
    return flat


def _frames(seg: Dataset, count: int) -> Iterator[npt.NDArray[Any]]:
    """Each frame's pixels; bits are unpacked a few frames at a time to save memory."""
    if seg.BitsAllocated != 1 or seg.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from iter_pixels(seg, raw=True)
        return
    rows, columns = int(seg.Rows), int(seg.Columns)
    size = rows * columns
    data = np.frombuffer(seg.PixelData, dtype=np.uint8)
    if data.size < -(-size * count // 8):
        raise DecodeError("the segmentation has fewer pixels than frames")
    for first in range(0, count, _BATCH):
        many = min(_BATCH, count - first)
        begin = first * size // 8
        bits = np.unpackbits(data[begin : begin + -(-many * size // 8)], bitorder="little")
        yield from bits[: many * size].reshape(many, rows, columns)


def _item(shared: Dataset, group: Dataset, keyword: str) -> Dataset | None:
    for holder in (group, shared):
        items = holder.get(keyword)
        if items:
            found: Dataset = items[0]
            return found
    return None


def _source(shared: Dataset, group: Dataset) -> str | None:
    """The image that a frame was made of."""
    derivation = _item(shared, group, "DerivationImageSequence")
    for source in (derivation.get("SourceImageSequence") if derivation else None) or ():
        uid = str(source.get("ReferencedSOPInstanceUID") or "")
        frame = whole_of(source, "ReferencedFrameNumber")
        return f"{uid}:{frame}" if frame else uid
    return None


def _colour(segment: Dataset) -> tuple[int, int, int]:
    """Recommended Display CIELab Value (PS3.3 C.10.7.1.1) as sRGB, 0 to 255."""
    lab = numbers_of(segment, "RecommendedDisplayCIELabValue", 3)
    if lab is None:
        return _FALLBACK
    light, a, b = lab[0] / 65535 * 100, lab[1] / 257 - 128, lab[2] / 257 - 128
    fy = (light + 16) / 116

    def back(value: float) -> float:
        return value**3 if value > 6 / 29 else 3 * (6 / 29) ** 2 * (value - 4 / 29)

    x, y, z = (
        white * back(value)
        for white, value in zip(_WHITE, (fy + a / 500, fy, fy - b / 200), strict=True)
    )
    # to linear sRGB (IEC 61966-2-1)
    linear = (
        3.2404542 * x - 1.5371385 * y - 0.4985314 * z,
        -0.9692660 * x + 1.8760108 * y + 0.0415560 * z,
        0.0556434 * x - 0.2040259 * y + 1.0572252 * z,
    )

    def encode(value: float) -> int:
        value = min(1.0, max(0.0, value))
        shown = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
        return round(shown * 255)

    return encode(linear[0]), encode(linear[1]), encode(linear[2])
