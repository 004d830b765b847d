"""Workitems (PS3.4 Annex CC): what was ordered, and every job as one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, delete, false, func, not_, or_, select, update
from sqlalchemy.orm import Session

from core.domain import FOR_PAGES, Instance
from core.ledger.queries.paging import Phase, Place, read_page
from core.ledger.rows import insert_unless_there, instance_value
from core.lifecycle import JOB_OPEN, JobState, SeriesState
from core.schema import (
    InstanceRow,
    JobEventRow,
    JobRow,
    JobSeriesRow,
    ResultRow,
    SeriesRow,
    StudyRow,
    WorkitemRow,
)
from core.workitems import (
    DISCONTINUED,
    FINAL_STATES,
    OF_JOBS,
    UNSPECIFIED,
    InputSeries,
    Output,
    Readiness,
    Workitem,
    WorkitemState,
    job_of_uid,
    state_of_job,
    uid_of_job,
)

__all__ = ["Workitems"]

_HIGH, _LOW = 10, 0  # as `node.deciding.priority` gives them
_AT_ONCE = 500
_FRESH = {"populate_existing": True}
_IN_STORE = (InstanceRow.current, InstanceRow.gone_at.is_(None))
# Study's identity by DICOM keyword.
_STUDY = {
    "StudyInstanceUID": StudyRow.study_instance_uid,
    "PatientID": StudyRow.patient_id,
    "IssuerOfPatientID": StudyRow.issuer_of_patient_id,
    "PatientName": StudyRow.patient_name,
    "PatientBirthDate": StudyRow.patient_birth_date,
    "PatientSex": StudyRow.patient_sex,
    "AccessionNumber": StudyRow.accession_number,
    "RequestedProcedureID": StudyRow.procedure_id,
    "RequestedProcedureDescription": StudyRow.procedure,
}


@dataclass(frozen=True, slots=True)
class JobStep:
    """A step in the life of a job."""

    id: int
    job_id: str
    at: datetime


class Workitems:
    """Reads and moves workitems."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def order(self, item: Workitem) -> bool:
        """Keep a new workitem; False when its UID is taken."""
        if job_of_uid(item.uid) and self.find(item.uid) is not None:
            return False
        return insert_unless_there(
            self._session,
            WorkitemRow,
            uid=item.uid,
            state=item.state,
            route=item.route,
            code=list(item.code),
            label=item.label,
            priority=item.priority,
            readiness=item.readiness,
            study_instance_uid=item.inputs[0].study_instance_uid,
            patient_id=item.study.get("PatientID", ""),
            inputs=[
                [
                    part.study_instance_uid,
                    part.series_instance_uid,
                    [list(i) for i in part.instances],
                ]
                for part in item.inputs
            ],
            given=dict(item.given),
            ordered_by=item.ordered_by,
            outside=item.outside,
            transaction_uid="",
            performer="",
            reason="",
            created_at=item.created_at,
            changed_at=item.changed_at,
        )

    def find(self, uid: str, *, lock: bool = False) -> Workitem | None:
        """A workitem as it stands; None where there is none of that UID.

        Args:
            lock: nobody else may change the order until the transaction ends. Not together with
                a job: jobs are locked after their study, and before their order.
        """
        if lock:
            self._session.execute(
                select(WorkitemRow.uid).where(WorkitemRow.uid == uid).with_for_update()
            )
        statement = _ordered().where(WorkitemRow.uid == uid).execution_options(**_FRESH)
        found = self._session.execute(statement).first()
        if found is not None:
            return self._values([found])[0]
        job_id = job_of_uid(uid)
        if job_id is None:
            return None
        # a job that was ordered goes by the UID of its order
        statement = _jobs().where(JobRow.id == job_id, WorkitemRow.uid.is_(None))
        statement = statement.execution_options(**_FRESH)
        row = self._session.execute(statement).first()
        return None if row is None else self._values([row])[0]

    def of_job(self, job_id: str) -> Workitem | None:
        """The workitem that a job is."""
        row = self._session.execute(_jobs().where(JobRow.id == job_id)).first()
        return None if row is None else self._values([row])[0]

    def page(
        self,
        place: Place,
        limit: int,
        *,
        uids: Collection[str] | None = None,
        patients: Collection[str] | None = None,
        studies: Collection[str] | None = None,
        states: Collection[WorkitemState] | None = None,
        since: datetime | None = None,
    ) -> tuple[list[Workitem], Place | None]:
        """Some workitems, the newest first: those with a job, then those without.

        Only what an index helps with is asked here; who asks looks at the rest.
        """
        of_job: list[Any] = []
        ordered: list[Any] = [WorkitemRow.job_id.is_(None)]
        if uids is not None:
            ids = [job for uid in uids if (job := job_of_uid(uid)) is not None]
            of_job.append(or_(JobRow.id.in_(ids), WorkitemRow.uid.in_(list(uids))))
            ordered.append(WorkitemRow.uid.in_(list(uids)))
        if patients is not None:
            of_job.append(StudyRow.patient_id.in_(list(patients)))
            ordered.append(WorkitemRow.patient_id.in_(list(patients)))
        if studies is not None:
            of_job.append(JobRow.study_instance_uid.in_(list(studies)))
            ordered.append(WorkitemRow.study_instance_uid.in_(list(studies)))
        if states is not None:
            of_job.append(_job_in(states))
            ordered.append(WorkitemRow.state.in_(list(states)))
        if since is not None:
            of_job.append(or_(JobRow.created_at >= since, JobRow.state.in_(JOB_OPEN)))
        phases = [
            Phase(_jobs(), (JobRow.created_at, JobRow.id), tuple(of_job), descending=True),
            Phase(
                _ordered(), (WorkitemRow.created_at, WorkitemRow.uid), tuple(ordered),
                descending=True,
            ),
        ]  # fmt: skip
        rows, after = read_page(self._session, phases, place, limit)
        return self._values(rows), after

    def claim(
        self, uid: str, transaction: str, performer: str, due_at: datetime, now: datetime
    ) -> bool:
        """Give a scheduled workitem to an outside performer; False when another was faster."""
        moved = self._session.execute(
            update(WorkitemRow)
            .where(
                WorkitemRow.uid == uid,
                WorkitemRow.outside,
                WorkitemRow.state == WorkitemState.SCHEDULED,
                WorkitemRow.job_id.is_(None),
            )
            .values(
                state=WorkitemState.IN_PROGRESS,
                transaction_uid=transaction,
                performer=performer,
                due_at=due_at,
                started_at=now,
                changed_at=now,
            )
            .returning(WorkitemRow.uid)
        )
        return moved.first() is not None

    def end(
        self, uid: str, before: WorkitemState, state: WorkitemState, reason: str, now: datetime
    ) -> bool:
        """End a workitem that no job of ours stands for; False when it is not `before` any more."""
        moved = self._session.execute(
            update(WorkitemRow)
            .where(
                WorkitemRow.uid == uid, WorkitemRow.state == before, WorkitemRow.job_id.is_(None)
            )
            .values(state=state, reason=reason, finished_at=now, changed_at=now)
            .returning(WorkitemRow.uid)
        )
        return moved.first() is not None

    def give(self, uid: str, given: Mapping[str, Any], now: datetime) -> bool:
        """Keep what was set; False when it has ended meanwhile."""
        moved = self._session.execute(
            update(WorkitemRow)
            .where(WorkitemRow.uid == uid, WorkitemRow.state.not_in(list(FINAL_STATES)))
            .values(given=dict(given), changed_at=now)
            .returning(WorkitemRow.uid)
        )
        return moved.first() is not None

    def to_begin(self, place: Place, limit: int) -> tuple[list[Workitem], Place | None]:
        """Ordered ones that wait for their inputs, or for a job; the oldest first."""
        waiting = Phase(
            _ordered(),
            (WorkitemRow.created_at, WorkitemRow.uid),
            (
                WorkitemRow.state == WorkitemState.SCHEDULED,
                WorkitemRow.job_id.is_(None),
                or_(WorkitemRow.outside.is_(False), WorkitemRow.readiness != Readiness.READY),
            ),
        )
        rows, after = read_page(self._session, [waiting], place, limit)
        return self._values(rows), after

    def hold(self, item: Workitem) -> bool:
        """Lock a workitem, after its study; whether it still waits for its job."""
        self.hold_study(item)
        waits = (
            WorkitemRow.state == WorkitemState.SCHEDULED,
            WorkitemRow.job_id.is_(None),
        )
        found = self._session.scalar(
            select(WorkitemRow.uid).where(WorkitemRow.uid == item.uid, *waits).with_for_update()
        )
        return found is not None

    def ready(self, uid: str, now: datetime) -> bool:
        """All its inputs are here; False when that was known."""
        moved = self._session.execute(
            update(WorkitemRow)
            .where(WorkitemRow.uid == uid, WorkitemRow.readiness != Readiness.READY)
            .values(readiness=Readiness.READY, changed_at=now)
            .returning(WorkitemRow.uid)
        )
        return moved.first() is not None

    def hold_study(self, item: Workitem) -> None:
        """Lock the study of a workitem, if it is here: nothing of it is forgotten meanwhile."""
        study = item.inputs[0].study_instance_uid
        self._session.execute(
            select(StudyRow.study_instance_uid)
            .where(StudyRow.study_instance_uid == study)
            .with_for_update(key_share=True)
        )

    def bind(self, uid: str, job_id: str, now: datetime) -> bool:
        """Say which job came of a workitem; False when it has one, or the job has another order."""
        if self.order_of(job_id) is not None:
            return False
        moved = self._session.execute(
            update(WorkitemRow)
            .where(
                WorkitemRow.uid == uid,
                WorkitemRow.job_id.is_(None),
                WorkitemRow.state == WorkitemState.SCHEDULED,
            )
            .values(job_id=job_id, changed_at=now)
            .returning(WorkitemRow.uid)
        )
        return moved.first() is not None

    def order_of(self, job_id: str) -> str | None:
        """UID of the order that a job is for."""
        return self._session.scalar(select(WorkitemRow.uid).where(WorkitemRow.job_id == job_id))

    def complete(self, items: Collection[Workitem]) -> list[Workitem]:
        """Those of these whose inputs are here: every instance that they list.

        Of a series without a list the images must be whole. What a series has besides is counted
        only: `here` says which images they are.
        """
        wanted = sorted({part.series_instance_uid for item in items for part in item.inputs})
        known: dict[str, tuple[str, int]] = {}
        for start in range(0, len(wanted), _AT_ONCE):
            rows = self._session.execute(
                select(SeriesRow.series_instance_uid, SeriesRow.state, func.count(InstanceRow.id))
                .join(InstanceRow, InstanceRow.series_instance_uid == SeriesRow.series_instance_uid)
                .where(
                    SeriesRow.series_instance_uid.in_(wanted[start : start + _AT_ONCE]),
                    *_IN_STORE,
                )
                .group_by(SeriesRow.series_instance_uid, SeriesRow.state)
            )
            known |= {uid: (state, count) for uid, state, count in rows}
        return [item for item in items if all(_may_be_here(part, known) for part in item.inputs)]

    def here(self, part: InputSeries) -> list[Instance]:
        """The current instances of an input that are in the store."""
        where = [InstanceRow.series_instance_uid == part.series_instance_uid, *_IN_STORE]
        rows = self._session.scalars(select(InstanceRow).where(*where).order_by(InstanceRow.id))
        wanted = {uid for _, uid in part.instances}
        found = [instance_value(row) for row in rows]
        return [item for item in found if not wanted or item.sop_instance_uid in wanted]

    def newest_job(self, route: str, series: str) -> tuple[str, JobState] | None:
        """The newest job of a route on a series that no other took the place of."""
        row = self._session.execute(
            select(JobRow.id, JobRow.state)
            .join(JobSeriesRow, JobSeriesRow.job_id == JobRow.id)
            .where(
                JobSeriesRow.series_instance_uid == series,
                JobRow.route == route,
                JobRow.state != JobState.SUPERSEDED,
            )
            .order_by(JobRow.created_at.desc(), JobRow.run.desc())
            .limit(1)
        ).first()
        return None if row is None else (row.id, JobState(row.state))

    def job_events(self, after: int, limit: int) -> list[JobStep]:
        """Steps in the life of jobs after an id."""
        rows = self._session.execute(
            select(JobEventRow.id, JobEventRow.job_id, JobEventRow.at)
            .where(JobEventRow.id > after)
            .order_by(JobEventRow.id)
            .limit(limit)
        )
        return [JobStep(*row) for row in rows]

    def of_study(self, study_instance_uid: str) -> list[str]:
        """UIDs of all workitems of a study, ordered or not."""
        ordered = select(WorkitemRow.uid).where(
            WorkitemRow.study_instance_uid == study_instance_uid
        )
        jobs = select(JobRow.id).where(JobRow.study_instance_uid == study_instance_uid)
        return [
            *self._session.scalars(ordered),
            *(uid_of_job(job) for job in self._session.scalars(jobs)),
        ]

    def old_orders(self, before: datetime, limit: int) -> list[str]:
        """Orders of studies that never came, and that nobody has touched since."""
        return list(
            self._session.scalars(
                select(WorkitemRow.uid)
                .outerjoin(StudyRow, StudyRow.study_instance_uid == WorkitemRow.study_instance_uid)
                .where(
                    WorkitemRow.changed_at < before,
                    WorkitemRow.job_id.is_(None),
                    WorkitemRow.state != WorkitemState.IN_PROGRESS,
                    StudyRow.study_instance_uid.is_(None),
                )
                .order_by(WorkitemRow.changed_at)
                .limit(limit)
            )
        )

    def remove(self, uid: str, before: datetime) -> bool:
        """Take an old order out of the ledger; False when somebody has touched it."""
        gone = self._session.execute(
            delete(WorkitemRow)
            .where(
                WorkitemRow.uid == uid,
                WorkitemRow.changed_at < before,
                WorkitemRow.job_id.is_(None),
            )
            .returning(WorkitemRow.uid)
        )
        return gone.first() is not None

    def _values(self, rows: Sequence[Row[Any]]) -> list[Workitem]:
        jobs = [row.JobRow.id for row in rows if row.JobRow is not None]
        inputs = self._inputs(jobs)
        makers = [row.JobRow.same_as or row.JobRow.id for row in rows if row.JobRow is not None]
        outputs = self._outputs(makers)
        found = []
        for row in rows:
            job, own, study = row.JobRow, row.WorkitemRow, row.StudyRow
            known = {}
            if study is not None:
                known = {keyword: getattr(study, name.key) for keyword, name in _STUDY.items()}
            item = _of_row(own, known) if own is not None else None
            if job is not None:
                item = _of_job(job, item, known)
                item = replace(
                    item,
                    inputs=item.inputs or inputs.get(job.id, ()),
                    # one analysis may count for two jobs: its objects belong to their maker
                    outputs=outputs.get(job.same_as or job.id, ()),
                )
            assert item is not None
            found.append(item)
        return found

    def _inputs(self, jobs: Sequence[str]) -> dict[str, tuple[InputSeries, ...]]:
        rows = self._session.execute(
            select(JobSeriesRow.job_id, SeriesRow.series_instance_uid, SeriesRow.study_instance_uid)
            .join(SeriesRow, SeriesRow.series_instance_uid == JobSeriesRow.series_instance_uid)
            .where(JobSeriesRow.job_id.in_(jobs))
        )
        found: dict[str, tuple[InputSeries, ...]] = {}
        for job_id, series, study in rows:
            found[job_id] = (*found.get(job_id, ()), InputSeries(study, series))
        return found

    def _outputs(self, jobs: Sequence[str]) -> dict[str, tuple[Output, ...]]:
        rows = self._session.execute(
            select(ResultRow, JobRow.study_instance_uid)
            .join(JobRow, JobRow.id == ResultRow.job_id)
            .where(
                ResultRow.job_id.in_(jobs),
                ResultRow.alternative_to.is_(None),
                ResultRow.kind.not_in(FOR_PAGES),
            )
            .order_by(ResultRow.id)
        )
        found: dict[str, tuple[Output, ...]] = {}
        for row, study in rows:
            made = Output(study, row.series_instance_uid, row.sop_class_uid, row.sop_instance_uid)
            found[row.job_id] = (*found.get(row.job_id, ()), made)
        return found


