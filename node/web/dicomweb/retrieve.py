"""WADO-RS: whole objects, streamed one after the other (PS3.18 10.4)."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

from fastapi import APIRouter, Request
from pydicom.filereader import dcmread
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian
from starlette.responses import Response, StreamingResponse

from core.errors import NotAcceptableError
from core.ledger.holdings import Holding
from node.web.access import Viewer
from node.web.api.shapes import StudyUID
from node.web.dicomweb.files import Wanted, find, part_10, unread, with_syntax
from node.web.dicomweb.media import ANY_SYNTAX, DICOM, Part, accepted, multipart
from node.web.room import InRoom, Room

router = APIRouter()

# What must be made anew is made in memory: of one object at a time, and not of any size.
_MOST_REMADE_BYTES = 512 << 20


@router.get("/studies/{study}")
def get_study(request: Request, who: Viewer, room: InRoom, study: StudyUID) -> Response:
    """Every object of a study, our results among them."""
    return _objects(request, room, find(room, who, Wanted(study)))


@router.get("/studies/{study}/series/{series}")
def get_series(
    request: Request, who: Viewer, room: InRoom, study: StudyUID, series: StudyUID
) -> Response:
    """Every object of a series."""
    return _objects(request, room, find(room, who, Wanted(study, series)))


@router.get("/studies/{study}/series/{series}/instances/{instance}")
def get_instance(
    request: Request,
    who: Viewer,
    room: InRoom,
    study: StudyUID,
    series: StudyUID,
    instance: StudyUID,
) -> Response:
    """One object, as one part or alone."""
    found = find(room, who, Wanted(study, series, instance))
    for item in accepted(request.headers.get("accept", "")):
        if not item.multipart and item.kind == DICOM:
            holding = with_syntax(room, found[0])
            target = _target(holding, item.syntax)
            if target is not None:
                pieces = _begun(_pieces(room, holding, target))
                return StreamingResponse(pieces, media_type=DICOM)
    return _objects(request, room, found)


def _objects(request: Request, room: Room, found: list[Holding]) -> Response:
    wanted = [
        item
        for item in accepted(request.headers.get("accept", ""))
        if item.takes(DICOM) and (item.multipart or item.kind == "*/*")
    ]
    if not wanted:
        raise NotAcceptableError(f'this is to be had as multipart/related; type="{DICOM}"')
    syntaxes = [item.syntax for item in wanted]
    first = with_syntax(room, found[0])
    if _chosen(first, syntaxes) is None:
        raise NotAcceptableError(
            f"stored as {first.transfer_syntax_uid}; ask for it, for transfer-syntax=*, or for "
            f"{ExplicitVRLittleEndian}"
        )
    base = str(request.base_url).rstrip("/")

    def parts() -> Iterator[Part]:
        for holding in found:
            known = with_syntax(room, holding)
            target = _chosen(known, syntaxes)
            if target is None:
                continue  # this one is not to be had so; the others are
            kind = f"{DICOM}; transfer-syntax={target}"
            location = (
                f"{base}/dicom-web/studies/{known.study_instance_uid}/series/"
                f"{known.series_instance_uid}/instances/{known.sop_instance_uid}"
            )
            yield Part(kind, _begun(_pieces(room, known, target)), location)

    return multipart(DICOM, parts())


def _chosen(holding: Holding, syntaxes: list[str]) -> str | None:
    for wanted in syntaxes:
        target = _target(holding, wanted)
        if target is not None:
            return target
    return None


def _target(holding: Holding, wanted: str) -> str | None:
    """In which transfer syntax it is given; None if not in the one that is wanted.

    Without a wish it is Explicit VR Little Endian (PS3.18 8.7.3.5.2), unless it is too large to be
    made anew; then as it is stored.
    """
    stored = holding.transfer_syntax_uid
    if wanted in {ANY_SYNTAX, stored}:
        return stored
    if wanted not in {"", ExplicitVRLittleEndian}:
        return None
    if UID(stored).is_compressed and not _can_decode(stored):
        return None if wanted else stored
    if holding.size > _MOST_REMADE_BYTES:
        return None if wanted else stored
    return str(ExplicitVRLittleEndian)


def _can_decode(syntax: str) -> bool:
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415 - only for compressed images

    try:
        return bool(get_decoder(UID(syntax)).is_available)
    except NotImplementedError:
        return False


def _pieces(room: Room, holding: Holding, target: str) -> Iterator[bytes]:
    with room.store.as_file(holding.store_key) as path:
        if target == holding.transfer_syntax_uid:
            yield from part_10(path)
            return
        with unread(room, holding):
            dataset = dcmread(path, force=True)
            if UID(holding.transfer_syntax_uid).is_encapsulated:
                dataset.decompress(as_rgb=False)
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            for element in list(dataset.file_meta):
                if element.tag.element in {0x16, 0x17, 0x18, 0x26, 0x27, 0x28, 0x100, 0x102}:
                    del dataset.file_meta[element.tag]
            made = BytesIO()
            dcmwrite(made, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
        yield made.getvalue()


def _begun(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces; the first is read now, so that what is not there is told at once."""
    first = next(pieces, b"")

    def all_of_them() -> Iterator[bytes]:
        yield first
        yield from pieces

    return all_of_them()
