"""A disk that loses what was not synced, in the worst order that POSIX allows.

While it is watching, every call that changes a file or a folder under a root is carried out and
noted. `states` then gives the folder as a power cut may leave it: of each file what its last
fdatasync or fsync made durable, and any of the writes since; of each folder the names of its last
fsync, and any of the changes since.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock


@dataclass
class _File:
    durable: bytes = b""
    since: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass
class _Names:
    durable: dict[str, int] = field(default_factory=dict)
    since: list[tuple[str, int | None]] = field(default_factory=list)


class Disk:
    """What was done under `root`, by inode."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[int, _File] = {}
        self._folders: dict[Path, _Names] = {}
        self._real = {
            name: getattr(os, name)
            for name in ("open", "write", "writev", "pwrite", "fdatasync", "fsync", "rename")
        }
        self._real["unlink"] = os.unlink

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what is done now."""
        with mock.patch.multiple(os, **{name: getattr(self, "_" + name) for name in self._real}):
            yield

    def cut(self, random: random.Random, to: Path) -> None:
        """Write into `to` what a power cut may leave of the folder."""
        for folder, names in self._folders.items():
            found = dict(names.durable)
            for name, inode in names.since:
                if random.random() < 0.5:
                    continue
                if inode is None:
                    found.pop(name, None)
                else:
                    found = {one: at for one, at in found.items() if at != inode}
                    found[name] = inode
            target = to / folder.relative_to(self._root)
            target.mkdir(parents=True, exist_ok=True)
            for name, inode in found.items():
                (target / name).write_bytes(self._content(random, self._files[inode]))

    def _content(self, random: random.Random, file: _File) -> bytes:
        content = bytearray(file.durable)
        for at, data in file.since:
            # a disk writes sectors, some of them
            for start in range(0, len(data), 512):
                if random.random() < 0.5:
                    _put(content, at + start, data[start : start + 512])
        return bytes(content)

    # the calls

    def _place(self, path: Any, dir_fd: int | None) -> tuple[Path, str] | None:
        where = Path(path) if dir_fd is None else _path(dir_fd) / path
        return (where.parent, where.name) if where.is_relative_to(self._root) else None

    def _note(self, path: Any, dir_fd: int | None, inode: int | None) -> None:
        place = self._place(path, dir_fd)
        if place is not None:
            self._folders.setdefault(place[0], _Names()).since.append((place[1], inode))

    def _wrote(self, handle: int, at: int, data: bytes) -> None:
        file = self._files.get(os.fstat(handle).st_ino)
        if file is not None:
            file.since.append((at, data))

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        handle = int(self._real["open"](path, flags, mode, dir_fd=dir_fd))
        if flags & os.O_CREAT and self._place(path, dir_fd) is not None:
            inode = os.fstat(handle).st_ino
            self._files[inode] = _File()
            self._note(path, dir_fd, inode)
        return handle

    def _write(self, handle: int, data: Any) -> int:
        at = os.lseek(handle, 0, os.SEEK_CUR) if _is_file(handle) else 0
        count = int(self._real["write"](handle, data))
        self._wrote(handle, at, bytes(data)[:count])
        return count

    def _writev(self, handle: int, parts: Any) -> int:
        at = os.lseek(handle, 0, os.SEEK_CUR)
        count = int(self._real["writev"](handle, parts))
        self._wrote(handle, at, b"".join(parts)[:count])
        return count

    def _pwrite(self, handle: int, data: Any, at: int) -> int:
        count = int(self._real["pwrite"](handle, data, at))
        self._wrote(handle, at, bytes(data)[:count])
        return count

    def _fdatasync(self, handle: int) -> None:
        self._fsync(handle)

    def _fsync(self, handle: int) -> None:
        file = self._files.get(os.fstat(handle).st_ino)
        names = None if _is_file(handle) else self._folders.get(_path(handle))
        if file is not None:
            content = bytearray(file.durable)
            for at, data in file.since:
                _put(content, at, data)
            file.durable, file.since = bytes(content), []
        for name, inode in names.since if names is not None else ():
            assert names is not None
            kept = {one: at for one, at in names.durable.items() if one != name and at != inode}
            names.durable = kept if inode is None else {**kept, name: inode}
        if names is not None:
            names.since = []

    def _rename(
        self, old: Any, new: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        inode = os.stat(old, dir_fd=src_dir_fd).st_ino
        self._real["rename"](old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self._note(new, dst_dir_fd, inode)

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._real["unlink"](path, dir_fd=dir_fd)
        self._note(path, dir_fd, None)


def _path(handle: int) -> Path:
    return Path(f"/proc/self/fd/{handle}").readlink()


def _is_file(handle: int) -> bool:
    return not _path(handle).is_dir() and str(_path(handle)).startswith("/")


def _put(content: bytearray, at: int, data: bytes) -> None:
    content.extend(bytes(max(0, at - len(content))))
    content[at : at + len(data)] = data
