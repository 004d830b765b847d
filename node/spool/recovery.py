"""What a receiver that died left half done: complete images among it are images.

A receiver renames an image after it is durable and answers then, but does not wait for the
rename to be durable (`node.spool.file`). So after a power cut an acknowledged image may lie under
the name of an unfinished one. Its head says how long it is, and with which checksum; what does
not agree was never acknowledged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

from node.spool.file import INSTANCE, PARTIAL
from node.spool.heads import is_head_of

_CHUNK = 1 << 20
# Preamble, prefix, and the group length with its header: PS3.10 Section 7.1.
_BEGINNING = struct.Struct("<128s4s8sL")
_LONGEST_HEAD = 1 << 16


def recover(folder: Path, names: Iterable[str]) -> list[str]:
    """Give the complete images of a dead receiver's folder the name of complete images.

    Doing it twice changes nothing. What is not complete stays.

    Args:
        folder: of one association.
        names: what lies in it.

    Returns:
        the new names.

    Raises:
        OSError: the disk cannot be read or written.
    """
    found = []
    for name in names:
        number = name.removesuffix(PARTIAL)
        if name == number or not number.isdigit():
            continue
        # another intake may be faster
        with contextlib.suppress(FileNotFoundError):
            if _may_be_complete(folder / name):
                (folder / name).rename(folder / (number + INSTANCE))
                found.append(number + INSTANCE)
    return found


def _may_be_complete(path: Path) -> bool:
    try:
        return is_complete(path)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        # the disk lost it; intake puts aside what it cannot read, and tells
        return True


def is_complete(path: Path) -> bool:
    """Whether a file of the spool is whole: its head agrees with its length and every byte.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        beginning = file.read(_BEGINNING.size)
        if len(beginning) < _BEGINNING.size:
            return False
        _, prefix, _, length = _BEGINNING.unpack(beginning)
        if prefix != b"DICM" or length > _LONGEST_HEAD:
            return False
        head = beginning + file.read(length)
        check = 0
        while chunk := file.read(_CHUNK):
            check = zlib.crc32(chunk, check)
    return is_head_of(head, size - len(head), check)
