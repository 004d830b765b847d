"""A picture for people: the slices that show most of the lesions, outlined.

No patient attribute is written on it, and it is no DICOM object: a viewer shows the SEG.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import find_contours

from core.domain import Finding
from workers.findings import Findings
from workers.results.provenance import Provenance
from workers.volume import Floats, SeriesVolume

MAX_SLICES = 4
TILE = 480  # the longer side of one slice, in pixels
_FOOTER = 28
_PERCENTILES = (0.5, 99.7)  # of the voxels above zero: air would push the window down
_COLUMNS = 2


def build_picture(
    volume: SeriesVolume,
    findings: Findings,
    provenance: Provenance,
    *,
    max_slices: int = MAX_SLICES,
) -> bytes:
    """PNG bytes: up to `max_slices` slices as acquired, lesions outlined in their colour.

    The slices with the largest lesion area are taken, in slice order; the middle one where
    nothing was found. Pixels are drawn square in millimetres.
    """
    slices = _slices(findings.label_map, max_slices)
    low, high = _window(volume.array)
    colors = {finding.number: finding.color for finding in findings.present}
    tiles = [
        _tile(volume, findings.label_map[index], index, (low, high), colors) for index in slices
    ]
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    width, height = tiles[0].size
    page = Image.new("RGB", (columns * width, rows * height + _FOOTER), "black")
    for place, tile in enumerate(tiles):
        page.paste(tile, (place % columns * width, place // columns * height))
    _footer(page, provenance, findings.present)
    with io.BytesIO() as buffer:
        page.save(buffer, format="PNG")
        return buffer.getvalue()


def _slices(label_map: npt.NDArray[np.uint16], most: int) -> list[int]:
    """The slices to show, in order. Each lesion's largest slice comes before second views."""
    areas = np.count_nonzero(label_map, axis=(1, 2))
    if not areas.any():
        return [len(areas) // 2]
    largest: list[int] = []
    counts = [np.bincount(plane.ravel(), minlength=int(label_map.max()) + 1) for plane in label_map]
    for number in range(1, int(label_map.max()) + 1):
        best = int(np.argmax([count[number] for count in counts]))
        if best not in largest:
            largest.append(best)
    rest = [int(i) for i in np.argsort(-areas, kind="stable") if areas[i] and i not in largest]
    return sorted((largest + rest)[:most])


def _window(array: Floats) -> tuple[float, float]:
    """Grey levels shown black and white."""
    inside = array[array > array.min()]
    if inside.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(inside, _PERCENTILES)
    return float(low), float(max(high, low + 1e-6))


def _tile(
    volume: SeriesVolume,
    labels: npt.NDArray[np.uint16],
    index: int,
    window: tuple[float, float],
    colors: dict[int, tuple[int, int, int]],
) -> Image.Image:
    """One slice, scaled to square millimetres, with outlines and its number."""
    low, high = window
    grey = np.clip((volume.array[index] - low) / (high - low), 0, 1)
    rows, columns = grey.shape
    extent = rows * volume.spacing_mm[1], columns * volume.spacing_mm[2]
    scale = TILE / max(extent)
    size = max(1, round(extent[1] * scale)), max(1, round(extent[0] * scale))
    tile = Image.fromarray((grey * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    tile = tile.convert("RGB")
    draw = ImageDraw.Draw(tile)
    for number in np.unique(labels[labels > 0]):
        # A border of background closes the outline of a lesion that touches the image's edge.
        mask = np.pad(labels == number, 1).astype(np.float32)
        for contour in find_contours(mask, 0.5):  # type: ignore[no-untyped-call]
            # Pixel centres lie at half a pixel in the scaled picture; the border takes one off.
            points = [
                ((x - 0.5) * size[0] / columns, (y - 0.5) * size[1] / rows) for y, x in contour
            ]
            draw.line(points, fill=colors[int(number)], width=2)
    text = f"slice {index + 1} of {len(volume.array)}"
    draw.text((6, 4), text, fill=(200, 200, 200), font=_font(13))
    return tile


def _footer(page: Image.Image, provenance: Provenance, present: Sequence[Finding]) -> None:
    """Which model, and what the picture is not; as long as it fits, else smaller."""
    spec = provenance.spec
    count = f"{len(present)} finding(s)" if present else "nothing found"
    text = f"{spec.name} {spec.version}: {count}. AI result, not for diagnosis without review"
    draw = ImageDraw.Draw(page)
    for size in (14, 12, 10, 8, 6):
        font = _font(size)
        if draw.textlength(text, font=font) <= page.width - 12:
            break
    draw.text((6, page.height - _FOOTER + 6), text, fill=(255, 220, 120), font=font)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font: the same on every machine."""
    return ImageFont.load_default(size=size)
