"""DICOMweb (PS3.18) over what the node holds: QIDO-RS and WADO-RS. Our results are in it.

`query` finds, `retrieve` gives whole objects, `pixels` frames and pictures of them, `describe`
metadata and bulk data. `media` reads what the client accepts, `files` opens what is stored.
"""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware

from core.settings import Settings
from node.web.dicomweb.describe import router as describe
from node.web.dicomweb.media import PREFIX
from node.web.dicomweb.pixels import router as pixels
from node.web.dicomweb.query import router as query
from node.web.dicomweb.retrieve import router as retrieve


def add_to(app: FastAPI, settings: Settings) -> None:
    """Add the services to the application."""
    router = APIRouter(prefix=PREFIX, include_in_schema=False)
    for part in (query, describe, pixels, retrieve):
        router.include_router(part)
    app.include_router(router)
    if settings.web.origins:
        # a viewer elsewhere sends a token: cookies are never taken from another site
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.web.origins),
            allow_methods=["GET"],
            allow_headers=["Authorization", "Accept"],
            allow_credentials=False,
        )
