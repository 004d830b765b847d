"""Pausing pynetdicom's association thread so that it takes no answer that another thread awaits.

A thread that sends a request clears the association's checkpoint, waits until the association
thread calls itself paused, and then waits for the answer. But that thread calls itself paused
before it passes the checkpoint: on a busy machine it may still be on its way through its loop,
take the answer for an unasked one and drop it. The sender then waits until its timeout.
"""

from __future__ import annotations

import threading
from typing import Any

from pynetdicom.events import Event

_LOOK_SECONDS = 0.05


class Checkpoint(threading.Event):
    """The event that the association thread passes in each round of its loop.

    `clear` returns when that thread stands still before it, or has ended.
    """

    def __init__(self, association: Any) -> None:
        super().__init__()
        self._association = association
        self._change = threading.Condition()
        self._held = False
        super().set()

    def wait(self, timeout: float | None = None) -> bool:
        """Pass when it is set; without a limit of time, as pynetdicom calls it."""
        with self._change:
            while not self.is_set():
                self._held = True
                self._change.notify_all()
                self._change.wait()
            self._held = False
        return True

    def set(self) -> None:
        """Let the thread pass."""
        with self._change:
            super().set()
            self._change.notify_all()

    def clear(self) -> None:
        """Stop the thread; returns when it stands."""
        with self._change:
            super().clear()
        # a handler that sends is this thread itself
        if threading.current_thread() is self._association:
            return
        with self._change:
            while not (self._held or self.is_set()) and self._running:
                self._change.wait(_LOOK_SECONDS)
        if not self._association.is_alive():
            self._association._is_paused = True  # pynetdicom waits for it

    @property
    def _running(self) -> bool:
        return bool(self._association.is_alive() and not self._association._kill)


def exact_pauses(event: Event) -> None:
    """Handler of EVT_CONN_OPEN: an association that we ask for gets a `Checkpoint`."""
    association: Any = event.assoc
    association._reactor_checkpoint = Checkpoint(association)
