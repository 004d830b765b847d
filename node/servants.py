"""Threads that each serve one peer, so that a slow one holds nobody up."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

MOST_AT_ONCE = 16


class Servants:
    """Calls `serve` with a name, in a thread, once at a time for each name."""

    def __init__(self, serve: Callable[[str], int], most: int = MOST_AT_ONCE) -> None:
        self._serve = serve
        self._pool = ThreadPoolExecutor(max_workers=most)
        self._serving: dict[str, Future[int]] = {}

    def begin(self, names: list[str]) -> None:
        """Serve these, where they are not being served already."""
        for name in names:
            if name not in self._serving:
                self._serving[name] = self._pool.submit(self._serve, name)

    def ended(self, wait_seconds: float = 0.0) -> int:
        """The sum of what `serve` returned for those that ended; its errors are raised here."""
        if wait_seconds:
            wait(self._serving.values(), wait_seconds)
        ended = {name: future for name, future in self._serving.items() if future.done()}
        for name in ended:
            del self._serving[name]
        return sum(future.result() for future in ended.values())

    def close(self) -> None:
        """Let what is under way come to its end."""
        self._pool.shutdown(wait=True)
