"""Who asks, and what they may: by a browser's session, or by a program's token.

A handler says what it needs::

    @router.get("/things")
    def things(who: Viewer, room: InRoom) -> …

`Viewer`, `Operator` and `Administrator` refuse everybody below, and, for requests that change
something, those of a session that do not carry its form token (a hidden field `csrf`, or the
header X-CSRF-Token) or come from another site. Tokens need neither: no browser adds them by itself.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from core.accounts import Role
from core.errors import ForbiddenError, NotSignedInError
from node.web.passwords import TOKEN_PREFIX, digest_of, form_token
from node.web.room import Room, the_room

FORM_FIELD = "csrf"
FORM_HEADER = "x-csrf-token"
_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


@dataclass(frozen=True, slots=True)
class Who:
    """Who asks.

    Attributes:
        name: the account's.
        role: what they may do now.
        by: "session", or "token".
        csrf: what a form must carry; empty with a token.
        session_id: of the session's row; None with a token.
        address: where the request came from.
    """

    name: str
    role: Role
    by: str
    address: str
    csrf: str = ""
    session_id: int | None = None

    @property
    def actor(self) -> str:
        """How the ledger's events call them; at most 64 characters."""
        return f"web:{self.name}"[:64]


def cookie_name(room: Room) -> str:
    """The cookie's name; with TLS one that browsers take from this very host only."""
    return "__Host-sentinode" if room.settings.web.secure else "sentinode"


def address_of(request: Request) -> str:
    """Where a request came from; behind a proxy, where the proxy says."""
    return request.client.host if request.client else ""


def who_asks(request: Request, room: Room) -> Who | None:
    """Who asks; None when nobody is signed in, or the token does not work."""
    header = request.headers.get("authorization", "")
    scheme, _, secret = header.partition(" ")
    if header:
        return _by_token(request, room, secret.strip()) if scheme.lower() == "bearer" else None
    secret = request.cookies.get(cookie_name(room), "")
    return _by_session(request, room, secret) if secret else None


def _by_token(request: Request, room: Room, secret: str) -> Who | None:
    if not secret.startswith(TOKEN_PREFIX):
        return None
    now = room.now()
    with room.ledger.read() as work:
        found = work.accounts.token(digest_of(secret), now)
    if found is None:
        return None
    token, role = found
    if work.accounts.worth_noting(token.last_used_at, now):
        with room.ledger.write() as work:
            work.accounts.token_used(token.id, now)
    return Who(token.account, role, "token", address_of(request))


def _by_session(request: Request, room: Room, secret: str) -> Who | None:
    now, idle = room.now(), timedelta(minutes=room.settings.web.idle_minutes)
    with room.ledger.read() as work:
        session = work.accounts.session(digest_of(secret), now, idle)
    if session is None:
        return None
    if work.accounts.worth_noting(session.seen_at, now):
        with room.ledger.write() as work:
            work.accounts.seen(session.id, now)
    return Who(
        session.account.name,
        session.account.role,
        "session",
        address_of(request),
        form_token(secret),
        session.id,
    )


async def current_user(request: Request, room: Annotated[Room, Depends(the_room)]) -> Who:
    """Who asks.

    Raises:
        NotSignedInError: nobody is signed in, or the token does not work.
    """
    who = await run_in_threadpool(who_asks, request, room)
    if who is None:
        raise NotSignedInError("sign in, or send a token that works")
    request.state.who = who
    return who


async def from_our_page(request: Request, who: Who, room: Room) -> None:
    """See that a request that changes something came from our own page.

    Raises:
        ForbiddenError: it did not, or lacks the form token.
    """
    if request.method in _HARMLESS or who.by == "token":
        return
    same_site(request, room)
    given = request.headers.get(FORM_HEADER, "")
    if not given and request.headers.get("content-type", "").startswith(_FORMS):
        value = (await request.form()).get(FORM_FIELD)
        given = value if isinstance(value, str) else ""
    if not hmac.compare_digest(given.encode(), who.csrf.encode()):
        raise ForbiddenError("the form's token is missing or old; load the page anew")


def same_site(request: Request, room: Room) -> None:
    """See that a browser sent a request from our own page, as far as it says.

    Raises:
        ForbiddenError: it says otherwise.
    """
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    # a proxy may have put its own name in the place of the one that the browser knows
    hosts = {request.headers.get("host", ""), urlsplit(room.settings.web.url).netloc}
    if site not in {"same-origin", "none"} or (origin and urlsplit(origin).netloc not in hosts):
        raise ForbiddenError("the request came from another site")


def require(role: Role) -> Callable[..., Awaitable[Who]]:
    """A dependency that lets those pass who have at least `role`."""

    async def dependency(
        request: Request,
        who: Annotated[Who, Depends(current_user)],
        room: Annotated[Room, Depends(the_room)],
    ) -> Who:
        if not who.role.may(role):
            raise ForbiddenError(f"this needs the role {role}; {who.name} has {who.role}")
        await from_our_page(request, who, room)
        return who

    return dependency


Viewer = Annotated[Who, Depends(require(Role.VIEWER))]
Operator = Annotated[Who, Depends(require(Role.OPERATOR))]
Administrator = Annotated[Who, Depends(require(Role.ADMINISTRATOR))]
