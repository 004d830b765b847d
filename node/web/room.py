"""What a request's handler gets: settings, ledger, store, and what stands around them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi.templating import Jinja2Templates

from core import clock
from core.ledger import Ledger
from core.modelspec import ModelSpec
from core.settings import Settings
from core.store import Store
from node.web.audit import Audit
from node.web.changes import Changes

FOLDER = Path(__file__).resolve().parent


class SetUp:
    """The one-time link that makes the first account; it is forgotten when it was used."""

    def __init__(self) -> None:
        self._secret: str | None = None

    def new_link(self, base: str) -> str:
        """A link; an earlier one no longer works."""
        self._secret = secrets.token_urlsafe(32)
        return f"{base}/set-up?key={self._secret}"

    def fits(self, key: str) -> bool:
        """Whether `key` is that of the link."""
        return self._secret is not None and secrets.compare_digest(
            self._secret.encode(), key.encode()
        )

    def used(self) -> None:
        """The link has done its work."""
        self._secret = None


@dataclass(frozen=True)
class Room:
    """Shared by all requests of the process.

    Attributes:
        now: the time; tests give their own.
        changes: tells open pages what changed.
        specs: the installed models, by name.
    """

    settings: Settings
    ledger: Ledger
    store: Store
    specs: Mapping[str, ModelSpec]
    audit: Audit
    changes: Changes
    templates: Jinja2Templates
    now: Callable[[], datetime] = clock.now
    set_up: SetUp = field(default_factory=SetUp)


def the_room(request: Request) -> Room:
    """The room of the application that serves `request`."""
    room = request.app.state.room
    assert isinstance(room, Room)
    return room


InRoom = Annotated[Room, Depends(the_room)]
