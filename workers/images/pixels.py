"""Pixel data of one instance, decoded frame by frame: stored values, or colour.

What stored values mean is the business of `workers.images.values`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options, iter_pixels
from pydicom.uid import UID

from core.errors import DecodeError, NotApplicableError, SentinodeError
from workers.images.attributes import text, whole
from workers.images.codestream import Declared, check_codestream
from workers.images.palette import apply_palette, palette_of
from workers.images.read import frame_count, is_encapsulated, transfer_syntax

Stored = npt.NDArray[Any]
Rgb = npt.NDArray[np.uint8]

_GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
# pydicom turns YBR_FULL and YBR_FULL_422 into RGB; the JPEG 2000 ones are RGB once decoded.
_RGB = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_PALETTE = "PALETTE COLOR"
# Y of YBR_FULL (PS3.3 C.7.6.3.1.2), from ITU-R BT.601.
_LUMA = np.array([0.2990, 0.5870, 0.1140], dtype=np.float32)


def is_color(dataset: Dataset) -> bool:
    """Whether the images are colour, palettes included.

    Raises:
        NotApplicableError: a photometric interpretation that is not read.
    """
    photometric = text(dataset, "PhotometricInterpretation")
    samples = whole(dataset, "SamplesPerPixel", 1)
    if samples == 1 and photometric in _GREY:
        return False
    if (samples == 1 and photometric == _PALETTE) or (samples == 3 and photometric in _RGB):
        return True
    raise NotApplicableError(
        f"images in {photometric or 'no photometric interpretation'} with {samples} sample(s) "
        "per pixel are not read"
    )


def is_inverted(dataset: Dataset) -> bool:
    """Whether the least value is meant to be shown white (MONOCHROME1)."""
    return text(dataset, "PhotometricInterpretation") == "MONOCHROME1"


def stored_range(dataset: Dataset) -> tuple[int, int]:
    """Least and greatest value that can be stored (PS3.3 C.7.6.3.1)."""
    bits = whole(dataset, "BitsStored", whole(dataset, "BitsAllocated", 16))
    if whole(dataset, "PixelRepresentation") == 1:
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1


def decode(dataset: Dataset, indices: Sequence[int]) -> Iterator[Stored]:
    """Decode the frames at `indices` (from 0, increasing), one at a time.

    Yields stored values (rows, columns) of any integer or float type, or RGB uint8
    (rows, columns, 3) where `is_color`. The data set keeps its pixel data.

    Raises:
        DecodeError: pixel data that cannot be decoded, or are not as declared.
        NotApplicableError: a transfer syntax that is none of still images.
    """
    color = is_color(dataset)
    palette = (
        palette_of(dataset) if text(dataset, "PhotometricInterpretation") == _PALETTE else None
    )
    shape = (whole(dataset, "Rows"), whole(dataset, "Columns"))
    expected = (*shape, 3) if color and palette is None else shape
    for frame in _arrays(dataset, indices):
        if frame.shape != expected:
            raise DecodeError(f"a frame has {frame.shape} pixels, not the declared {expected}")
        if palette is not None:
            yield apply_palette(frame, palette)
        else:
            yield _eight_bits(frame, dataset) if color else frame


def luminance(rgb: Rgb) -> npt.NDArray[np.float32]:
    """Grey float32 (rows, columns), 0 to 255, of RGB (rows, columns, 3)."""
    return rgb.astype(np.float32) @ _LUMA


def _arrays(dataset: Dataset, indices: Sequence[int]) -> Iterator[Stored]:
    syntax = transfer_syntax(dataset)
    if syntax is None:
        raise DecodeError("the file does not say in which transfer syntax its pixels are")
    if "MPEG" in syntax.name or "HEVC" in syntax.name:
        raise NotApplicableError(f"video is not read ({syntax.name})")
    try:
        if is_encapsulated(syntax):
            yield from _compressed(dataset, syntax, indices)
        else:
            yield from iter_pixels(dataset, indices=list(indices))
    except SentinodeError:
        raise
    except Exception as error:  # every decoder has its own exceptions
        raise DecodeError(f"pixel data in {syntax.name} cannot be decoded: {error}") from error


def _compressed(dataset: Dataset, syntax: UID, indices: Sequence[int]) -> Iterator[Stored]:
    """Each frame by itself: its own header is looked at before a decoder sees it.

    The frames are walked through once; to ask for each by its index would search for it from
    the start, where there is no offset table.
    """
    decoder = get_decoder(syntax)
    options = as_pixel_options(dataset)
    offsets = options.pop("extended_offsets", None)
    options |= {"number_of_frames": 1, "pixel_keyword": "PixelData", "pixel_vr": "OB"}
    wanted = Declared(
        whole(dataset, "Rows"), whole(dataset, "Columns"), whole(dataset, "SamplesPerPixel", 1)
    )
    count = frame_count(dataset)
    left = set(indices)
    streams = generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=offsets)
    for index, stream in enumerate(islice(streams, count)):
        if index in left:
            check_codestream(stream, syntax, wanted, whole(dataset, "BitsAllocated", 8))
            alone = encapsulate([stream], has_bot=False)
            yield decoder.as_array(alone, index=0, **options)[0]
            left.remove(index)
        if not left:
            return


def _eight_bits(frame: Stored, dataset: Dataset) -> Rgb:
    """Colour of any depth as 8 bits a sample; the most significant ones are kept."""
    bits = whole(dataset, "BitsStored", 8)
    if bits > 8:
        return (frame >> (bits - 8)).astype(np.uint8)
    if bits < 8:
        return (frame.astype(np.uint16) * 255 // ((1 << bits) - 1)).astype(np.uint8)
    return frame.astype(np.uint8, copy=False)
