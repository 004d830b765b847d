"""One frame as the viewer draws it: grey values of 8 or 16 bits, or RGB."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian

from core.errors import DecodeError, SentinodeError
from node.web.pages.imaging.header import number_of, whole_of
from node.web.pages.imaging.stack import functional

# A frame of more pixels is not drawn in a browser.
MOST_PIXELS = 100_000_000
_SAMPLE = 200_000
_TYPES = {"uint8": "uint8", "int8": "int16", "uint16": "uint16", "int16": "int16"}
# Without the pixels, and without what is long and not needed to draw them.
_HEADER = [
    "SOPClassUID",
    "Modality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "VOILUTFunction",
    "WindowCenter",
    "WindowWidth",
    "WindowCenterWidthExplanation",
    "PresentationLUTShape",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]


@dataclass(frozen=True, slots=True, eq=False)
class Drawable:
    """A frame's numbers and how they are shown.

    Attributes:
        data: little endian; of grey one number a pixel, of colour three bytes a pixel.
        type: "uint8", "uint16", "int16", or "rgb".
        slope, intercept: from a number to the value that windows are given in.
        windows: (name, centre, width), the first is the one to begin with; none for colour.
        inverted: the least value is white (MONOCHROME1, or an inverse presentation LUT).
    """

    data: bytes
    type: str
    rows: int
    columns: int
    slope: float
    intercept: float
    windows: tuple[tuple[str, float, float], ...]
    inverted: bool

    def about(self) -> dict[str, Any]:
        """All but the numbers."""
        return {
            "type": self.type,
            "rows": self.rows,
            "columns": self.columns,
            "slope": self.slope,
            "intercept": self.intercept,
            "windows": [list(item) for item in self.windows],
            "inverted": self.inverted,
        }


def read_frame(path: Path, number: int) -> Drawable:
    """Read one frame of a Part 10 file.

    Args:
        path: the file.
        number: of the frame, from 1.

    Raises:
        DecodeError: there is no such frame, or it cannot be decoded or drawn.
    """
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=_HEADER)
        pixels = whole_of(header, "Rows") * whole_of(header, "Columns")
        if not 0 < pixels <= MOST_PIXELS:
            raise DecodeError(f"an image of {pixels} pixels is not drawn here")
        if not 1 <= number <= max(1, whole_of(header, "NumberOfFrames")):
            raise DecodeError(f"there is no frame {number}")
        if header.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
            array = pixel_array(dcmread(path), index=number - 1)
        else:
            array = pixel_array(path, index=number - 1)
        return _drawable(array, header, number - 1)
    except SentinodeError:
        raise
    except Exception as error:  # every decoder has its own exceptions
        raise DecodeError(f"the image cannot be decoded: {error}") from error


def _drawable(array: npt.NDArray[Any], header: Dataset, index: int) -> Drawable:
    if str(header.get("PhotometricInterpretation") or "") == "PALETTE COLOR":
        array = apply_color_lut(array, header)
    if array.ndim == 3:
        return _colour(array)
    return _grey(array, header, index)


def _colour(array: npt.NDArray[Any]) -> Drawable:
    rgb = array[..., :3]
    if rgb.dtype != np.uint8:
        top = float(rgb.max()) or 1.0
        scale = 255.0 / (65535.0 if top > 4095 else 4095.0 if top > 255 else 255.0)
        rgb = np.clip(rgb * scale, 0, 255).astype(np.uint8)
    rows, columns = rgb.shape[:2]
    return Drawable(np.ascontiguousarray(rgb).tobytes(), "rgb", rows, columns, 1, 0, (), False)


def _grey(array: npt.NDArray[Any], header: Dataset, index: int) -> Drawable:
    slope, intercept = 1.0, 0.0
    rescale = functional(header, index, "PixelValueTransformationSequence") or header
    if header.get("ModalityLUTSequence"):
        array = apply_modality_lut(array, header)
    else:
        given = number_of(rescale, "RescaleSlope")
        slope = given or 1.0
        intercept = number_of(rescale, "RescaleIntercept") or 0.0
    windows = _windows(functional(header, index, "FrameVOILUTSequence") or header)
    if not windows and header.get("VOILUTSequence"):
        array = apply_voi_lut(array, header, index=0)
        slope, intercept = 1.0, 0.0
        low, high = float(array.min()), float(array.max())
        windows = [("VOI LUT", (low + high) / 2, max(high - low, 1.0))]
    if not windows:
        windows = [("", *_window_of(array, slope, intercept))]
    if array.dtype.name not in _TYPES:
        array, slope, intercept = _in_sixteen_bits(array, slope, intercept)
    name = _TYPES[array.dtype.name]
    rows, columns = array.shape
    shape = str(header.get("PresentationLUTShape") or "")
    return Drawable(
        data=array.astype(np.dtype(name).newbyteorder("<"), copy=False).tobytes(),
        type=name,
        rows=rows,
        columns=columns,
        slope=slope,
        intercept=intercept,
        windows=tuple(windows),
        inverted=str(header.get("PhotometricInterpretation")) == "MONOCHROME1"
        or shape == "INVERSE",
    )


def _windows(holder: Dataset) -> list[tuple[str, float, float]]:
    """Pairs of Window Center and Width (PS3.3 C.11.2.1.2) with their explanations."""
    centres, widths = (_several(holder.get(f"Window{name}")) for name in ("Center", "Width"))
    names = holder.get("WindowCenterWidthExplanation")
    told = [names] if isinstance(names, str) else list(names or ())
    found = []
    for place, (centre, width) in enumerate(zip(centres, widths, strict=False)):
        if width >= 1e-9:
            found.append((str(told[place]) if place < len(told) else "", centre, width))
    return found[:8]


def _several(value: Any) -> list[float]:
    items = value if isinstance(value, list | tuple) or hasattr(value, "__iter__") else [value]
    found = []
    for item in items if not isinstance(value, str) else [value]:
        try:
            number = float(item)
        except (TypeError, ValueError):
            return []
        if not np.isfinite(number):
            return []
        found.append(number)
    return found


def _window_of(array: npt.NDArray[Any], slope: float, intercept: float) -> tuple[float, float]:
    """Centre and width that show most of what is there."""
    step = max(1, array.size // _SAMPLE)
    sample = array.reshape(-1)[::step].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.5, 1.0
    low, high = (float(value) for value in np.percentile(sample, (0.5, 99.5)))
    low, high = sorted((low * slope + intercept, high * slope + intercept))
    return (low + high) / 2, max(high - low, 1e-6 if array.dtype.kind == "f" else 1.0)


def _in_sixteen_bits(
    array: npt.NDArray[Any], slope: float, intercept: float
) -> tuple[npt.NDArray[np.uint16], float, float]:
    """Wider or fractional values on 65,536 steps between the least and the greatest."""
    values = array.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    step = (high - low) / 65535 or 1.0
    scaled = np.nan_to_num((values - low) / step, nan=0.0, posinf=65535.0, neginf=0.0)
    return (
        np.clip(np.rint(scaled), 0, 65535).astype(np.uint16),
        slope * step,
        slope * low + intercept,
    )
