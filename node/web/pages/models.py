"""Models: their cards, how often they are used, and how long they take."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request
from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.responses import Response

from core.errors import NotFoundError
from core.modelspec import ModelSpec
from node.web.access import Viewer
from node.web.pages.rendering import render
from node.web.room import InRoom

router = APIRouter()

_MOST_BYTES = 256 * 1024
# A card links to files beside it, which are not here.
_BESIDE = re.compile(r"(?<!!)\[([^\]\[]+)\]\((?![a-z][a-z0-9+.-]*:|#|//)[^)\s]*\)", re.IGNORECASE)
_HEADING = re.compile(r"<(/?)h([1-5])>")


@router.get("/models")
def models(request: Request, room: InRoom, who: Viewer) -> Response:
    """The installed models, and those that jobs were made for before."""
    with room.ledger.read() as work:
        names = sorted(set(room.specs) | set(work.browse.choices()["model"]))
        figures = {name: work.figures.model(name) for name in names}
    return render(request, who, "models.html", names=names, specs=room.specs, figures=figures)


@router.get("/models/{name}")
def model(request: Request, room: InRoom, who: Viewer, name: str) -> Response:
    """One model: its card and its specification."""
    spec = room.specs.get(name)
    if spec is None:
        raise NotFoundError(f"no model {name!r} is installed")
    with room.ledger.read() as work:
        figures = work.figures.model(name)
    used_by = [route.name for route in room.settings.routes if route.model == name]
    return render(
        request,
        who,
        "model.html",
        spec=spec,
        figures=figures,
        card=card_of(spec),
        used_by=used_by,
    )


def card_of(spec: ModelSpec) -> Markup | None:
    """The card as HTML; None where the package has none.

    Raw HTML in it is shown as text, links lead only to http and https, and no picture is loaded:
    a package may come from anybody.
    """
    path = spec.folder / "card.md"
    try:
        size = path.stat().st_size
    except OSError:
        return None
    return _rendered(path, size, path.stat().st_mtime_ns)


@lru_cache(64)
def _rendered(path: Path, size: int, changed: int) -> Markup | None:
    """Rendered once for each content of the file."""
    with path.open("rb") as stream:
        text = stream.read(min(size, _MOST_BYTES)).decode("utf-8", errors="replace")
    # its first heading repeats the page's; the others go one level down
    html = _markdown().render(_BESIDE.sub(r"\1", re.sub(r"\A\s*# .*\n", "", text)))
    lower = _HEADING.sub(lambda found: f"<{found[1]}h{int(found[2]) + 1}>", html)
    return Markup(lower)  # noqa: S704 - made by markdown-it with html=False


def _markdown() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    made.validateLink = lambda url: url.startswith(("https://", "http://", "#"))  # type: ignore[method-assign]
    return made
