"""What was read from a socket and not yet used: one piece of memory, used again and again."""

from __future__ import annotations

from typing import Protocol


class Readable(Protocol):
    """A socket, plain or TLS."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Read what is there."""


class Buffer:
    """Bytes between `start` and `end` of one piece of memory.

    `view` is the memory; slices of it are valid until the next `fill`.
    """

    __slots__ = ("_memory", "end", "start", "view")

    def __init__(self, size: int) -> None:
        self._memory = bytearray(size)
        self.view = memoryview(self._memory)
        self.start = self.end = 0

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def capacity(self) -> int:
        """How many bytes it can hold."""
        return len(self._memory)

    def grow(self, size: int) -> None:
        """Make it hold `size` bytes at least."""
        if size <= len(self._memory):
            return
        memory = bytearray(size)
        kept = len(self)
        memory[:kept] = self.view[self.start : self.end]
        self._memory, self.start, self.end = memory, 0, kept
        self.view = memoryview(memory)

    def fill(self, source: Readable) -> int:
        """Read once, as much as is there and fits. Returns 0 at the end of the connection."""
        if self.start == self.end:
            self.start = self.end = 0
        elif self.end == len(self._memory) and self.start:
            kept = len(self)
            # through a copy: the two places may overlap
            self.view[:kept] = bytes(self.view[self.start : self.end])
            self.start, self.end = 0, kept
        with self.view[self.end :] as room:
            count = source.recv_into(room)
        self.end += count
        return count