def _jobs() -> Any:
    """Jobs with their order, if they have one."""
    return (
        select(JobRow, WorkitemRow, StudyRow)
        .join(StudyRow, StudyRow.study_instance_uid == JobRow.study_instance_uid)
        .outerjoin(WorkitemRow, WorkitemRow.job_id == JobRow.id)
    )


def _ordered() -> Any:
    """Orders with their job and study, if they have those."""
    return (
        select(JobRow, WorkitemRow, StudyRow)
        .select_from(WorkitemRow)
        .outerjoin(JobRow, JobRow.id == WorkitemRow.job_id)
        .outerjoin(StudyRow, StudyRow.study_instance_uid == WorkitemRow.study_instance_uid)
    )


def _of_row(row: WorkitemRow, study: Mapping[str, str]) -> Workitem:
    value, scheme, meaning = (str(part) for part in row.code)
    return Workitem(
        uid=row.uid,
        state=WorkitemState(row.state),
        route=row.route,
        code=(value, scheme, meaning),
        label=row.label,
        priority=row.priority,
        readiness=Readiness(row.readiness),
        created_at=row.created_at,
        changed_at=row.changed_at,
        study=study or {"PatientID": row.patient_id, "StudyInstanceUID": row.study_instance_uid},
        inputs=tuple(
            InputSeries(study_uid, series, tuple((str(cls), str(uid)) for cls, uid in instances))
            for study_uid, series, instances in row.inputs
        ),
        given=row.given,
        ordered_by=row.ordered_by,
        outside=row.outside,
        performer=row.performer,
        transaction_uid=row.transaction_uid,
        due_at=row.due_at,
        reason=row.reason,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _of_job(row: JobRow, order: Workitem | None, study: Mapping[str, str]) -> Workitem:
    """A job as a workitem: under its own UID, or under that of its order."""
    began = row.started_at or (order.started_at if order is not None else None)
    state = state_of_job(JobState(row.state), started=began is not None)
    base = order or Workitem(
        uid=uid_of_job(row.id),
        state=state,
        route=row.route,
        code=("", "", ""),
        label=f"{row.model} {row.model_version}"[:64],
        priority="HIGH" if row.priority >= _HIGH else "MEDIUM" if row.priority >= _LOW else "LOW",
        readiness=Readiness.READY,
        created_at=row.created_at,
        changed_at=row.updated_at,
        study=study,
        inputs=(),
    )
    return replace(
        base,
        state=state,
        readiness=Readiness.READY,
        study=study,
        job_id=row.id,
        model=row.model,
        model_version=row.model_version,
        changed_at=max(base.changed_at, row.updated_at),
        started_at=began,
        finished_at=row.finished_at or (row.updated_at if state in FINAL_STATES else None),
        reason=row.reason,
        discontinued=DISCONTINUED.get(JobState(row.state), UNSPECIFIED),
    )


def _job_in(states: Collection[WorkitemState]) -> Any:
    """Jobs that are in these states as workitems; `state_of_job` in SQL."""
    begun = or_(JobRow.started_at.is_not(None), WorkitemRow.started_at.is_not(None))

    def are(state: WorkitemState) -> Any:
        return JobRow.state.in_([job for job, of in OF_JOBS.items() if of is state])

    waits = are(WorkitemState.SCHEDULED)
    found = [are(state) for state in states if state is not WorkitemState.SCHEDULED]
    if WorkitemState.SCHEDULED in states:
        found.append(and_(waits, not_(begun)))
    if WorkitemState.IN_PROGRESS in states:
        found.append(and_(waits, begun))
    return or_(false(), *found)


def _may_be_here(part: InputSeries, known: Mapping[str, tuple[str, int]]) -> bool:
    state, count = known.get(part.series_instance_uid, ("", 0))
    if not part.instances:
        return count > 0 and state != SeriesState.RECEIVING
    return count >= len({uid for _, uid in part.instances})
