"""One file of the spool while it is written: piece by piece, then kept or thrown away.

A name in a folder is durable only after the folder's fsync, which costs as much as that of the
file. So names are made ahead, many at once: empty files, whose folder is synced before the first
of them is used. Then one fdatasync for each image is enough, and the rename that follows only
tells intake. A power cut may undo the rename; `node.spool.recovery` finds the image under its
first name.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from dataclasses import dataclass, field
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any

PARTIAL, INSTANCE = ".part", ".dcm"
_MOST_PARTS = 512
# Names that are made at once: a sender of one image needs one, the next ones four times as many.
_FIRST_NAMES, _MORE, _MOST_NAMES = 1, 4, 64


class SpoolFile:
    """One instance on its way to the disk: written piece by piece, then kept or thrown away."""

    def __init__(self, folder: Folder, within: int, number: int, room: int, durable: bool) -> None:
        self._path, self._durable = folder.path, durable
        self._name = _name(number)
        self._room = room
        self._check = 0
        self.size = 0
        # our own: the association may end, and its handle go, while we write
        self._within = within
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            if not durable:
                flags |= os.O_CREAT | os.O_TRUNC
            elif number not in folder.names:
                folder.make_names(number, within)
            folder.names.discard(number)
            self._handle = os.open(self._name + PARTIAL, flags, 0o644, dir_fd=within)
        except OSError:
            os.close(within)
            raise
        # the head comes last, when it is known to be true; the data set has its place behind it
        os.lseek(self._handle, room, os.SEEK_SET)

    @property
    def check(self) -> int | None:
        """CRC-32 of the data set as it was written so far; None where nothing is synced."""
        return self._check if self._durable else None

    def write(self, parts: list[memoryview], size: int) -> None:
        """Add `parts` of the data set, `size` bytes together.

        Raises:
            OSError: the disk does not take them.
        """
        self.size += size
        if self._durable:
            for part in parts:
                self._check = zlib.crc32(part, self._check)
        # at most 1,024 parts at once (IOV_MAX); a disk that fills takes fewer bytes than given
        if len(parts) == 1 or len(parts) > _MOST_PARTS:
            written = 0
        else:
            written = os.writev(self._handle, parts)
        if written == size:
            return
        for part in parts:
            view, written = part[written:], max(0, written - len(part))
            while view:
                view = view[os.write(self._handle, view) :]

    def read(self, position: int, length: int) -> bytes:
        """Bytes of the data set as it was written so far."""
        length = max(0, min(length, self.size - position))
        return os.pread(self._handle, length, self._room + position)

    def dataset(self) -> BufferedReader:
        """The data set as it was written so far, from its first byte."""
        return BufferedReader(_Behind(self))

    def keep(self, head: bytes) -> Path:
        """Make the file complete and durable under its name; returns its path.

        The order is: name and fsync of the folder (before the first byte), bytes, head,
        fdatasync of the file (its size is among what that covers), rename. Only then may 0x0000
        be sent.

        Raises:
            OSError: the disk does not take it; nothing is kept of it.
        """
        assert len(head) == self._room
        name = self._name + INSTANCE
        places = {"src_dir_fd": self._within, "dst_dir_fd": self._within}
        try:
            os.pwrite(self._handle, head, 0)
            if self._durable:
                os.fdatasync(self._handle)
            os.rename(self._name + PARTIAL, name, **places)  # noqa: PTH104 - within an open folder
        except OSError:
            self._discard(name)
            raise
        self._close()
        return self._path / name

    def discard(self) -> None:
        """Keep nothing of it."""
        self._discard(self._name + PARTIAL)

    def _discard(self, *names: str) -> None:
        if self._handle < 0:
            return
        for name in {*names, self._name + PARTIAL}:
            # what cannot be removed now goes with the folder
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._within)
        self._close()

    def _close(self) -> None:
        handle, self._handle = self._handle, -1
        os.close(handle)
        os.close(self._within)


@dataclass(slots=True)
class Folder:
    """The folder of an open association.

    Attributes:
        path: where it is.
        handle: spares the way to it for every image.
        names: numbers of images whose files are there, empty and durable.
    """

    path: Path
    handle: int
    names: set[int] = field(default_factory=set)
    _next: int = _FIRST_NAMES

    def make_names(self, number: int, within: int) -> None:
        """Make durable names for an image and those after it.

        Raises:
            OSError: the disk does not take them.
        """
        made = range(number, number + self._next)
        self._next = min(self._next * _MORE, _MOST_NAMES)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        for item in made:
            os.close(os.open(_name(item) + PARTIAL, flags, 0o644, dir_fd=within))
        os.fsync(within)
        self.names.update(made)

    def close(self) -> None:
        """Remove the names that nobody used, and let go of the folder."""
        for number in tuple(self.names):
            # what cannot be removed now goes with the folder
            with contextlib.suppress(OSError):
                os.unlink(_name(number) + PARTIAL, dir_fd=self.handle)
        self.names.clear()
        os.close(self.handle)


def _name(number: int) -> str:
    return f"{number:06d}"


class _Behind(RawIOBase):
    """The data set of a spool file as a stream."""

    def __init__(self, file: SpoolFile) -> None:
        super().__init__()
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
