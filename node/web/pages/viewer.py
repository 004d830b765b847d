"""What the image viewer fetches: the order of frames, their numbers, and the outlines."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from core.domain import ResultKind
from core.errors import NotFoundError
from core.identifiers import UID
from core.ledger.browse_study import Held
from node.web.access import Viewer
from node.web.audit.messages import Study as AuditStudy
from node.web.pages.imaging.heat import places_of
from node.web.pages.imaging.shelf import MOST_INSTANCES, Shelf
from node.web.pages.imaging.stack import Stack
from node.web.room import InRoom, Room

router = APIRouter(prefix="/studies/{study_uid}")


def shelf_of(request: Request, room: Room) -> Shelf:
    """The shelf of this application, made when it is first wanted."""
    state = request.app.state
    if not hasattr(state, "shelf"):
        state.shelf = Shelf(room.store)
    shelf = state.shelf
    assert isinstance(shelf, Shelf)
    return shelf


@router.get("/series/{series_uid}/stack")
def stack(request: Request, room: InRoom, who: Viewer, study_uid: str, series_uid: str) -> Response:
    """The frames of a series in the order in which they are scrolled through."""
    study, series = str(UID(study_uid)), str(UID(series_uid))
    with room.ledger.read() as work:
        held = work.study_page.instances(series, MOST_INSTANCES)
        known = work.views.study(study)
    if not held or held[0].study_instance_uid != study:
        raise NotFoundError(f"no series {series} in study {study}")
    room.audit.looked(who.name, who.address, AuditStudy(study, known.patient_id))
    return JSONResponse(_plain(shelf_of(request, room).stack(held)))


@router.get("/frames/{instance_id}/{number}")
def frame(
    request: Request, room: InRoom, who: Viewer, study_uid: str, instance_id: int, number: int
) -> Response:
    """One frame: its numbers as they are, what they mean in the header X-Frame."""
    held = _held(room, study_uid, instance_id)
    drawable = shelf_of(request, room).frame(held, number)
    about = json.dumps(drawable.about(), ensure_ascii=True)
    return Response(
        drawable.data, media_type="application/octet-stream", headers={"X-Frame": about}
    )


@router.get("/outlines/{result_id}")
def outlines(
    request: Request, room: InRoom, who: Viewer, study_uid: str, result_id: int
) -> Response:
    """The borders of a segmentation that a job made."""
    with room.ledger.read() as work:
        result, study, gone = work.study_page.result(result_id)
    if study != study_uid or result.kind != ResultKind.SEG or gone:
        raise NotFoundError(f"no segmentation {result_id} in study {study_uid}")
    return JSONResponse(shelf_of(request, room).outlines(result).plain())


@router.get("/pictures/{result_id}.png")
def picture(room: InRoom, who: Viewer, study_uid: str, result_id: int) -> Response:
    """The picture that a job made for pages."""
    with room.ledger.read() as work:
        result, study, gone = work.study_page.result(result_id)
    if study != study_uid or result.kind != ResultKind.PICTURE or gone:
        raise NotFoundError(f"no picture {result_id} in study {study_uid}")
    return Response(room.store.get(result.store_key), media_type="image/png")


@router.get("/heat/{result_id}.png")
def heat_picture(room: InRoom, who: Viewer, study_uid: str, result_id: int) -> Response:
    """The class activation maps of a job, grey, as tiles of one picture."""
    return Response(_heat(room, study_uid, result_id), media_type="image/png")


@router.get("/heat/{result_id}")
def heat(request: Request, room: InRoom, who: Viewer, study_uid: str, result_id: int) -> Response:
    """Where on the picture of the same address with ".png" the map of each image is."""
    places = places_of(_heat(room, study_uid, result_id))
    return JSONResponse({"maps": places})


def _heat(room: Room, study_uid: str, result_id: int) -> bytes:
    with room.ledger.read() as work:
        result, study, gone = work.study_page.result(result_id)
    if study != study_uid or result.kind != ResultKind.HEAT or gone:
        raise NotFoundError(f"no activation maps {result_id} in study {study_uid}")
    return room.store.get(result.store_key)


def _held(room: Room, study_uid: str, instance_id: int) -> Held:
    with room.ledger.read() as work:
        held = work.study_page.instance(instance_id)
    if held.study_instance_uid != study_uid:
        raise NotFoundError(f"no instance {instance_id} in study {study_uid}")
    return held


def _plain(found: Stack) -> dict[str, Any]:
    return {
        "rows": found.rows,
        "columns": found.columns,
        "spacing": found.spacing,
        "aspect": found.aspect,
        "orientation": found.orientation,
        "modality": found.modality,
        "gone": found.gone,
        "frames": [
            {
                "instance": item.instance,
                "frame": item.frame,
                "image": f"{item.sop_instance_uid}:{item.frame}"
                if item.multi
                else item.sop_instance_uid,
                "place": None if item.place is None else round(item.place, 2),
                "number": item.number,
            }
            for item in found.frames
        ],
    }
