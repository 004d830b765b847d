"""Colour phantoms as scanners send them: JPEG Baseline, with colour at half the resolution."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from io import BytesIO

import numpy as np
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from support.phantoms_base import Phantom

_QUALITY = 95
_TWO_TO_ONE = 1  # Pillow's name for 4:2:2


def lossy(phantom: Phantom) -> Phantom:
    """An RGB phantom of one instance as YBR_FULL_422 (PS3.5 8.2.1); pixels change a little."""
    (original,) = phantom.datasets
    made = deepcopy(original)
    frames = original.pixel_array.reshape(-1, *original.pixel_array.shape[-3:])
    streams = [_jpeg(frame) for frame in frames]
    made.PixelData = encapsulate(streams)
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    made.PhotometricInterpretation, made.PlanarConfiguration = "YBR_FULL_422", 0
    made.LossyImageCompression, made.LossyImageCompressionMethod = "01", "ISO_10918_1"
    ratio = frames.nbytes / sum(len(stream) for stream in streams)
    made.LossyImageCompressionRatio = f"{ratio:.2f}"
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return replace(phantom, kind=f"{phantom.kind} JPEG", datasets=[made])


def _jpeg(frame: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=_QUALITY, subsampling=_TWO_TO_ONE)
    return stream.getvalue()
