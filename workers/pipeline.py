"""One job: claimed in its turn, analysed, its objects made and checked, committed.

The objects' bytes go to the store under this attempt's own keys; then one transaction, under
the lease, writes findings, results and transfers. A worker that lost its lease writes nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import uuid
from dataclasses import replace
from datetime import timedelta
from zoneinfo import ZoneInfo

import structlog
from pydicom.dataset import Dataset

from core import clock, equipment
from core.domain import RESULT_KEYWORDS, Job, Result
from core.errors import (
    JobError,
    LeaseLostError,
    LedgerValueError,
    NotApplicableError,
    ResultError,
)
from core.ledger import Ledger
from core.lifecycle import JobState
from core.modelspec import ModelSpec
from core.processes import this_boot, this_machine
from core.settings import Settings
from core.store import Store, result_key
from workers.analyse import Clock, analyse
from workers.analysis import Analysis
from workers.board import Board
from workers.inference import Models
from workers.lease import Lease
from workers.results.gate import check_objects
from workers.results.make import Made, make_objects
from workers.results.provenance import Provenance
from workers.verdict import MOST_STRAIN, Outcome, Verdicts

log = structlog.get_logger()

# Every so many jobs a worker takes the one that waits longest, whatever its class.
_OLDEST_EVERY = 8


class Pipeline:
    """Everything that a worker process keeps between jobs."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        store: Store,
        models: Models,
        board: Board | None = None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._store = store
        self._models = models
        self._board = board
        self._lease = timedelta(seconds=settings.jobs.lease_seconds)
        self._verdicts = Verdicts(settings, ledger)
        self._turns = itertools.count(1)

    def run(self, job_id: str) -> JobState | None:
        """Claim and analyse this job; returns the state that it was left in, None if not had.

        Raises:
            LedgerError: SQL is away; the job's lease runs out and it is published again.
        """
        owner, now = _new_owner(), clock.now()
        with self._ledger.write() as work:
            job = work.jobs.claim(job_id, owner, now + self._lease, now)
        if job is None:
            log.info("job_not_to_be_had", job=job_id)
            return None
        return self._run(job, owner)

    def run_next(self, queue: str) -> JobState | None:
        """Claim and analyse the best job of a queue; as `run`.

        Raises:
            LedgerError: as `run`.
        """
        if self._board is not None and self._board.stopping_for() is not None:
            return None  # the next worker takes it; its message is published again
        owner, now = _new_owner(), clock.now()
        oldest = next(self._turns) % _OLDEST_EVERY == 0
        with self._ledger.write() as work:
            job = work.jobs.claim_next(queue, owner, now + self._lease, now, oldest=oldest)
        if job is None:
            log.debug("no_job_waits", queue=queue)
            return None
        return self._run(job, owner)

    def _run(self, job: Job, owner: str) -> JobState | None:
        with structlog.contextvars.bound_contextvars(job=job.id, model=job.model):
            log.info("job_claimed", attempt=job.attempt, priority=job.priority)
            with Lease(
                self._ledger,
                job.id,
                owner,
                self._lease.total_seconds(),
                board=self._board,
                stop_seconds=self._settings.worker.stop_seconds,
            ) as lease:
                return self._guarded(job, owner, lease)

    def _guarded(self, job: Job, owner: str, lease: Lease) -> JobState | None:
        """Analyse, and put every way in which it can end into the ledger."""
        try:
            try:
                outcome = self._analyse(job, owner, lease)
            except LeaseLostError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it was, the job says so
                lease.computed()
                return self._verdicts.trouble(job, owner, error)
            lease.computed()
            try:
                return self._verdicts.done(job, owner, outcome)
            except LedgerValueError as error:
                # what was found cannot be written down; without a word, that would be a death
                return self._verdicts.trouble(job, owner, error)
        except LeaseLostError as error:
            log.warning("job_lost", reason=str(error))
            return None

    def _analyse(self, job: Job, owner: str, lease: Lease) -> Outcome:
        spec = self._models.spec(job.model, job.model_version)
        lease.limit(spec.limits.seconds or self._settings.jobs.time_limit_seconds)
        if len(job.series_instance_uids) != 1:
            raise NotApplicableError(f"{spec.name} reads one series at a time")
        made_with = self._made_with(spec)
        with self._ledger.read() as work:
            same = work.jobs.same_done(job.id, made_with)
            instances = work.jobs.instances_of(job.id)
            gone = work.jobs.gone(job.id)
            revision, earlier = work.jobs.earlier(job.id)
            void = work.jobs.void(job.id)
        if same is not None:
            return Outcome((), same_as=same)
        if gone:
            raise JobError(
                f"{gone} of its images were removed from the store ([retention])",
                remedy="Send the study again.",
            )
        timed = Clock()
        if job.strain:
            self._models.forget()
        analysis, summary = analyse(
            [self._store.get(item.store_key) for item in instances],
            spec,
            self._models,
            self._settings_under(job.strain),
            job_id=job.id,
            check=lease.check,
            clock=timed,
            announced=job.expected,
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
        summary |= {
            "revision": revision,
            "seconds": seconds,
            "strain": job.strain,
            "made_with": made_with,
        }
        return Outcome(analysis.findings, results, summary, fault)

    def _made_with(self, spec: ModelSpec) -> str:
        """What decides about the objects beside the input: two jobs may share them if it agrees."""
        settings = self._settings.results.model_dump_json()
        rule = ""
        if spec.rule is not None:
            windows = self._settings.models.windows.get(spec.name, ())
            rule = f"{spec.rule.model_dump_json()} {' '.join(windows)}"
        text = "\n".join((equipment.SOFTWARE_VERSION, spec.weights.sha256, settings, rule))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _settings_under(self, strain: int) -> Settings:
        """The settings for a job that ran out of memory so often."""
        if not strain:
            return self._settings
        less = {"batch_size": 1} | ({"device": "cpu"} if strain >= MOST_STRAIN else {})
        worker = self._settings.worker.model_copy(update=less)
        return self._settings.model_copy(update={"worker": worker})

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
            attributes=_told(dataset) if dataset is not None else {},
        )


def _told(dataset: Dataset) -> dict[str, str]:
    """What queries tell of an object and its series."""
    return {key: str(dataset[key].value) for key in RESULT_KEYWORDS if dataset.get(key)}


def _new_owner() -> str:
    # the machine and its boot, so that a power cut is not taken for the job's fault
    return f"worker:{this_machine()}.{this_boot()}:{uuid.uuid4().hex}"
