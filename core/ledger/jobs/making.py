"""Making a job once, and making it again."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, update

from core.domain import Instance
from core.errors import IllegalMoveError
from core.identifiers import derived_uid
from core.ledger.jobs.base import DISPATCH, HELD_REASON, HELD_REMEDY, JobRows, turn_of
from core.ledger.rows import insert_unless_there
from core.lifecycle import JOB_OPEN, JobState
from core.schema import (
    JobEventRow,
    JobInstanceRow,
    JobRow,
    JobSeriesRow,
    SeriesRow,
    WorkitemRow,
)


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a job is made from.

    Attributes:
        priority: the greater goes first; 0 is routine.
        size: bytes of the input.
        sender: AE title that the input came from.
        expected: how many images there should be, where anybody said so.
    """

    study_instance_uid: str
    series_instance_uids: tuple[str, ...]
    instances: tuple[Instance, ...]
    route: str
    model: str
    model_version: str
    queue: str
    destinations: tuple[str, ...]
    priority: int = 0
    size: int = 0
    sender: str = ""
    expected: int | None = None


class Making(JobRows):
    """Makes jobs; the same one only once."""

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
        study = self._lock_study(new.study_instance_uid)
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
            losses=0,
            blamed=False,
            priority=new.priority,
            size=new.size,
            sender=new.sender,
            modality=self._modality(new),
            expected=new.expected,
            strain=0,
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
        self,
        job_id: str,
        actor: str,
        now: datetime,
        *,
        model_version: str | None = None,
        most_priority: int | None = None,
    ) -> str:
        """Make a new job with the input of an old one; returns its id.

        `model_version` is the one that is installed now, if it is another; `most_priority` is
        what the new job gets at most, so that many of them hold up nobody.

        Raises:
            NotFoundError: no such job.
            IllegalMoveError: the job is still open, so it will run anyway; another job has
                taken its place; or its images were removed from the store.
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
        gone = self.gone(job_id)
        if gone:
            raise IllegalMoveError(
                f"{gone} of the images of job {job_id} were removed from the store ([retention])",
                remedy="Send the study again; then retry.",
            )
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
            priority=row.priority if most_priority is None else min(row.priority, most_priority),
            size=row.size,
            sender=row.sender,
            expected=row.expected,
        )
        # never the first run, also with another version: who asks for it wants it computed
        made = self.create(new, now, run=max(last, 1) + 1, actor=actor)
        if made is None:  # another administrator was faster by a moment
            raise IllegalMoveError(f"job {job_id} is being run again already")
        if row.state == JobState.QUARANTINED:  # it has not ended, so its order has no answer yet
            self._pass_on_order(row, made, now)
        return made

    def _modality(self, new: NewJob) -> str:
        """The modality of the first series of the input."""
        if not new.series_instance_uids:
            return ""
        row = self._session.get(SeriesRow, new.series_instance_uids[0])
        return row.modality if row else ""

    def _again(self, new: NewJob, digest: str, now: datetime) -> str | None:
        """The same input once more (an image was replaced and put back): is a job needed?"""
        last = self._last_run(new.route, new.model, new.model_version, digest)
        job_id = _job_id(new, digest, last)
        self._supersede(new, digest, job_id, now)
        row = self._locked(job_id)
        if row.state in JOB_OPEN:
            return None
        # superseded, or another content was analysed since: its results are not what is there now
        if row.state == JobState.SUPERSEDED or self._successor(row) is not None:
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
                turn_of() > self.turn(row.id),
            )
            .order_by(turn_of().desc())
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
            self._pass_on_order(row, job_id, now)

    def _pass_on_order(self, old: JobRow, job_id: str, now: datetime) -> None:
        """Who ordered a job that another takes the place of gets that one's answer."""
        taken = self._session.scalar(select(WorkitemRow.uid).where(WorkitemRow.job_id == job_id))
        if taken is not None:
            return
        self._session.flush()
        self._session.execute(
            update(WorkitemRow)
            .where(WorkitemRow.job_id == old.id)
            .values(
                job_id=job_id,
                changed_at=now,
                # a workitem that was begun is never scheduled again
                started_at=func.coalesce(WorkitemRow.started_at, old.started_at),
            )
        )


def _input_digest(instances: Sequence[Instance]) -> str:
    lines = sorted(f"{item.sop_instance_uid} {item.digest}" for item in instances)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _job_id(new: NewJob, digest: str, run: int) -> str:
    number = derived_uid("job", new.route, new.model, new.model_version, digest, str(run))
    return str(uuid.UUID(int=int(number.rpartition(".")[2])))
