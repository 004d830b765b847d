"""Routes: what they want, and how a new one would fare with what is stored already."""

from __future__ import annotations

import tomllib
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from core.errors import SettingsError
from core.settings import Route, Rule
from node.web import actions
from node.web.access import Operator, Viewer, Who
from node.web.pages.checking import settings_of
from node.web.pages.rendering import render
from node.web.room import InRoom, Room

router = APIRouter()

_MOST_SERIES = 300
_SAMPLE = """[[routes]]
name = "brain-flair"
model = "mr-flair-glioma"
min_instances = 5
[routes.match]
Modality = "MR"
SeriesDescription = { regex = "(?i)flair" }
"""


@router.get("/routes")
def routes(request: Request, room: InRoom, who: Viewer, route: str = "") -> Response:
    """The routes of the settings."""
    return _page(request, room, who, text=_as_toml(room, route) or _SAMPLE)


@router.post("/routes/try")
def try_route(
    request: Request, room: InRoom, who: Operator, text: Annotated[str, Form()] = ""
) -> Response:
    """Hold a route against the newest stored series. Nothing is made of it."""
    text = text[:100_000]
    try:
        route = _route(room, text)
    except SettingsError as error:
        return _page(request, room, who, text=text, faults=error.faults, status=422)
    return _page(
        request,
        room,
        who,
        text=text,
        tried=actions.try_route(room, route, _MOST_SERIES),
        route=route,
    )


def _page(
    request: Request,
    room: Room,
    who: Who,
    *,
    text: str,
    faults: list[str] | None = None,
    tried: list[actions.Tried] | None = None,
    route: Route | None = None,
    status: int = 200,
) -> Response:
    return render(
        request,
        who,
        "routes.html",
        status,
        routes=room.settings.routes,
        destinations=room.settings.destinations,
        rule_text=rule_text,
        text=text,
        faults=faults or [],
        tried=tried,
        route=route,
        matched=[item for item in tried or [] if item.decision.matched],
        missed=[item for item in tried or [] if not item.decision.matched],
    )


def _route(room: Room, text: str) -> Route:
    """The one route of a piece of a settings file, checked as the whole file would be.

    Raises:
        SettingsError: with every fault.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError("routes", [f"not valid TOML: {error}"]) from error
    found = raw.get("routes")
    if not isinstance(found, list) or len(found) != 1 or set(raw) != {"routes"}:
        raise SettingsError("routes", ["write exactly one [[routes]] and nothing else"])
    running = room.settings.model_dump(mode="json", exclude_unset=True)
    return settings_of({**running, "routes": found}).routes[0]


def rule_text(rule: Rule) -> str:
    """What a rule wants, short."""
    if isinstance(rule, list):
        return " | ".join(str(item) for item in rule)
    if isinstance(rule, str | int | float):
        return str(rule)
    given = rule.model_dump(exclude_none=True)
    if "regex" in given:
        return f"/{given['regex']}/"
    low, high = given.get("min"), given.get("max")
    return f"{'' if low is None else f'{low:g}'} … {'' if high is None else f'{high:g}'}".strip()


def _as_toml(room: Room, name: str) -> str:
    import tomli_w  # noqa: PLC0415 - only to begin a trial with a route that there is

    found = next((item for item in room.settings.routes if item.name == name), None)
    if found is None:
        return ""
    content: dict[str, Any] = found.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    return tomli_w.dumps({"routes": [content]})
