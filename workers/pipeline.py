"""One job: from its id to findings, SEG, SR and a picture.

    series → volume (LPS) → the model's own preprocessing → logits → lesions → objects → ledger

The objects' bytes go to the store under this attempt's own keys; then one transaction, under
the lease, writes findings, results and transfers. A worker that lost its lease writes nothing.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from pydicom.dataset import Dataset

from core import clock, equipment
from core.domain import Finding, Instance, Job, Result, ResultKind
from core.errors import (
    LeaseLostError,
    LedgerError,
    NotApplicableError,
    SentinodeError,
)
from core.ledger import Ledger, Work
from core.lifecycle import JobState
from core.modelspec import ModelSpec
from core.settings import Settings
from core.store import Store, result_key
from workers.findings import Findings, find_lesions
from workers.inference import Models
from workers.lease import Lease
from workers.results.encode import to_bytes
from workers.results.picture import build_picture
from workers.results.provenance import Provenance
from workers.results.seg import build_seg
from workers.results.sr import build_sr
from workers.results.verify import verify_results
from workers.volume import SeriesVolume, build_volume, read_series, to_axial

log = structlog.get_logger()

_LONGEST_RETRY_SECONDS = 300.0
_LEDGER_PATIENCE_SECONDS = 600.0


@dataclass(slots=True)
class _Outcome:
    """What an analysis came to, before it is committed."""

    findings: tuple[Finding, ...]
    results: list[Result] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


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
            self._finish(job, owner, JobState.DONE, outcome=outcome)
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
        return JobState.DONE

    def _analyse(self, job: Job, instances: list[Instance], owner: str, lease: Lease) -> _Outcome:
        seconds: dict[str, float] = {}
        spec = self._models.spec(job.model, job.model_version)
        if len(job.series_instance_uids) != 1:
            raise NotApplicableError(f"{spec.name} reads one series at a time")
        with _timed(seconds, "read"):
            volume = build_volume(
                read_series([self._store.get(item.store_key) for item in instances])
            )
            self._check_input(spec, volume)
        lease.check()
        model = self._models.get(spec)
        with _timed(seconds, "infer"):
            axial = to_axial(volume)
            self._check_spacing(spec, axial.spacing_mm)
            probabilities = model.predict(
                axial.array, axial.spacing_mm, batch_size=self._settings.worker.batch_size
            )
        lease.check()
        limits = self._settings.results
        with _timed(seconds, "measure"):
            findings = find_lesions(
                axial.to_source(probabilities),
                volume,
                spec,
                job_id=job.id,
                min_volume_ml=limits.min_volume_ml,
                max_findings=limits.max_segments,
                uid_root=limits.uid_root,
            )
        del probabilities, axial
        lease.check()
        with _timed(seconds, "objects"):
            results = self._objects(job, spec, volume, findings, owner)
        return _Outcome(
            findings=findings.findings,
            results=results,
            summary={
                "images": len(volume.datasets),
                "shape": list(volume.array.shape),
                "spacing_mm": [round(float(value), 4) for value in volume.spacing_mm],
                "device": str(model.device),
                "too_small": findings.too_small,
                "too_small_ml": round(findings.too_small_ml, 4),
                "seconds": {name: round(value, 3) for name, value in seconds.items()},
            },
        )

    @staticmethod
    def _check_input(spec: ModelSpec, volume: SeriesVolume) -> None:
        modality = str(volume.datasets[0].get("Modality", ""))
        if modality not in spec.input.modality:
            wanted = ", ".join(spec.input.modality)
            raise NotApplicableError(f"{spec.name} is for {wanted}, the series is {modality}")
        if len(volume.datasets) < spec.input.min_slices:
            raise NotApplicableError(
                f"{len(volume.datasets)} slices, {spec.name} needs at least {spec.input.min_slices}"
            )

    @staticmethod
    def _check_spacing(spec: ModelSpec, spacing_mm: tuple[float, float, float]) -> None:
        coarsest = spec.input.max_in_plane_spacing_mm
        if coarsest is not None and max(spacing_mm[1:]) > coarsest:
            raise NotApplicableError(
                f"axial pixels of {spacing_mm[1]:.2f} × {spacing_mm[2]:.2f} mm, "
                f"{spec.name} needs at most {coarsest:g} mm"
            )

    def _objects(
        self, job: Job, spec: ModelSpec, volume: SeriesVolume, findings: Findings, owner: str
    ) -> list[Result]:
        """Make, check and store SEG (if anything was found), SR and picture."""
        provenance = Provenance(
            job_id=job.id,
            created_at=job.created_at,
            spec=spec,
            software_version=equipment.SOFTWARE_VERSION,
            device_serial_number=self._settings.results.device or self._settings.node.ae_title,
            institution_name=self._settings.results.institution,
            uid_root=self._settings.results.uid_root,
        )
        seg = build_seg(volume, findings, provenance) if findings.present else None
        sr = build_sr(volume, findings, seg, provenance)
        seg_bytes = None if seg is None else to_bytes(seg)
        sr_bytes = to_bytes(sr)
        verify_results(volume, findings, seg_bytes, sr_bytes)
        results = []
        if seg is not None and seg_bytes is not None:
            results.append(self._keep(job, owner, ResultKind.SEG, "seg.dcm", seg_bytes, seg))
        results.append(self._keep(job, owner, ResultKind.SR, "sr.dcm", sr_bytes, sr))
        picture = build_picture(volume, findings, provenance)
        results.append(self._keep(job, owner, ResultKind.PICTURE, "picture.png", picture, None))
        return results

    def _keep(
        self,
        job: Job,
        owner: str,
        kind: ResultKind,
        name: str,
        data: bytes,
        dataset: Dataset | None,
    ) -> Result:
        key = result_key(job.id, owner, name)
        self._store.put_bytes(key, data)
        return Result(
            kind=kind,
            store_key=key,
            digest=hashlib.sha256(data).hexdigest(),
            size=len(data),
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


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.monotonic() - began
