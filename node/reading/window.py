"""Reading a long stream through a short window, and a deflated one while it is inflated.

Memory is bounded by the window, whatever the lengths in the stream say.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from core.errors import UnreadableError

# A deflated data set that grows past this is a bomb, not an image.
MOST_INFLATED = 1 << 30
_PIECE = 1 << 16


class Readable(Protocol):
    """What a window looks at; `seek` is asked to go forward more often than back."""

    def seek(self, at: int, /) -> int:
        """Go to a place, counted from the beginning."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read at most as much as fits; 0 at the end."""


class Window:
    """A part of a stream in memory.

    Attributes:
        data: the bytes that are in memory now; valid until the next call.
    """

    def __init__(self, chunk: int) -> None:
        self.data = bytearray(chunk)
        self._view = memoryview(self.data)
        self._stream: Readable | None = None
        self._base = 0
        self._filled = 0

    def open(self, stream: Readable) -> None:
        """Look at another stream; the memory is used again."""
        self._stream = stream
        self._base = self._filled = 0

    def index(self, at: int, count: int) -> int:
        """Where in `data` byte `at` of the stream is, with `count` bytes there.

        Raises:
            UnreadableError: the stream ends before them.
        """
        index = at - self._base
        if index >= 0 and index + count <= self._filled:
            return index
        self._load(at)
        if count > self._filled:
            raise UnreadableError(f"the data set ends early, at byte {at + self._filled}")
        return 0

    def pieces(self, at: int, length: int) -> Iterator[memoryview]:
        """The bytes of a value, piece by piece; each is valid until the next.

        Raises:
            UnreadableError: the stream ends before them.
        """
        while length > 0:
            index = self.index(at, 1)
            count = min(length, self._filled - index)
            yield self._view[index : index + count]
            at += count
            length -= count

    def value(self, at: int, length: int) -> bytes:
        """The bytes of a short value.

        Raises:
            UnreadableError: the stream ends before them.
        """
        if length > len(self.data):
            return b"".join(bytes(piece) for piece in self.pieces(at, length))
        index = self.index(at, length) if length else 0
        return bytes(self._view[index : index + length])

    def reaches(self, at: int) -> bool:
        """Whether the stream has a byte at `at`."""
        if not 0 <= at - self._base < self._filled:
            self._load(at)
        return self._filled > 0

    def _load(self, at: int) -> None:
        """Fill the window from `at` on. What it has of that already is kept, not read again."""
        assert self._stream is not None
        kept = self._base + self._filled - at
        if 0 < kept <= self._filled:
            self._view[:kept] = bytes(self._view[self._filled - kept : self._filled])
        else:
            kept = 0
        self._stream.seek(at + kept)
        self._base, self._filled = at, kept
        while self._filled < len(self.data):
            count = self._stream.readinto(self._view[self._filled :])
            if not count:
                break
            self._filled += count


class Inflating:
    """A deflated stream (RFC 1951, PS3.5 Section A.5) read as what it was, forward only.

    Raises:
        UnreadableError: from any method: it is none, ends early, grows past `MOST_INFLATED`, or
            more than padding follows it.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._rest = b""
        self._at = 0

    def seek(self, at: int, /) -> int:
        """Skip forward to `at`."""
        assert at >= self._at
        while self._at < at and self._next(at - self._at):
            pass
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:
        """Read at most as much as fits."""
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def copy_to(self, target: BinaryIO) -> int:
        """Inflate all of it into a file; returns how many bytes that are."""
        while data := self._next(_PIECE):
            target.write(data)
        return self._at

    def _next(self, most: int) -> bytes:
        data = b""
        while not data and not self._inflater.eof:
            packed = self._rest or self._stream.read(_PIECE)
            try:
                data = self._inflater.decompress(packed, min(most, _PIECE))
            except zlib.error as error:
                raise UnreadableError(f"the deflated data set cannot be read: {error}") from error
            self._rest = self._inflater.unconsumed_tail
            if not packed and not data and not self._inflater.eof:
                raise UnreadableError("the deflated data set ends early")
        self._at += len(data)
        if self._at > MOST_INFLATED:
            raise UnreadableError(f"the deflated data set grows past {MOST_INFLATED} bytes")
        if not data:
            self._check_end()
        return data

    def _check_end(self) -> None:
        """Padding to an even length is allowed after the end, nothing else."""
        more = self._inflater.unused_data
        while more:
            if more.strip(b"\0"):
                raise UnreadableError("more than padding follows the deflated data set")
            more = self._stream.read(_PIECE)
