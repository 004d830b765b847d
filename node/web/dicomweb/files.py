"""What is stored, opened: heads without pixels, File Meta Information as it may leave the house."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import IO, BinaryIO, cast

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomIO
from pydicom.filereader import dcmread, read_file_meta_info
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from core.equipment import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from core.errors import DecodeError, NotFoundError, StoreError
from core.ledger.holdings import Holding
from node.web.access import Who
from node.web.audit import Happening
from node.web.audit.messages import Study
from node.web.room import Room

PIECE = 1 << 18
# Longer values are read only where they are asked for.
_DEFER_BYTES = 1 << 16
_PREAMBLE = 128 + 4


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a path names: a study, one of its series, or one object."""

    study: str
    series: str = ""
    instance: str = ""


def find(room: Room, who: Who, wanted: Wanted) -> list[Holding]:
    """The objects that a path names; who asks is noted.

    Raises:
        NotFoundError: nothing of it is to be had.
    """
    with room.ledger.read() as work:
        found = work.holdings.objects(wanted.study, wanted.series, wanted.instance)
        patient = work.views.study(wanted.study).patient_id if found else ""
    if not found:
        raise NotFoundError("no such study, series or instance is to be had here")
    about = Study(wanted.study, patient)
    room.audit.looked(who.name, who.address, about, Happening.RETRIEVED)
    return found


def find_one(room: Room, who: Who, wanted: Wanted) -> Holding:
    """The object that a path names, with its transfer syntax.

    Raises:
        NotFoundError: it is not to be had.
    """
    found = find(room, who, wanted)[0]
    return with_syntax(room, found)


def with_syntax(room: Room, holding: Holding) -> Holding:
    """The same, with its transfer syntax; of a result the file says it."""
    if holding.transfer_syntax_uid:
        return holding
    with room.store.as_file(holding.store_key) as path:
        syntax = read_file_meta_info(str(path)).get("TransferSyntaxUID", "")
    return replace(holding, transfer_syntax_uid=str(syntax))


@contextmanager
def unread(room: Room, holding: Holding) -> Iterator[None]:
    """Say what cannot be read without the values that pydicom quotes."""
    try:
        yield
    except (StoreError, DecodeError, NotFoundError):
        raise
    except Exception as error:
        name = type(error).__name__
        raise DecodeError(f"instance {holding.sop_instance_uid} cannot be read: {name}") from error


def head(path: Path) -> Dataset:
    """The data set up to its pixels; long values are read when they are looked at."""
    return dcmread(path, stop_before_pixels=True, force=True, defer_size=_DEFER_BYTES)


def part_10(path: Path) -> Iterator[bytes]:
    """A stored file with File Meta Information of ours in the place of what the spool noted there.

    The spool keeps who sent it in private File Meta Information (docs/decisions); that stays here.
    """
    with path.open("rb") as stream:
        meta, begin = _meta(stream)
        stream.seek(begin)
        yield meta_bytes(meta)
        while piece := stream.read(PIECE):
            yield piece


def meta_bytes(meta: FileMetaDataset) -> bytes:
    """Preamble and File Meta Information (PS3.10 7.1)."""
    clean = FileMetaDataset()
    clean.FileMetaInformationVersion = b"\0\1"
    for keyword in ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID"):
        setattr(clean, keyword, meta.get(keyword, ""))
    clean.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    clean.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    made = BytesIO()
    write_file_meta_info(DicomIO(made), clean, enforce_standard=True)
    return b"\0" * 128 + b"DICM" + made.getvalue()


def _meta(stream: IO[bytes]) -> tuple[FileMetaDataset, int]:
    from pydicom.filereader import _read_file_meta_info, read_preamble  # noqa: PLC0415

    binary = cast("BinaryIO", stream)
    read_preamble(binary, force=False)
    meta = _read_file_meta_info(binary)
    return meta, stream.tell()
