"""Frames decoded into the one array that they belong to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from core.errors import DecodeError
from workers.images.frames import Frame
from workers.images.padding import padded, padding_of
from workers.images.pixels import decode
from workers.images.read import drop_pixels, frame_count
from workers.images.stack import Floats
from workers.images.values import Scale


def fill(
    frames: Sequence[Frame],
    scales: Sequence[Scale],
    targets: Sequence[int],
    array: Floats,
    color: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.bool_] | None:
    """Decode each frame and put it at its target, an index of the array's first axis.

    Takes a float32 array (frames, rows, columns), and uint8 (frames, rows, columns, 3) for the
    colours. Instances are decoded one after the other; one that is decoded as a whole loses its
    pixel data then, so that no more than the stored series and the array is held.

    Returns bool like `array`, True where the source has no data; None if it has data everywhere.

    Raises:
        DecodeError: a frame cannot be decoded.
    """
    padding: npt.NDArray[np.bool_] | None = None
    wanted: dict[int, list[int]] = {}
    for place, frame in enumerate(frames):
        wanted.setdefault(id(frame.dataset), []).append(place)
    for places in wanted.values():
        places.sort(key=lambda place: frames[place].index)
        dataset = frames[places[0]].dataset
        decoded = decode(dataset, [frames[place].index for place in places])
        done = 0
        try:
            for place, stored in zip(places, decoded, strict=False):
                array[targets[place]] = scales[place].apply(stored)
                ends = padding_of(frames[place])
                if ends is not None and (without := padded(stored, ends)).any():
                    if padding is None:
                        padding = np.zeros(array.shape, dtype=np.bool_)
                    padding[targets[place]] = without
                if color is not None:
                    color[targets[place]] = stored
                done += 1
        except DecodeError as error:
            raise DecodeError(f"image {targets[places[done]] + 1}: {error}") from error
        if done < len(places):
            raise DecodeError(f"image {targets[places[done]] + 1} is missing in its pixel data")
        if len(places) == frame_count(dataset):
            drop_pixels(dataset)
    return padding
