"""A frame as a picture that a browser shows: modality and VOI transformation, colours, PNG or JPEG.

PS3.3 C.11.1, C.11.2; PS3.18 8.3.5. Nothing is burnt in: no name is ever in it.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi_lut,
    convert_color_space,
)

from core.errors import BadRequestError, NotAcceptableError
from node.web.dicomweb.files import head, unread
from node.web.dicomweb.frames import Pixels

_MOST_SIDE = 8192
_FUNCTIONS = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
# Where no window is given: what lies between these shares of the values.
_SHARES = (0.5, 99.5)
_at_once = threading.BoundedSemaphore(2)


@dataclass(frozen=True, slots=True)
class Picture:
    """How a frame is shown.

    Attributes:
        window: centre, width and function (PS3.3 C.11.2.1.3), or None for the image's own.
        size: the box that it must fit in, pixels, or None.
        quality: of a JPEG, 1 to 100.
    """

    window: tuple[float, float, str] | None = None
    size: tuple[int, int] | None = None
    quality: int = 90


def parse_window(text: str) -> tuple[float, float, str] | None:
    """`centre,width,function` (PS3.18 8.3.5.1.4); empty: the image's own.

    Raises:
        BadRequestError: it is none.
    """
    if not text:
        return None
    parts = [*text.split(","), "linear"]
    function = parts[2] if len(parts) > 2 else ""
    try:
        values = float(parts[0]), float(parts[1])
    except ValueError as error:
        raise BadRequestError(f"window is centre,width,function, not {text!r}") from error
    least = 1 if function == "linear" else 0
    known = function.lower() in _FUNCTIONS and len(text.split(",")) in {2, 3}
    if not known or not all(map(math.isfinite, values)) or values[1] < least or values[1] <= 0:
        raise BadRequestError(
            f"window is centre,width,function with width > 0 and a function of "
            f"{', '.join(_FUNCTIONS)}; not {text!r}"
        )
    return (*values, _FUNCTIONS[function.lower()])


def parse_viewport(text: str) -> tuple[int, int] | None:
    """`width,height` in pixels (PS3.18 8.3.5.1.3); empty: as it is.

    Raises:
        BadRequestError: it is none.
    """
    if not text:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise BadRequestError(f"viewport is width,height, not {text!r}")
    width, height = (int(part[:6]) for part in parts)
    if not (0 < width <= _MOST_SIDE and 0 < height <= _MOST_SIDE):
        raise BadRequestError(f"viewport is at most {_MOST_SIDE},{_MOST_SIDE}")
    return width, height


def picture_of(pixels: Pixels, index: int, wanted: Picture, kind: str) -> bytes:
    """A frame as image/png or image/jpeg.

    Raises:
        DecodeError: it cannot be decoded.
        NotAcceptableError: it is no image for the eye.
    """
    with _at_once:
        array = pixels.decoded(index)
        with pixels.room.store.as_file(pixels.holding.store_key) as path:
            dataset = head(path)
            with unread(pixels.room, pixels.holding):
                # loaded while the file is there
                shown = shown_values(array, dataset, index, wanted.window)
        image = Image.fromarray(shown)
        if wanted.size is not None:
            image.thumbnail(wanted.size, Image.Resampling.LANCZOS)
            factor = min(wanted.size[0] / image.width, wanted.size[1] / image.height)
            if factor > 1:
                size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
                image = image.resize(size, Image.Resampling.BILINEAR)
        made = BytesIO()
        if kind == "image/png":
            image.save(made, "PNG", compress_level=1)
        else:
            image.save(made, "JPEG", quality=wanted.quality)
        return made.getvalue()


def shown_values(
    array: NDArray[Any],
    dataset: Dataset,
    index: int = 0,
    window: tuple[float, float, str] | None = None,
) -> NDArray[np.uint8]:
    """A frame's stored values as grey or colours of 8 bits.

    Raises:
        NotAcceptableError: its photometric interpretation is none for the eye.
    """
    kind = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if kind.startswith("MONOCHROME"):
        grey = _grey(array, _for_frame(dataset, index), window)
        return 255 - grey if kind == "MONOCHROME1" else grey
    if kind == "PALETTE COLOR":
        array = apply_color_lut(array, dataset)
        bits = 16 if array.dtype.itemsize == 2 else 8
        return (array >> (bits - 8)).astype(np.uint8)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise NotAcceptableError(f"an image of {kind} is not shown here")
    stored = int(dataset.get("BitsStored", 8))
    if stored > 8:
        array = (array >> (stored - 8)).astype(np.uint8)
    if kind.startswith("YBR_FULL"):
        array = convert_color_space(array, "YBR_FULL", "RGB")
    return np.ascontiguousarray(array.astype(np.uint8, copy=False))


def _for_frame(dataset: Dataset, index: int) -> Dataset:
    """The transformations of one frame, in one data set (PS3.3 C.7.6.16)."""
    made = Dataset()
    for keyword in ("BitsStored", "BitsAllocated", "PixelRepresentation"):
        if keyword in dataset:
            setattr(made, keyword, dataset.get(keyword))
    groups = [dataset]
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        items = dataset.get(name) or []
        at = index if name.startswith("Per") else 0
        if at < len(items):
            for inner in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                groups += list(items[at].get(inner) or [])[:1]
    for group in groups:
        for keyword in (
            "RescaleSlope",
            "RescaleIntercept",
            "ModalityLUTSequence",
            "WindowCenter",
            "WindowWidth",
            "VOILUTFunction",
            "VOILUTSequence",
        ):
            if group.get(keyword) not in (None, ""):
                made[keyword] = group[keyword]
    return made


def _grey(
    array: NDArray[Any], how: Dataset, window: tuple[float, float, str] | None
) -> NDArray[np.uint8]:
    values = apply_modality_lut(array, how)
    if window is not None:
        for keyword in ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"):
            if keyword in how:
                delattr(how, keyword)
        how.WindowCenter, how.WindowWidth, how.VOILUTFunction = window
        return _windowed(values.astype(np.float64), *window)
    if "VOILUTSequence" in how:
        table = apply_voi_lut(values, how, prefer_lut=True).astype(np.float64)
        top = float(2 ** int(how.VOILUTSequence[0].LUTDescriptor[2]) - 1)
        return (np.clip(table / top, 0, 1) * 255 + 0.5).astype(np.uint8)
    if "WindowCenter" in how and "WindowWidth" in how:
        centre, width = _first(how.WindowCenter), _first(how.WindowWidth)
        function = str(how.get("VOILUTFunction") or "LINEAR")
        if width > 0 and (width >= 1 or function != "LINEAR"):
            return _windowed(values.astype(np.float64), centre, width, function)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, _SHARES) if finite.size else (0.0, 1.0)
    if high <= low:
        low, high = float(finite.min(initial=0)), float(finite.max(initial=1))
    width = max(float(high - low), 1e-6)
    return _windowed(values.astype(np.float64), low + width / 2, width, "LINEAR_EXACT")


def _windowed(
    values: NDArray[np.float64], centre: float, width: float, function: str
) -> NDArray[np.uint8]:
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and .2."""
    if function == "SIGMOID":
        shown = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -500, 500)))
    elif function == "LINEAR_EXACT" or width <= 1:
        shown = (values - centre) / width + 0.5
    else:
        shown = (values - (centre - 0.5)) / (width - 1) + 0.5
    return (np.nan_to_num(np.clip(shown, 0, 1)) * 255 + 0.5).astype(np.uint8)


def _first(value: Any) -> float:
    try:
        return float(value)
    except TypeError:
        return float(value[0])
