"""The spool: where an instance is safe before it is acknowledged.

    spool/<receiver>/lock                     held (flock) as long as the receiver lives
    spool/<receiver>/<association>/000001.dcm complete Part 10 files, in order of arrival
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
import struct
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom.dataset import FileMetaDataset

from core.domain import Association
from core.equipment import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from core.errors import AssociationEndedError, OutOfSpaceError
from core.identifiers import derived_uid
from core.store import fsync_folder, make_folder_durable
from node.spool.file import PARTIAL, Folder, SpoolFile

PRIVATE_INFORMATION_CREATOR = derived_uid("spool", "private information")
END_FILE = "end.json"
UNREADABLE = "unreadable"
# Requests that were on their way when their association ended come within moments.
_ENDED_KEPT = 10_000
_PREAMBLE = bytes(128) + b"DICM"
_SHORT, _LONG = struct.Struct("<HH2sH"), struct.Struct("<HH2sHL")
_GROUP_LENGTH = struct.Struct("<HH2sHL")


def free_mb(folder: Path) -> int:
    """Free space on the disk of `folder`, in MB."""
    return shutil.disk_usage(folder).free // (1 << 20)


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """What the File Meta of a spooled instance is made from."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    association: Association
    received_at: datetime


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
            return SpoolFile(folder, number, room, self._durable)

    def write(self, instance: ReceivedInstance, number: int, dataset: bytes | memoryview) -> Path:
        """Write one instance so that it survives a power cut, and return its path.

        Raises:
            OutOfSpaceError: it could not be written; nothing is kept of it.
        """
        head = Heads(instance.association).encode(instance)
        try:
            file = self.begin(instance.association, number, len(head))
            try:
                file.write([memoryview(dataset)], len(dataset))
            except OSError:
                file.discard()
                raise
            return file.keep(head)
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
        folder = self.folder / association.id
        if folder.is_dir() and association.ended_at is not None:
            content = {
                "association": association_to_json(association),
                "ended_at": association.ended_at.isoformat(),
                "end": association.end,
            }
            self.write_json(folder, END_FILE, content)
        self._forget(association.id)

    def _forget(self, association_id: str) -> None:
        with self._making:
            made = self._made.pop(association_id, None)
            if made is not None:
                os.close(made.handle)

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


def association_to_json(association: Association) -> dict[str, str]:
    """The parts of an association that every spooled file carries."""
    return {
        "id": association.id,
        "calling_ae": association.calling_ae,
        "called_ae": association.called_ae,
        "peer_address": association.peer_address,
        "began_at": association.began_at.isoformat(),
    }


def association_from_json(content: dict[str, str]) -> Association:
    """The other way round."""
    return Association(
        id=content["id"],
        calling_ae=content["calling_ae"],
        called_ae=content["called_ae"],
        peer_address=content["peer_address"],
        began_at=datetime.fromisoformat(content["began_at"]),
    )


def read_private_information(meta: FileMetaDataset) -> tuple[Association, datetime]:
    """Who sent a spooled file, and when.

    Raises:
        ValueError: the file was not written by a receiver of ours.
    """
    if meta.get("PrivateInformationCreatorUID") != PRIVATE_INFORMATION_CREATOR:
        raise ValueError("not a file of this spool: no private information of ours")
    content = json.loads(bytes(meta.PrivateInformation).decode("utf-8"))
    return association_from_json(content), datetime.fromisoformat(content["received_at"])


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


class Heads:
    """Preamble, prefix and File Meta Information (PS3.10 Section 7.1) of one association's files.

    Made for every image, so what is the same for all is encoded once; pydicom's own writer takes
    many times as long.
    """

    def __init__(self, association: Association) -> None:
        # a title that is no ASCII is whole in the private information
        sender = association.calling_ae.encode("ascii", "replace")
        receiver = association.called_ae.encode("ascii", "replace")
        private = json.dumps({**association_to_json(association), "received_at": ""})
        self._private = private[: -len('"}')].encode("ascii")
        self._between = b"".join(
            (
                _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii")),
                _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode("ascii")),
                _element(0x0016, b"AE", sender),
                _element(0x0017, b"AE", sender),
                _element(0x0018, b"AE", receiver),
                _element(0x0100, b"UI", PRIVATE_INFORMATION_CREATOR.encode("ascii")),
            )
        )

    def encode(self, instance: ReceivedInstance) -> bytes:
        """The head of one file. Its length is the same whenever it was received."""
        # microseconds always: a time without them would be shorter
        received_at = instance.received_at.isoformat(timespec="microseconds").encode("ascii")
        private = self._private + received_at + b'"}'
        elements = b"".join(
            (
                _VERSION,
                _element(0x0002, b"UI", instance.sop_class_uid.encode("ascii", "replace")),
                _element(0x0003, b"UI", instance.sop_instance_uid.encode("ascii", "replace")),
                _element(0x0010, b"UI", instance.transfer_syntax_uid.encode("ascii")),
                self._between,
                _element(0x0102, b"OB", private + b" " * (len(private) % 2)),
            )
        )
        return _PREAMBLE + _GROUP_LENGTH.pack(2, 0, b"UL", 4, len(elements)) + elements


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    """An element of group 0002 in Explicit VR Little Endian, PS3.5 Section 7.1.2."""
    if vr == b"OB":
        return _LONG.pack(2, number, vr, 0, len(value)) + value
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return _SHORT.pack(2, number, vr, len(value)) + value


_VERSION = _element(0x0001, b"OB", b"\x00\x01")
