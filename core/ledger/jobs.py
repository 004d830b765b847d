"""Jobs: made once, published, claimed with a lease, finished by whoever holds it."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from core.domain import Finding, Instance, Job, Result, ResultKind
from core.errors import IllegalMoveError, LeaseLostError, NotFoundError
from core.identifiers import derived_uid
from core.ledger.rows import (
    finding_row,
    insert_unless_there,
    instance_value,
    job_value,
    measurement_row,
    result_row,
    result_value,
)
from core.lifecycle import JOB_MOVES, JOB_OPEN, JobState, TransferState
from core.schema import (
    InstanceRow,
    JobEventRow,
    JobInstanceRow,
    JobRow,
    JobSeriesRow,
    ResultRow,
    StudyRow,
    TransferRow,
)

# A job that took its worker down so often is not given to a third one.
MAX_DEATHS = 2
LONGEST_REPUBLISH = timedelta(hours=1)
HELD_REASON = "identity conflict: the study's images disagree about whose they are"
HELD_REMEDY = "Look at `sentinode conflicts`; then `sentinode resolve STUDY --release` or --cancel."
DISPATCH = "dispatch"


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a job is made from."""

    study_instance_uid: str
    series_instance_uids: tuple[str, ...]
    instances: tuple[Instance, ...]
    route: str
    model: str
    model_version: str
    queue: str
    destinations: tuple[str, ...]


