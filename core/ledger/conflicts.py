"""Identity conflicts: holding a study's jobs and unsent results until an administrator decides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.errors import NotFoundError
from core.ledger.jobs import HELD_REASON, HELD_REMEDY, Jobs
from core.lifecycle import JOB_OPEN, RENDITION_OPEN, JobState, TransferState
from core.schema import ConflictRow, JobRow, RenditionRow, StudyRow, TransferRow


@dataclass(frozen=True, slots=True)
class Conflict:
    """One attribute that disagrees. The values are for people, never for logs."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    keyword: str
    earlier: str
    later: str
    found_at: datetime


class Conflicts:
    """Holds, and lets go."""

    def __init__(self, session: Session, jobs: Jobs) -> None:
        self._session = session
        self._jobs = jobs

    def open(self) -> list[Conflict]:
        """Every conflict that nobody has decided yet."""
        rows = self._session.scalars(
            select(ConflictRow).where(ConflictRow.decided_at.is_(None)).order_by(ConflictRow.id)
        )
        return [
            Conflict(
                row.study_instance_uid,
                row.series_instance_uid,
                row.sop_instance_uid,
                row.keyword,
                row.earlier,
                row.later,
                row.found_at,
            )
            for row in rows
        ]

    def hold(self, study_instance_uid: str, now: datetime) -> None:
        """Hold the open jobs and the unsent results of a study."""
        for job in self._open_jobs(study_instance_uid):
            if job.state != JobState.HELD:
                self._jobs.move(job, JobState.HELD, HELD_REASON, "intake", now, remedy=HELD_REMEDY)
        for transfer in self._transfers(
            study_instance_uid, (TransferState.DUE, TransferState.SENDING)
        ):
            # a sender that is in the middle of it finds its lease gone and records nothing
            transfer.state = TransferState.PAUSED
            transfer.lease_owner = transfer.lease_until = None
            transfer.message = HELD_REASON

    def decide(self, study_instance_uid: str, release: bool, actor: str, now: datetime) -> int:
        """Let a held study go on (`release`), or cancel its held work; returns jobs touched.

        Raises:
            NotFoundError: the study has no undecided conflict.
        """
        study = self._session.get(StudyRow, study_instance_uid, with_for_update=True)
        if study is None or not study.conflict:
            raise NotFoundError(f"study {study_instance_uid} has no identity conflict to decide")
        study.conflict = False
        for row in self._session.scalars(
            select(ConflictRow).where(
                ConflictRow.study_instance_uid == study_instance_uid,
                ConflictRow.decided_at.is_(None),
            )
        ):
            row.decided_at, row.decision = now, "release" if release else "cancel"
        held = [job for job in self._open_jobs(study_instance_uid) if job.state == JobState.HELD]
        for job in held:
            state = JobState.WAITING if release else JobState.CANCELLED
            note = "released" if release else "cancelled after an identity conflict"
            self._jobs.move(job, state, note, actor, now)
            job.next_try_at = None
        for transfer in self._transfers(study_instance_uid, (TransferState.PAUSED,)):
            transfer.state = TransferState.DUE if release else TransferState.FAILED
            transfer.next_try_at = None
            transfer.message = "" if release else "cancelled after an identity conflict"
        if not release:
            # nor does anything come of what is just being made for a refused object
            self._session.execute(
                update(TransferRow)
                .where(
                    TransferRow.study_instance_uid == study_instance_uid,
                    TransferRow.state == TransferState.REFUSED,
                    TransferRow.rendition_id.in_(
                        select(RenditionRow.id).where(RenditionRow.state.in_(RENDITION_OPEN))
                    ),
                )
                .values(rendition_id=None)
            )
        return len(held)

    def _open_jobs(self, study_instance_uid: str) -> list[JobRow]:
        return list(
            self._session.scalars(
                select(JobRow)
                .where(JobRow.study_instance_uid == study_instance_uid, JobRow.state.in_(JOB_OPEN))
                .with_for_update()
            )
        )

    def _transfers(
        self, study_instance_uid: str, states: tuple[TransferState, ...]
    ) -> list[TransferRow]:
        return list(
            self._session.scalars(
                select(TransferRow)
                .where(
                    TransferRow.study_instance_uid == study_instance_uid,
                    TransferRow.state.in_(states),
                )
                .with_for_update()
            )
        )
