"""What changed, told to open pages as server-sent events.

One task per process looks at the ledger every second, while anybody listens, and tells all.
Several nodes may work on one ledger: what another one did is seen just as well.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import structlog
from starlette.concurrency import run_in_threadpool

from core.errors import SentinodeError
from core.ledger import Ledger
from core.ledger.changes import Change, Mark

log = structlog.get_logger()

POLL_SECONDS = 1.0
# A transaction is seen although one with a greater id was committed before it.
_LOOK_BACK = 200
_MOST = 1000
_REMEMBERED = 4 * _MOST
# Whoever does not read so many is told to load anew instead.
_MOST_UNREAD = 2000
_KEEP_ALIVE_SECONDS = 15.0

Told = tuple[Mark, tuple[Change, ...]] | None


class Changes:
    """Follows the ledger for all listeners of this process."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._listeners: set[asyncio.Queue[Told]] = set()
        self._task: asyncio.Task[None] | None = None
        self._mark: Mark | None = None
        self._seen: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._closing = False

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)

    async def listen(
        self, last_id: str, still_welcome: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[str]:
        """Events as text/event-stream (HTML standard, 9.2), until the listener goes away.

        Args:
            last_id: of the last event that the listener had, or empty.
            still_welcome: asked every quarter of a minute; False ends it, as the session did.
        """
        told: asyncio.Queue[Told] = asyncio.Queue(_MOST_UNREAD)
        self._listeners.add(told)
        self._awaken()
        try:
            yield "retry: 2000\n\n"
            async for text in self._missed(last_id):
                yield text
            while not self._closing:
                try:
                    news = await asyncio.wait_for(told.get(), _KEEP_ALIVE_SECONDS)
                except TimeoutError:
                    if not await still_welcome():
                        yield "event: end\ndata: {}\n\n"
                        return
                    yield ": alive\n\n"
                    continue
                if news is None:
                    yield "event: reset\ndata: {}\n\n"
                    return
                for change in news[1]:
                    yield _text(change, news[0])
        finally:
            self._listeners.discard(told)

    async def close(self) -> None:
        """End all listening."""
        self._closing = True
        for listener in self._listeners:
            _put(listener, None)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def _awaken(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow(), name="changes")

    async def _follow(self) -> None:
        trouble = ""
        while self._listeners:
            try:
                news = await run_in_threadpool(self._look)
                trouble = ""
            except SentinodeError as error:
                if str(error) != trouble:
                    log.warning("waiting", error=str(error), remedy=error.remedy)
                trouble = str(error)
                news = None
            if news is not None and news[1]:
                for listener in list(self._listeners):
                    _put(listener, news)
            await asyncio.sleep(POLL_SECONDS)
        self._mark = None

    def _look(self) -> tuple[Mark, tuple[Change, ...]]:
        with self._ledger.read() as work:
            if self._mark is None:
                self._mark = work.changes.mark()
                self._remember(work.changes.since(self._mark.back(_LOOK_BACK), _MOST))
                return self._mark, ()
            found = work.changes.since(self._mark.back(_LOOK_BACK), _MOST + _LOOK_BACK)
        new = self._remember(found)
        self._mark = _after(self._mark, new)
        return self._mark, new

    def _remember(self, found: list[Change]) -> tuple[Change, ...]:
        new = []
        for change in found:
            key = (change.kind, change.id)
            if key not in self._seen:
                new.append(change)
                self._seen[key] = None
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return tuple(new)

    async def _missed(self, last_id: str) -> AsyncIterator[str]:
        """What a listener missed that comes again; once too often does no harm."""
        mark = Mark.parse(last_id)
        if mark is None:
            return

        def look() -> tuple[list[Change], Mark]:
            with self._ledger.read() as work:
                return work.changes.since(mark, _MOST), work.changes.mark()

        try:
            missed, end = await run_in_threadpool(look)
        except SentinodeError:
            missed, end = [], replace(mark, event=mark.event + 2 * _MOST)
        if max(end.event - mark.event, end.attempt - mark.attempt) >= _MOST:
            yield "event: reset\ndata: {}\n\n"
            return
        for change in missed:
            yield _text(change, _after(mark, [change]))


def _after(mark: Mark, changes: list[Change] | tuple[Change, ...]) -> Mark:
    def furthest(kind: str, so_far: int) -> int:
        return max([so_far, *(change.id for change in changes if change.kind == kind)])

    return Mark(
        furthest("job", mark.event),
        furthest("study", mark.instance),
        furthest("transfer", mark.attempt),
    )


def _put(listener: asyncio.Queue[Told], news: Told) -> None:
    try:
        listener.put_nowait(news)
    except asyncio.QueueFull:
        while not listener.empty():
            listener.get_nowait()
        listener.put_nowait(None)


def _text(change: Change, mark: Mark) -> str:
    data = {
        "study": change.study_instance_uid,
        "job": change.job_id,
        "state": change.state,
        "note": change.note,
    }
    return f"event: {change.kind}\nid: {mark}\ndata: {json.dumps(data)}\n\n"
