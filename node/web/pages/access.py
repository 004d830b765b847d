"""The forms of the sign-in, of the one-time set-up link, and of one's own account."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from node.web.access import Viewer
from node.web.pages.rendering import render
from node.web.room import InRoom
from node.web.signin import local, signed_in_already

router = APIRouter()


@router.get("/sign-in")
def sign_in(
    request: Request, room: InRoom, next: str = "/", problem: str = "", seconds: str = ""
) -> Response:
    """The sign-in form."""
    if not problem and signed_in_already(request, room):
        return RedirectResponse(local(next), status_code=303)
    return render(
        request,
        None,
        "sign_in.html",
        status=200,
        next=local(next),
        what=problem if problem in {"wrong", "wait", "changed"} else "",
        seconds=seconds if seconds.isdigit() else "",
    )


@router.get("/set-up")
def set_up(request: Request, room: InRoom, key: str = "", problem: str = "") -> Response:
    """The form of the one-time link that makes the first administrator."""
    return render(
        request,
        None,
        "set_up.html",
        key=key,
        fits=room.set_up.fits(key),
        what=problem[:200],
        least=room.settings.web.password_length,
    )


@router.get("/account")
def account(request: Request, room: InRoom, who: Viewer, problem: str = "") -> Response:
    """One's own account: the password and the role."""
    return render(
        request,
        who,
        "account.html",
        what=problem[:200],
        least=room.settings.web.password_length,
    )
