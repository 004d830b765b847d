"""Ending the wait of another thread."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any


class Waker:
    """Ends the wait of a thread that polls: a pair of sockets, one end to be polled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def open(self) -> int:
        """Make the pair; returns the file descriptor to poll."""
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        with self._lock:
            self._ends = near, far
        return near.fileno()

    def wake(self) -> None:
        """End the wait that is now or comes next."""
        with self._lock:
            # a full pair has woken it already
            if self._ends is not None:
                with contextlib.suppress(BlockingIOError):
                    self._ends[1].send(b"\0")

    def calm(self) -> None:
        """Forget the wakes so far."""
        if self._ends is not None:
            with contextlib.suppress(BlockingIOError):
                self._ends[0].recv(4096)

    def close(self) -> None:
        """Let go of the pair."""
        with self._lock:
            ends, self._ends = self._ends, None
        for end in ends or ():
            end.close()


class RingingQueue(queue.Queue[Any]):
    """A queue that calls `ring` whenever something was put into it."""

    def __init__(self, ring: Callable[[], None]) -> None:
        super().__init__()
        self._ring = ring

    def _put(self, item: Any) -> None:
        super()._put(item)
        self._ring()
