"""The settings as they run, and a check of a changed file before the restart."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request, UploadFile
from starlette.responses import Response

from core.settings import Settings
from node.web.access import Administrator, Operator, Who
from node.web.pages.checking import Checked, check, values_of
from node.web.pages.rendering import render
from node.web.room import InRoom, Room

router = APIRouter()

_MOST_BYTES = 512 * 1024


@router.get("/settings")
def settings(request: Request, room: InRoom, who: Operator) -> Response:
    """What is set; secrets are hidden."""
    return _page(request, room, who)


@router.post("/settings")
def check_settings(
    request: Request,
    room: InRoom,
    who: Administrator,
    text: Annotated[str, Form()] = "",
    file: UploadFile | None = None,
) -> Response:
    """Check a pasted or uploaded file. Nothing is written."""
    fault = ""
    if file is not None and file.filename:
        try:
            text = file.file.read(_MOST_BYTES).decode("utf-8")
        except UnicodeDecodeError:
            fault = "the file is no UTF-8 text"
    checked = Checked((fault,)) if fault else check(text[:_MOST_BYTES], room.settings)
    return _page(request, room, who, text=text, checked=checked)


def _page(
    request: Request, room: Room, who: Who, text: str = "", checked: Checked | None = None
) -> Response:
    sections: dict[str, list[tuple[str, str, str]]] = {}
    for key, value in values_of(room.settings):
        section, _, rest = key.partition(".")
        sections.setdefault(section, []).append((rest, value, _described(section, rest)))
    status = 422 if checked is not None and checked.faults else 200
    return render(
        request, who, "settings.html", status, sections=sections, text=text, checked=checked
    )


def _described(section: str, key: str) -> str:
    """What a key is for, where it is one of a plain section."""
    field = Settings.model_fields.get(section)
    inner = getattr(field.annotation, "model_fields", {}) if field is not None else {}
    found = inner.get(key)
    return str(found.description or "") if found is not None else ""
