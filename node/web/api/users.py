"""Accounts and tokens. An administrator's, but for one's own tokens."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import AfterValidator, BaseModel, Field, SecretStr

from core.accounts import Account, ApiToken, Role
from core.errors import ForbiddenError, NotFoundError
from node.web import actions
from node.web.access import Administrator, Viewer, Who
from node.web.api.shapes import Moment, Name, no_nul
from node.web.room import InRoom

router = APIRouter(tags=["users"])

_Text = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(no_nul)]


class NewAccount(BaseModel):
    """An account to be made."""

    name: Annotated[str, Field(max_length=63)]
    role: Role = Role.VIEWER
    password: SecretStr


class AccountChange(BaseModel):
    """What to change of an account; what is left out stays."""

    role: Role | None = None
    password: SecretStr | None = None
    disabled: bool | None = None


class NewToken(BaseModel):
    """A token to be made; of one's own account where none is named."""

    name: _Text
    role: Role = Role.VIEWER
    account: Annotated[str, Field(max_length=63), AfterValidator(no_nul)] | None = None
    expires_at: Moment | None = None


class MadeToken(BaseModel):
    """A token and its secret, which is shown this once."""

    token: ApiToken
    secret: str


class Myself(BaseModel):
    """Who asks."""

    name: str
    role: Role
    by: str


@router.get("/me")
def me(who: Viewer) -> Myself:
    """Who asks, and what they may."""
    return Myself(name=who.name, role=who.role, by=who.by)


@router.get("/users")
def list_users(_: Administrator, room: InRoom) -> list[Account]:
    """Every account."""
    with room.ledger.read() as work:
        return work.accounts.all()


@router.post("/users", status_code=201)
def add_user(who: Administrator, room: InRoom, body: NewAccount) -> Account:
    """Make an account."""
    return actions.add_user(room, who, body.name, body.role, body.password.get_secret_value())


@router.patch("/users/{name}")
def change_user(who: Administrator, room: InRoom, name: Name, body: AccountChange) -> Account:
    """Change an account. With another password, or disabled, its sessions end."""
    password = body.password.get_secret_value() if body.password is not None else None
    return actions.change_user(
        room, who, name, role=body.role, password=password, disabled=body.disabled
    )


@router.get("/tokens")
def list_tokens(who: Viewer, room: InRoom) -> list[ApiToken]:
    """Tokens: an administrator sees all, others their own."""
    with room.ledger.read() as work:
        return work.accounts.tokens(None if who.role.may(Role.ADMINISTRATOR) else who.name)


@router.post("/tokens", status_code=201)
def add_token(who: Viewer, room: InRoom, body: NewToken) -> MadeToken:
    """Make a token; its secret is in this answer and nowhere else."""
    account = body.account or who.name
    _own_or_administrator(who, account)
    if not who.role.may(body.role):
        raise ForbiddenError(f"{who.name} is {who.role} here and cannot make a token for more")
    made, secret = actions.add_token(room, who, account, body.name, body.role, body.expires_at)
    return MadeToken(token=made, secret=secret)


@router.delete("/tokens/{number}")
def revoke_token(
    who: Viewer, room: InRoom, number: Annotated[int, Path(ge=1, lt=2**63)]
) -> ApiToken:
    """End a token."""
    with room.ledger.read() as work:
        owner = next((item.account for item in work.accounts.tokens() if item.id == number), None)
    if owner is None or (owner != who.name and not who.role.may(Role.ADMINISTRATOR)):
        raise NotFoundError(f"no token has the number {number}")
    return actions.revoke_token(room, who, number)


def _own_or_administrator(who: Who, account: str) -> None:
    if who.role.may(Role.ADMINISTRATOR):
        return
    if account != who.name:
        raise ForbiddenError("only an administrator makes tokens of others")
    if who.by == "token":
        raise ForbiddenError("a token makes no tokens; sign in")
