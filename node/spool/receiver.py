"""The spool: where an instance is safe before it is acknowledged.

    spool/<receiver>/lock                     held (flock) as long as the receiver lives
    spool/<receiver>/<association>/000001.dcm complete Part 10 files, in order of arrival
    spool/<receiver>/<association>/000002.part one that is being written, or a name made ahead
    spool/<receiver>/<association>/end.json   how and when the association ended
    spool/unreadable/                         what intake could not read; nothing is thrown away

The File Meta of each file says who sent it ((0002,0016) to (0002,0018)) and, as private
information (0002,0102), over which association, from where and when. So everything is found
again after a restart by reading the folder, and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.domain import Association
from core.errors import AssociationEndedError, OutOfSpaceError
from core.store import fsync_folder, make_folder_durable
from node.spool.file import PARTIAL, Folder, SpoolFile
from node.spool.heads import Heads, ReceivedInstance, association_to_json

END_FILE = "end.json"
UNREADABLE = "unreadable"
# Requests that were on their way when their association ended come within moments.
_ENDED_KEPT = 10_000


def free_mb(folder: Path) -> int:
    """Free space on the disk of `folder`, in MB."""
    return shutil.disk_usage(folder).free // (1 << 20)


class ReceiverSpool:
    """The part of the spool that one receiver process writes.

    Args:
        spool: the folder of all receivers of this machine.
        min_free_mb: less free space than this refuses an instance, MB.
        durable: whether the disk must have an instance before it counts as written.
    """

    def __init__(self, spool: Path, min_free_mb: int, *, durable: bool = True) -> None:
        self.receiver = uuid.uuid4().hex
        self.folder = spool / self.receiver
        self._min_free_mb = min_free_mb
        self._durable = durable
        self._made: dict[str, Folder] = {}
        self._ended: dict[str, None] = {}
        self._making = threading.Lock()
        make_folder_durable(spool)
        # intake must never see the folder without its lock: it would take us for dead
        hidden = spool / f".{self.receiver}"
        hidden.mkdir()
        self._lock = (hidden / "lock").open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        hidden.rename(self.folder)
        fsync_folder(spool)

    def check_space(self) -> None:
        """Refuse before anything is lost.

        Raises:
            OutOfSpaceError: less than `min_free_mb` is free.
        """
        free = free_mb(self.folder)
        if free < self._min_free_mb:
            raise OutOfSpaceError(f"{free} MB free on the spool's disk, {self._min_free_mb} needed")

    def association_folder(self, association: Association) -> Path:
        """The folder of an association, durable; made when it is first asked for.

        Raises:
            AssociationEndedError: it has ended.
            OSError: the disk does not take it.
        """
        with self._making:
            return self._folder(association).path

    def _folder(self, association: Association) -> Folder:
        """To be called with the lock held."""
        if association.id in self._ended or self._lock.closed:
            # made again it would never be closed, and intake may have filed the end already
            raise AssociationEndedError("the association has ended")
        made = self._made.get(association.id)
        if made is None:
            path = self.folder / association.id
            path.mkdir(exist_ok=True)
            if self._durable:
                fsync_folder(self.folder)
            made = Folder(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            self._made[association.id] = made
        return made

    def begin(self, association: Association, number: int, room: int) -> SpoolFile:
        """Begin the instance with that number in its association.

        Args:
            association: which it came over.
            number: its place in the order of arrival, from 1.
            room: bytes that its head will have (`Heads`).

        Raises:
            AssociationEndedError: the association has ended.
            OSError: the disk does not take it.
        """
        with self._making:
            folder = self._folder(association)
            within = os.dup(folder.handle)
        # not under the lock: others need not wait for this association's disk
        return SpoolFile(folder, within, number, room, self._durable)

    def write(self, instance: ReceivedInstance, number: int, dataset: bytes | memoryview) -> Path:
        """Write one instance so that it survives a power cut, and return its path.

        Raises:
            OutOfSpaceError: it could not be written; nothing is kept of it.
        """
        heads = Heads(instance.association)
        try:
            file = self.begin(instance.association, number, len(heads.encode(instance)))
            try:
                file.write([memoryview(dataset)], len(dataset))
            except OSError:
                file.discard()
                raise
            return file.keep(heads.encode(instance, file.size, file.check))
        except OSError as error:
            raise out_of_space(error) from error

    def write_json(self, folder: Path, name: str, content: object) -> Path:
        """Write a small file durably: it is there whole, or not at all. Returns its path.

        Raises:
            OSError: the disk does not take it.
        """
        path = folder / name
        partial = folder / (name + PARTIAL)
        try:
            with partial.open("w", encoding="utf-8") as stream:
                json.dump(content, stream)
                stream.flush()
                if self._durable:
                    os.fsync(stream.fileno())
            partial.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        if self._durable:
            fsync_folder(folder)
        return path

    def end(self, association: Association) -> None:
        """Note that an association ended. One that stored nothing has no folder.

        Nothing is begun for it from now on, also when the end must be noted once more.

        Raises:
            OSError: the disk does not take it.
        """
        with self._making:
            self._ended[association.id] = None
            while len(self._ended) > _ENDED_KEPT:
                del self._ended[next(iter(self._ended))]
        self._forget(association.id)
        folder = self.folder / association.id
        if folder.is_dir() and association.ended_at is not None:
            content = {
                "association": association_to_json(association),
                "ended_at": association.ended_at.isoformat(),
                "end": association.end,
            }
            self.write_json(folder, END_FILE, content)

    def _forget(self, association_id: str) -> None:
        with self._making:
            made = self._made.pop(association_id, None)
            if made is not None:
                made.close()

    def close(self) -> None:
        """Let go of the lock: what is not ended by now counts as broken off."""
        for association_id in list(self._made):
            self._forget(association_id)
        self._lock.close()


def out_of_space(error: OSError) -> OutOfSpaceError:
    """What a sender is told when the disk did not take an instance."""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    remedy = None if full else "See that the spool's folder can be written."
    return OutOfSpaceError(f"the spool cannot be written: {error}", remedy=remedy)


@contextmanager
def receiver_is_dead(folder: Path) -> Iterator[bool]:
    """Whether the receiver that wrote `folder` has ended; its lock is held meanwhile."""
    try:
        stream = (folder / "lock").open("rb+")
    except FileNotFoundError:
        yield True
        return
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
