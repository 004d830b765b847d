"""Who may use the web pages and the HTTP interface: people, their sessions, tokens of programs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Role(StrEnum):
    """What a person or a program may do; each may do all that the one before may.

    viewer: look at studies, jobs and results.
    operator: also decide about the work: retry, cancel, send again, resolve a conflict.
    administrator: also what concerns the node: users, pausing destinations, settings.
    """

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"

    def may(self, needed: Role) -> bool:
        """Whether this role includes `needed`."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


def lesser(one: Role, other: Role) -> Role:
    """The one of two roles that may do less."""
    return other if one.may(other) else one


@dataclass(frozen=True, slots=True)
class Account:
    """A person who may sign in.

    Attributes:
        name: in lower case, as it is typed at the sign-in.
        disabled: neither sign-in nor tokens work.
        last_sign_in_at: None before the first.
    """

    id: int
    name: str
    role: Role
    created_at: datetime
    disabled: bool = False
    last_sign_in_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class WebSession:
    """A signed-in browser.

    Attributes:
        id: of its row; says nothing about its secret.
        role: the account's.
        expires_at: the latest moment at which it ends, used or not.
    """

    id: int
    account: Account
    began_at: datetime
    seen_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A program's token. Its secret was shown once and is kept only as a digest.

    Attributes:
        role: what it may do at most; its account's role bounds it too.
        revoked_at: None while it works.
        expires_at: None for one without an end.
    """

    id: int
    account: str
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
