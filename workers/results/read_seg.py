"""A segmentation read back onto the images that it was made of, by what it says itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels

from core.errors import ResultError
from workers.images.stack import ImageStack
from workers.results.seg_place import pixel_size, position_of

# Positions are written with DS's 16 characters.
GEOMETRY_TOLERANCE_MM = 1e-3
_DIRECTION_TOLERANCE = 1e-5
_BATCH = 8  # eight frames of bits always end at a byte's end

Frames = npt.NDArray[np.uint8 | np.uint16]
Values = npt.NDArray[np.uint16] | npt.NDArray[np.float32]
Reference = tuple[str, int | None]


def read_seg(seg: Dataset, stack: ImageStack) -> Values:
    """The segmentation on the stack's grid, (frames, rows, columns).

    Each frame is placed by its own position, orientation and source image, not by its order;
    without a Frame of Reference by its source image alone.

    Returns:
        uint16: segment numbers, of a BINARY or LABELMAP segmentation; float32: 0 to 1, of a
        FRACTIONAL one.

    Raises:
        ResultError: a frame does not fit the images: another frame of reference, size,
            orientation or pixel spacing, no image at its place, a reference to another image
            than the one at its place, two segments in one pixel, a number of frames that is
            not the one it says.
    """
    if (seg.Rows, seg.Columns) != stack.array.shape[1:]:
        raise ResultError("the SEG's frames have another size than the source's images")
    frame_of_reference = str(seg.get("FrameOfReferenceUID") or "")
    if frame_of_reference not in ("", stack.frame_of_reference_uid):
        raise ResultError("the SEG's frame of reference is not the source's")
    grid = _Grid.of(stack)
    groups = seg.PerFrameFunctionalGroupsSequence
    shared = seg.SharedFunctionalGroupsSequence[0]
    if int(seg.NumberOfFrames) != len(groups):
        raise ResultError(f"the SEG has {seg.NumberOfFrames} frames and groups for {len(groups)}")
    if frame_of_reference:
        _check_pixel_size(shared, groups[0], stack)
    fractional = seg.SegmentationType == "FRACTIONAL"
    whole = seg.SegmentationType == "LABELMAP"
    values = np.zeros(stack.array.shape, dtype=np.float32 if fractional else np.uint16)
    for group, frame in zip(groups, _frames(seg, len(groups)), strict=True):
        reference = _reference(shared, group)
        if frame_of_reference:
            index = grid.at(
                _macro(shared, group, "PlanePositionSequence").ImagePositionPatient,
                _macro(shared, group, "PlaneOrientationSequence").ImageOrientationPatient,
                reference,
            )
        else:
            index = grid.referenced(reference)
        rows = np.flatnonzero(frame.any(axis=1))
        if not rows.size:
            continue
        box = slice(rows[0], rows[-1] + 1)
        here, there = frame[box], values[index, box]
        inside = here > 0
        if there[inside].any():
            raise ResultError(f"two segments of the SEG overlap in image {index + 1}")
        if fractional:
            there[inside] = here[inside] / np.float32(seg.MaximumFractionalValue)
        elif whole:
            there[inside] = here[inside]
        else:
            identification = _macro(shared, group, "SegmentIdentificationSequence")
            there[inside] = identification.ReferencedSegmentNumber
    return values


@dataclass(frozen=True, eq=False)
class _Grid:
    """Where each image of a stack lies and how it is referred to.

    Attributes:
        positions: float64 (frames, 3), LPS, mm; not a number for an image without a place.
        directions: float64 (frames, 6), along a row and along a column, each of length one.
        indices: the images by their reference.
        references: the other way round; None for a slice that did not come.
    """

    positions: npt.NDArray[np.float64]
    directions: npt.NDArray[np.float64]
    indices: dict[Reference, int]
    references: tuple[Reference | None, ...]

    @classmethod
    def of(cls, stack: ImageStack) -> _Grid:
        nowhere = (np.nan,) * 3
        positions = [position_of(stack, index) or nowhere for index in range(len(stack.frames))]
        directions = np.full((len(stack.frames), 6), np.nan)
        for index, frame in enumerate(stack.frames):
            if stack.affine is not None:
                directions[index] = stack.affine[:3, [2, 1]].T.ravel()
            elif frame is not None and frame.orientation is not None:
                directions[index] = frame.orientation
        references = tuple(
            (str(frame.dataset.SOPInstanceUID), frame.number if frame.multi_frame else None)
            if frame is not None
            else None
            for frame in stack.frames
        )
        indices = {reference: i for i, reference in enumerate(references) if reference is not None}
        return cls(np.array(positions), _unit(directions), indices, references)

    def at(self, position: list[float], cosines: list[float], reference: Reference | None) -> int:
        """The image at `position`; several may lie there, then the one referred to."""
        distances = np.linalg.norm(self.positions - np.array(position, dtype=np.float64), axis=1)
        near = np.flatnonzero(distances <= GEOMETRY_TOLERANCE_MM)
        if not near.size:
            off = np.nanmin(distances) if np.isfinite(distances).any() else np.inf
            raise ResultError(f"a SEG frame lies {off:.3f} mm off the source's slices")
        index = int(near[0])
        if reference is not None:
            index = self.referenced(reference)
            if index not in near:
                raise ResultError("a SEG frame refers to an image that lies elsewhere")
        elif near.size > 1 or self.references[index] is not None:
            raise ResultError("a SEG frame does not say which image it was made from")
        direction = _unit(np.array([cosines], dtype=np.float64))[0]
        if not np.abs(direction - self.directions[index]).max() <= _DIRECTION_TOLERANCE:
            raise ResultError("the SEG's orientation is not the source's")
        return index

    def referenced(self, reference: Reference | None) -> int:
        """The image that `reference` names."""
        if reference is None:
            raise ResultError("a SEG frame has neither a place nor a source image")
        if reference not in self.indices:
            raise ResultError("a SEG frame refers to an image that is not its input")
        return self.indices[reference]


def _unit(directions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Both vectors of each line, made one long: scanners write few decimals."""
    pairs = directions.reshape(-1, 2, 3)
    unit: npt.NDArray[np.float64] = pairs / np.linalg.norm(pairs, axis=2, keepdims=True)
    return unit.reshape(-1, 6)


