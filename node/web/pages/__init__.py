"""The pages. `add_to` puts their routers, and the page that shows errors, into the application.

A page reads one model from the ledger, gives it to a template, and decides nothing. What changes
something is a form; it works without scripts. Scripts make the pages live and draw the images.
"""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from node.web.pages.access import router as access
from node.web.pages.headers import router as headers
from node.web.pages.models import router as models
from node.web.pages.peers import router as peers
from node.web.pages.preferences import router as preferences
from node.web.pages.rendering import error_page
from node.web.pages.routes import router as routes
from node.web.pages.settings import router as settings
from node.web.pages.studies import router as studies
from node.web.pages.system import router as system
from node.web.pages.users import router as users
from node.web.pages.viewer import router as viewer
from node.web.pages.worklist import router as worklist

_ROUTERS: tuple[APIRouter, ...] = (
    access,
    headers,
    models,
    peers,
    preferences,
    routes,
    settings,
    studies,
    system,
    users,
    viewer,
    worklist,
)


def add_to(app: FastAPI) -> None:
    """Add the pages to the application."""
    for router in _ROUTERS:
        app.include_router(router, include_in_schema=False)
    app.state.error_page = error_page
