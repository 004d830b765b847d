"""The class activation maps of a job as one grey PNG, for the image viewer of the pages.

The maps lie beside each other as tiles; the PNG's text `maps` says as JSON which tile lies on
which image. Maps are coarse by nature, so tiles are small. It is no DICOM object and is never sent.
"""

from __future__ import annotations

import json
import math
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from workers.analysis import Analysis

_SIDE = 128
# More are not looked at one by one, and their tiles would be a picture that no browser opens.
_MOST_MAPS = 2000
_TOP = 255


def build_heat(analysis: Analysis) -> bytes | None:
    """PNG of 8 bits: 0 where nothing spoke for the class, 255 where most did; None without maps."""
    tiles = _tiles(analysis)
    if not tiles:
        return None
    across = math.ceil(math.sqrt(len(tiles)))
    wide = max(tile.shape[1] for _, tile in tiles)
    high = max(tile.shape[0] for _, tile in tiles)
    down = math.ceil(len(tiles) / across)
    sheet = np.zeros((down * high, across * wide), np.uint8)
    places = {}
    for number, (image, tile) in enumerate(tiles):
        rows, columns = tile.shape
        top, left = number // across * high, number % across * wide
        sheet[top : top + rows, left : left + columns] = tile
        places[image] = [left, top, columns, rows]
    text = PngInfo()
    text.add_text("maps", json.dumps(places, separators=(",", ":")))
    made = BytesIO()
    Image.fromarray(sheet).save(made, "png", pnginfo=text, optimize=True)
    return made.getvalue()


def _tiles(analysis: Analysis) -> list[tuple[str, npt.NDArray[np.uint8]]]:
    """Each image's map, by "SOP Instance UID", or "SOP Instance UID:frame" of several frames."""
    found = []
    for part in analysis.parts:
        if part.activation is None:
            continue
        for frame, activation in zip(part.stack.frames, part.activation, strict=True):
            if frame is None:
                continue
            uid = str(frame.dataset.SOPInstanceUID)
            image = f"{uid}:{frame.number}" if frame.multi_frame else uid
            found.append((image, activation))
    return [(image, _small(activation)) for image, activation in found[:_MOST_MAPS]]


def _small(activation: npt.NDArray[np.float16]) -> npt.NDArray[np.uint8]:
    rows, columns = activation.shape
    scale = min(1.0, _SIDE / max(rows, columns))
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    values = np.nan_to_num(activation.astype(np.float32)).clip(0, 1)
    smaller = Image.fromarray(values).resize(size, Image.Resampling.BOX)
    tile: npt.NDArray[np.uint8] = np.rint(np.asarray(smaller) * _TOP).astype(np.uint8)
    return tile