def _check_pixel_size(shared: Dataset, group: Dataset, stack: ImageStack) -> None:
    size = pixel_size(stack)
    if size is None:
        raise ResultError("the SEG has a place in the patient, and the source has no pixel size")
    written = _macro(shared, group, "PixelMeasuresSequence")
    spacing = np.array(written.PixelSpacing, dtype=np.float64)
    if np.abs(spacing - (size.row_mm, size.column_mm)).max() > GEOMETRY_TOLERANCE_MM:
        raise ResultError("the SEG's pixel spacing is not the source's")
    between = written.get("SpacingBetweenSlices")
    if (
        between is not None
        and stack.spacing_mm is not None
        and abs(float(between) - stack.spacing_mm[0]) > GEOMETRY_TOLERANCE_MM
    ):
        raise ResultError("the SEG's spacing between slices is not the source's")


def _macro(shared: Dataset, group: Dataset, keyword: str) -> Dataset:
    """A functional group of a frame. One that is equal for all may be shared (C.7.6.16)."""
    for place in (group, shared):
        if keyword in place:
            item: Dataset = place[keyword].value[0]
            return item
    raise ResultError(f"a SEG frame has no {keyword}")


def _reference(shared: Dataset, group: Dataset) -> Reference | None:
    """Instance and frame number (None for a single-frame one) of a frame's source image."""
    for place in (group, shared):
        for derivation in place.get("DerivationImageSequence") or ():
            for source in derivation.get("SourceImageSequence") or ():
                number = source.get("ReferencedFrameNumber")
                frame = None if number is None else int(number)
                return str(source.ReferencedSOPInstanceUID), frame
    return None


def _frames(seg: Dataset, count: int) -> Iterator[Frames]:
    """Each frame's pixels; bits are unpacked a few frames at a time to save memory."""
    if seg.BitsAllocated != 1 or seg.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from iter_pixels(seg, raw=True)
        return
    size = int(seg.Rows) * int(seg.Columns)
    data = np.frombuffer(seg.PixelData, dtype=np.uint8)
    if data.size < -(-size * count // 8):
        raise ResultError(f"the SEG's pixel data end before its {count} frames")
    for start in range(0, count, _BATCH):
        number = min(_BATCH, count - start)
        first = start * size // 8
        packed = data[first : first + -(-number * size // 8)]
        bits = np.unpackbits(packed, bitorder="little", count=number * size)
        yield from bits.reshape(number, int(seg.Rows), int(seg.Columns))
