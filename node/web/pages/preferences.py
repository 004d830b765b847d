"""Language and colours, kept in cookies of the browser."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import RedirectResponse

from node.web.pages.rendering import THEME_COOKIE, THEMES
from node.web.pages.words import LANGUAGE_COOKIE, LANGUAGES
from node.web.room import InRoom
from node.web.signin import local

router = APIRouter()

_YEAR = 365 * 24 * 3600


@router.get("/preferences")
def choose(room: InRoom, language: str = "", theme: str = "", next: str = "/") -> RedirectResponse:
    """Keep a choice and go back to where it was made. Nothing else is changed by it."""
    answer = RedirectResponse(local(next), status_code=303)
    chosen = {
        LANGUAGE_COOKIE: language if language in LANGUAGES else "",
        THEME_COOKIE: theme if theme in THEMES else "",
    }
    for name, value in chosen.items():
        if value:
            answer.set_cookie(
                name,
                value,
                max_age=_YEAR,
                path="/",
                samesite="lax",
                secure=room.settings.web.secure,
            )
    return answer
