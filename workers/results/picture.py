"""A picture for people: the images that show the findings best, outlined and measured.

The pages are the frames of the Secondary Capture (`workers.results.capture`) and the contact
sheet of the web page. No patient attribute and no date is written on them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.domain import Finding, FindingKind
from workers.analysis import Analysis, Part
from workers.images.stack import ImageStack
from workers.results.picture_image import (
    Window,
    draw_heat,
    draw_outlines,
    draw_sides,
    grey_window,
    render,
)
from workers.results.picture_panel import PANEL_WIDTH, draw_panel
from workers.results.provenance import Provenance

# The longer side of an image on a page, in pixels; a page may hold two, which are smaller.
SIDE = 640
SIDE_OF_TWO = 512
MAX_PAGES = 12
# Of images that are no volume, so many are shown where nothing was found.
_MOST_WITHOUT_FINDING = 4
_GAP = 4
_SHEET_COLUMNS = 2


class Shown(NamedTuple):
    """A frame that a page shows; `frame` is from 1, None for a single-frame instance."""

    sop_instance_uid: str
    sop_class_uid: str
    frame: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """One page of the picture.

    Attributes:
        rgb: uint8 (rows, columns, 3), sRGB.
        shows: the source frames on it.
    """

    rgb: npt.NDArray[np.uint8]
    shows: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class _View:
    """What one page shows: a frame of a part, and the findings that it was chosen for."""

    part: int
    index: int
    chosen_for: tuple[Finding, ...] = ()


def draw_pages(
    analysis: Analysis, provenance: Provenance, *, max_pages: int = MAX_PAGES
) -> tuple[Page, ...]:
    """The key images of a study, one a page, all pages of one size.

    Lesions: the key image of each, the largest lesion first, with the outlines of all lesions
    on it, their diameters and figures. Classes: the image with the highest probability, beside
    it the same image under its class activation map. Nothing found: the middle of a volume, or
    up to four images.

    Pixels are drawn square in millimetres where their size is known. Only the frames that are
    shown are read. Texts are drawn in DejaVu Sans, which has no Chinese, Japanese and Korean
    characters: a label that it cannot write is replaced by its code's meaning.

    Raises:
        ValueError: `max_pages` is less than 1.
    """
    if max_pages < 1:
        raise ValueError(f"a picture of {max_pages} pages")
    views = _views(analysis)
    kept, rest = views[:max_pages], views[max_pages:]
    two = any(analysis.parts[view.part].activation is not None for view in kept)
    windows = {
        part: grey_window(
            analysis.parts[part].stack, [view.index for view in kept if view.part == part]
        )
        for part in {view.part for view in kept}
    }
    hidden = sum(len(view.chosen_for) for view in rest)
    return tuple(
        _page(analysis, provenance, view, windows[view.part], two, (number, len(kept), hidden))
        for number, view in enumerate(kept, start=1)
    )


def png(pages: Sequence[Page]) -> bytes:
    """A contact sheet of all pages as PNG, two in a row.

    Raises:
        ValueError: there is no page.
    """
    if not pages:
        raise ValueError("a contact sheet needs a page")
    rows, columns = pages[0].rgb.shape[:2]
    across = min(_SHEET_COLUMNS, len(pages))
    down = -(-len(pages) // across)
    sheet = np.zeros((down * rows, across * columns, 3), dtype=np.uint8)
    for place, page in enumerate(pages):
        top, left = place // across * rows, place % across * columns
        sheet[top : top + rows, left : left + columns] = page.rgb
    with io.BytesIO() as buffer:
        # a higher level takes several times as long for a few percent
        Image.fromarray(sheet).save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue()


def _views(analysis: Analysis) -> list[_View]:
    """The frames to show, each once, in the order of their first finding in the report."""
    classes = [
        finding for finding in analysis.findings if finding.kind is FindingKind.CLASSIFICATION
    ]
    present = [finding for finding in classes if finding.present]
    if analysis.lesions or present:
        return _grouped(analysis, [*present, *analysis.lesions])
    if classes:
        return _grouped(analysis, [max(classes, key=lambda finding: finding.probability or 0.0)])
    return [
        _View(number, index)
        for number, part in enumerate(analysis.parts)
        for index in _typical(part.stack)
    ]


def _grouped(analysis: Analysis, findings: Iterable[Finding]) -> list[_View]:
    places: dict[tuple[int, int], list[Finding]] = {}
    for finding in findings:
        stack = analysis.parts[finding.part].stack
        places.setdefault((finding.part, _key_index(finding, stack)), []).append(finding)
    return [_View(part, index, tuple(found)) for (part, index), found in places.items()]


def _key_index(finding: Finding, stack: ImageStack) -> int:
    """Index of the frame that shows a finding best, among those that came."""
    if finding.key_image is not None:
        return _nearest_present(stack, finding.key_image.index)
    first, last = finding.slices or (0, len(stack.frames) - 1)
    return _nearest_present(stack, (first + last) // 2)


def _typical(stack: ImageStack) -> list[int]:
    """Frames that stand for all where nothing was found."""
    count = len(stack.frames)
    if stack.is_volume:
        return [_nearest_present(stack, count // 2)]
    spread = np.linspace(0, count - 1, min(count, _MOST_WITHOUT_FINDING))
    return sorted({_nearest_present(stack, round(float(place))) for place in spread})


def _nearest_present(stack: ImageStack, index: int) -> int:
    came = [place for place, frame in enumerate(stack.frames) if frame is not None]
    return min(came, key=lambda place: (abs(place - index), place))


def _page(
    analysis: Analysis,
    provenance: Provenance,
    view: _View,
    window: Window,
    two: bool,
    count: tuple[int, int, int],
) -> Page:
    part = analysis.parts[view.part]
    side = SIDE_OF_TWO if two else SIDE
    images = side * 2 + _GAP if two else side
    page = Image.new("RGB", (images + PANEL_WIDTH, side), "black")
    plain = draw_sides(render(part.stack, view.index, window, side), part.stack)
    segments = {finding.segment: finding for finding in part.segments}
    drawn = draw_outlines(plain.copy(), part.label_map[view.index], segments, view.index)
    lesions = tuple(segments[segment] for segment in sorted(drawn[1]))
    for place, image in enumerate(_images(part, view, plain, drawn[0], two)):
        left = place * (side + _GAP)
        page.paste(image, (left + (side - image.width) // 2, (side - image.height) // 2))
    panel = draw_panel(
        analysis,
        provenance,
        part=view.part,
        index=view.index,
        shown=(*view.chosen_for, *(one for one in lesions if one not in view.chosen_for)),
        height=side,
        page=count,
    )
    page.paste(panel, (images, 0))
    frame = part.stack.frames[view.index]
    assert frame is not None  # _nearest_present chose it
    shown = Shown(
        str(frame.dataset.SOPInstanceUID),
        str(frame.dataset.SOPClassUID),
        frame.number if frame.multi_frame else None,
    )
    return Page(np.asarray(page), (shown,))


def _images(
    part: Part, view: _View, plain: Image.Image, outlined: Image.Image, two: bool
) -> list[Image.Image]:
    if part.activation is None:
        return [outlined]
    # outlined is the same as plain where nothing was outlined
    return [outlined, draw_heat(plain, part.activation[view.index])] if two else [outlined]
