"""The pages. `add_to` puts their routers, and the page that shows errors, into the application.

A page reads one model from the ledger, gives it to a template, and decides nothing. What changes
something is a form; it works without scripts. Scripts make the pages live and draw the images.
"""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from node.web.pages import (
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
from node.web.pages.rendering import error_page

_ROUTERS: tuple[APIRouter, ...] = (
    access.router,
    headers.router,
    models.router,
    peers.router,
    preferences.router,
    routes.router,
    settings.router,
    studies.router,
    system.router,
    users.router,
    viewer.router,
    worklist.router,
)


def add_to(app: FastAPI) -> None:
    """Add the pages to the application."""
    for router in _ROUTERS:
        app.include_router(router, include_in_schema=False)
    app.state.error_page = error_page
