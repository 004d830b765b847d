"""Instances read from the store; what would take too much memory is refused before it does."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from core.errors import DecodeError, NotApplicableError
from workers.images.attributes import items, value_of, whole

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

# A deflated data set is inflated as a whole by whoever reads it; no element can be larger.
MAX_INFLATED_BYTES = 4 << 30
# Every frame takes some memory for its header, however few pixels it has.
MAX_FRAMES = 20_000
_CHUNK = 1 << 20
_PREAMBLE = 132
# An item of encapsulated pixel data has a tag and a length before its first byte (PS3.5 A.4).
_ITEM_BYTES = 8


def read_series(
    files: Sequence[Path | BinaryIO | bytes], *, max_inflated: int = MAX_INFLATED_BYTES
) -> list[Dataset]:
    """Read the instances of one series: paths, open files, or Part 10 bytes.

    Raises:
        DecodeError: a file is none.
        NotApplicableError: a deflated data set is larger than `max_inflated` bytes.
    """
    datasets: list[Dataset] = []
    for number, file in enumerate(files, start=1):
        try:
            if isinstance(file, Path):
                with file.open("rb") as opened:
                    datasets.append(_read(opened, max_inflated))
            else:
                stream = io.BytesIO(file) if isinstance(file, bytes) else file
                datasets.append(_read(stream, max_inflated))
        except NotApplicableError:
            raise
        except Exception as error:  # a damaged file can raise anything
            raise DecodeError(f"file {number} of {len(files)} cannot be read: {error}") from error
    return datasets


def check_size(datasets: Sequence[Dataset], max_voxels: int) -> None:
    """Refuse a series that declares too many pixels or frames, before any is decoded.

    Counts rows × columns × frames × samples over all instances, which may be `max_voxels`, and
    frames, which may be `MAX_FRAMES`. Frames that the stored bytes
    cannot hold are refused too: headers are kept for each of them.

    Raises:
        NotApplicableError: too many; the message has the numbers.
        DecodeError: numbers that cannot be read, or more frames than the pixel data can hold.
    """
    total = declared = 0
    for dataset in datasets:
        frames = frame_count(dataset)
        pixels = whole(dataset, "Rows") * whole(dataset, "Columns")
        pixels *= max(1, whole(dataset, "SamplesPerPixel", 1))
        total += pixels * frames
        declared += frames
        _check_held(dataset, frames, pixels)
    if declared > MAX_FRAMES:
        raise NotApplicableError(
            f"the series declares {declared:,} frames, more than the {MAX_FRAMES:,} that are read"
        )
    if total > max_voxels:
        raise NotApplicableError(
            f"the series declares {total:,} pixels (rows × columns × frames × samples), "
            f"more than the {max_voxels:,} that this worker takes",
            remedy="Raise worker.max_voxels if the worker has the memory for it.",
        )


def frame_count(dataset: Dataset) -> int:
    """Number of Frames (0028,0008); 1 where it is missing, or zero as some single images have it.

    Raises:
        DecodeError: it is no number, or negative.
    """
    frames = whole(dataset, "NumberOfFrames", 1) or 1
    if frames < 1:
        raise DecodeError(f"NumberOfFrames is {frames}")
    return frames


def pixel_keyword(dataset: Dataset) -> str | None:
    """Which of the three pixel data elements the data set has."""
    return next((keyword for keyword in PIXEL_KEYWORDS if keyword in dataset), None)


def transfer_syntax(dataset: Dataset) -> UID | None:
    """The transfer syntax that the pixel data are in, if the file says so."""
    found = getattr(dataset, "file_meta", None)
    uid = value_of(found, "TransferSyntaxUID") if found is not None else None
    return UID(str(uid)) if uid else None


def is_encapsulated(syntax: UID) -> bool:
    """Whether pixel data in that transfer syntax are compressed frames (PS3.5 A.4)."""
    return not syntax.is_private and syntax.is_transfer_syntax and syntax.is_encapsulated


def drop_pixels(dataset: Dataset) -> None:
    """Take the pixel data out of a data set."""
    for keyword in (*PIXEL_KEYWORDS, "ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            delattr(dataset, keyword)


def _read(stream: BinaryIO, max_inflated: int) -> Dataset:
    start = stream.tell()
    _check_deflated(stream, max_inflated)
    stream.seek(start)
    return pydicom.dcmread(stream)


def _check_deflated(stream: BinaryIO, limit: int) -> None:
    """Inflate a deflated data set piece by piece, only to see how large it is (PS3.5 A.5)."""
    stream.seek(_PREAMBLE, io.SEEK_CUR)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    size = 0
    data = stream.read(_CHUNK)
    while data and not inflater.eof:
        size += len(inflater.decompress(data, _CHUNK))
        if size > limit:
            raise NotApplicableError(
                f"a deflated data set is larger than {limit:,} bytes; it is not inflated"
            )
        data = inflater.unconsumed_tail or stream.read(_CHUNK)


def _check_held(dataset: Dataset, frames: int, pixels: int) -> None:
    keyword = pixel_keyword(dataset)
    if keyword is None:
        return
    held = len(value_of(dataset, keyword) or b"")
    syntax = transfer_syntax(dataset)
    if syntax is not None and is_encapsulated(syntax):
        possible = held // _ITEM_BYTES
    else:
        bits = max(1, whole(dataset, "BitsAllocated", 8)) * max(1, pixels)
        # Packed 4:2:2 holds two samples a pixel instead of three.
        possible = -(-held * 8 * 3 // (bits * 2)) if pixels else held
    groups = len(items(dataset, "PerFrameFunctionalGroupsSequence"))
    if frames > 1 and frames > possible:
        raise DecodeError(f"{frames} frames are declared, {held} bytes cannot hold them")
    if groups and groups != frames:
        raise DecodeError(f"{frames} frames are declared, {groups} are described")
