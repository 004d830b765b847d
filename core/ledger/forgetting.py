"""Forgetting: the rows of old studies leave the ledger, after their bytes (docs/decisions/0019).

A study goes whole, in one transaction under its lock. Its bytes go at least an hour before its
rows: an image that arrives in between finds its row, and one that was just put into the store
is not taken for the bytes that are deleted.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, exists, func, or_, select
from sqlalchemy.orm import Session

from core.ledger.kept import Keeping, Kept
from core.ledger.retention import Retention
from core.ledger.subscriptions import Subscriptions
from core.ledger.workitems import Workitems
from core.lifecycle import AnswerState
from core.schema import (
    CommitmentRequestRow,
    CommitmentRow,
    ConflictRow,
    EvidenceRow,
    FindingRow,
    InstanceRow,
    JobEventRow,
    JobInstanceRow,
    JobRow,
    JobSeriesRow,
    MeasurementRow,
    RemovalRow,
    RenditionRow,
    ResultRow,
    RouteDecisionRow,
    SeriesAssociationRow,
    SeriesRow,
    StudyRow,
    TransferAttemptRow,
    TransferRow,
    WorkitemRow,
)

Place = tuple[datetime, str]  # when a study came, and its UID
ROWS_AFTER_BYTES = timedelta(hours=1)
_MOST_ORDERS = 500


class Step(StrEnum):
    """What was done for a study.

    bytes: its bytes were let go; the rows follow.
    waits: its bytes went just now, or are still being deleted.
    rows: its rows are gone.
    """

    BYTES = "bytes"
    WAITS = "waits"
    ROWS = "rows"


class Forgetting:
    """Takes old studies out of the ledger."""

    def __init__(self, session: Session, retention: Retention) -> None:
        self._session = session
        self._retention = retention
        self._keeping = Keeping(session)
        self._workitems = Workitems(session)
        self._subscriptions = Subscriptions(session)

    def studies(self, before: datetime, after: Place | None, limit: int) -> list[Place]:
        """Studies that got no image since `before`, the oldest first: (when it came, UID)."""
        query = (
            select(StudyRow.first_received_at, StudyRow.study_instance_uid)
            .where(StudyRow.first_received_at < before, ~_came_since(before))
            .order_by(StudyRow.first_received_at, StudyRow.study_instance_uid)
            .limit(limit)
        )
        if after is not None:
            since, uid = after
            query = query.where(
                (StudyRow.first_received_at > since)
                | ((StudyRow.first_received_at == since) & (StudyRow.study_instance_uid > uid))
            )
        return [(since, uid) for since, uid in self._session.execute(query)]

    def kept(self, study_instance_uid: str, committing: Collection[str]) -> Kept | None:
        """Why a study must stay, or None."""
        series = self._keeping.series(self._series(study_instance_uid), committing)
        results = self._keeping.results(self._jobs(study_instance_uid), committing)
        reasons = {*series.values(), *results.values()}
        if self._subscriptions.locked(self._workitems.of_study(study_instance_uid)):
            reasons.add(Kept.LOCKED)
        return next((reason for reason in Kept if reason in reasons), None)

    def step(
        self, study_instance_uid: str, before: datetime, committing: Collection[str], now: datetime
    ) -> Step | Kept | None:
        """Do the next step for a study, if it still may go.

        Returns:
            What was done, why it stays, or None where it is gone or got an image.
        """
        study = self._session.scalars(
            select(StudyRow)
            .where(StudyRow.study_instance_uid == study_instance_uid, ~_came_since(before))
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one_or_none()
        if study is None:
            return None
        reason = self.kept(study_instance_uid, committing)
        if reason is not None:
            return reason
        if self._let_bytes_go(study_instance_uid, now):
            return Step.BYTES
        if self._bytes_are_going(study_instance_uid, now):
            return Step.WAITS
        self._delete(study_instance_uid)
        return Step.ROWS

    def forget_requests(self, before: datetime) -> int:
        """Remove storage commitment requests that were answered long ago; how many."""
        rows = self._session.execute(
            delete(CommitmentRequestRow)
            .where(
                CommitmentRequestRow.received_at < before,
                CommitmentRequestRow.state != AnswerState.DUE,
            )
            .returning(CommitmentRequestRow.id)
        )
        return len(rows.all())

    def forget_orders(self, before: datetime) -> int:
        """Remove old orders of analyses whose images never came; how many."""
        gone = 0
        for uid in self._workitems.old_orders(before, _MOST_ORDERS):
            if not self._subscriptions.locked([uid]) and self._workitems.remove(uid, before):
                self._subscriptions.forget([uid])
                gone += 1
        return gone

    def _let_bytes_go(self, study_uid: str, now: datetime) -> bool:
        of_study = InstanceRow.series_instance_uid.in_(_series_of(study_uid))
        images, _ = self._retention.mark_originals(of_study & InstanceRow.gone_at.is_(None), now)
        jobs = set(
            self._session.scalars(
                select(ResultRow.job_id)
                .where(ResultRow.job_id.in_(_jobs_of(study_uid)), ResultRow.gone_at.is_(None))
                .distinct()
            )
        )
        of_jobs = ResultRow.job_id.in_(_jobs_of(study_uid)) & ResultRow.gone_at.is_(None)
        results, _ = self._retention.mark_results(of_jobs, now)
        # with what workers that died in the middle had put there
        self._retention.note([f"results/{job}/" for job in sorted(jobs)], now)
        return bool(images or results)

    def _bytes_are_going(self, study_uid: str, now: datetime) -> bool:
        images = select(InstanceRow.store_key).where(
            InstanceRow.series_instance_uid.in_(_series_of(study_uid))
        )
        results = select(ResultRow.store_key).where(ResultRow.job_id.in_(_jobs_of(study_uid)))
        folders = [f"results/{job}/" for job in self._jobs(study_uid)]
        pending = self._session.scalar(
            select(func.count())
            .select_from(RemovalRow)
            .where(
                or_(
                    RemovalRow.store_key.in_(images),
                    RemovalRow.store_key.in_(results),
                    RemovalRow.store_key.in_(folders),
                )
            )
        )
        if pending:
            return True
        last = self._session.scalar(
            select(func.max(InstanceRow.gone_at)).where(
                InstanceRow.series_instance_uid.in_(_series_of(study_uid))
            )
        )
        return last is not None and last > now - ROWS_AFTER_BYTES

    def _delete(self, study_uid: str) -> None:
        """Every row of a study, those that refer to others first.

        Associations stay: they are not of one study, and say nothing about a patient.
        """
        self._subscriptions.forget(self._workitems.of_study(study_uid))
        series, jobs = _series_of(study_uid), _jobs_of(study_uid)
        transfers = select(TransferRow.id).where(_transfer_of(study_uid))
        findings = select(FindingRow.id).where(FindingRow.job_id.in_(jobs))
        commitments = self._session.scalars(
            select(TransferRow.commitment_id)
            .where(_transfer_of(study_uid), TransferRow.commitment_id.is_not(None))
            .distinct()
        ).all()
        for table, which in (
            (TransferAttemptRow, TransferAttemptRow.transfer_id.in_(transfers)),
            (TransferRow, _transfer_of(study_uid)),
            (
                CommitmentRow,
                CommitmentRow.id.in_(commitments)
                & ~exists().where(TransferRow.commitment_id == CommitmentRow.id),
            ),
            (RenditionRow, RenditionRow.job_id.in_(jobs)),
            (MeasurementRow, MeasurementRow.finding_id.in_(findings)),
            (FindingRow, FindingRow.job_id.in_(jobs)),
            (ResultRow, ResultRow.job_id.in_(jobs) & ResultRow.alternative_to.is_not(None)),
            (ResultRow, ResultRow.job_id.in_(jobs)),
            (WorkitemRow, WorkitemRow.study_instance_uid == study_uid),
            (WorkitemRow, WorkitemRow.job_id.in_(jobs)),
            (JobEventRow, JobEventRow.job_id.in_(jobs)),
            (JobInstanceRow, JobInstanceRow.job_id.in_(jobs)),
            (JobSeriesRow, JobSeriesRow.job_id.in_(jobs)),
            (JobRow, JobRow.study_instance_uid == study_uid),
            (RouteDecisionRow, RouteDecisionRow.series_instance_uid.in_(series)),
            (SeriesAssociationRow, SeriesAssociationRow.series_instance_uid.in_(series)),
            (ConflictRow, ConflictRow.study_instance_uid == study_uid),
            (
                EvidenceRow,
                (EvidenceRow.study_instance_uid == study_uid)
                | EvidenceRow.series_instance_uid.in_(series),
            ),
            (InstanceRow, InstanceRow.series_instance_uid.in_(series)),
            (SeriesRow, SeriesRow.study_instance_uid == study_uid),
            (StudyRow, StudyRow.study_instance_uid == study_uid),
        ):
            self._session.execute(
                delete(table).where(which).execution_options(synchronize_session=False)
            )

    def _series(self, study_uid: str) -> list[str]:
        return list(self._session.scalars(_series_of(study_uid)))

    def _jobs(self, study_uid: str) -> list[str]:
        return list(self._session.scalars(_jobs_of(study_uid)))


def _came_since(before: datetime) -> Any:
    return exists().where(
        SeriesRow.study_instance_uid == StudyRow.study_instance_uid,
        SeriesRow.last_received_at >= before,
    )


def _series_of(study_uid: str) -> Any:
    return select(SeriesRow.series_instance_uid).where(SeriesRow.study_instance_uid == study_uid)


def _jobs_of(study_uid: str) -> Any:
    return select(JobRow.id).where(JobRow.study_instance_uid == study_uid)


def _transfer_of(study_uid: str) -> Any:
    return TransferRow.study_instance_uid == study_uid
