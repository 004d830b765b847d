"""Holding a job: a thread renews the lease while the work goes on."""

from __future__ import annotations

import threading
from datetime import timedelta
from types import TracebackType
from typing import Self

import structlog

from core import clock
from core.errors import LeaseLostError, LedgerError, NotFoundError
from core.ledger import Ledger

log = structlog.get_logger()

_RENEWALS_PER_LEASE = 3


class Lease:
    """Renews a job's lease until the block ends."""

    def __init__(self, ledger: Ledger, job_id: str, owner: str, seconds: float) -> None:
        self._ledger = ledger
        self._job_id = job_id
        self._owner = owner
        self._duration = timedelta(seconds=seconds)
        self._interval = seconds / _RENEWALS_PER_LEASE
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
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

    def check(self) -> None:
        """Stop early when the job is no longer ours.

        Raises:
            LeaseLostError: it was held, cancelled, superseded, or given to another worker.
        """
        if self._lost.is_set():
            raise LeaseLostError(f"job {self._job_id} was taken from this worker")

    def _renew(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                with self._ledger.write() as work:
                    until = clock.now() + self._duration
                    held = work.jobs.heartbeat(self._job_id, self._owner, until)
            except NotFoundError:
                held = False
            except LedgerError as error:
                # the lease may run out meanwhile; the commit at the end decides
                log.warning("lease_not_renewed", job=self._job_id, error=str(error))
                continue
            if not held:
                self._lost.set()
                return
