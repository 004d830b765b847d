"""Small helpers that every part of the ledger uses: insert unless there, rows to values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.domain import (
    Axes,
    Evaluation,
    Finding,
    FindingKind,
    Instance,
    Job,
    KeyImage,
    Measurement,
    Rendition,
    Result,
    ResultKind,
    Series,
    Space,
    Study,
    Transfer,
)
from core.lifecycle import JobState, RenditionState, SeriesState, TransferState
from core.modelspec import Code
from core.schema import (
    Base,
    FindingRow,
    InstanceRow,
    JobRow,
    MeasurementRow,
    RenditionRow,
    ResultRow,
    SeriesRow,
    StudyRow,
    TransferRow,
)

# Times the columns of a row it stays below the variables that SQLite takes in a statement.
_ROWS_AT_ONCE = 500


def insert_unless_there(session: Session, table: type[Base], **values: Any) -> bool:
    """Insert a row; False when a row with one of its unique keys is there already.

    Two nodes may do this at the same moment: the database decides.
    """
    target: Any = table.__table__
    if session.get_bind().dialect.name == "postgresql":
        statement: Any = postgresql.insert(target).values(**values).on_conflict_do_nothing()
    else:
        statement = sqlite.insert(target).values(**values).on_conflict_do_nothing()
    inserted = session.execute(statement.returning(*target.primary_key))
    return inserted.first() is not None


def insert_many_unless_there(
    session: Session, table: type[Base], rows: Sequence[dict[str, Any]]
) -> int:
    """Insert rows that all name the same columns; how many were not there already."""
    target: Any = table.__table__
    insert: Any = (
        postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    )
    made = 0
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = list(rows[start : start + _ROWS_AT_ONCE])
        statement = insert(target).values(part).on_conflict_do_nothing()
        made += len(session.execute(statement.returning(*target.primary_key)).all())
    return made


def study_value(row: StudyRow, series: tuple[Series, ...]) -> Study:
    """A study with its series."""
    return Study(
        study_instance_uid=row.study_instance_uid,
        patient_id=row.patient_id,
        patient_name=row.patient_name,
        accession_number=row.accession_number,
        description=row.description,
        study_date=row.study_date,
        first_received_at=row.first_received_at,
        conflict=row.conflict,
        series=series,
    )


def series_value(row: SeriesRow, instances: int) -> Series:
    """A series row as a value."""
    return Series(
        series_instance_uid=row.series_instance_uid,
        study_instance_uid=row.study_instance_uid,
        modality=row.modality,
        description=row.description,
        number=row.number,
        state=SeriesState(row.state),
        revision=row.revision,
        instances=instances,
        attributes=row.attributes,
        decision=row.decision,
        decided_at=row.decided_at,
        decided_by=row.decided_by,
        expected=row.expected,
        incomplete=row.incomplete,
    )


def instance_value(row: InstanceRow) -> Instance:
    """An instance row as a value."""
    return Instance(
        id=row.id,
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        series_instance_uid=row.series_instance_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        digest=row.digest,
        version=row.version,
        store_key=row.store_key,
        size=row.size,
        received_at=row.received_at,
    )


def job_value(row: JobRow, series: tuple[str, ...] = ()) -> Job:
    """A job row as a value."""
    return Job(
        id=row.id,
        study_instance_uid=row.study_instance_uid,
        route=row.route,
        model=row.model,
        model_version=row.model_version,
        queue=row.queue,
        state=JobState(row.state),
        run=row.run,
        attempt=row.attempt,
        created_at=row.created_at,
        updated_at=row.updated_at,
        destinations=tuple(row.destinations),
        series_instance_uids=series,
        queued_at=row.queued_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        next_try_at=row.next_try_at,
        lease_owner=row.lease_owner,
        lease_until=row.lease_until,
        reason=row.reason,
        remedy=row.remedy,
        summary=row.summary,
        deaths=row.deaths,
        losses=row.losses,
        priority=row.priority,
        size=row.size,
        sender=row.sender,
        expected=row.expected,
        strain=row.strain,
        same_as=row.same_as,
    )


def result_value(row: ResultRow) -> Result:
    """A result row as a value."""
    return Result(
        id=row.id,
        kind=ResultKind(row.kind),
        part=row.part,
        alternative_to=row.alternative_to,
        store_key=row.store_key,
        digest=row.digest,
        size=row.size,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        series_instance_uid=row.series_instance_uid,
        attributes=row.attributes,
    )


def result_row(job_id: str, result: Result, now: datetime) -> ResultRow:
    """A result as a row."""
    return ResultRow(
        job_id=job_id,
        kind=result.kind,
        part=result.part,
        alternative_to=result.alternative_to,
        sop_class_uid=result.sop_class_uid,
        sop_instance_uid=result.sop_instance_uid,
        series_instance_uid=result.series_instance_uid,
        attributes=result.attributes,
        store_key=result.store_key,
        digest=result.digest,
        size=result.size,
        created_at=now,
    )


def rendition_value(row: RenditionRow, result: ResultRow, job: JobRow) -> Rendition:
    """A rendition row, its result and its job as a value."""
    return Rendition(
        id=row.id,
        result=result_value(result),
        job_id=row.job_id,
        study_instance_uid=job.study_instance_uid,
        sop_class_uid=row.sop_class_uid,
        queue=row.queue,
        state=RenditionState(row.state),
        attempts=row.attempts,
        created_at=row.created_at,
        next_try_at=row.next_try_at,
        reason=row.reason,
    )


def transfer_value(
    row: TransferRow, result: ResultRow | None, instance: InstanceRow | None = None
) -> Transfer:
    """A transfer row and what it sends as a value."""
    return Transfer(
        id=row.id,
        result=result_value(result) if result else None,
        instance=instance_value(instance) if instance else None,
        job_id=row.job_id or "",
        study_instance_uid=row.study_instance_uid,
        destination=row.destination,
        state=TransferState(row.state),
        attempts=row.attempts,
        created_at=row.created_at,
        next_try_at=row.next_try_at,
        status=row.status,
        message=row.message,
        sent_at=row.sent_at,
        refusals=row.refusals,
        class_refused=row.class_refused,
        rendition_id=row.rendition_id,
        proof=row.proof,
        proof_tries=row.proof_tries,
        proved_at=row.proved_at,
    )


def finding_row(job_id: str, finding: Finding) -> FindingRow:
    """A finding as a row, without its measurements."""
    return FindingRow(
        job_id=job_id,
        number=finding.number,
        kind=finding.kind,
        part=finding.part,
        segment=finding.segment,
        channel=finding.channel,
        label=finding.label,
        present=finding.present,
        tracking_uid=finding.tracking_uid,
        category=finding.category.model_dump(),
        type=finding.type.model_dump(),
        site=finding.site.model_dump() if finding.site else None,
        laterality=finding.laterality.model_dump() if finding.laterality else None,
        space=finding.space,
        color=list(finding.color),
        centre=list(finding.centre) if finding.centre else None,
        box=list(finding.box) if finding.box else None,
        slices=list(finding.slices) if finding.slices else None,
        key_image=asdict(finding.key_image) if finding.key_image else None,
        axes=asdict(finding.axes) if finding.axes else None,
        probability=finding.probability,
        evaluations=[
            {"concept": item.concept.model_dump(), "value": item.value.model_dump()}
            for item in finding.evaluations
        ],
    )


def measurement_row(finding_id: int, measurement: Measurement) -> MeasurementRow:
    """A measurement as a row."""
    return MeasurementRow(
        finding_id=finding_id,
        concept_value=measurement.concept.value,
        concept_scheme=measurement.concept.scheme,
        concept_meaning=measurement.concept.meaning,
        value=measurement.value,
        unit_value=measurement.unit.value,
        unit_scheme=measurement.unit.scheme,
        unit_meaning=measurement.unit.meaning,
        method=measurement.method.model_dump() if measurement.method else None,
        derivation=measurement.derivation.model_dump() if measurement.derivation else None,
    )


def finding_value(row: FindingRow, measurements: list[MeasurementRow]) -> Finding:
    """A finding row and its measurements as a value."""
    return Finding(
        number=row.number,
        kind=FindingKind(row.kind),
        part=row.part,
        segment=row.segment,
        channel=row.channel,
        label=row.label,
        category=Code(**row.category),
        type=Code(**row.type),
        tracking_uid=row.tracking_uid,
        present=row.present,
        site=Code(**row.site) if row.site else None,
        laterality=Code(**row.laterality) if row.laterality else None,
        space=Space(row.space),
        color=(row.color[0], row.color[1], row.color[2]),
        centre=tuple(row.centre) if row.centre else None,
        box=tuple(row.box) if row.box else None,
        slices=tuple(row.slices) if row.slices else None,
        key_image=KeyImage(**row.key_image) if row.key_image else None,
        axes=_axes(row.axes) if row.axes else None,
        probability=row.probability,
        evaluations=tuple(
            Evaluation(Code(**item["concept"]), Code(**item["value"])) for item in row.evaluations
        ),
        measurements=tuple(
            Measurement(
                concept=Code(
                    value=item.concept_value,
                    scheme=item.concept_scheme,
                    meaning=item.concept_meaning,
                ),
                value=item.value,
                unit=Code(
                    value=item.unit_value, scheme=item.unit_scheme, meaning=item.unit_meaning
                ),
                method=Code(**item.method) if item.method else None,
                derivation=Code(**item.derivation) if item.derivation else None,
            )
            for item in measurements
        ),
    )


def _axes(stored: dict[str, Any]) -> Axes:
    """JSON knows lists only; ends of diameters are tuples."""
    (a, b), (c, d) = stored["long"], stored["short"]
    long, short = ((a[0], a[1]), (b[0], b[1])), ((c[0], c[1]), (d[0], d[1]))
    return Axes(index=stored["index"], long=long, short=short)
