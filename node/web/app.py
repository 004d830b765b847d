"""The application: everything that speaks HTTP, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from fastapi import FastAPI
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.staticfiles import StaticFiles

from core import __version__, clock
from core.ledger import Ledger
from core.modelspec import find_specs
from core.settings import Settings
from core.store import Store
from node.web import api, dicomweb, health, pages, problems, signin
from node.web.audit import Audit
from node.web.changes import Changes
from node.web.room import FOLDER, Room
from node.web.shield import Shield


def make_app(
    settings: Settings,
    ledger: Ledger,
    store: Store,
    now: Callable[[], datetime] = clock.now,
) -> FastAPI:
    """The application over one ledger and store. `app.state.room` is what its handlers get."""
    room = Room(
        settings=settings,
        ledger=ledger,
        store=store,
        specs=find_specs(settings.models.folders),
        audit=Audit(settings, now),
        changes=Changes(ledger),
        templates=_templates(),
        now=now,
    )

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await room.changes.close()
        room.audit.close()

    app = FastAPI(
        title="Sentinode",
        version=__version__,
        # the pages for trying it out load scripts from elsewhere
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=life,
    )
    app.state.room = room
    problems.add_to(app)
    app.include_router(health.router)
    app.include_router(signin.router)
    api.add_to(app)
    dicomweb.add_to(app, settings)
    pages.add_to(app)
    static = FOLDER / "static"
    app.mount("/static", StaticFiles(directory=static, check_dir=False), name="static")
    app.add_middleware(Shield, settings=settings.web)
    return app


def _templates() -> Jinja2Templates:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,  # whatever an image's header says is text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return Jinja2Templates(env=environment)
