"""What must not go yet, and why: asked before retention removes anything (docs/decisions/0019).

A series' images go together, and so do a job's results. The answers hold as long as the study's
row is locked: whoever gives images a new use locks it first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from core.lifecycle import (
    JOB_OPEN,
    RENDITION_OPEN,
    SeriesState,
    TransferState,
)
from core.schema import (
    InstanceRow,
    JobRow,
    JobSeriesRow,
    RenditionRow,
    ResultRow,
    SeriesRow,
    StudyRow,
    TransferRow,
)


class Kept(StrEnum):
    """Why something stays, for a person; where there are several reasons, the first."""

    CONFLICT = "identity conflict"
    RECEIVING = "images may still come"
    IN_USE = "a job is still at work on it"
    UNDELIVERED = "not delivered yet"
    UNCOMMITTED = "delivered, and its destination has not committed to it yet"
    PROMISED = "its sender was told that it is safe here, and no archive has committed to it"
    LOCKED = "who follows its workitem asked for it to be kept"


_ORDER = tuple(Kept)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A transfer, as far as it matters here."""

    of: str
    result_id: int | None
    alternative_to: int | None
    sop_class_uid: str
    destination: str
    state: TransferState
    proved: bool
    replaced_by: str | None


class Keeping:
    """Says what may not go.

    `committing` are the destinations that are asked for storage commitment: what was sent to
    them counts as delivered only when they have committed to it (PS3.4 Annex J).
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def series(self, uids: Collection[str], committing: Collection[str]) -> dict[str, Kept]:
        """The series of these whose images must stay, and why; the others may go."""
        found = _Reasons()
        states = self._session.execute(
            select(SeriesRow.series_instance_uid, SeriesRow.state, StudyRow.conflict)
            .join(StudyRow, StudyRow.study_instance_uid == SeriesRow.study_instance_uid)
            .where(SeriesRow.series_instance_uid.in_(uids))
        )
        for uid, state, conflict in states:
            found.add_if(conflict, uid, Kept.CONFLICT)
            found.add_if(state == SeriesState.RECEIVING, uid, Kept.RECEIVING)
        at_work = self._session.scalars(
            select(JobSeriesRow.series_instance_uid)
            .join(JobRow, JobRow.id == JobSeriesRow.job_id)
            .where(JobSeriesRow.series_instance_uid.in_(uids), JobRow.state.in_(JOB_OPEN))
        )
        found.add_all(at_work, Kept.IN_USE)
        transfers = self._session.execute(
            select(
                InstanceRow.series_instance_uid,
                TransferRow.destination,
                TransferRow.state,
                TransferRow.proof != "",
            )
            .join(InstanceRow, InstanceRow.id == TransferRow.instance_id)
            .where(InstanceRow.series_instance_uid.in_(uids))
            .distinct()
        )
        for uid, destination, state, proved in transfers:
            found.add(uid, _missing(TransferState(state), proved, destination in committing))
        committed = aliased(TransferRow)
        promised = self._session.scalars(
            select(InstanceRow.series_instance_uid)
            .where(
                InstanceRow.series_instance_uid.in_(uids),
                InstanceRow.promised_at.is_not(None),
                InstanceRow.gone_at.is_(None),
                ~select(committed.id)
                .where(
                    committed.instance_id == InstanceRow.id,
                    committed.state == TransferState.COMMITTED,
                )
                .exists(),
            )
            .distinct()
        )
        found.add_all(promised, Kept.PROMISED)
        return found.first

    def results(self, job_ids: Collection[str], committing: Collection[str]) -> dict[str, Kept]:
        """The jobs of these whose results must stay, and why; those of the others may go.

        A result that its destination refused counts as delivered there when what was made in
        its place was.
        """
        found = _Reasons()
        states = self._session.execute(
            select(JobRow.id, JobRow.state, StudyRow.conflict)
            .join(StudyRow, StudyRow.study_instance_uid == JobRow.study_instance_uid)
            .where(JobRow.id.in_(job_ids))
        )
        for job_id, state, conflict in states:
            found.add_if(conflict, job_id, Kept.CONFLICT)
            found.add_if(state in JOB_OPEN, job_id, Kept.IN_USE)
        made = self._session.scalars(
            select(RenditionRow.job_id).where(
                RenditionRow.job_id.in_(job_ids), RenditionRow.state.in_(RENDITION_OPEN)
            )
        )
        found.add_all(made, Kept.IN_USE)
        sent = self._sent(job_ids)
        for item in sent:
            found.add(item.of, _missing_of(item, sent, committing))
        return found.first

    def _sent(self, job_ids: Collection[str]) -> list[_Sent]:
        """All transfers of the results of these jobs, also those that another job asked for."""
        rows = self._session.execute(
            select(
                ResultRow.job_id,
                ResultRow.id,
                ResultRow.alternative_to,
                ResultRow.sop_class_uid,
                TransferRow.destination,
                TransferRow.state,
                TransferRow.proof != "",
                RenditionRow.sop_class_uid,
            )
            .join(ResultRow, ResultRow.id == TransferRow.result_id)
            .outerjoin(RenditionRow, RenditionRow.id == TransferRow.rendition_id)
            .where(ResultRow.job_id.in_(job_ids))
        )
        return [
            _Sent(job, result, alternative, cls, to, TransferState(state), proved, replaced)
            for job, result, alternative, cls, to, state, proved, replaced in rows
        ]


class _Reasons:
    """The first reason of each."""

    def __init__(self) -> None:
        self.first: dict[str, Kept] = {}

    def add(self, key: str, reason: Kept | None) -> None:
        if reason is None:
            return
        known = self.first.get(key, reason)
        self.first[key] = min(known, reason, key=_ORDER.index)

    def add_if(self, wanted: bool, key: str, reason: Kept) -> None:
        if wanted:
            self.add(key, reason)

    def add_all(self, keys: Iterable[str], reason: Kept) -> None:
        for key in keys:
            self.add(key, reason)


def _missing(state: TransferState, proved: bool, commits: bool) -> Kept | None:
    """What is missing until an object counts as delivered, or None."""
    if state == TransferState.COMMITTED:
        return None
    if state == TransferState.SENT and proved:
        return Kept.UNCOMMITTED if commits else None
    # refused and failed too: an administrator may send it again
    return Kept.UNCOMMITTED if state == TransferState.SENT and commits else Kept.UNDELIVERED


def _missing_of(item: _Sent, sent: list[_Sent], committing: Collection[str]) -> Kept | None:
    """The same for a result, looking at what was made in its place."""
    missing = _missing(item.state, item.proved, item.destination in committing)
    if item.state != TransferState.REFUSED:
        return missing
    if item.alternative_to is not None:
        return None  # its original says what became of it
    if item.replaced_by is None:
        return missing
    instead = [
        _missing(other.state, other.proved, other.destination in committing)
        for other in sent
        if other.alternative_to == item.result_id
        and other.sop_class_uid == item.replaced_by
        and other.destination == item.destination
    ]
    if not instead:
        return Kept.UNDELIVERED
    return next((reason for reason in instead if reason is not None), None)
