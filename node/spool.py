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

import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID as PydicomUID

from core.domain import Association
from core.equipment import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from core.errors import OutOfSpaceError
from core.identifiers import derived_uid
from core.store import fsync_folder, make_folder_durable

PRIVATE_INFORMATION_CREATOR = derived_uid("spool", "private information")
END_FILE = "end.json"
UNREADABLE = "unreadable"
_PARTIAL = ".part"


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
    """The part of the spool that one receiver process writes."""

    def __init__(self, spool: Path, min_free_mb: int) -> None:
        self.receiver = uuid.uuid4().hex
        self.folder = spool / self.receiver
        self._min_free_mb = min_free_mb
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

    def write(self, instance: ReceivedInstance, number: int, dataset: bytes | memoryview) -> Path:
        """Write one instance so that it survives a power cut, and return its path.

        The order is: bytes, fsync, rename, fsync of the folder. Only then may 0x0000 be sent.

        Raises:
            OutOfSpaceError: it could not be written; nothing is kept of it.
        """
        folder = self.folder / instance.association.id
        path = folder / f"{number:06d}.dcm"
        partial = path.with_suffix(_PARTIAL)
        try:
            if not folder.is_dir():
                folder.mkdir()
                fsync_folder(self.folder)
            with partial.open("wb") as stream:
                stream.write(b"\0" * 128 + b"DICM")
                stream.write(_encoded_file_meta(instance))
                stream.write(dataset)
                stream.flush()
                os.fsync(stream.fileno())
            partial.rename(path)
            fsync_folder(folder)
        except OSError as error:
            for leftover in (partial, path):
                leftover.unlink(missing_ok=True)
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            remedy = None if full else "See that the spool's folder can be written."
            raise OutOfSpaceError(f"the spool cannot be written: {error}", remedy=remedy) from error
        return path

    def end(self, association: Association) -> None:
        """Note that an association ended. One that stored nothing has no folder."""
        folder = self.folder / association.id
        if folder.is_dir() and association.ended_at is not None:
            content = {
                "association": association_to_json(association),
                "ended_at": association.ended_at.isoformat(),
                "end": association.end,
            }
            partial = folder / (END_FILE + _PARTIAL)
            with partial.open("w", encoding="utf-8") as stream:
                json.dump(content, stream)
                stream.flush()
                os.fsync(stream.fileno())
            partial.rename(folder / END_FILE)
            fsync_folder(folder)

    def close(self) -> None:
        """Let go of the lock: what is not ended by now counts as broken off."""
        self._lock.close()


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


def _encoded_file_meta(instance: ReceivedInstance) -> bytes:
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, _file_meta(instance))
    return buffer.getvalue()


def _file_meta(instance: ReceivedInstance) -> FileMetaDataset:
    """File Meta Information by PS3.10 Section 7.1."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = PydicomUID(instance.sop_class_uid)
    meta.MediaStorageSOPInstanceUID = PydicomUID(instance.sop_instance_uid)
    meta.TransferSyntaxUID = PydicomUID(instance.transfer_syntax_uid)
    meta.ImplementationClassUID = PydicomUID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    meta.SourceApplicationEntityTitle = instance.association.calling_ae
    meta.SendingApplicationEntityTitle = instance.association.calling_ae
    meta.ReceivingApplicationEntityTitle = instance.association.called_ae
    meta.PrivateInformationCreatorUID = PydicomUID(PRIVATE_INFORMATION_CREATOR)
    content = association_to_json(instance.association)
    content["received_at"] = instance.received_at.isoformat()
    encoded = json.dumps(content).encode()
    meta.PrivateInformation = encoded + b" " * (len(encoded) % 2)
    return meta
