"""All that a page about one study says, in a fixed number of queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.domain import (
    Association,
    Delivered,
    Finding,
    Instance,
    Job,
    JobEvent,
    Result,
    RouteDecision,
    Series,
    Study,
    Transfer,
)
from core.errors import NotFoundError
from core.ledger.conflicts import Conflict
from core.ledger.evidence import EvidenceBook
from core.ledger.rows import (
    finding_value,
    instance_value,
    job_value,
    result_value,
    series_value,
    study_value,
    transfer_value,
)
from core.ledger.statements import Evidence
from core.ledger.views import Views
from core.lifecycle import JobState, SeriesState
from core.schema import (
    AssociationRow,
    ConflictRow,
    FindingRow,
    InstanceRow,
    JobEventRow,
    JobRow,
    JobSeriesRow,
    MeasurementRow,
    ResultRow,
    RouteDecisionRow,
    SeriesAssociationRow,
    SeriesRow,
    StudyRow,
    TransferRow,
)

_MOST_JOBS = 50
_MOST_TRANSFERS = 400
_MOST_FINDINGS = 400


@dataclass(frozen=True, slots=True)
class StudySeries:
    """A series with all that explains what became of it.

    Attributes:
        decisions: why each route took it or not, when it was last decided.
        associations: those that sent its images.
        first_received_at: when its first image came; None when retention removed all.
    """

    series: Series
    decisions: tuple[RouteDecision, ...]
    associations: tuple[Association, ...]
    first_received_at: datetime | None
    last_received_at: datetime


@dataclass(frozen=True, slots=True)
class StudyJob:
    """A job with what it found and made, and where that is.

    Attributes:
        results: of the job whose objects count for it.
        transfers: of those results.
    """

    job: Job
    events: tuple[JobEvent, ...]
    findings: tuple[Finding, ...]
    results: tuple[Result, ...]
    transfers: tuple[Transfer, ...]

    @property
    def sent_at(self) -> datetime | None:
        """When the last object was sent that was sent at all."""
        return max((item.sent_at for item in self.transfers if item.sent_at), default=None)

    @property
    def proved_at(self) -> datetime | None:
        """When the last object was proved to be there that was proved at all."""
        return max((item.proved_at for item in self.transfers if item.proved_at), default=None)


@dataclass(frozen=True, slots=True)
class StudyPage:
    """One study for a person.

    Attributes:
        jobs: the newest first.
        left_out: how many older jobs are not shown.
        delivered: what went where, originals included.
        evidence: what was said about which images belong to it.
        conflicts: identity attributes that disagree and that nobody decided about.
    """

    study: Study
    series: tuple[StudySeries, ...]
    jobs: tuple[StudyJob, ...]
    left_out: int
    delivered: tuple[Delivered, ...]
    evidence: tuple[Evidence, ...]
    conflicts: tuple[Conflict, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """A stored instance, and whether its bytes are still there."""

    instance: Instance
    study_instance_uid: str
    gone: bool


class BrowseStudy:
    """Reads for the page about a study and for its viewer."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._views = Views(session)

    def page(self, study_instance_uid: str) -> StudyPage:
        """Everything about a study.

        Raises:
            NotFoundError: no such study.
        """
        row = self._session.get(StudyRow, study_instance_uid)
        if row is None:
            raise NotFoundError(f"no study {study_instance_uid}")
        series = self._series(study_instance_uid)
        study = study_value(row, tuple(item.series for item in series))
        jobs, left_out = self._jobs(study_instance_uid)
        return StudyPage(
            study=study,
            series=series,
            jobs=jobs,
            left_out=left_out,
            delivered=self._views.delivered(study_instance_uid),
            evidence=tuple(EvidenceBook(self._session).of_study(study_instance_uid)),
            conflicts=self._conflicts(study_instance_uid) if study.conflict else (),
        )

    def instances(self, series_instance_uid: str, limit: int) -> list[Held]:
        """The instances of a series as they are now, in the order in which they came."""
        rows = self._session.execute(
            select(InstanceRow, SeriesRow.study_instance_uid)
            .join(SeriesRow, SeriesRow.series_instance_uid == InstanceRow.series_instance_uid)
            .where(
                InstanceRow.series_instance_uid == series_instance_uid,
                InstanceRow.current.is_(True),
            )
            .order_by(InstanceRow.id)
            .limit(limit)
        )
        return [Held(instance_value(row), uid, row.gone_at is not None) for row, uid in rows]

    def instance(self, instance_id: int) -> Held:
        """One stored instance.

        Raises:
            NotFoundError: there is none.
        """
        row = self._session.get(InstanceRow, instance_id)
        series = self._session.get(SeriesRow, row.series_instance_uid) if row else None
        if row is None or series is None:
            raise NotFoundError(f"no instance {instance_id}")
        return Held(instance_value(row), series.study_instance_uid, row.gone_at is not None)

    def result(self, result_id: int) -> tuple[Result, str, bool]:
        """One result, the study that it belongs to, and whether its bytes are gone.

        Raises:
            NotFoundError: there is none.
        """
        row = self._session.get(ResultRow, result_id)
        job = self._session.get(JobRow, row.job_id) if row else None
        if row is None or job is None:
            raise NotFoundError(f"no result {result_id}")
        return result_value(row), job.study_instance_uid, row.gone_at is not None

    def recent_series(self, limit: int = 200) -> list[Series]:
        """Whole series, those that came last first: what routes are tried against."""
        rows = self._session.scalars(
            select(SeriesRow)
            .where(SeriesRow.state == SeriesState.WHOLE)
            .order_by(SeriesRow.last_received_at.desc())
            .limit(limit)
        ).all()
        counts = self._images([row.series_instance_uid for row in rows])
        return [
            Series(
                series_instance_uid=row.series_instance_uid,
                study_instance_uid=row.study_instance_uid,
                modality=row.modality,
                description=row.description,
                number=row.number,
                state=SeriesState(row.state),
                revision=row.revision,
                instances=counts.get(row.series_instance_uid, (0, None))[0],
                attributes=row.attributes,
            )
            for row in rows
        ]

    def _images(self, uids: Sequence[str]) -> dict[str, tuple[int, datetime | None]]:
        rows = self._session.execute(
            select(InstanceRow.series_instance_uid, func.count(), func.min(InstanceRow.received_at))
            .where(InstanceRow.series_instance_uid.in_(uids), InstanceRow.current.is_(True))
            .group_by(InstanceRow.series_instance_uid)
        )
        return {uid: (count, first) for uid, count, first in rows}

    def _series(self, study_uid: str) -> tuple[StudySeries, ...]:
        rows = self._session.scalars(
            select(SeriesRow)
            .where(SeriesRow.study_instance_uid == study_uid)
            .order_by(SeriesRow.number, SeriesRow.series_instance_uid)
        ).all()
        uids = [row.series_instance_uid for row in rows]
        images = self._images(uids)
        decisions = self._decisions(uids)
        associations = self._associations(uids)
        made = []
        for row in rows:
            uid = row.series_instance_uid
            count, first = images.get(uid, (0, None))
            made.append(
                StudySeries(
                    series=series_value(row, count),
                    decisions=tuple(decisions.get(uid, ())),
                    associations=tuple(associations.get(uid, ())),
                    first_received_at=first,
                    last_received_at=row.last_received_at,
                )
            )
        return tuple(made)

    def _decisions(self, uids: Sequence[str]) -> dict[str, list[RouteDecision]]:
        newest = (
            select(
                RouteDecisionRow.series_instance_uid,
                func.max(RouteDecisionRow.revision).label("revision"),
            )
            .where(RouteDecisionRow.series_instance_uid.in_(uids))
            .group_by(RouteDecisionRow.series_instance_uid)
            .subquery()
        )
        rows = self._session.scalars(
            select(RouteDecisionRow)
            .join(
                newest,
                (RouteDecisionRow.series_instance_uid == newest.c.series_instance_uid)
                & (RouteDecisionRow.revision == newest.c.revision),
            )
            .order_by(RouteDecisionRow.matched.desc(), RouteDecisionRow.route)
        )
        found: dict[str, list[RouteDecision]] = {}
        for row in rows:
            decision = RouteDecision(row.route, row.matched, row.reason)
            found.setdefault(row.series_instance_uid, []).append(decision)
        return found

    def _associations(self, uids: Sequence[str]) -> dict[str, list[Association]]:
        rows = self._session.execute(
            select(SeriesAssociationRow.series_instance_uid, AssociationRow)
            .join(AssociationRow, AssociationRow.id == SeriesAssociationRow.association_id)
            .where(SeriesAssociationRow.series_instance_uid.in_(uids))
            .order_by(AssociationRow.began_at)
        )
        found: dict[str, list[Association]] = {}
        for uid, row in rows:
            found.setdefault(uid, []).append(
                Association(
                    row.id,
                    row.calling_ae,
                    row.called_ae,
                    row.peer_address,
                    row.began_at,
                    row.ended_at,
                    row.end,
                )
            )
        return found

    def _jobs(self, study_uid: str) -> tuple[tuple[StudyJob, ...], int]:
        rows = self._session.scalars(
            select(JobRow)
            .where(JobRow.study_instance_uid == study_uid)
            .order_by(JobRow.created_at.desc(), JobRow.id)
        ).all()
        shown = rows[:_MOST_JOBS]
        if not shown:
            return (), 0
        ids = [row.id for row in shown]
        series: dict[str, list[str]] = {}
        for job_id, uid in self._session.execute(
            select(JobSeriesRow.job_id, JobSeriesRow.series_instance_uid).where(
                JobSeriesRow.job_id.in_(ids)
            )
        ):
            series.setdefault(job_id, []).append(uid)
        events, findings = self._events(ids), self._findings(ids)
        makers = [row.same_as or row.id for row in shown]
        results, transfers = self._results(makers), self._transfers(makers)
        jobs = tuple(
            StudyJob(
                job=job_value(row, tuple(series.get(row.id, ()))),
                events=tuple(events.get(row.id, ())),
                findings=tuple(findings.get(row.id, ())),
                results=tuple(results.get(row.same_as or row.id, ())),
                transfers=tuple(transfers.get(row.same_as or row.id, ())),
            )
            for row in shown
        )
        return jobs, len(rows) - len(shown)

    def _events(self, jobs: Sequence[str]) -> dict[str, list[JobEvent]]:
        rows = self._session.scalars(
            select(JobEventRow).where(JobEventRow.job_id.in_(jobs)).order_by(JobEventRow.id)
        )
        found: dict[str, list[JobEvent]] = {}
        for row in rows:
            event = JobEvent(row.at, JobState(row.state), row.note, row.actor)
            found.setdefault(row.job_id, []).append(event)
        return found

    def _findings(self, jobs: Sequence[str]) -> dict[str, list[Finding]]:
        rows = self._session.scalars(
            select(FindingRow)
            .where(FindingRow.job_id.in_(jobs))
            .order_by(FindingRow.id)
            .limit(_MOST_FINDINGS)
        ).all()
        measured: dict[int, list[MeasurementRow]] = {}
        for item in self._session.scalars(
            select(MeasurementRow)
            .where(MeasurementRow.finding_id.in_([row.id for row in rows]))
            .order_by(MeasurementRow.id)
        ):
            measured.setdefault(item.finding_id, []).append(item)
        found: dict[str, list[Finding]] = {}
        for row in rows:
            found.setdefault(row.job_id, []).append(finding_value(row, measured.get(row.id, [])))
        return found

    def _results(self, makers: Sequence[str]) -> dict[str, list[Result]]:
        rows = self._session.scalars(
            select(ResultRow).where(ResultRow.job_id.in_(makers)).order_by(ResultRow.id)
        )
        found: dict[str, list[Result]] = {}
        for row in rows:
            found.setdefault(row.job_id, []).append(result_value(row))
        return found

    def _transfers(self, makers: Sequence[str]) -> dict[str, list[Transfer]]:
        rows = self._session.execute(
            select(TransferRow, ResultRow)
            .join(ResultRow, ResultRow.id == TransferRow.result_id)
            .where(TransferRow.job_id.in_(makers))
            .order_by(TransferRow.id)
            .limit(_MOST_TRANSFERS)
        )
        found: dict[str, list[Transfer]] = {}
        for row, result in rows:
            found.setdefault(row.job_id or "", []).append(transfer_value(row, result))
        return found

    def _conflicts(self, study_uid: str) -> tuple[Conflict, ...]:
        rows = self._session.scalars(
            select(ConflictRow)
            .where(ConflictRow.study_instance_uid == study_uid, ConflictRow.decided_at.is_(None))
            .order_by(ConflictRow.id)
            .limit(50)
        )
        return tuple(
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
        )
