"""The interface for programs, `/api/v1`: REST with OpenAPI, and server-sent events.

Lists are paged by where the last page ended: `after` of an answer is `after` of the next request,
and empty at the end. Errors are application/problem+json. Who asks sends a token
(`Authorization: Bearer …`) or has a session; then what changes something needs X-CSRF-Token.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi

from core import __version__
from node.web.access import Viewer
from node.web.api import events, jobs, node, studies, users
from node.web.api.shapes import PREFIX, PROBLEMS

_SECURITY = {
    "token": {"type": "http", "scheme": "bearer", "description": "`sentinode user token add`"},
    "session": {"type": "apiKey", "in": "cookie", "name": "sentinode"},
}


def add_to(app: FastAPI) -> None:
    """Add the interface to the application."""
    router = APIRouter(prefix=PREFIX, responses=PROBLEMS)
    for part in (studies, jobs, node, users, events):
        router.include_router(part.router)
    app.include_router(router)

    @app.get(f"{PREFIX}/openapi.json", include_in_schema=False)
    def openapi(_: Viewer) -> dict[str, Any]:
        return description(app)


def description(app: FastAPI) -> dict[str, Any]:
    """The interface's OpenAPI document."""
    if app.openapi_schema is None:
        made = get_openapi(
            title="Sentinode",
            version=__version__,
            description=__doc__,
            routes=[*app.routes],
        )
        made.setdefault("components", {})["securitySchemes"] = _SECURITY
        made["security"] = [{"token": []}, {"session": []}]
        app.openapi_schema = made
    return app.openapi_schema
