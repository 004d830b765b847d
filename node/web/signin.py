"""Signing in and out, and the first account. The pages show the forms; these take them."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated
from urllib.parse import urlencode, urlsplit

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import RedirectResponse

from core.errors import AccountError, ForbiddenError, NotSignedInError, TooManyTriesError
from node.web.access import Viewer, address_of, cookie_name, same_site, who_asks
from node.web.audit import Happening, Outcome
from node.web.passwords import (
    account_name,
    digest_of,
    hash_password,
    is_outdated,
    is_password,
    new_secret,
)
from node.web.room import InRoom, Room

# So many failures are free; after that each makes the next try wait twice as long.
_FREE_BY_NAME_AND_ADDRESS, _FREE_BY_ADDRESS, _FREE_BY_NAME = 5, 20, 50
_LONGEST_WAIT = timedelta(minutes=15)
# A name alone waits shortly: else anybody could lock its owner out.
_LONGEST_WAIT_BY_NAME = timedelta(minutes=1)

router = APIRouter(include_in_schema=False)


def begin_session(room: Room, address: str, name: str, password: str) -> str:
    """Sign somebody in; the secret for their cookie.

    Raises:
        NotSignedInError: name or password are wrong, or the account is locked.
        TooManyTriesError: it failed too often.
    """
    now = room.now()
    name = name.strip().lower()[:64]
    keys = (f"both:{name}:{address}"[:128], f"address:{address}"[:128], f"name:{name}")
    with room.ledger.read() as work:
        until = work.throttle.blocked_until(keys, now)
        found = work.accounts.password_hash(name)
    if until is not None:
        wait = max(1, round((until - now).total_seconds()))
        raise TooManyTriesError(f"too many tries; try again in {wait} s", wait)
    right = is_password(found[1] if found else None, password)
    if not right or found is None or found[0].disabled:
        with room.ledger.write() as work:
            work.throttle.failed(keys[0], _FREE_BY_NAME_AND_ADDRESS, _LONGEST_WAIT, now)
            work.throttle.failed(keys[1], _FREE_BY_ADDRESS, _LONGEST_WAIT, now)
            work.throttle.failed(keys[2], _FREE_BY_NAME, _LONGEST_WAIT_BY_NAME, now)
        room.audit.note(Happening.SIGN_IN, name, address=address, outcome=Outcome.REFUSED)
        raise NotSignedInError("name or password is wrong")
    room.audit.note(Happening.SIGN_IN, name, address=address)
    account, earlier = found
    newer = hash_password(password, 1) if is_outdated(earlier) else None
    with room.ledger.write() as work:
        if newer is not None:
            work.accounts.rehashed(name, earlier, newer)
        # the address's count stays: one right password is no excuse for trying others' names
        work.throttle.well((keys[0], keys[2]), now)
        secret = new_secret()
        ends = now + timedelta(hours=room.settings.web.session_hours)
        work.accounts.begin_session(account.id, digest_of(secret), now, ends)
    return secret


def _from_our_form(request: Request, room: InRoom) -> None:
    same_site(request, room)


@router.post("/sign-in", dependencies=[Depends(_from_our_form)])
def sign_in(
    request: Request,
    room: InRoom,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",
) -> RedirectResponse:
    """Take the sign-in form; go on to `next`, or back to the form with what was wrong."""
    try:
        secret = begin_session(room, address_of(request), name, password)
    except NotSignedInError:
        return _back("/sign-in", problem="wrong", next=local(next))
    except TooManyTriesError as error:
        return _back("/sign-in", problem="wait", seconds=str(error.wait_seconds), next=local(next))
    return _signed_in(room, secret, local(next))


@router.post("/sign-out")
def sign_out(request: Request, room: InRoom, who: Viewer) -> RedirectResponse:
    """End the session."""
    if who.session_id is not None:
        with room.ledger.write() as work:
            work.accounts.end_session(who.session_id)
        room.audit.note(Happening.SIGN_OUT, who.name, address=who.address)
    answer = RedirectResponse("/sign-in", status_code=303)
    answer.delete_cookie(cookie_name(room), path="/", secure=room.settings.web.secure)
    return answer


@router.post("/set-up", dependencies=[Depends(_from_our_form)])
def set_up(
    request: Request,
    room: InRoom,
    key: Annotated[str, Form()] = "",
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
) -> RedirectResponse:
    """Take the form of the one-time link: make the first administrator, and sign them in."""
    if not room.set_up.fits(key):
        raise ForbiddenError("this link was used, or is not the newest one")
    try:
        account = account_name(name)
        password_hash = hash_password(password, room.settings.web.password_length)
        with room.ledger.write() as work:
            work.accounts.add_first(account, password_hash, room.now())
    except AccountError as error:
        return _back("/set-up", key=key, problem=str(error))
    room.set_up.used()
    room.audit.note(
        Happening.USERS,
        account,
        address=address_of(request),
        subject=f"user:{account}",
        detail="first administrator made",
    )
    secret = begin_session(room, address_of(request), account, password)
    return _signed_in(room, secret, "/")


@router.post("/password")
def change_password(
    request: Request,
    room: InRoom,
    who: Viewer,
    earlier: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
) -> RedirectResponse:
    """Take the form with which somebody changes their own password; they sign in again."""
    if who.by != "session":
        raise ForbiddenError("a password is changed in the browser, or by `sentinode user passwd`")
    try:
        begin_session(room, who.address, who.name, earlier)
        password_hash = hash_password(password, room.settings.web.password_length)
    except (NotSignedInError, TooManyTriesError, AccountError) as error:
        return _back("/account", problem=str(error))
    with room.ledger.write() as work:
        work.accounts.set_password(who.name, password_hash)
    room.audit.note(
        Happening.USERS,
        who.name,
        address=who.address,
        subject=f"user:{who.name}",
        detail="password changed",
    )
    return RedirectResponse("/sign-in?problem=changed", status_code=303)


def local(path: str) -> str:
    """A path of ours to go on to; anything else leads to the first page."""
    parts = urlsplit(path)
    plain = path.startswith("/") and not path.startswith(("//", "/\\"))
    if not plain or parts.netloc or any(character < " " for character in path):
        return "/"
    return path


def _signed_in(room: Room, secret: str, path: str) -> RedirectResponse:
    answer = RedirectResponse(path, status_code=303)
    answer.set_cookie(
        cookie_name(room),
        secret,
        path="/",
        httponly=True,
        samesite="lax",
        secure=room.settings.web.secure,
    )
    return answer


def _back(path: str, **query: str) -> RedirectResponse:
    return RedirectResponse(f"{path}?{urlencode(query)}", status_code=303)


def signed_in_already(request: Request, room: InRoom) -> bool:
    """Whether somebody is signed in, for pages that differ then."""
    return who_asks(request, room) is not None
