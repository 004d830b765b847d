"""Single frames out of stored objects, without reading the others.

A native frame is where its number says; of encapsulated ones the offset table, or the order of
fragments, tells (PS3.5 Annex A.4). One-bit frames follow each other without padding, and are
packed anew (PS3.5 8.1.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.filereader import dcmread
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from core.errors import DecodeError, NotFoundError
from core.ledger.holdings import Holding
from node.web.dicomweb.files import PIECE, unread
from node.web.room import Room

_MOST_PIXELS = 200_000_000
_PIXEL_DATA = 0x7FE00010
_FLOAT, _DOUBLE = 0x7FE00008, 0x7FE00009
_TAGS = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "NumberOfFrames",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
]


@dataclass(frozen=True, slots=True)
class Pixels:
    """The pixels of one object.

    Attributes:
        offset, length: where their value lies in the file, bytes.
        frame_bits: of a native frame.
    """

    room: Room
    holding: Holding
    encapsulated: bool
    frames: int
    offset: int
    length: int
    frame_bits: int
    rows: int
    columns: int
    header: Dataset

    def check(self, number: int) -> int:
        """The index of a frame by its number, from 1.

        Raises:
            NotFoundError: there is no such frame.
        """
        if not 1 <= number <= self.frames:
            raise NotFoundError(f"there is no frame {number}, the instance has {self.frames}")
        return number - 1

    def stored(self, index: int) -> bytes:
        """A frame as it is stored; `index` from 0.

        Raises:
            DecodeError: the pixel data is shorter than the header says.
        """
        store = self.room.store
        if self.holding.transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
            return self.plain(index)  # its bytes are no place in the file
        with store.as_file(self.holding.store_key) as path, path.open("rb") as stream:
            if self.encapsulated:
                with unread(self.room, self.holding):
                    stream.seek(self.offset)
                    extended = (
                        (self.header.ExtendedOffsetTable, self.header.ExtendedOffsetTableLengths)
                        if "ExtendedOffsetTable" in self.header
                        else None
                    )
                    return get_frame(
                        stream, index, extended_offsets=extended, number_of_frames=self.frames
                    )
            first = index * self.frame_bits
            stream.seek(self.offset + first // 8)
            content = stream.read((first % 8 + self.frame_bits + 7) // 8)
        if len(content) * 8 < first % 8 + self.frame_bits or (
            (first + self.frame_bits + 7) // 8 > self.length
        ):
            raise DecodeError(f"instance {self.holding.sop_instance_uid} lacks pixels")
        if self.frame_bits % 8 or first % 8:
            bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
            return np.packbits(
                bits[first % 8 : first % 8 + self.frame_bits], bitorder="little"
            ).tobytes()
        return content

    def plain(self, index: int) -> bytes:
        """A frame without compression, little endian.

        Raises:
            DecodeError: it cannot be decoded.
        """
        others = {ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
        if not self.encapsulated and self.holding.transfer_syntax_uid not in others:
            return self.stored(index)
        array = self.decoded(index)
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()

    def decoded(self, index: int, **options: Any) -> NDArray[Any]:
        """A frame's stored values, decoded but not converted.

        Raises:
            DecodeError: it cannot be decoded, or is too large to be.
        """
        if self.rows * self.columns > _MOST_PIXELS:
            raise DecodeError(f"a frame of {self.rows} × {self.columns} pixels is not decoded here")
        store = self.room.store
        with store.as_file(self.holding.store_key) as path, unread(self.room, self.holding):
            deflated = self.holding.transfer_syntax_uid == DeflatedExplicitVRLittleEndian
            # pydicom looks for pixels in a file by their place, which a deflated one has not
            source = dcmread(path) if deflated else path
            return pixel_array(source, index=index, raw=True, **options)

    def all_bytes(self) -> Iterator[bytes]:
        """The value of native pixel data, in pieces."""
        store = self.room.store
        with store.as_file(self.holding.store_key) as path, path.open("rb") as stream:
            stream.seek(self.offset)
            left = self.length
            while left > 0 and (piece := stream.read(min(PIECE, left))):
                left -= len(piece)
                yield piece


def open_pixels(room: Room, holding: Holding) -> Pixels:
    """Find an object's pixels.

    Raises:
        NotFoundError: it has none.
        DecodeError: it cannot be read.
    """
    with room.store.as_file(holding.store_key) as path, unread(room, holding):
        dataset = dcmread(path, force=True, defer_size=1024, specific_tags=list(_TAGS))
        tag = next((tag for tag in (_PIXEL_DATA, _FLOAT, _DOUBLE) if tag in dataset), None)
        if tag is None or "Rows" not in dataset:
            raise NotFoundError("the instance has no pixels")
        element: Any = dataset.get_item(tag)
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        bits = {_FLOAT: 32, _DOUBLE: 64}.get(tag) or int(dataset.BitsAllocated)
        samples = int(dataset.get("SamplesPerPixel", 1))
        per_pixel = bits * samples
        if dataset.get("PhotometricInterpretation") == "YBR_FULL_422" and samples == 3:
            per_pixel = bits * 2  # two pixels share their colour (PS3.3 C.7.6.3.1.2)
        encapsulated = UID(holding.transfer_syntax_uid).is_encapsulated
        return Pixels(
            room=room,
            holding=holding,
            encapsulated=encapsulated,
            frames=max(1, int(dataset.get("NumberOfFrames") or 1)),
            offset=int(getattr(element, "value_tell", 0) or element.file_tell),
            length=path.stat().st_size if encapsulated else _length(element),
            frame_bits=rows * columns * per_pixel,
            rows=rows,
            columns=columns,
            header=dataset,
        )


def _length(element: Any) -> int:
    length = getattr(element, "length", None)
    return int(length) if length is not None else len(element.value)
