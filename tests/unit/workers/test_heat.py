"""Class activation maps as the pages get them: the tile of an image shows where it was looked."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from support.analyses import classified, images

from core.errors import DecodeError
from node.web.pages.imaging.heat import places_of
from workers.analysis import Analysis
from workers.results.heat import build_heat


def looked_at(*spots: tuple[int, int], shape: tuple[int, int] = (60, 300)) -> Analysis:
    """Single images; in each one the classifier looked at one spot (row, column) and around it."""
    stack = images((len(spots), *shape))
    maps = np.zeros((len(spots), *shape), np.float16)
    for frame, (row, column) in zip(maps, spots, strict=True):
        frame[max(0, row - 9) : row + 9, max(0, column - 9) : column + 9] = 1.0
    analysis = classified(stack)
    return replace(analysis, parts=(replace(analysis.parts[0], activation=maps),))


def test_each_image_has_a_tile_that_is_bright_where_it_was_looked() -> None:
    spots = [(20, 30), (40, 250), (30, 150)]
    analysis = looked_at(*spots)
    png = build_heat(analysis)
    assert png is not None
    places = places_of(png)
    sheet = np.asarray(Image.open(BytesIO(png)))
    assert sheet.dtype == np.uint8
    frames = analysis.parts[0].stack.frames
    for frame, (row, column) in zip(frames, spots, strict=True):
        assert frame is not None
        uid = str(frame.dataset.SOPInstanceUID)
        image = f"{uid}:{frame.number}" if frame.multi_frame else uid
        left, top, wide, high = places[image]
        assert max(wide, high) <= 128
        tile = sheet[top : top + high, left : left + wide]
        rows, columns = np.nonzero(tile > 128)
        assert abs((rows.mean() + 0.5) * 60 / high - row) < 2
        assert abs((columns.mean() + 0.5) * 300 / wide - column) < 2
    assert build_heat(analysis) == png


def test_without_maps_there_is_no_picture() -> None:
    assert build_heat(classified(images(), activation=False)) is None


def test_what_holds_no_number_is_dark() -> None:
    analysis = looked_at((20, 30))
    activation = analysis.parts[0].activation
    assert activation is not None
    activation[:] = np.nan
    png = build_heat(analysis)
    assert png is not None
    assert not np.asarray(Image.open(BytesIO(png))).any()


def other_picture() -> bytes:
    made = BytesIO()
    Image.new("L", (4, 4)).save(made, "png")
    return made.getvalue()


@pytest.mark.parametrize("data", [b"", b"\x89PNG", other_picture()])
def test_what_is_no_sheet_of_maps_says_so(data: bytes) -> None:
    with pytest.raises(DecodeError):
        places_of(data)
