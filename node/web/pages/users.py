"""Users and tokens, and the audit trail; for administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from core.accounts import Role
from core.errors import AccountError
from node.web import actions
from node.web.access import Administrator
from node.web.audit import Happening
from node.web.pages.audit_lines import AuditLine, read_audit
from node.web.pages.rendering import back, render
from node.web.room import InRoom

router = APIRouter()

_NEWEST = 300


@router.get("/users")
def users(request: Request, room: InRoom, who: Administrator) -> Response:
    """All accounts and tokens."""
    with room.ledger.read() as work:
        accounts, tokens = work.accounts.all(), work.accounts.tokens()
    return render(
        request,
        who,
        "users.html",
        accounts=accounts,
        tokens=tokens,
        roles=tuple(Role),
        least=room.settings.web.password_length,
        secret="",
    )


@router.post("/users")
def add(
    room: InRoom,
    who: Administrator,
    name: Annotated[str, Form()] = "",
    role: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
) -> Response:
    """Make an account."""
    try:
        actions.add_user(room, who, name, _role(role), password)
    except AccountError as error:
        return back("/users", problem=str(error))
    return back("/users", done="user_added")


@router.post("/users/{name}")
def change(
    room: InRoom,
    who: Administrator,
    name: str,
    what: Annotated[str, Form()] = "",
    role: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
) -> Response:
    """Change a role or a password, or whether somebody is let in."""
    try:
        if what == "role":
            actions.change_user(room, who, name, role=_role(role))
        elif what == "password":
            actions.change_user(room, who, name, password=password)
        elif what in {"disable", "enable"}:
            actions.change_user(room, who, name, disabled=what == "disable")
        else:
            return back("/users", done="nothing")
    except AccountError as error:
        return back("/users", problem=str(error))
    return back("/users", done="user_changed")


@router.post("/tokens")
def add_token(
    request: Request,
    room: InRoom,
    who: Administrator,
    account: Annotated[str, Form()] = "",
    label: Annotated[str, Form()] = "",
    role: Annotated[str, Form()] = "",
) -> Response:
    """Make a token; its secret is shown this once."""
    try:
        _, secret = actions.add_token(room, who, account, label, _role(role))
    except AccountError as error:
        return back("/users", problem=str(error))
    with room.ledger.read() as work:
        accounts, tokens = work.accounts.all(), work.accounts.tokens()
    return render(
        request,
        who,
        "users.html",
        accounts=accounts,
        tokens=tokens,
        roles=tuple(Role),
        least=room.settings.web.password_length,
        secret=secret,
    )


@router.post("/tokens/{token_id}/revoke")
def revoke(room: InRoom, who: Administrator, token_id: int) -> Response:
    """End a token."""
    actions.revoke_token(room, who, token_id)
    return back("/users", done="token_revoked")


@router.get("/audit")
def audit(request: Request, room: InRoom, who: Administrator) -> Response:
    """The newest lines of this node's audit trail."""
    room.audit.note(Happening.READ_AUDIT, who.name, address=who.address)
    lines: list[AuditLine] = read_audit(room.audit.newest(_NEWEST))
    return render(request, who, "audit.html", lines=lines)


def _role(name: str) -> Role:
    try:
        return Role(name)
    except ValueError as error:
        raise AccountError(f"there is no role {name!r}") from error
