"""How an attempt at a job ends: done, failed for good, or to be tried again, and how then."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog

from core import clock
from core.domain import Finding, Job, Result
from core.errors import (
    BytesGoneError,
    LedgerError,
    MemoryShortError,
    NotApplicableError,
    ResultError,
    SentinodeError,
)
from core.ledger import Ledger, Work
from core.lifecycle import JobState
from core.settings import Settings

log = structlog.get_logger()

# How often memory may run out: 1 computes one image at a time, 2 on the CPU.
MOST_STRAIN = 2

_UNDER_STRAIN = {1: "again one image at a time", 2: "again on the CPU"}
_LONGEST_RETRY_SECONDS = 300.0
_LEDGER_PATIENCE_SECONDS = 600.0


@dataclass(slots=True)
class Outcome:
    """What an analysis came to, before it is committed.

    Attributes:
        fault: why the objects may not leave; they are kept all the same.
        same_as: another job whose results count for this one; nothing else is there then.
    """

    findings: tuple[Finding, ...] = ()
    results: list[Result] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    fault: ResultError | None = None
    same_as: str | None = None


class Verdicts:
    """Puts every way in which an attempt can end into the ledger."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._limits = settings.jobs
        self._ledger = ledger

    def done(self, job: Job, owner: str, outcome: Outcome) -> JobState:
        """The analysis came to its end.

        Raises:
            LeaseLostError: the job is not the owner's any more.
            LedgerError: SQL stayed away too long.
        """
        fault, same_as = outcome.fault, outcome.same_as
        if same_as is not None:
            made: list[int | None] = []

            def finish_as(work: Work) -> None:
                made.append(work.jobs.finish_as(job.id, owner, same_as, clock.now()))

            self._write_patiently(finish_as)
            if made[-1] is None:
                reason = f"the objects of job {same_as} were removed meanwhile"
                log.warning("job_given_back", reason=reason, again_in_seconds=0)
                return JobState.WAITING
            log.info("job_ended", state=str(JobState.DONE), same_as=same_as)
            return JobState.DONE
        if fault is not None:
            log.warning("objects_kept_back", reason=str(fault))
        state = JobState.DONE if fault is None else JobState.FAILED
        return self._finish(job, owner, state, fault, outcome)

    def trouble(self, job: Job, owner: str, error: Exception) -> JobState:
        """The analysis ended in an error: the last word, or to be tried again?

        Memory that ran out: in smaller batches, then on the CPU. A server that is away comes
        back, so it is waited for; a trouble that nobody knows may stay, and bytes that are gone
        hardly come back, so it is tried a few times. Everything else would end the same way again.

        Raises:
            LeaseLostError: the job is not the owner's any more.
            LedgerError: SQL stayed away too long.
        """
        if isinstance(error, NotApplicableError):
            return self._finish(job, owner, JobState.NOT_APPLICABLE, error)
        if _is_out_of_memory(error):
            return self._strained(job, owner, error)
        if isinstance(error, SentinodeError) and not error.retry:
            return self._fail(job, owner, error)
        reason = str(error)
        if not isinstance(error, SentinodeError):
            log.error("job_trouble", exc_info=error)
            reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
            if job.attempt >= self._limits.max_attempts:
                ended = SentinodeError(reason, remedy="See the worker's log.")
                return self._fail(job, owner, ended)
        elif isinstance(error, BytesGoneError) and job.attempt >= self._limits.max_attempts:
            return self._fail(job, owner, error)
        doublings = min(job.attempt - 1, 16)
        wait = min(self._limits.retry_seconds * 2**doublings, _LONGEST_RETRY_SECONDS)
        return self._give_back(job, owner, reason, wait)

    def _strained(self, job: Job, owner: str, error: Exception) -> JobState:
        what = str(error) or type(error).__name__
        strain = job.strain + 1
        if strain > MOST_STRAIN:
            reason = f"memory ran out, also one image at a time on the CPU: {what}"
            return self._fail(job, owner, MemoryShortError(reason))
        reason = f"memory ran out: {what}; {_UNDER_STRAIN[strain]}"
        return self._give_back(job, owner, reason, self._limits.retry_seconds, strain)

    def _fail(self, job: Job, owner: str, error: SentinodeError) -> JobState:
        log.warning("job_failed", reason=str(error), remedy=error.remedy)
        return self._finish(job, owner, JobState.FAILED, error)

    def _finish(
        self,
        job: Job,
        owner: str,
        state: JobState,
        error: SentinodeError | None,
        outcome: Outcome | None = None,
    ) -> JobState:
        made = outcome or Outcome()

        def finish(work: Work) -> None:
            work.jobs.finish(
                job.id,
                owner,
                state,
                clock.now(),
                reason=str(error) if error else "",
                remedy=error.remedy if error else "",
                findings=made.findings,
                results=made.results,
                summary=made.summary,
            )

        self._write_patiently(finish)
        log.info(
            "job_ended",
            state=str(state),
            findings=sum(item.present for item in made.findings),
            reason=str(error) if error else "",
        )
        return state

    def _give_back(
        self, job: Job, owner: str, reason: str, wait: float, strain: int | None = None
    ) -> JobState:
        """Let the job wait `wait` seconds for its next attempt."""

        def give_back(work: Work) -> None:
            now = clock.now()
            next_try_at = now + timedelta(seconds=wait)
            work.jobs.give_back(job.id, owner, reason, next_try_at, now, strain=strain)

        self._write_patiently(give_back)
        log.warning("job_given_back", reason=reason, again_in_seconds=wait)
        return JobState.WAITING

    def _write_patiently(self, write: Callable[[Work], None]) -> None:
        """Write to the ledger, waiting while it is away: the work is done and should count.

        Raises:
            LedgerError: it stayed away too long.
            LeaseLostError: another worker has done the job meanwhile.
        """
        wait, waited = 1.0, 0.0
        while True:
            try:
                with self._ledger.write() as work:
                    write(work)
            except LedgerError as error:
                if not error.retry or waited >= _LEDGER_PATIENCE_SECONDS:
                    raise
                log.warning("waiting", error=str(error), remedy=error.remedy)
                time.sleep(wait)
                waited, wait = waited + wait, min(wait * 2, 30.0)
            else:
                return


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryShortError):
        return True
    if not isinstance(error, MemoryError | RuntimeError):
        return False
    from models.registry import is_out_of_memory  # noqa: PLC0415 - torch, only when needed

    return is_out_of_memory(error)
