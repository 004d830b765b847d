"""WADO-RS metadata as DICOM JSON (PS3.18 Annex F), and the bulk data that it leaves out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Path as InPath
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import dcmread
from pydicom.tag import Tag
from starlette.responses import Response, StreamingResponse

from core.errors import NotAcceptableError, NotFoundError
from core.ledger.holdings import Holding
from node.web.access import Viewer
from node.web.api.shapes import StudyUID
from node.web.dicomweb.files import Wanted, find, find_one, head, unread
from node.web.dicomweb.frames import open_pixels
from node.web.dicomweb.media import OCTETS, PREFIX, Part, accepted, check_json, multipart
from node.web.room import InRoom, Room

router = APIRouter()

_BULK_BYTES = 4096
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_PIXEL_TAGS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
_Tag = Annotated[str, InPath(pattern=r"^[0-9A-Fa-f]{8}$")]


@router.get("/studies/{study}/metadata")
def study_metadata(request: Request, who: Viewer, room: InRoom, study: StudyUID) -> Response:
    """What every object of a study says of itself, without pixels."""
    return _metadata(request, room, find(room, who, Wanted(study)))


@router.get("/studies/{study}/series/{series}/metadata")
def series_metadata(
    request: Request, who: Viewer, room: InRoom, study: StudyUID, series: StudyUID
) -> Response:
    """The same of a series."""
    return _metadata(request, room, find(room, who, Wanted(study, series)))


@router.get("/studies/{study}/series/{series}/instances/{instance}/metadata")
def instance_metadata(
    request: Request,
    who: Viewer,
    room: InRoom,
    study: StudyUID,
    series: StudyUID,
    instance: StudyUID,
) -> Response:
    """The same of one object."""
    return _metadata(request, room, find(room, who, Wanted(study, series, instance)))


@router.get("/studies/{study}/series/{series}/instances/{instance}/bulkdata/{tag}")
def bulk_data(
    request: Request,
    who: Viewer,
    room: InRoom,
    study: StudyUID,
    series: StudyUID,
    instance: StudyUID,
    tag: _Tag,
) -> Response:
    """One value that the metadata leaves out."""
    holding = find_one(room, who, Wanted(study, series, instance))
    ranges = accepted(request.headers.get("accept", ""))
    together = any(item.multipart and item.takes(OCTETS) for item in ranges)
    if not together and not any(not item.multipart and item.takes(OCTETS) for item in ranges):
        raise NotAcceptableError(f'bulk data is to be had as multipart/related; type="{OCTETS}"')
    if int(tag, 16) in _PIXEL_TAGS:
        pixels = open_pixels(room, holding)
        kind = f"{OCTETS}; transfer-syntax={holding.transfer_syntax_uid}"
        if pixels.encapsulated:  # each frame for itself, as it is stored
            frames = range(pixels.frames)
            return multipart(OCTETS, (Part(kind, [pixels.stored(index)]) for index in frames))
        content: Iterator[bytes] = pixels.all_bytes()
    else:
        content = iter([_value(room, holding, int(tag, 16))])
        kind = OCTETS
    if together:
        return multipart(OCTETS, iter([Part(kind, content)]))
    return StreamingResponse(content, media_type=OCTETS)


def _metadata(request: Request, room: Room, found: list[Holding]) -> Response:
    kind = check_json(request.headers.get("accept", ""))
    base = str(request.base_url).rstrip("/")

    def pieces() -> Iterator[bytes]:
        yield b"["
        for number, holding in enumerate(found):
            text = json.dumps(describe(room, holding, base), ensure_ascii=False, allow_nan=False)
            yield (",\n" if number else "").encode() + text.encode("utf-8", "replace")
        yield b"]"

    content = pieces()
    start = next(content) + next(content)  # what cannot be read at all is told by a status

    def all_of_it() -> Iterator[bytes]:
        yield start
        yield from content

    return StreamingResponse(all_of_it(), media_type=kind)


def describe(room: Room, holding: Holding, base: str) -> dict[str, Any]:
    """An object's metadata in the DICOM JSON Model.

    Raises:
        BytesGoneError: it is not in the store.
        DecodeError: it cannot be read.
    """
    here = (
        f"{base}{PREFIX}/studies/{holding.study_instance_uid}/series/"
        f"{holding.series_instance_uid}/instances/{holding.sop_instance_uid}"
    )
    with room.store.as_file(holding.store_key) as path, unread(room, holding):
        return to_json(path, f"{here}/bulkdata")


def to_json(path: Path, bulk: str) -> dict[str, Any]:
    """A stored object's metadata; long binary values as `bulk`/TAG."""
    dataset = head(path)
    made: dict[str, Any] = {}
    for tag in sorted(dataset.keys()):
        key = f"{tag:08X}"
        raw: Any = dataset.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.value is None and raw.length:
            vr = _vr(raw)
            if vr in _BINARY:  # long, so it was not read
                made[key] = {"vr": vr, "BulkDataURI": f"{bulk}/{key}"}
                continue
        element = dataset[tag]
        value = element.value
        if element.VR in _BINARY and isinstance(value, bytes) and len(value) > _BULK_BYTES:
            made[key] = {"vr": element.VR, "BulkDataURI": f"{bulk}/{key}"}
            continue
        try:
            made[key] = _plain(element.to_json_dict(None, 1 << 62))
        except (ValueError, TypeError, AttributeError, OverflowError):
            made[key] = {"vr": element.VR}  # a value that is not what its representation says
    pixels = _pixel_element(path, dataset)
    if pixels is not None:
        key, vr = pixels
        made[key] = {"vr": vr, "BulkDataURI": f"{bulk}/{key}"}
    return made


def _pixel_element(path: Path, dataset: Dataset) -> tuple[str, str] | None:
    if "Rows" not in dataset:
        return None
    found = dcmread(path, force=True, defer_size=1024, specific_tags=list(_PIXEL_TAGS))
    for tag in _PIXEL_TAGS:
        if tag in found:
            item = found.get_item(tag)
            vr = getattr(item, "VR", None) or "OW"
            return f"{tag:08X}", "OW" if vr in {"OB or OW", "UN"} else vr
    return None


def _vr(raw: RawDataElement) -> str:
    """A value representation; where the transfer syntax does not say it, the dictionary does."""
    if raw.VR is not None:
        return raw.VR
    try:
        return dictionary_VR(raw.tag).partition(" ")[0]
    except KeyError:
        return "UN"


def _plain(value: Any) -> Any:
    """JSON knows neither infinity nor NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _value(room: Room, holding: Holding, tag: int) -> bytes:
    with room.store.as_file(holding.store_key) as path, unread(room, holding):
        dataset = dcmread(path, stop_before_pixels=True, force=True, specific_tags=[Tag(tag)])
        value = dataset[tag].value if tag in dataset else None
    if not isinstance(value, bytes):
        raise NotFoundError(f"the instance has no bulk data {tag:08X}")
    return value
