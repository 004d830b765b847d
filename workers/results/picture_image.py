"""One image of the picture: its grey levels, its shape, outlines and heat on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from scipy import ndimage
from skimage.measure import find_contours

from core.domain import Finding
from core.errors import DecodeError
from workers.images.attributes import items, number, numbers
from workers.images.stack import ImageFrame, ImageStack
from workers.results.picture_text import font

Window = tuple[float, float]

_PERCENTILES = (0.5, 99.7)  # of the pixels above the least: air would push the window down
# Without a window of its own, CT is shown as soft tissue: air and metal span too much.
_SOFT_TISSUE: Window = (-160.0, 240.0)
_HOUNSFIELD = "[hnsf'U]"
_NO_UNIT = "1"
# A window is believed if it shows some of the image's grey levels, and shows them apart.
_LEAST_SHARE_OF_WINDOW = 0.05
_SAMPLES = 200_000  # tell the percentiles of an image as well as all its pixels
_HEAT_OPACITY = 0.6
_LETTERS = (("L", "R"), ("P", "A"), ("H", "F"))  # towards + and - of x, y and z in LPS
_OBLIQUE = 0.26  # the sine of 15 degrees: less is not worth a second letter
_SIDES = (190, 190, 190)


def grey_window(stack: ImageStack, indices: Sequence[int]) -> Window:
    """The grey levels that are shown black and white, the same for all of `indices`.

    The window of the images' own (PS3.3 C.11.2.1.2) holds where the values are those that it
    was written for, and where it fits them; else percentiles of what is shown.
    """
    values = np.concatenate([_sample(stack.array[index]) for index in indices])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    least, most = float(values.min()), float(values.max())
    frame = stack.frames[indices[0]]
    own = None if frame is None else _own_window(frame, stack)
    if own is not None and _fits(own, values):
        return own
    if stack.unit.value == _HOUNSFIELD and _fits(_SOFT_TISSUE, values):
        return _SOFT_TISSUE
    inside = values[values > least]
    if inside.size == 0:
        return least, least + 1.0
    low, high = (float(value) for value in np.percentile(inside, _PERCENTILES))
    return (low, high) if high > low else (least, most)


def render(stack: ImageStack, index: int, window: Window, side: int) -> Image.Image:
    """Frame `index` as RGB, its longer side `side` pixels, square in millimetres if known."""
    if stack.color is not None:
        image = Image.fromarray(np.ascontiguousarray(stack.color[index]))
    else:
        low, high = window
        grey = np.nan_to_num((stack.array[index] - low) * (255 / (high - low)))
        image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    row_size, column_size = _pixel(stack, index)
    height, width = image.height * row_size, image.width * column_size
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0).convert("RGB")


def draw_sides(image: Image.Image, stack: ImageStack) -> Image.Image:
    """Write on each edge of a volume's slice which side of the patient lies there.

    R, L, A, P, H, F as in PS3.3 C.7.6.1.1.1, up to two where the slice is oblique. The image is
    drawn on.
    """
    if stack.affine is None:
        return image
    draw, face = ImageDraw.Draw(image), font(13)
    for direction, across in ((stack.affine[:3, 2], True), (stack.affine[:3, 1], False)):
        for sign in (-1, 1):
            text = side_letters(sign * direction)
            width, height = draw.textlength(text, font=face), 16
            edge = 4.0 if sign < 0 else (image.width - width if across else image.height - height)
            edge -= 0 if sign < 0 else 4
            middle = ((image.height - height) if across else (image.width - width)) / 2
            place = (edge, middle) if across else (middle, edge)
            draw.text(place, text, fill=_SIDES, font=face, stroke_width=1, stroke_fill="black")
    return image


def side_letters(direction: npt.NDArray[np.float64]) -> str:
    """Towards which side of the patient a direction in LPS points, the strongest first."""
    unit = direction / np.linalg.norm(direction)
    order = np.argsort(-np.abs(unit), kind="stable")[:2]
    letters = [_LETTERS[axis][0 if unit[axis] > 0 else 1] for axis in order]
    return letters[0] if abs(unit[order[1]]) < _OBLIQUE else "".join(letters)


def draw_outlines(
    image: Image.Image,
    labels: npt.NDArray[np.uint16],
    segments: Mapping[int, Finding],
    index: int,
) -> tuple[Image.Image, set[int]]:
    """Outline each segment of `labels` (rows, columns) in its finding's colour.

    With its number beside it and, where they were measured on this image (`index`), its
    diameters. Gives the image, which is drawn on, and the segments that are on it.
    """
    scale = image.width / labels.shape[1], image.height / labels.shape[0]
    draw = ImageDraw.Draw(image)
    drawn: set[int] = set()
    tags: list[tuple[tuple[float, float], Finding]] = []
    for segment, box in enumerate(ndimage.find_objects(labels), start=1):
        finding = segments.get(segment)
        if box is None or finding is None:
            continue
        drawn.add(segment)
        rows, columns = box
        # A border of background closes the outline of a lesion that touches the image's edge.
        mask = np.pad(labels[box] == segment, 1).astype(np.float32)
        for contour in find_contours(mask, 0.5):  # type: ignore[no-untyped-call]
            # Pixel centres lie at half a pixel in the scaled image; the border takes one off.
            points = [
                ((x + columns.start - 0.5) * scale[0], (y + rows.start - 0.5) * scale[1])
                for y, x in contour
            ]
            draw.line(points, fill=finding.color, width=2, joint="curve")
        if finding.axes is not None and finding.axes.index == index:
            for ends in (finding.axes.long, finding.axes.short):
                line = [(x * scale[0], y * scale[1]) for x, y in ends]
                draw.line(line, fill=finding.color, width=1)
        if finding.number:
            place = (columns.stop * scale[0] + 3, rows.start * scale[1] - 10)
            tags.append((place, finding))
    for place, finding in tags:  # last, so that no outline runs through a number
        _tag(draw, image, place, finding)
    return image, drawn


def draw_heat(image: Image.Image, activation: npt.NDArray[np.float16]) -> Image.Image:
    """`image` under `activation` (rows, columns), 0 to 1, from clear over red to yellow."""
    heat = Image.fromarray(activation.astype(np.float32)).resize(
        image.size, Image.Resampling.BILINEAR
    )
    strength = np.asarray(heat).clip(0, 1)[..., None]
    colors = np.concatenate(
        [np.full_like(strength, 255), 255 * strength**2, np.zeros_like(strength)], axis=-1
    )
    opacity = _HEAT_OPACITY * np.sqrt(strength)
    mixed = np.asarray(image) * (1 - opacity) + colors * opacity
    return Image.fromarray(mixed.astype(np.uint8))


def _tag(
    draw: ImageDraw.ImageDraw, image: Image.Image, place: tuple[float, float], finding: Finding
) -> None:
    text = str(finding.number)
    face = font(15, bold=True)
    left = min(max(place[0], 2.0), image.width - draw.textlength(text, font=face) - 2)
    top = min(max(place[1], 2.0), image.height - 20.0)
    draw.text((left, top), text, fill=finding.color, font=face, stroke_width=2, stroke_fill="black")


def _sample(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    flat = values.ravel()
    return flat[:: max(1, flat.size // _SAMPLES)]


def _own_window(frame: ImageFrame, stack: ImageStack) -> Window | None:
    """The first window of the image's own, where the array is in the values that it is for.

    It counts in the output of the Modality LUT: Hounsfield units or stored numbers, not SUV or
    another real world value. MONOCHROME1 images are turned round in the stack.
    """
    dataset = frame.dataset
    if dataset.get("PhotometricInterpretation") != "MONOCHROME2":
        return None
    if stack.unit.value not in {_HOUNSFIELD, _NO_UNIT}:
        return None
    for holder in _voi_holders(frame):
        with suppress(DecodeError):  # one that cannot be read must not cost the result
            center, width = number(holder, "WindowCenter"), number(holder, "WindowWidth")
            if center is not None and width is not None and width > 1:
                # PS3.3 Equation C.11.2.1.2.1: black to c - 0.5 - (w-1)/2, white from there + w - 1
                return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    return None


def _voi_holders(frame: ImageFrame) -> list[Dataset]:
    """Where a window may stand: the frame's group, the shared group, the image itself."""
    dataset = frame.dataset
    holders: list[Dataset] = []
    with suppress(DecodeError):
        own = items(dataset, "PerFrameFunctionalGroupsSequence")[frame.number - 1 : frame.number]
        for group in (*own, *items(dataset, "SharedFunctionalGroupsSequence")[:1]):
            holders += items(group, "FrameVOILUTSequence")
    return [*holders, dataset]


def _fits(window: Window, values: npt.NDArray[np.float32]) -> bool:
    low, high = (float(value) for value in np.percentile(values, (1, 99)))
    shown = min(high, window[1]) - max(low, window[0])
    return shown >= _LEAST_SHARE_OF_WINDOW * (window[1] - window[0])


def _pixel(stack: ImageStack, index: int) -> tuple[float, float]:
    """Height and width of a pixel, in any unit that is the same for both."""
    rows, columns = stack.array.shape[1:]
    known = stack.calibration_at(slice(0, rows), slice(0, columns))
    if known is not None:
        return known.row_mm, known.column_mm
    if stack.spacing_mm is not None:
        return stack.spacing_mm[1:]
    frame = stack.frames[index]
    if frame is not None:
        with suppress(DecodeError):  # one that cannot be read must not cost the result
            ratio = numbers(frame.dataset, "PixelAspectRatio", 2)
            if ratio is not None and min(ratio) > 0:  # PS3.3 C.7.6.3.1.7
                return ratio[0], ratio[1]
    return 1.0, 1.0