class Jobs:
    """Makes and moves jobs."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(
        self, new: NewJob, now: datetime, *, run: int = 1, actor: str = DISPATCH
    ) -> str | None:
        """Make a job; None when the same one (route, model version, input, run) exists.

        Earlier open jobs of the same route on the same series are superseded: the new input is
        the larger or newer one. In a study with an identity conflict the job begins held.
        """
        session = self._session
        digest = _input_digest(new.instances)
        # derived, so that two nodes, or a restored ledger, give the same results the same UIDs
        job_id = _job_id(new, digest, run)
        # locked, as intake does: a conflict found at this moment is seen here, or sees the job
        study = session.scalars(
            select(StudyRow)
            .where(StudyRow.study_instance_uid == new.study_instance_uid)
            .with_for_update(key_share=True)
        ).one_or_none()
        held = study is not None and study.conflict
        state = JobState.HELD if held else JobState.WAITING
        made = insert_unless_there(
            session,
            JobRow,
            id=job_id,
            study_instance_uid=new.study_instance_uid,
            route=new.route,
            model=new.model,
            model_version=new.model_version,
            queue=new.queue,
            destinations=list(new.destinations),
            input_digest=digest,
            run=run,
            state=state,
            attempt=0,
            deaths=0,
            published=0,
            created_at=now,
            updated_at=now,
            reason=HELD_REASON if held else "",
            remedy=HELD_REMEDY if held else "",
            summary={},
        )
        if not made:
            return self._again(new, digest, now) if run == 1 else None
        for uid in new.series_instance_uids:
            session.add(JobSeriesRow(job_id=job_id, series_instance_uid=uid))
        for instance in new.instances:
            session.add(JobInstanceRow(job_id=job_id, instance_id=instance.id))
        note = f"made for {len(new.instances)} instances by route {new.route}"
        session.add(JobEventRow(job_id=job_id, at=now, state=state, note=note, actor=actor))
        if actor == DISPATCH:
            self._supersede(new, digest, job_id, now)
        session.flush()
        return job_id

    def rerun(
        self, job_id: str, actor: str, now: datetime, *, model_version: str | None = None
    ) -> str:
        """Make a new job with the input of an old one; returns its id.

        `model_version` is the one that is installed now, if it is another.

        Raises:
            NotFoundError: no such job.
            IllegalMoveError: the job is still open, so it will run anyway; or another job has
                taken its place.
        """
        row = self._locked(job_id)
        successor = self._successor(row)
        if successor is not None:
            raise IllegalMoveError(
                f"job {job_id} has an older input than job {successor}",
                remedy=f"Retry that one: sentinode retry {successor}",
            )
        if JobState(row.state) in {JobState.WAITING, JobState.QUEUED, JobState.RUNNING}:
            raise IllegalMoveError(f"job {job_id} is {row.state}; it will run by itself")
        if row.state == JobState.HELD:
            raise IllegalMoveError(f"job {job_id} is held: {row.reason}", remedy=row.remedy)
        sibling = self._session.scalar(
            select(JobRow.id)
            .where(
                JobRow.route == row.route,
                JobRow.input_digest == row.input_digest,
                JobRow.state.in_(JOB_OPEN),
            )
            .limit(1)
        )
        if sibling is not None:
            raise IllegalMoveError(f"job {job_id} is being run again already, as job {sibling}")
        version = model_version or row.model_version
        last = self._last_run(row.route, row.model, version, row.input_digest)
        new = NewJob(
            study_instance_uid=row.study_instance_uid,
            series_instance_uids=self.series_of(job_id),
            instances=tuple(self.instances_of(job_id)),
            route=row.route,
            model=row.model,
            model_version=version,
            queue=row.queue,
            destinations=tuple(row.destinations),
        )
        made = self.create(new, now, run=last + 1, actor=actor)
        if made is None:  # another administrator was faster by a moment
            raise IllegalMoveError(f"job {job_id} is being run again already")
        return made

    def to_publish(self, now: datetime, republish: timedelta, limit: int = 200) -> list[Job]:
        """Move jobs that are due to queued, and take lost ones again.

        A queued job that no worker claimed within `republish` counts as lost: its message is
        sent again, after waits that double, or the messages of a weekend without workers would
        fill the broker. A message too many does no harm, for the claim decides.
        """
        jobs: list[Job] = []
        for condition in (_due(now), _lost(now)):
            for row in self._session.scalars(
                select(JobRow)
                .where(condition)
                .order_by(JobRow.created_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
                .execution_options(populate_existing=True)
            ):
                if row.state == JobState.WAITING:
                    self.move(row, JobState.QUEUED, "published", DISPATCH, now)
                    row.queued_at, row.published = now, 0
                wait = min(republish * 2**row.published, max(republish, LONGEST_REPUBLISH))
                row.republish_at = now + wait
                row.published = min(row.published + 1, 16)
                jobs.append(job_value(row))
        return jobs

    def has_work(self, now: datetime) -> bool:
        """Whether `to_publish` or `expire` would find anything; only reads."""
        return (
            self._session.scalar(
                select(JobRow.id).where(_due(now) | _lost(now) | _expired(now)).limit(1)
            )
            is not None
        )

    def publish_failed(self, job_id: str, next_try_at: datetime, now: datetime) -> None:
        """The broker is away: the job waits, unless a worker has it already."""
        row = self._locked(job_id)
        if row.state == JobState.QUEUED:
            self.move(row, JobState.WAITING, "the broker is away", DISPATCH, now)
            row.next_try_at = next_try_at

    def claim(self, job_id: str, owner: str, until: datetime, now: datetime) -> Job | None:
        """Take a queued job under a lease; None when it is not to be had."""
        row = self._locked(job_id)
        if row.state != JobState.QUEUED:
            return None
        row.attempt += 1
        row.lease_owner, row.lease_until, row.started_at = owner, until, now
        self.move(row, JobState.RUNNING, f"attempt {row.attempt}", owner, now)
        return job_value(row, self.series_of(job_id))

    def heartbeat(self, job_id: str, owner: str, until: datetime) -> bool:
        """Renew a lease; False when it is lost."""
        row = self._locked(job_id)
        if row.state != JobState.RUNNING or row.lease_owner != owner:
            return False
        row.lease_until = until
        return True

    def expire(self, now: datetime, *, blame: bool = True) -> list[tuple[str, JobState]]:
        """Give jobs whose worker died back, or quarantine them.

        Without `blame` the deaths are not counted: the ledger or the node itself was away, so
        that a living worker could not renew its lease.
        """
        moved = []
        for row in self._session.scalars(
            select(JobRow).where(_expired(now)).with_for_update(skip_locked=True)
        ):
            row.deaths += blame
            if row.deaths >= MAX_DEATHS:
                state = JobState.QUARANTINED
                reason = f"its worker died {row.deaths} times while it ran"
                remedy = "Look at the worker's log; then `sentinode retry JOB`."
            else:
                state, reason, remedy = JobState.WAITING, "its worker died; given back", ""
            self.move(row, state, reason, DISPATCH, now, remedy=remedy)
            row.next_try_at = None
            moved.append((row.id, state))
        return moved

    def give_back(
        self, job_id: str, owner: str, reason: str, next_try_at: datetime, now: datetime
    ) -> None:
        """A passing trouble: the job waits for its next attempt.

        Raises:
            LeaseLostError: the caller does not hold the job any more.
        """
        row = self._held_by(job_id, owner)
        self.move(row, JobState.WAITING, reason, owner, now)
        row.next_try_at = next_try_at

    def finish(
        self,
        job_id: str,
        owner: str,
        state: JobState,
        now: datetime,
        *,
        reason: str = "",
        remedy: str = "",
        findings: Sequence[Finding] = (),
        results: Sequence[Result] = (),
        summary: dict[str, Any] | None = None,
    ) -> None:
        """End a job with what it found, and make its transfers due, in one transaction.

        The objects of a job that failed are kept and not sent.

        Raises:
            LeaseLostError: the caller does not hold the job any more; nothing was written.
        """
        row = self._held_by(job_id, owner)
        found = sum(item.present for item in findings)
        note = reason or f"{found} finding{'' if found == 1 else 's'}"
        self.move(row, state, note, owner, now, remedy=remedy)
        row.finished_at, row.summary = now, summary or {}
        for finding in findings:
            stored = finding_row(job_id, finding)
            self._session.add(stored)
            self._session.flush()
            for measurement in finding.measurements:
                self._session.add(measurement_row(stored.id, measurement))
        for result in results:
            stored_result = result_row(job_id, result, now)
            self._session.add(stored_result)
            self._session.flush()
            # an alternative gets its transfers from the rendition that asked for it
            if state != JobState.DONE or not is_sent(result):
                continue
            for destination in row.destinations:
                self._session.add(
                    TransferRow(
                        result_id=stored_result.id,
                        job_id=job_id,
                        study_instance_uid=row.study_instance_uid,
                        destination=destination,
                        state=TransferState.DUE,
                        created_at=now,
                    )
                )

    def earlier(self, job_id: str) -> tuple[int, tuple[Result, ...]]:
        """Which analysis of its images by its route a job is, and the objects of the one before.

        Earlier are the jobs of the same route on at least one of the same series that are done
        and were made before this one, by (created_at, id).

        Returns:
            The revision, 1 for the first; and the DICOM objects of the newest earlier job that
            has any, in the order in which they were made: its own, and those alternatives that
            a destination has. Empty for the first.
        """
        jobs = self._earlier_jobs(job_id)
        for earlier_id in jobs:
            results = self._objects_of(earlier_id)
            if results:
                return 1 + len(jobs), results
        return 1 + len(jobs), ()

    def void(self, job_id: str) -> tuple[Result, ...]:
        """The objects of all earlier analyses, which a job's own take the place of.

        All, not only the newest one's: a rejection that did not arrive is made up for.
        """
        return tuple(
            result
            for earlier_id in reversed(self._earlier_jobs(job_id))
            for result in self._objects_of(earlier_id)
        )

    def _earlier_jobs(self, job_id: str) -> Sequence[str]:
        """Done jobs of the same route on one of the same series, made before; newest first."""
        row = self._session.get_one(JobRow, job_id)
        return self._session.scalars(
            select(JobRow.id)
            .where(
                JobRow.route == row.route,
                JobRow.state == JobState.DONE,
                (JobRow.created_at < row.created_at)
                | ((JobRow.created_at == row.created_at) & (JobRow.id < row.id)),
                JobRow.id.in_(
                    select(JobSeriesRow.job_id).where(
                        JobSeriesRow.series_instance_uid.in_(self.series_of(job_id))
                    )
                ),
            )
            .order_by(JobRow.created_at.desc(), JobRow.id.desc())
        ).all()

    def _objects_of(self, job_id: str) -> tuple[Result, ...]:
        """The DICOM objects of a job: its own, and those alternatives that a destination has."""
        delivered = select(TransferRow.result_id).where(
            TransferRow.state.in_((TransferState.SENT, TransferState.COMMITTED))
        )
        results = self._session.scalars(
            select(ResultRow)
            .where(
                ResultRow.job_id == job_id,
                ResultRow.kind != ResultKind.PICTURE,
                ResultRow.alternative_to.is_(None) | ResultRow.id.in_(delivered),
            )
            .order_by(ResultRow.id)
        )
        return tuple(result_value(item) for item in results)

    def move(
        self,
        row: JobRow,
        state: JobState,
        note: str,
        actor: str,
        now: datetime,
        *,
        remedy: str = "",
    ) -> None:
        """Make one legal move and write it into the job's life.

        Raises:
            IllegalMoveError: the lifecycle does not allow it.
        """
        if state not in JOB_MOVES[JobState(row.state)]:
            raise IllegalMoveError(f"job {row.id} cannot go from {row.state} to {state}")
        row.state, row.updated_at, row.reason, row.remedy = state, now, note, remedy
        if state != JobState.RUNNING:
            row.lease_owner = row.lease_until = None
        self._session.add(
            JobEventRow(job_id=row.id, at=now, state=state, note=note, actor=actor[:64])
        )

    def instances_of(self, job_id: str) -> list[Instance]:
        """The versions of the instances that a job reads."""
        rows = self._session.scalars(
            select(InstanceRow)
            .join(JobInstanceRow, JobInstanceRow.instance_id == InstanceRow.id)
            .where(JobInstanceRow.job_id == job_id)
            .order_by(InstanceRow.id)
        )
        return [instance_value(row) for row in rows]

    def series_of(self, job_id: str) -> tuple[str, ...]:
        """The series of a job's input."""
        return tuple(
            self._session.scalars(
                select(JobSeriesRow.series_instance_uid)
                .where(JobSeriesRow.job_id == job_id)
                .order_by(JobSeriesRow.series_instance_uid)
            )
        )

    def _locked(self, job_id: str) -> JobRow:
        row = self._session.scalars(
            select(JobRow)
            .where(JobRow.id == job_id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one_or_none()
        if row is None:
            raise NotFoundError(f"no job {job_id}")
        return row

    def _held_by(self, job_id: str, owner: str) -> JobRow:
        row = self._locked(job_id)
        if row.state != JobState.RUNNING or row.lease_owner != owner:
            raise LeaseLostError(f"job {job_id} is no longer ours: it is {row.state}")
        return row

    def _again(self, new: NewJob, digest: str, now: datetime) -> str | None:
        """The same input once more (an image was replaced and put back): is a job needed?"""
        last = self._last_run(new.route, new.model, new.model_version, digest)
        job_id = _job_id(new, digest, last)
        self._supersede(new, digest, job_id, now)
        if self._locked(job_id).state == JobState.SUPERSEDED:
            return self.create(new, now, run=last + 1)
        return None

    def _last_run(self, route: str, model: str, version: str, digest: str) -> int:
        return (
            self._session.scalar(
                select(func.max(JobRow.run)).where(
                    JobRow.route == route,
                    JobRow.model == model,
                    JobRow.model_version == version,
                    JobRow.input_digest == digest,
                )
            )
            or 0
        )

    def _successor(self, row: JobRow) -> str | None:
        """A later job of the same route on the same series with another input."""
        return self._session.scalar(
            select(JobRow.id)
            .join(JobSeriesRow, JobSeriesRow.job_id == JobRow.id)
            .where(
                JobSeriesRow.series_instance_uid.in_(self.series_of(row.id)),
                JobRow.route == row.route,
                JobRow.input_digest != row.input_digest,
                JobRow.created_at >= row.created_at,
            )
            .order_by(JobRow.created_at.desc())
            .limit(1)
        )

    def _supersede(self, new: NewJob, digest: str, job_id: str, now: datetime) -> None:
        rows = self._session.scalars(
            select(JobRow)
            .join(JobSeriesRow, JobSeriesRow.job_id == JobRow.id)
            .where(
                JobSeriesRow.series_instance_uid.in_(new.series_instance_uids),
                JobRow.id != job_id,
                JobRow.input_digest != digest,
                JobRow.route == new.route,
                JobRow.state.in_(JOB_OPEN),
            )
            .with_for_update()
        ).unique()
        for row in rows.all():
            self.move(row, JobState.SUPERSEDED, f"job {job_id} has more", DISPATCH, now)


def is_sent(result: Result) -> bool:
    """Whether a result is an object that its job sends."""
    return result.kind != ResultKind.PICTURE and result.alternative_to is None


def _due(now: datetime) -> ColumnElement[bool]:
    """Waiting, and its time has come."""
    in_time = JobRow.next_try_at.is_(None) | (JobRow.next_try_at <= now)
    return (JobRow.state == JobState.WAITING) & in_time


def _lost(now: datetime) -> ColumnElement[bool]:
    """Published, and no worker came for it."""
    return (JobRow.state == JobState.QUEUED) & (JobRow.republish_at <= now)


def _expired(now: datetime) -> ColumnElement[bool]:
    """In the hands of a worker that is silent."""
    return (JobRow.state == JobState.RUNNING) & (JobRow.lease_until < now)


def _input_digest(instances: Sequence[Instance]) -> str:
    lines = sorted(f"{item.sop_instance_uid} {item.digest}" for item in instances)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _job_id(new: NewJob, digest: str, run: int) -> str:
    number = derived_uid("job", new.route, new.model, new.model_version, digest, str(run))
    return str(uuid.UUID(int=int(number.rpartition(".")[2])))
