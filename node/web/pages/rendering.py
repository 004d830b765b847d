"""From a template and what it shows to an answer; what every page shares."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from starlette.responses import RedirectResponse, Response

from core import __version__
from core.accounts import Role
from core.errors import NotFoundError, SentinodeError
from node.web.access import Who, who_asks
from node.web.pages.formats import FILTERS
from node.web.pages.words import LANGUAGES, language_of, said, speaker
from node.web.room import Room, the_room

THEME_COOKIE = "sentinode-theme"
THEMES = ("auto", "light", "dark")
# What a page says after an action, by the key that the redirect carries.
DONE = "done"
PROBLEM = "problem"
_LONGEST_PROBLEM = 400


def render(
    request: Request,
    who: Who | None,
    template: str,
    status: int = 200,
    **context: Any,
) -> Response:
    """A page. `who` is None only before the sign-in."""
    room = the_room(request)
    language = language_of(request)
    theme = request.cookies.get(THEME_COOKIE, "auto")
    say = speaker(language)
    shared = {
        "t": say,
        "language": language,
        "languages": LANGUAGES,
        "words": said(language, "script"),
        "theme": theme if theme in THEMES else "auto",
        "themes": THEMES,
        "who": who,
        "may_operate": who is not None and who.role.may(Role.OPERATOR),
        "may_administer": who is not None and who.role.may(Role.ADMINISTRATOR),
        "csrf": who.csrf if who is not None else "",
        "here": _here(request),
        "path": request.url.path,
        "now": room.now(),
        "version": __version__,
        "node_title": room.settings.node.ae_title,
        "notice": notice(request, say),
        "problem": request.query_params.get(PROBLEM, "")[:_LONGEST_PROBLEM],
        "query_with": lambda **changes: query_with(request, **changes),
    }
    environment = room.templates.env
    if "span" not in environment.filters:
        environment.filters.update(FILTERS)
    return room.templates.TemplateResponse(
        request, template, {**shared, **context}, status_code=status
    )


def notice(request: Request, say: Any) -> str:
    """What was done before the redirect to this page, if it is something that we say."""
    key = request.query_params.get(DONE, "")
    number = request.query_params.get("n", "")
    try:
        return str(say(f"done.{key}", n=number if number.isdigit() else "")) if key else ""
    except KeyError:
        return ""


def back(path: str, **query: str | int) -> RedirectResponse:
    """After a form: to a page of ours, with what became of it."""
    base, _, kept = path.partition("?")
    old = [pair for pair in kept.split("&") if pair and not pair.startswith((DONE, PROBLEM, "n="))]
    text = "&".join([*old, urlencode(query)]) if query else "&".join(old)
    return RedirectResponse(f"{base}?{text}" if text else base, status_code=303)


def query_with(request: Request, **changes: str | None) -> str:
    """This page's query with other values; None takes a key away."""
    kept = [
        (key, value)
        for key, value in request.query_params.multi_items()
        if key not in changes and key not in {DONE, PROBLEM, "n"}
    ]
    kept += [(key, value) for key, value in changes.items() if value]
    return f"?{urlencode(kept)}" if kept else "?"


def error_page(request: Request, status: int, title: str, detail: str, remedy: str) -> Response:
    """An error as a page for people."""
    try:
        who = who_asks(request, the_room(request))
    except SentinodeError:  # the ledger is away: the page says so, without a name on it
        who = None
    return render(
        request, who, "error.html", status, code=status, title=title, detail=detail, remedy=remedy
    )


def not_found(what: str) -> NotFoundError:
    """A page that there is not."""
    return NotFoundError(what)


def _here(request: Request) -> str:
    """This page, for a link that comes back to it."""
    path = quote(request.url.path)
    return path + query_with(request) if request.query_params else path


def study_room(request: Request) -> Room:
    """The room of a request, for helpers that have no dependency."""
    return the_room(request)
