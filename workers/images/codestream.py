"""What a compressed frame says of itself before anybody decodes it.

A decoder takes as much memory as the codestream's own header asks for, whatever Rows and Columns
say. So the header is read first, and one that declares another image is refused.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pydicom.uid import UID, RLELossless

from core.errors import DecodeError

_SOI, _SIZ = b"\xff\xd8", b"\xff\x51"
_J2K = b"\xff\x4f"
_JP2_BOX = b"\x00\x00\x00\x0cjP  "
# SOF0 to SOF15 without DHT, JPG and DAC (ISO/IEC 10918-1 Table B.1); SOF55 is JPEG-LS.
_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_SCAN = 0xDA
_RLE_HEADER = 64


class Declared(NamedTuple):
    """What a codestream's header declares."""

    rows: int
    columns: int
    samples: int


def declared(codestream: bytes) -> Declared | None:
    """Size of a JPEG, JPEG-LS, JPEG 2000 or HTJ2K image by its own header.

    None where it is none of these; the decoder says then what is wrong.
    Source: ISO/IEC 10918-1 B.2.2 (SOF), 14495-1 C.2.2, 15444-1 A.5.1 (SIZ).

    Raises:
        DecodeError: the header ends early.
    """
    try:
        if codestream.startswith(_SOI):
            return _jpeg(codestream)
        if codestream.startswith((_J2K, _JP2_BOX)):
            return _jpeg2000(codestream)
    except (struct.error, IndexError) as error:
        raise DecodeError("the compressed image ends within its header") from error
    return None


def _jpeg(stream: bytes) -> Declared | None:
    offset = 2
    while True:
        if stream[offset] != 0xFF:
            return None
        marker = stream[offset + 1]
        if marker == 0xFF:  # fill byte
            offset += 1
        elif marker in _STANDALONE:
            offset += 2
        elif marker in _FRAME_HEADERS:
            rows, columns, samples = struct.unpack_from(">HHB", stream, offset + 5)
            return Declared(rows, columns, samples)
        elif marker == _SCAN:
            return None
        else:
            offset += 2 + max(2, struct.unpack_from(">H", stream, offset + 2)[0])


def _jpeg2000(stream: bytes) -> Declared | None:
    start = 0 if stream.startswith(_J2K) else stream.find(_J2K + _SIZ)
    if start < 0 or stream[start + 2 : start + 4] != _SIZ:
        return None
    right, bottom, left, top = struct.unpack_from(">IIII", stream, start + 8)
    (samples,) = struct.unpack_from(">H", stream, start + 40)
    return Declared(bottom - top, right - left, samples)


def check_codestream(stream: bytes, syntax: UID, wanted: Declared, bits_allocated: int) -> None:
    """Compare a compressed frame's own header with what its data set declares.

    Raises:
        DecodeError: another size, or another number of samples or RLE segments (PS3.5 G.5).
    """
    if syntax == RLELossless:
        count = struct.unpack_from("<I", stream)[0] if len(stream) >= _RLE_HEADER else 0
        segments = wanted.samples * ((bits_allocated + 7) // 8)
        if count != segments:
            raise DecodeError(f"a frame has {count} RLE segments, not {segments}")
        return
    says = declared(stream)
    if says is not None and says != wanted:
        raise DecodeError(
            f"a compressed frame is {says.columns} × {says.rows} × {says.samples}, "
            f"its data set says {wanted.columns} × {wanted.rows} × {wanted.samples}"
        )
