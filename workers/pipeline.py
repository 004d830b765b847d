"""One job: claimed, analysed, its objects made and checked, committed.

The objects' bytes go to the store under this attempt's own keys; then one transaction, under
the lease, writes findings, results and transfers. A worker that lost its lease writes nothing.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import structlog

from core import clock, equipment
from core.domain import Finding, Instance, Job, Result
from core.errors import (
    LeaseLostError,
    LedgerError,
    NotApplicableError,
    ResultError,
    SentinodeError,
)
from core.ledger import Ledger, Work
from core.lifecycle import JobState
from core.modelspec import ModelSpec
from core.settings import Settings
from core.store import Store, result_key
from workers.analyse import Clock, analyse
from workers.analysis import Analysis
from workers.inference import Models
from workers.lease import Lease
from workers.results.gate import check_objects
from workers.results.make import Made, make_objects
from workers.results.provenance import Provenance

log = structlog.get_logger()

_LONGEST_RETRY_SECONDS = 300.0
_LEDGER_PATIENCE_SECONDS = 600.0


@dataclass(slots=True)
class _Outcome:
    """What an analysis came to, before it is committed.

    Attributes:
        fault: why the objects may not leave; they are kept all the same.
    """

    findings: tuple[Finding, ...]
    results: list[Result] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    fault: ResultError | None = None


class Pipeline:
    """Everything that a worker process keeps between jobs."""

    def __init__(self, settings: Settings, ledger: Ledger, store: Store, models: Models) -> None:
        self._settings = settings
        self._ledger = ledger
        self._store = store
        self._models = models

    def run(self, job_id: str) -> JobState | None:
        """Claim and analyse a job; returns the state that it was left in, None if not to be had.

        Raises:
            LedgerError: SQL is away; the job's lease runs out and it is published again.
        """
        owner = f"worker:{uuid.uuid4().hex}"
        lease_seconds = self._settings.jobs.lease_seconds
        now = clock.now()
        with self._ledger.write() as work:
            job = work.jobs.claim(job_id, owner, now + timedelta(seconds=lease_seconds), now)
            if job is None:
                log.info("job_not_to_be_had", job=job_id)
                return None
            instances = work.jobs.instances_of(job_id)
        with structlog.contextvars.bound_contextvars(job=job_id, model=job.model):
            log.info("job_claimed", attempt=job.attempt, instances=len(instances))
            with Lease(self._ledger, job_id, owner, lease_seconds) as lease:
                return self._guarded(job, instances, owner, lease)

    def _guarded(
        self, job: Job, instances: list[Instance], owner: str, lease: Lease
    ) -> JobState | None:
        """Analyse, and put every way in which it can end into the ledger."""
        try:
            outcome = self._analyse(job, instances, owner, lease)
            if outcome.fault is not None:
                log.warning("objects_kept_back", reason=str(outcome.fault))
            state = JobState.DONE if outcome.fault is None else JobState.FAILED
            return self._finish(job, owner, state, outcome=outcome, error=outcome.fault)
        except LeaseLostError as error:
            log.warning("job_lost", reason=str(error))
            return None
        except NotApplicableError as error:
            return self._finish(job, owner, JobState.NOT_APPLICABLE, error=error)
        except SentinodeError as error:
            if error.retry:
                return self._try_again(job, owner, error)
            log.warning("job_failed", reason=str(error), remedy=error.remedy)
            return self._finish(job, owner, JobState.FAILED, error=error)
        except Exception as error:
            log.exception("job_trouble")
            return self._try_again(job, owner, error)

    def _analyse(self, job: Job, instances: list[Instance], owner: str, lease: Lease) -> _Outcome:
        spec = self._models.spec(job.model, job.model_version)
        if len(job.series_instance_uids) != 1:
            raise NotApplicableError(f"{spec.name} reads one series at a time")
        with self._ledger.read() as work:
            revision, earlier = work.jobs.earlier(job.id)
            void = work.jobs.void(job.id)
        timed = Clock()
        analysis, summary = analyse(
            [self._store.get(item.store_key) for item in instances],
            spec,
            self._models,
            self._settings,
            job_id=job.id,
            check=lease.check,
            clock=timed,
        )
        lease.check()
        provenance = replace(
            self._provenance(job, spec), revision=revision, earlier=earlier, void=void
        )
        with timed("objects"):
            made = make_objects(analysis, provenance, self._settings.results)
        with timed("check"):
            fault = self._fault(made, analysis, provenance)
        lease.check()
        with timed("keep"):
            results = [self._keep(job, owner, item) for item in made]
        seconds = {name: round(value, 3) for name, value in timed.seconds.items()}
        summary |= {"revision": revision, "seconds": seconds}
        return _Outcome(analysis.findings, results, summary, fault)

    def _provenance(self, job: Job, spec: ModelSpec) -> Provenance:
        zone = self._settings.results.timezone
        return Provenance(
            job_id=job.id,
            # where the source names no zone, its times are those of the hospital's clocks
            created_at=job.created_at.astimezone(ZoneInfo(zone) if zone else None),
            spec=spec,
            software_version=equipment.SOFTWARE_VERSION,
            device_serial_number=self._settings.results.device or self._settings.node.ae_title,
            institution_name=self._settings.results.institution,
            uid_root=self._settings.results.uid_root,
        )

    @staticmethod
    def _fault(made: list[Made], analysis: Analysis, provenance: Provenance) -> ResultError | None:
        """What is wrong with the objects; they are kept then, for somebody to look at."""
        try:
            check_objects(made, analysis, provenance)
        except ResultError as error:
            error.remedy = error.remedy or "The objects are kept, not sent: `sentinode show JOB`."
            return error
        return None

    def _keep(self, job: Job, owner: str, item: Made) -> Result:
        key = result_key(job.id, owner, item.name)
        self._store.put_bytes(key, item.data)
        dataset = item.dataset
        return Result(
            kind=item.kind,
            part=item.part,
            store_key=key,
            digest=hashlib.sha256(item.data).hexdigest(),
            size=len(item.data),
            sop_class_uid=str(dataset.SOPClassUID) if dataset is not None else "",
            sop_instance_uid=str(dataset.SOPInstanceUID) if dataset is not None else "",
            series_instance_uid=str(dataset.SeriesInstanceUID) if dataset is not None else "",
        )

    def _finish(
        self,
        job: Job,
        owner: str,
        state: JobState,
        *,
        outcome: _Outcome | None = None,
        error: SentinodeError | None = None,
    ) -> JobState:
        made = outcome or _Outcome(())

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

    def _try_again(self, job: Job, owner: str, error: Exception) -> JobState | None:
        """Give the job back for a later attempt, or fail it after the last one."""
        limits = self._settings.jobs
        what = str(error) or type(error).__name__
        known = isinstance(error, SentinodeError)
        reason = what if known else f"{type(error).__name__}: {what}"
        try:
            # a server that is away comes back; a trouble that nobody knows may stay
            if not known and job.attempt >= limits.max_attempts:
                ended = SentinodeError(reason, remedy="See the worker's log.")
                return self._finish(job, owner, JobState.FAILED, error=ended)
            doublings = min(job.attempt - 1, 16)
            wait = min(limits.retry_seconds * 2**doublings, _LONGEST_RETRY_SECONDS)

            def give_back(work: Work) -> None:
                now = clock.now()
                work.jobs.give_back(job.id, owner, reason, now + timedelta(seconds=wait), now)

            self._write_patiently(give_back)
        except LeaseLostError as lost:
            log.warning("job_lost", reason=str(lost))
            return None
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
