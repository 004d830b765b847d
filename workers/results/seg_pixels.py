"""The pixels of a segmentation: which frames hold something, and their bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.errors import ResultError

Labels = npt.NDArray[np.uint16]

MAXIMUM_FRACTIONAL_VALUE = 255
_BATCH = 8  # eight frames of bits always end at a byte's end


@dataclass(frozen=True, slots=True)
class SegFrame:
    """One frame of a segmentation.

    Attributes:
        index: the image that it lies on, from 0 in the stack.
        segment: the segment that it shows, from 1; 0 where it shows all of them.
    """

    index: int
    segment: int = 0


def frames_of(label_map: Labels, segments: Sequence[int]) -> list[SegFrame]:
    """The frames that hold something, by segment in the order of `segments`, then by image.

    Args:
        label_map: uint16 (frames, rows, columns).
        segments: the segment numbers that were found: 1, 2, 3 …

    Raises:
        ResultError: the label map lacks one of `segments` or has another.
    """
    indices: dict[int, list[int]] = {segment: [] for segment in segments}
    for index, image in enumerate(label_map):
        rows = np.flatnonzero(image.max(axis=1))
        if not rows.size:
            continue
        counts = np.bincount(image[rows[0] : rows[-1] + 1].ravel())
        for segment in np.flatnonzero(counts[1:]) + 1:
            if segment not in indices:
                raise ResultError(f"the label map has a segment {segment} that is no finding")
            indices[int(segment)].append(index)
    empty = [segment for segment, found in indices.items() if not found]
    if empty:
        raise ResultError(f"segment {empty[0]} has no pixel in the label map")
    return [SegFrame(index, segment) for segment, found in indices.items() for index in found]


def binary_bytes(label_map: Labels, frames: Sequence[SegFrame]) -> bytes:
    """One bit for each pixel, the first in the lowest bit; frames follow without a gap.

    Source: PS3.5 8.1.1 and Annex D.
    """
    batches = []
    bits = np.empty((_BATCH, *label_map.shape[1:]), dtype=np.bool_)
    for start in range(0, len(frames), _BATCH):
        batch = frames[start : start + _BATCH]
        for place, frame in enumerate(batch):
            np.equal(label_map[frame.index], frame.segment, out=bits[place])
        batches.append(np.packbits(bits[: len(batch)], bitorder="little").tobytes())
    return b"".join(batches)


def label_bytes(label_map: Labels, frames: Sequence[SegFrame], segments: int) -> bytes:
    """Segment numbers as they are: 8 bits where `segments` numbers fit in them, else 16."""
    dtype = np.uint8 if segments < 2**8 else np.dtype("<u2")
    return b"".join(label_map[frame.index].astype(dtype).tobytes() for frame in frames)


def fractional_bytes(
    label_map: Labels,
    frames: Sequence[SegFrame],
    probabilities: npt.NDArray[np.float16],
    channels: Mapping[int, int],
) -> bytes:
    """Probability inside the lesion and 0 outside it, 8 bits, 255 for 1 (PS3.3 C.8.20.2.3.2).

    Args:
        label_map: uint16 (frames, rows, columns).
        frames: what to write.
        probabilities: float16 (channels, frames, rows, columns), 0 to 1.
        channels: the channel of each segment.
    """
    images = []
    for frame in frames:
        inside = label_map[frame.index] == frame.segment
        values = np.zeros(inside.shape, dtype=np.uint8)
        likely = probabilities[channels[frame.segment], frame.index][inside].astype(np.float32)
        values[inside] = np.rint(np.clip(likely, 0, 1) * MAXIMUM_FRACTIONAL_VALUE)
        images.append(values.tobytes())
    return b"".join(images)
