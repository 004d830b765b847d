"""What changed, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from core.errors import SentinodeError, TooManyTriesError
from node.web.access import Viewer, who_asks
from node.web.room import InRoom

router = APIRouter(tags=["events"])

_MOST_LISTENERS = 500
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events `job`, `study` and `transfer`, each with `study`, `job`, `state` "
        "and `note`; `reset`: more was missed than is told, load anew; `end`: signed out",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.get("/events", response_class=StreamingResponse, responses=_EVENTS)
async def events(
    _: Viewer,
    room: InRoom,
    request: Request,
    last_event_id: Annotated[str, Header(max_length=64)] = "",
) -> StreamingResponse:
    """What changes, as it happens. After a break the browser says where it was (Last-Event-ID)."""
    if room.changes.listeners >= _MOST_LISTENERS:
        raise TooManyTriesError("too many listen already", 30)

    async def still_welcome() -> bool:
        try:
            return await run_in_threadpool(who_asks, request, room) is not None
        except SentinodeError:
            return True  # the ledger is away; what is told comes from there as well

    told: AsyncIterator[str] = room.changes.listen(last_event_id, still_welcome)
    return StreamingResponse(
        told, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )
