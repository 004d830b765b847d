"""Probabilities made into connected regions that do not overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from core.errors import ResultError
from core.modelspec import LabelSpec, ModelSpec
from workers.images.stack import ImageStack

Mask = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]

# Voxels that touch by a face, an edge or a corner belong together; in images, pixels of one
# frame that touch by an edge or a corner.
_IN_SPACE = np.ones((3, 3, 3), dtype=bool)
_IN_FRAME = np.zeros((3, 3, 3), dtype=bool)
_IN_FRAME[1] = True

# Rows, and columns, of a block. A row of 8 flags is one 64 bit word.
_BLOCK = 8
# With more groups of blocks than this, one pass over everything is quicker than many small ones.
_MANY_GROUPS = 3000
# Interpolation and float16 may leave a probability this far outside 0 to 1.
_SLACK = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """One connected region of one label.

    Attributes:
        box: (frames, rows, columns) in the stack.
        mask: bool, in the box.
        voxels: how many are true.
        probability: mean of the label's probability over them.
    """

    label: LabelSpec
    box: Box
    mask: Mask
    voxels: int
    probability: float


def masks_of(probabilities: npt.NDArray[np.floating], spec: ModelSpec) -> list[Mask]:
    """One mask (frames, rows, columns) per label, none overlapping another.

    `probabilities` is (channels, frames, rows, columns). A pixel belongs to a label from the
    threshold on; where several labels pass, to the most probable one. With softmax a pixel
    belongs to a label only if no other channel, labelled or not, is more probable.

    Raises:
        ResultError: a label's probability is not a number from 0 to 1.
    """
    channels = [label.channel for label in spec.output.labels]
    rivals = list(range(len(probabilities))) if spec.output.activation == "softmax" else channels
    masks = [np.zeros(probabilities.shape[1:], dtype=bool) for _ in channels]
    for frame in range(probabilities.shape[1]):
        for mask, channel in zip(masks, channels, strict=True):
            _passing(probabilities[channel, frame], spec.output.threshold, mask[frame])
        if len(rivals) > 1 and any(mask[frame].any() for mask in masks):
            best = np.argmax(probabilities[rivals, frame], axis=0)
            for mask, channel in zip(masks, channels, strict=True):
                mask[frame] &= best == rivals.index(channel)
    return masks


def _passing(plane: npt.NDArray[np.floating], threshold: float, out: Mask) -> None:
    """Write into `out` where `plane` is at least `threshold`."""
    if plane.dtype != np.float16:
        _check_range(plane)
        np.greater_equal(plane, threshold, out=out)
        return
    # Positive float16 are ordered as the integers that have the same bits, and integers compare
    # twenty times faster. Negative ones and "not a number" have bits beyond those of 1.
    bits = np.ascontiguousarray(plane).view(np.uint16)
    if bits.size and bits.max() > np.float16(1).view(np.uint16):
        _check_range(plane)
        np.greater_equal(plane, threshold, out=out)
        return
    np.greater_equal(bits, np.float16(threshold).view(np.uint16), out=out)


def _check_range(plane: npt.NDArray[np.floating]) -> None:
    if not np.all((plane >= -_SLACK) & (plane <= 1 + _SLACK)):
        raise ResultError("the model's probabilities are not all numbers from 0 to 1")


def components_of(
    mask: Mask,
    probability: npt.NDArray[np.floating],
    label: LabelSpec,
    stack: ImageStack,
) -> list[Component]:
    """The connected regions of `mask`, in no particular order.

    A lesion that reaches through a missing slice stays one lesion, but has no voxels there:
    nobody saw them. A region that lies in missing slices only is none.
    """
    structure = _IN_SPACE if stack.is_volume else _IN_FRAME
    missing = np.array(stack.missing, dtype=np.intp)
    found = []
    for around, inside in _islands(mask, structure):
        numbered, count = ndimage.label(inside, structure=structure)
        if len(missing):
            here = missing[(missing >= around[0].start) & (missing < around[0].stop)]
            numbered[here - around[0].start] = 0
        foreground = numbered > 0
        numbers = numbered[foreground]
        voxels = np.bincount(numbers, minlength=count + 1)
        sums = np.bincount(numbers, weights=probability[around][foreground], minlength=count + 1)
        for number, part in enumerate(ndimage.find_objects(numbered), start=1):
            if part is None:
                continue
            starts = [outer.start for outer in around]
            box = tuple(slice(p.start + s, p.stop + s) for p, s in zip(part, starts, strict=True))
            found.append(
                Component(
                    label=label,
                    box=(box[0], box[1], box[2]),
                    mask=numbered[part] == number,
                    voxels=int(voxels[number]),
                    probability=float(sums[number] / voxels[number]),
                )
            )
    return found


def _islands(mask: Mask, structure: Mask) -> list[tuple[Box, Mask]]:
    """Boxes that between them hold every region, each whole; regions of other boxes blanked.

    Numbering a whole volume takes ten times longer than looking where anything lies. So blocks
    of 8 × 8 pixels are numbered first: pixels that touch lie in the same or in touching blocks.
    """
    coarse = _coarse(mask)
    numbered, count = ndimage.label(coarse, structure=structure)
    if count > _MANY_GROUPS:
        whole = tuple(slice(0, size) for size in mask.shape)
        return [((whole[0], whole[1], whole[2]), mask)]
    islands = []
    for number, part in enumerate(ndimage.find_objects(numbered), start=1):
        frames, rows, columns = part
        box = (
            frames,
            slice(rows.start * _BLOCK, min(rows.stop * _BLOCK, mask.shape[1])),
            slice(columns.start * _BLOCK, min(columns.stop * _BLOCK, mask.shape[2])),
        )
        ours = np.repeat(np.repeat(numbered[part] == number, _BLOCK, 1), _BLOCK, 2)
        inside = mask[box]
        islands.append((box, inside & ours[:, : inside.shape[1], : inside.shape[2]]))
    return islands


def _coarse(mask: Mask) -> Mask:
    """Which blocks of 8 × 8 pixels hold anything: (frames, ⌈rows/8⌉, ⌈columns/8⌉)."""
    frames, rows, columns = mask.shape
    wide = -(-columns // _BLOCK)
    if columns % _BLOCK or not mask.flags.c_contiguous:
        padded = np.zeros((frames, rows, wide * _BLOCK), dtype=bool)
        padded[:, :, :columns] = mask
        mask = padded
    words = mask.view(np.uint64)
    starts = np.arange(0, rows, _BLOCK)
    return np.asarray(np.bitwise_or.reduceat(words, starts, axis=1) != 0)
