"""Holding a job: a thread renews the lease while the work goes on, and knows when it must end."""

from __future__ import annotations

import os
import threading
import time
from datetime import timedelta
from types import TracebackType
from typing import Self

import structlog

from core import clock
from core.errors import LeaseLostError, LedgerError, NotFoundError, TimeLimitError
from core.ledger import Ledger
from workers.board import Board, Note

log = structlog.get_logger()

_RENEWALS_PER_LEASE = 3
_LONGEST_TICK_SECONDS = 1.0
STOPPED = "its worker was stopped; given back"


class Lease:
    """Renews a job's lease until the block ends.

    When the worker is being stopped, the job may go on for `stop_seconds`; then it is given
    back, which is no death of its worker.
    """

    def __init__(
        self,
        ledger: Ledger,
        job_id: str,
        owner: str,
        seconds: float,
        *,
        board: Board | None = None,
        stop_seconds: float = 20.0,
    ) -> None:
        self._ledger = ledger
        self._job_id = job_id
        self._owner = owner
        self._duration = timedelta(seconds=seconds)
        self._interval = seconds / _RENEWALS_PER_LEASE
        self._board = board
        self._stop_seconds = stop_seconds
        self._began = time.monotonic()
        self._limit: float | None = None
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._note()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._board is not None:
            self._board.clear()

    def limit(self, seconds: float) -> None:
        """The job may take so long, counted from when the lease began."""
        self._limit = seconds
        self._note()

    def computed(self) -> None:
        """The work is done; to write it down may take as long as the ledger is away."""
        self._limit = None
        self._note()

    def check(self) -> None:
        """Stop early when the job is no longer ours, or took too long.

        Raises:
            LeaseLostError: it was held, cancelled, superseded, given back because the worker is
                being stopped, or given to another worker.
            TimeLimitError: its time is over.
        """
        if self._lost.is_set():
            raise LeaseLostError(f"job {self._job_id} was taken from this worker")
        if self._limit is not None and time.monotonic() - self._began > self._limit:
            raise too_long(self._limit)

    def _note(self) -> None:
        if self._board is not None:
            ends_at = None if self._limit is None else self._began + self._limit
            self._board.note(Note(os.getpid(), self._job_id, self._owner, self._limit, ends_at))

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._stop.wait(min(self._interval, _LONGEST_TICK_SECONDS)):
            stopping = self._board.stopping_for() if self._board is not None else None
            give_back = stopping is not None and stopping > self._stop_seconds
            if not give_back and time.monotonic() - renewed < self._interval:
                continue
            try:
                held = self._give_back() if give_back else self._heartbeat()
            except (NotFoundError, LeaseLostError):
                held = False
            except LedgerError as error:
                # the lease may run out meanwhile; the commit at the end decides
                log.warning("lease_not_renewed", job=self._job_id, error=str(error))
                continue
            if not held:
                self._lost.set()
                return
            renewed = time.monotonic()

    def _heartbeat(self) -> bool:
        with self._ledger.write() as work:
            now = clock.now()
            return work.jobs.heartbeat(self._job_id, self._owner, now + self._duration, now)

    def _give_back(self) -> bool:
        with self._ledger.write() as work:
            now = clock.now()
            work.jobs.give_back(self._job_id, self._owner, STOPPED, now, now)
        log.warning("job_given_back", job=self._job_id, reason=STOPPED, again_in_seconds=0)
        return False


class RenditionLease(Lease):
    """The same for a rendition, which nobody stops and whose time is not limited."""

    def __init__(self, ledger: Ledger, rendition_id: int, owner: str, seconds: float) -> None:
        super().__init__(ledger, f"rendition {rendition_id}", owner, seconds)
        self._rendition_id = rendition_id

    def _heartbeat(self) -> bool:
        with self._ledger.write() as work:
            until = clock.now() + self._duration
            return work.renditions.heartbeat(self._rendition_id, self._owner, until)


def too_long(seconds: float) -> TimeLimitError:
    """What is said of a job that took longer than `seconds`."""
    return TimeLimitError(f"it took longer than {seconds:g} s")
