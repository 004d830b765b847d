"""What people ask: the worklist, one job's whole life, one study, counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.domain import (
    IMAGE,
    Association,
    Delivered,
    Finding,
    Job,
    JobEvent,
    RefusedClass,
    Rendition,
    Result,
    RouteDecision,
    Series,
    Study,
    Transfer,
    TransferAttempt,
)
from core.errors import NotFoundError
from core.ledger.circuits import Circuits, DestinationState
from core.ledger.rows import (
    finding_value,
    job_value,
    rendition_value,
    result_value,
    series_value,
    study_value,
    transfer_value,
)
from core.ledger.turns import what_it_waits_for
from core.lifecycle import JobState, TransferState
from core.schema import (
    AssociationRow,
    FindingRow,
    InstanceRow,
    JobEventRow,
    JobRow,
    JobSeriesRow,
    MeasurementRow,
    RefusedClassRow,
    RenditionRow,
    ResultRow,
    RouteDecisionRow,
    SeriesAssociationRow,
    SeriesRow,
    StudyRow,
    TransferAttemptRow,
    TransferRow,
)


@dataclass(frozen=True, slots=True)
class JobLife:
    """Everything about one job.

    Attributes:
        renditions: what was or is made of its objects for destinations that refused them.
        refused: the SOP classes that its destinations are known to refuse.
    """

    job: Job
    study: Study
    events: tuple[JobEvent, ...]
    findings: tuple[Finding, ...]
    results: tuple[Result, ...]
    transfers: tuple[tuple[Transfer, tuple[TransferAttempt, ...]], ...]
    renditions: tuple[Rendition, ...] = ()
    refused: tuple[RefusedClass, ...] = ()


class Views:
    """Reads for people."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def jobs(self, states: tuple[JobState, ...] = (), limit: int = 100) -> list[Job]:
        """Jobs, the newest first."""
        query = select(JobRow).order_by(JobRow.created_at.desc(), JobRow.id).limit(limit)
        if states:
            query = query.where(JobRow.state.in_(states))
        return [job_value(row) for row in self._session.scalars(query)]

    def job(self, prefix: str) -> Job:
        """The job whose id is, or begins with, `prefix`.

        Raises:
            NotFoundError: there is none, or more than one.
        """
        rows = self._session.scalars(
            select(JobRow).where(JobRow.id.startswith(prefix, autoescape=True)).limit(2)
        ).all()
        if len(rows) != 1:
            what = "no job begins" if not rows else "more than one job begins"
            raise NotFoundError(f"{what} with {prefix!r}", remedy="See `sentinode worklist`.")
        series = self._session.scalars(
            select(JobSeriesRow.series_instance_uid).where(JobSeriesRow.job_id == rows[0].id)
        )
        return job_value(rows[0], tuple(series))

    def job_life(self, prefix: str) -> JobLife:
        """Everything about one job.

        Raises:
            NotFoundError: no such job.
        """
        job = self.job(prefix)
        maker = job.same_as or job.id  # objects that count for two jobs belong to their maker
        session = self._session
        events = session.scalars(
            select(JobEventRow).where(JobEventRow.job_id == job.id).order_by(JobEventRow.id)
        )
        results = session.scalars(
            select(ResultRow).where(ResultRow.job_id == maker).order_by(ResultRow.id)
        )
        transfers = [
            transfer_value(row, result)
            for row, result in session.execute(
                select(TransferRow, ResultRow)
                .join(ResultRow, ResultRow.id == TransferRow.result_id)
                .where(TransferRow.job_id == maker)
                .order_by(TransferRow.id)
            )
        ]
        return JobLife(
            job=job,
            study=self.study(job.study_instance_uid),
            events=tuple(
                JobEvent(row.at, JobState(row.state), row.note, row.actor) for row in events
            ),
            findings=self.findings(job.id),
            results=tuple(result_value(row) for row in results),
            transfers=tuple(
                (
                    replace(item, waits_for=what_it_waits_for(item, transfers)),
                    self._attempts(item.id),
                )
                for item in transfers
            ),
            renditions=self._renditions(maker),
            refused=self.refused_classes(job.destinations),
        )

    def refused_classes(self, destinations: Sequence[str]) -> tuple[RefusedClass, ...]:
        """The SOP classes that destinations said they do not take."""
        rows = self._session.scalars(
            select(RefusedClassRow)
            .where(RefusedClassRow.destination.in_(destinations))
            .order_by(RefusedClassRow.destination, RefusedClassRow.sop_class_uid)
        )
        return tuple(
            RefusedClass(row.destination, row.sop_class_uid, row.at, row.how) for row in rows
        )

    def findings(self, job_id: str) -> tuple[Finding, ...]:
        """The findings of a job with their measurements, in the order of the report."""
        rows = self._session.scalars(
            select(FindingRow).where(FindingRow.job_id == job_id).order_by(FindingRow.id)
        ).all()
        return tuple(
            finding_value(
                row,
                list(
                    self._session.scalars(
                        select(MeasurementRow)
                        .where(MeasurementRow.finding_id == row.id)
                        .order_by(MeasurementRow.id)
                    )
                ),
            )
            for row in rows
        )

    def studies(self, limit: int = 100) -> list[Study]:
        """Studies with their series, the newest first."""
        uids = self._session.scalars(
            select(StudyRow.study_instance_uid)
            .order_by(StudyRow.first_received_at.desc())
            .limit(limit)
        ).all()
        return [self.study(uid) for uid in uids]

    def study(self, study_instance_uid: str) -> Study:
        """One study with its series.

        Raises:
            NotFoundError: there is none.
        """
        row = self._session.get(StudyRow, study_instance_uid)
        if row is None:
            raise NotFoundError(f"no study {study_instance_uid}")
        return study_value(row, self._series_of(study_instance_uid))

    def route_decisions(self, series_instance_uid: str) -> tuple[RouteDecision, ...]:
        """Why each route took the series or not, when it was last decided."""
        last = self._session.scalar(
            select(func.max(RouteDecisionRow.revision)).where(
                RouteDecisionRow.series_instance_uid == series_instance_uid
            )
        )
        rows = self._session.scalars(
            select(RouteDecisionRow)
            .where(
                RouteDecisionRow.series_instance_uid == series_instance_uid,
                RouteDecisionRow.revision == last,
            )
            .order_by(RouteDecisionRow.route)
        )
        return tuple(RouteDecision(row.route, row.matched, row.reason) for row in rows)

    def associations(self, series_instance_uid: str) -> tuple[Association, ...]:
        """The associations that sent images of a series."""
        rows = self._session.scalars(
            select(AssociationRow)
            .join(SeriesAssociationRow, SeriesAssociationRow.association_id == AssociationRow.id)
            .where(SeriesAssociationRow.series_instance_uid == series_instance_uid)
            .order_by(AssociationRow.began_at)
        )
        return tuple(
            Association(
                row.id,
                row.calling_ae,
                row.called_ae,
                row.peer_address,
                row.began_at,
                row.ended_at,
                row.end,
            )
            for row in rows
        )

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state, and transfers under "transfer <state>"."""
        jobs = self._session.execute(select(JobRow.state, func.count()).group_by(JobRow.state))
        counts = dict(jobs.all())
        transfers = self._session.execute(
            select(TransferRow.state, func.count()).group_by(TransferRow.state)
        )
        counts |= {f"transfer {state}": count for state, count in transfers}
        counts["instances"] = self._session.scalar(select(func.count(InstanceRow.id))) or 0
        return counts

    def destinations(self) -> list[DestinationState]:
        """How every destination did lately."""
        return Circuits(self._session).all()

    def delivered(self, study_instance_uid: str) -> tuple[Delivered, ...]:
        """What of a study went where, originals and results, and how it is known."""
        grouped = (
            TransferRow.destination,
            func.coalesce(ResultRow.kind, IMAGE),
            TransferRow.state,
            TransferRow.proof,
            TransferRow.status,
        )
        rows = self._session.execute(
            select(*grouped, func.max(TransferRow.message), func.count())
            .outerjoin(ResultRow, ResultRow.id == TransferRow.result_id)
            .where(TransferRow.study_instance_uid == study_instance_uid)
            .group_by(*grouped)
            .order_by(*grouped)
        )
        return tuple(
            Delivered(destination, kind, TransferState(state), proof, status, message, count)
            for destination, kind, state, proof, status, message, count in rows
        )

    def _series_of(self, study_instance_uid: str) -> tuple[Series, ...]:
        grouped = self._session.execute(
            select(InstanceRow.series_instance_uid, func.count())
            .join(SeriesRow, SeriesRow.series_instance_uid == InstanceRow.series_instance_uid)
            .where(
                SeriesRow.study_instance_uid == study_instance_uid,
                InstanceRow.current.is_(True),
            )
            .group_by(InstanceRow.series_instance_uid)
        )
        counts = dict(grouped.all())
        rows = self._session.scalars(
            select(SeriesRow)
            .where(SeriesRow.study_instance_uid == study_instance_uid)
            .order_by(SeriesRow.number, SeriesRow.series_instance_uid)
        )
        return tuple(series_value(row, counts.get(row.series_instance_uid, 0)) for row in rows)

    def _renditions(self, job_id: str) -> tuple[Rendition, ...]:
        rows = self._session.execute(
            select(RenditionRow, ResultRow, JobRow)
            .join(ResultRow, ResultRow.id == RenditionRow.result_id)
            .join(JobRow, JobRow.id == RenditionRow.job_id)
            .where(RenditionRow.job_id == job_id)
            .order_by(RenditionRow.id)
        )
        return tuple(rendition_value(row, result, job) for row, result, job in rows)

    def _attempts(self, transfer_id: int) -> tuple[TransferAttempt, ...]:
        rows = self._session.scalars(
            select(TransferAttemptRow)
            .where(TransferAttemptRow.transfer_id == transfer_id)
            .order_by(TransferAttemptRow.id)
        )
        return tuple(TransferAttempt(row.at, row.status, row.message) for row in rows)
