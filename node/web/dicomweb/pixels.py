"""WADO-RS: frames (PS3.18 10.4.1.1.6), and pictures of them for a browser (10.4.1.1.3)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydicom.uid import ExplicitVRLittleEndian
from starlette.responses import Response

from core.errors import BadRequestError, NotAcceptableError
from node.web.access import Viewer
from node.web.api.shapes import StudyUID
from node.web.dicomweb.files import Wanted, find, find_one, with_syntax
from node.web.dicomweb.frames import Pixels, open_pixels
from node.web.dicomweb.media import (
    ANY_SYNTAX,
    OCTETS,
    OF_SYNTAX,
    Accepted,
    Part,
    accepted,
    multipart,
)
from node.web.dicomweb.picture import Picture, parse_viewport, parse_window, picture_of
from node.web.room import InRoom

router = APIRouter()

_MOST_FRAMES = 10_000
_INSTANCE = "/studies/{study}/series/{series}/instances/{instance}"
_Frames = Annotated[str, Path(pattern=r"^[0-9]{1,9}(,[0-9]{1,9})*$", max_length=100_000)]
_Text = Annotated[str, Query(max_length=100)]


@router.get(_INSTANCE + "/frames/{frames}")
def get_frames(
    request: Request,
    who: Viewer,
    room: InRoom,
    study: StudyUID,
    series: StudyUID,
    instance: StudyUID,
    frames: _Frames,
) -> Response:
    """Frames by their numbers, from 1, in the order in which they are asked for."""
    holding = find_one(room, who, Wanted(study, series, instance))
    pixels = open_pixels(room, holding)
    numbers = frames.split(",")
    if len(numbers) > _MOST_FRAMES:
        raise BadRequestError(f"at most {_MOST_FRAMES} frames at once")
    indices = [pixels.check(int(number)) for number in numbers]
    kind, as_stored = _form(pixels, accepted(request.headers.get("accept", "")))
    base = str(request.base_url).rstrip("/")
    here = f"{base}{request.url.path.rpartition('/')[0]}"
    media = kind.partition(";")[0]
    return multipart(
        media,
        (
            Part(
                kind,
                [pixels.stored(index) if as_stored else pixels.plain(index)],
                f"{here}/{index + 1}",
            )
            for index in indices
        ),
    )


@router.get("/studies/{study}/rendered")
def rendered_study(
    request: Request,
    who: Viewer,
    room: InRoom,
    study: StudyUID,
    window: _Text = "",
    viewport: _Text = "",
) -> Response:
    """The picture of the middle image of a study, as a thumbnail."""
    return _middle(request, room, who, Wanted(study), window, viewport)


@router.get("/studies/{study}/series/{series}/rendered")
def rendered_series(
    request: Request,
    who: Viewer,
    room: InRoom,
    study: StudyUID,
    series: StudyUID,
    window: _Text = "",
    viewport: _Text = "",
) -> Response:
    """The picture of the middle image of a series."""
    return _middle(request, room, who, Wanted(study, series), window, viewport)


@router.get(_INSTANCE + "/rendered")
def rendered_instance(
    request: Request,
    who: Viewer,
    room: InRoom,
    study: StudyUID,
    series: StudyUID,
    instance: StudyUID,
    window: _Text = "",
    viewport: _Text = "",
    quality: Annotated[int, Query(ge=1, le=100)] = 90,
) -> Response:
    """The picture of an instance's first frame."""
    pixels = open_pixels(room, find_one(room, who, Wanted(study, series, instance)))
    wanted = Picture(parse_window(window), parse_viewport(viewport), quality)
    return _picture(request, pixels, 0, wanted)


@router.get(_INSTANCE + "/frames/{frame}/rendered")
def rendered_frame(
    request: Request,
    who: Viewer,
    room: InRoom,
    study: StudyUID,
    series: StudyUID,
    instance: StudyUID,
    frame: Annotated[int, Path(ge=1, lt=2**31)],
    window: _Text = "",
    viewport: _Text = "",
    quality: Annotated[int, Query(ge=1, le=100)] = 90,
) -> Response:
    """The picture of one frame."""
    pixels = open_pixels(room, find_one(room, who, Wanted(study, series, instance)))
    wanted = Picture(parse_window(window), parse_viewport(viewport), quality)
    return _picture(request, pixels, pixels.check(frame), wanted)


@router.get("/studies/{study}/thumbnail")
def thumbnail_study(request: Request, who: Viewer, room: InRoom, study: StudyUID) -> Response:
    """A small picture of a study."""
    return _middle(request, room, who, Wanted(study), "", "128,128")


@router.get("/studies/{study}/series/{series}/thumbnail")
def thumbnail_series(
    request: Request, who: Viewer, room: InRoom, study: StudyUID, series: StudyUID
) -> Response:
    """A small picture of a series."""
    return _middle(request, room, who, Wanted(study, series), "", "128,128")


def _middle(
    request: Request, room: InRoom, who: Viewer, wanted: Wanted, window: str, viewport: str
) -> Response:
    found = find(room, who, wanted)
    images = [item for item in found if not item.own] or found
    holding = with_syntax(room, images[len(images) // 2])
    pixels = open_pixels(room, holding)
    how = Picture(parse_window(window), parse_viewport(viewport))
    return _picture(request, pixels, pixels.frames // 2, how)


def _picture(request: Request, pixels: Pixels, index: int, wanted: Picture) -> Response:
    for item in accepted(request.headers.get("accept", "")):
        for kind in ("image/jpeg", "image/png"):
            if not item.multipart and item.takes(kind):
                return Response(picture_of(pixels, index, wanted, kind), media_type=kind)
    raise NotAcceptableError("a picture is to be had as image/jpeg or image/png")


def _form(pixels: Pixels, ranges: list[Accepted]) -> tuple[str, bool]:
    """The media type of a frame's part, and whether it is given as it is stored.

    Raises:
        NotAcceptableError: in none of the forms that are accepted.
    """
    stored = pixels.holding.transfer_syntax_uid
    image = OF_SYNTAX.get(stored) if pixels.encapsulated else None
    for item in ranges:
        if not item.multipart and item.kind != "*/*":
            continue
        named = item.syntax in {ANY_SYNTAX, stored}
        by_name = image is not None and item.kind not in {OCTETS, "*/*"} and item.takes(image)
        if by_name and (named or not item.syntax):
            return f"{image}; transfer-syntax={stored}", True
        if not item.takes(OCTETS):
            continue
        if named and pixels.encapsulated:
            return f"{image or OCTETS}; transfer-syntax={stored}", True
        if item.syntax in {"", ANY_SYNTAX, ExplicitVRLittleEndian} or named:
            return OCTETS, False
    raise NotAcceptableError(
        f'frames are to be had as multipart/related; type="{OCTETS}", without compression or '
        f"with transfer-syntax={stored}"
    )
