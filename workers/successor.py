"""What a new computing child does first: it settles what was left behind.

The job that the child before it died with; or, where it is the first since the machine was
switched on, the jobs that the machine went down with.
"""

from __future__ import annotations

import time

import structlog

from core import clock
from core.errors import LeaseLostError, LedgerError, NotFoundError
from core.ledger import Ledger, Work
from core.lifecycle import JobState
from core.processes import this_boot, this_machine
from core.settings import Settings
from workers.board import Note
from workers.lease import too_long

log = structlog.get_logger()

_RETRY_SECONDS = 0.5


def settle(note: Note, settings: Settings, *, overdue: bool) -> JobState | None:
    """Give the job back that a dead child left on the board, or fail it if its time was over.

    While the ledger is away it is tried again for the length of a lease; after that the lease
    has run out and the dispatcher does it.

    Returns:
        What became of the job; None when it was not to be had any more.
    """
    ledger = Ledger(settings.ledger_url)
    give_up_at = time.monotonic() + settings.jobs.lease_seconds
    try:
        while True:
            try:
                with ledger.write() as work:
                    state = _settle(work, note, overdue=overdue)
            except (LeaseLostError, NotFoundError):
                return None
            except LedgerError as error:
                if not error.retry or time.monotonic() > give_up_at:
                    log.warning("job_left", job=note.job_id, error=str(error))
                    return None
                time.sleep(_RETRY_SECONDS)
            else:
                if state is not None:
                    log.error(
                        "worker_process_died", job=note.job_id, state=str(state), overdue=overdue
                    )
                return state
    finally:
        ledger.close()


def settle_restart(settings: Settings) -> list[str]:
    """Give back what this machine had in hand when it was switched off; nobody's job is blamed.

    While the ledger is away it is tried again for the length of a lease; what is left then runs
    out as the lease of any silent worker does.

    Returns:
        Ids of the jobs.
    """
    ledger = Ledger(settings.ledger_url)
    give_up_at = time.monotonic() + settings.jobs.lease_seconds
    touched: set[str] = set()
    try:
        while True:
            try:
                with ledger.read() as work:
                    left = work.jobs.left_by_machine(this_machine(), this_boot())
                for job_id in left:
                    with ledger.write() as work:
                        found = work.jobs.machine_restarted(
                            job_id, this_machine(), this_boot(), clock.now()
                        )
                    if found:
                        touched.add(job_id)
            except LedgerError as error:
                if not error.retry or time.monotonic() > give_up_at:
                    log.warning("waiting", error=str(error), remedy=error.remedy)
                    return sorted(touched)
                time.sleep(_RETRY_SECONDS)
            else:
                if touched:
                    log.warning("machine_restarted", jobs=sorted(touched))
                return sorted(touched)
    finally:
        ledger.close()


def _settle(work: Work, note: Note, *, overdue: bool) -> JobState | None:
    now = clock.now()
    if not overdue or note.limit is None:
        return work.jobs.worker_died(note.job_id, note.owner, now)
    error = too_long(note.limit)
    reason = f"{error}, and did not end when it should: its process was ended"
    work.jobs.finish(
        note.job_id, note.owner, JobState.FAILED, now, reason=reason, remedy=error.remedy
    )
    return JobState.FAILED
