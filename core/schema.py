"""The tables of the ledger, the only ones.

Times are stored in UTC. Identifiers of DICOM objects are their UIDs. Alembic's migrations are
made from here and a test compares the two.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UTCDateTime(TypeDecorator[datetime]):
    """A moment. SQLite keeps no time zone, so it is put back when read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a moment without time zone; store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the time zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# BIGINT where the database has it; SQLite counts only INTEGER primary keys up by itself.
_Id = BigInteger().with_variant(Integer(), "sqlite")
_Uid = String(64)


def _bytewise(length: int) -> String:
    """Text that is compared byte by byte, so that a prefix is a range of an index.

    SQLite does so always; PostgreSQL would ask the database's language.
    """
    return String(length).with_variant(String(length, collation="C"), "postgresql")


class Base(DeclarativeBase):
    """Root of the tables. Constraints are named, so that a migration can change them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UTCDateTime,
        dict[str, Any]: JSON,
        list[Any]: JSON,
    }


class AssociationRow(Base):
    """An association that sent us at least one instance."""

    __tablename__ = "association"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    calling_ae: Mapped[str] = mapped_column(String(16))
    called_ae: Mapped[str] = mapped_column(String(16))
    peer_address: Mapped[str] = mapped_column(String(64))
    began_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    end: Mapped[str | None] = mapped_column(String(16))


class StudyRow(Base):
    """A study; the identity attributes are those of its first instance.

    `name_alphabetic`, `name_ideographic` and `name_phonetic` are the groups of the patient's name
    and `referring_key` the referring physician's, folded for matching (`core.ledger.queries`).
    """

    __tablename__ = "study"
    study_instance_uid: Mapped[str] = mapped_column(_Uid, primary_key=True)
    patient_id: Mapped[str] = mapped_column(String(330), index=True)
    issuer_of_patient_id: Mapped[str] = mapped_column(String(330))
    patient_name: Mapped[str] = mapped_column(String(330), index=True)
    patient_birth_date: Mapped[str] = mapped_column(String(330))
    accession_number: Mapped[str] = mapped_column(String(330), index=True)
    description: Mapped[str] = mapped_column(String(64))
    study_date: Mapped[str] = mapped_column(String(18))
    study_time: Mapped[str] = mapped_column(_bytewise(16), default="")
    study_id: Mapped[str] = mapped_column(String(64), default="")
    patient_sex: Mapped[str] = mapped_column(String(16), default="")
    referring_physician: Mapped[str] = mapped_column(String(330), default="")
    referring_key: Mapped[str] = mapped_column(_bytewise(330), default="")
    procedure_id: Mapped[str] = mapped_column(String(64), default="")
    procedure: Mapped[str] = mapped_column(String(64), default="")
    name_alphabetic: Mapped[str] = mapped_column(_bytewise(330), default="")
    name_ideographic: Mapped[str] = mapped_column(_bytewise(330), default="")
    name_phonetic: Mapped[str] = mapped_column(_bytewise(330), default="")
    conflict: Mapped[bool] = mapped_column(Boolean, default=False)
    first_received_at: Mapped[datetime] = mapped_column(index=True)
    __table_args__ = (
        # in these orders queries are answered, page after page
        Index("ix_study_when", "study_date", "study_instance_uid"),
        Index("ix_study_name_alphabetic", "name_alphabetic", "study_instance_uid"),
        *(
            Index(
                f"ix_study_{name}",
                name,
                "study_instance_uid",
                sqlite_where=text(f"{name} <> ''"),
                postgresql_where=text(f"{name} <> ''"),
            )
            for name in ("name_ideographic", "name_phonetic")
        ),
    )


class SeriesRow(Base):
    """A series; `revision` counts up whenever an instance of it is filed.

    `decided_by` is the kind of evidence that decided that it is whole; `expected` how many
    images there should be, where anybody said so; `incomplete` that it was analysed with fewer.
    """

    __tablename__ = "series"
    series_instance_uid: Mapped[str] = mapped_column(_Uid, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(
        ForeignKey("study.study_instance_uid"), index=True
    )
    modality: Mapped[str] = mapped_column(String(16))
    description: Mapped[str] = mapped_column(String(64))
    number: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    revision: Mapped[int] = mapped_column(default=0)
    last_received_at: Mapped[datetime]
    last_filed_at: Mapped[datetime]
    attributes: Mapped[dict[str, Any]]
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str] = mapped_column(String(16), default="")
    decision: Mapped[str] = mapped_column(Text, default="")
    expected: Mapped[int | None]
    incomplete: Mapped[bool] = mapped_column(Boolean, default=False)
    __table_args__ = (Index("ix_series_state_last_received_at", "state", "last_received_at"),)


class IntakeRow(Base):
    """How far the intake of one machine's spool is: what lay there before `filed_before` is filed.

    Written only while a series is being received, or the intake is behind; `at` says when.
    """

    __tablename__ = "intake"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    place: Mapped[str] = mapped_column(String(255))
    filed_before: Mapped[datetime]
    at: Mapped[datetime]


class SeriesAssociationRow(Base):
    """Which associations sent images of a series."""

    __tablename__ = "series_association"
    series_instance_uid: Mapped[str] = mapped_column(
        ForeignKey("series.series_instance_uid"), primary_key=True
    )
    association_id: Mapped[str] = mapped_column(
        ForeignKey("association.id"), primary_key=True, index=True
    )


class EvidenceRow(Base):
    """What somebody said about which images belong to a study or a series.

    Written by any door, read only by `node.deciding`. `key` tells statements of one source
    apart (the MPPS's or the transaction's UID); the same statement again takes the place of the
    earlier one. `series_instance_uid` is empty where it speaks of the whole study. `uids` lists
    the instances, or is null where only their number is known. Not `final`: more is to come.
    `stat`: who said it wants the analysis first.
    """

    __tablename__ = "evidence"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(_Uid, index=True)
    series_instance_uid: Mapped[str] = mapped_column(_Uid, index=True)
    source: Mapped[str] = mapped_column(String(16))
    key: Mapped[str] = mapped_column(_Uid)
    said_by: Mapped[str] = mapped_column(String(16))
    final: Mapped[bool] = mapped_column(Boolean, default=True)
    count: Mapped[int | None]
    uids: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    stat: Mapped[bool] = mapped_column(Boolean, default=False)
    at: Mapped[datetime]
    __table_args__ = (UniqueConstraint("source", "key", "series_instance_uid"),)


class InstanceRow(Base):
    """One version of an instance. The same SOP Instance UID with other content is a new version.

    `gone_at` says that retention removed its bytes from the store; `promised_at` that we answered
    a storage commitment for it with yes, so that its sender may have deleted its own copy.
    """

    __tablename__ = "instance"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(_Uid)
    sop_class_uid: Mapped[str] = mapped_column(_Uid)
    series_instance_uid: Mapped[str] = mapped_column(
        ForeignKey("series.series_instance_uid"), index=True
    )
    transfer_syntax_uid: Mapped[str] = mapped_column(_Uid)
    digest: Mapped[str] = mapped_column(String(64))
    version: Mapped[int]
    current: Mapped[bool]
    identity: Mapped[dict[str, Any]]
    number: Mapped[str] = mapped_column(String(16), default="")
    store_key: Mapped[str] = mapped_column(String(255))
    size: Mapped[int] = mapped_column(_Id)
    received_at: Mapped[datetime]
    association_id: Mapped[str] = mapped_column(ForeignKey("association.id"))
    gone_at: Mapped[datetime | None]
    promised_at: Mapped[datetime | None]
    __table_args__ = (
        UniqueConstraint("sop_instance_uid", "digest"),
        # what is still in the store, the oldest first
        Index(
            "ix_instance_kept",
            "received_at",
            sqlite_where=text("gone_at IS NULL"),
            postgresql_where=text("gone_at IS NULL"),
        ),
    )


class ConflictRow(Base):
    """An identity attribute that differs within a study or between versions of an instance."""

    __tablename__ = "conflict"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(
        ForeignKey("study.study_instance_uid"), index=True
    )
    series_instance_uid: Mapped[str] = mapped_column(_Uid)
    sop_instance_uid: Mapped[str] = mapped_column(_Uid)
    keyword: Mapped[str] = mapped_column(String(64))
    earlier: Mapped[str] = mapped_column(Text)
    later: Mapped[str] = mapped_column(Text)
    found_at: Mapped[datetime]
    decided_at: Mapped[datetime | None]
    decision: Mapped[str | None] = mapped_column(String(16))


class RouteDecisionRow(Base):
    """Why a route took a series, or why not, at one revision of the series."""

    __tablename__ = "route_decision"
    series_instance_uid: Mapped[str] = mapped_column(
        ForeignKey("series.series_instance_uid"), primary_key=True
    )
    revision: Mapped[int] = mapped_column(primary_key=True)
    route: Mapped[str] = mapped_column(String(64), primary_key=True)
    matched: Mapped[bool]
    reason: Mapped[str] = mapped_column(Text)


class JobRow(Base):
    """One analysis. Unique by route, model version, input and run: two nodes make one job.

    The greater `priority` goes first, then the smaller `size` (bytes of the input), in turns by
    `sender` (AE title). `modality` is that of its first series, for people who look for jobs.
    `expected` is how many images there should be. `strain` counts how often
    memory ran out: 1 computes in smaller batches, 2 on the CPU. `same_as` is the job whose
    findings were taken because model version and input are the same.

    `deaths` are those of workers that the job is blamed for; `losses` counts leases that ran out
    without anybody to blame. `lost_by` is who held the last lease that ran out, and `blamed`
    whether it counts as a death: should that worker be heard again, both are put right.
    """

    __tablename__ = "job"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(
        ForeignKey("study.study_instance_uid"), index=True
    )
    route: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(String(64))
    model_version: Mapped[str] = mapped_column(String(32))
    queue: Mapped[str] = mapped_column(String(64))
    destinations: Mapped[list[Any]]
    input_digest: Mapped[str] = mapped_column(String(64))
    run: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int] = mapped_column(default=0)
    deaths: Mapped[int] = mapped_column(default=0)
    losses: Mapped[int] = mapped_column(default=0)
    lost_by: Mapped[str | None] = mapped_column(String(64))
    blamed: Mapped[bool] = mapped_column(Boolean, default=False)
    priority: Mapped[int] = mapped_column(default=0)
    size: Mapped[int] = mapped_column(_Id, default=0)
    sender: Mapped[str] = mapped_column(String(16), default="")
    modality: Mapped[str] = mapped_column(String(16), default="")
    expected: Mapped[int | None]
    strain: Mapped[int] = mapped_column(default=0)
    same_as: Mapped[str | None] = mapped_column(String(36))
    created_at: Mapped[datetime] = mapped_column(index=True)
    updated_at: Mapped[datetime]
    queued_at: Mapped[datetime | None]
    published: Mapped[int] = mapped_column(default=0)
    republish_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    next_try_at: Mapped[datetime | None]
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[datetime | None]
    reason: Mapped[str] = mapped_column(Text, default="")
    remedy: Mapped[str] = mapped_column(Text, default="")
    summary: Mapped[dict[str, Any]]
    __table_args__ = (
        UniqueConstraint("route", "model", "model_version", "input_digest", "run"),
        Index("ix_job_state_next_try_at", "state", "next_try_at"),
        Index("ix_job_state_republish_at", "state", "republish_at"),
        # the order in which workers take jobs, and whose turn it is
        Index("ix_job_turn", "state", "queue", "priority", "sender", "size", "created_at"),
        Index("ix_job_sender_started_at", "sender", "started_at"),
        # the same input, by whichever route
        Index("ix_job_input_digest", "input_digest"),
        # what people look for, the newest first
        Index("ix_job_state_created_at", "state", "created_at", "id"),
        Index("ix_job_model_created_at", "model", "created_at", "id"),
        Index("ix_job_modality_created_at", "modality", "created_at", "id"),
        Index("ix_job_browse_sender", "sender", "created_at", "id"),
    )


class JobSeriesRow(Base):
    """The series of a job's input."""

    __tablename__ = "job_series"
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"), primary_key=True)
    series_instance_uid: Mapped[str] = mapped_column(
        ForeignKey("series.series_instance_uid"), primary_key=True, index=True
    )


class JobInstanceRow(Base):
    """The versions of the instances in a job's input."""

    __tablename__ = "job_instance"
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"), primary_key=True)
    instance_id: Mapped[int] = mapped_column(
        ForeignKey("instance.id"), primary_key=True, index=True
    )


class JobEventRow(Base):
    """One step in a job's life."""

    __tablename__ = "job_event"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"), index=True)
    at: Mapped[datetime]
    state: Mapped[str] = mapped_column(String(16))
    note: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(String(64))


class WorkitemRow(Base):
    """A workitem that another system ordered (PS3.4 Annex CC).

    `job_id` is the job that came of it; `given` the DICOM JSON of what was ordered or set;
    `inputs` its series: study, series, and pairs of SOP class and instance UIDs.
    `transaction_uid`, `performer` and `due_at` are of an outside performer's claim.
    """

    __tablename__ = "workitem"
    uid: Mapped[str] = mapped_column(_Uid, primary_key=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    route: Mapped[str] = mapped_column(String(64))
    code: Mapped[list[Any]]
    label: Mapped[str] = mapped_column(String(64))
    priority: Mapped[str] = mapped_column(String(16))
    readiness: Mapped[str] = mapped_column(String(16))
    study_instance_uid: Mapped[str] = mapped_column(_Uid, index=True)
    patient_id: Mapped[str] = mapped_column(String(330), default="")
    inputs: Mapped[list[Any]]
    given: Mapped[dict[str, Any]]
    ordered_by: Mapped[str] = mapped_column(String(16))
    outside: Mapped[bool] = mapped_column(Boolean, default=False)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("job.id"), unique=True)
    transaction_uid: Mapped[str] = mapped_column(_Uid, default="")
    performer: Mapped[str] = mapped_column(String(16), default="")
    due_at: Mapped[datetime | None]
    reason: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(index=True)
    changed_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class WorkitemSubscriptionRow(Base):
    """Who wants to be told of a workitem, of all (the global UID), or of those that match.

    `lock` keeps the workitem in the ledger until the subscription ends. `muted`: who follows all
    or some wants to hear no more of this one.
    """

    __tablename__ = "workitem_subscription"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    ae_title: Mapped[str] = mapped_column(String(16))
    uid: Mapped[str] = mapped_column(_Uid, index=True)
    filter: Mapped[str] = mapped_column(Text, default="")
    lock: Mapped[bool] = mapped_column(Boolean, default=False)
    muted: Mapped[bool] = mapped_column(Boolean, default=False)
    at: Mapped[datetime]
    __table_args__ = (UniqueConstraint("ae_title", "uid"),)


class WorkitemToldRow(Base):
    """The state of a workitem that subscribers were told last, so that nothing is told twice."""

    __tablename__ = "workitem_told"
    uid: Mapped[str] = mapped_column(_Uid, primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    readiness: Mapped[str] = mapped_column(String(16))
    at: Mapped[datetime] = mapped_column(index=True)


class WorkitemFollowerRow(Base):
    """Up to which step in the life of jobs subscribers were told; there while anybody listens."""

    __tablename__ = "workitem_follower"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    last_event: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime]


class WorkitemEventRow(Base):
    """An N-EVENT-REPORT that a subscriber has not taken yet; `content` is DICOM JSON."""

    __tablename__ = "workitem_event"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    ae_title: Mapped[str] = mapped_column(String(16), index=True)
    uid: Mapped[str] = mapped_column(_Uid)
    kind: Mapped[int]
    content: Mapped[dict[str, Any]]
    at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime]


class FindingRow(Base):
    """One lesion, one class of a whole image, or the statement that what was sought is absent."""

    __tablename__ = "finding"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"), index=True)
    number: Mapped[int]
    kind: Mapped[str] = mapped_column(String(16), default="lesion")
    label: Mapped[str] = mapped_column(String(64))
    present: Mapped[bool]
    part: Mapped[int] = mapped_column(default=0)
    segment: Mapped[int] = mapped_column(default=0)
    channel: Mapped[int] = mapped_column(default=0)
    tracking_uid: Mapped[str] = mapped_column(_Uid)
    category: Mapped[dict[str, Any]]
    type: Mapped[dict[str, Any]]
    site: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    laterality: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    color: Mapped[list[Any]]
    space: Mapped[str] = mapped_column(String(16), default="patient")
    centre: Mapped[list[Any] | None] = mapped_column(JSON)
    box: Mapped[list[Any] | None] = mapped_column(JSON)
    slices: Mapped[list[Any] | None] = mapped_column(JSON)
    key_image: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    axes: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    probability: Mapped[float | None]
    evaluations: Mapped[list[Any]] = mapped_column(JSON, default=list)


class MeasurementRow(Base):
    """One measured value of a finding."""

    __tablename__ = "measurement"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    finding_id: Mapped[int] = mapped_column(ForeignKey("finding.id"), index=True)
    concept_value: Mapped[str] = mapped_column(String(16))
    concept_scheme: Mapped[str] = mapped_column(String(16))
    concept_meaning: Mapped[str] = mapped_column(String(64))
    value: Mapped[float] = mapped_column(Float)
    unit_value: Mapped[str] = mapped_column(String(16))
    unit_scheme: Mapped[str] = mapped_column(String(16))
    unit_meaning: Mapped[str] = mapped_column(String(64))
    method: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    derivation: Mapped[dict[str, Any] | None] = mapped_column(JSON)


class ResultRow(Base):
    """One object that a job made. The bytes under `store_key` are never written again.

    `attributes` are what queries tell of it and its series, by keyword.
    Unique by kind and part for what a job made first; by SOP class and part for what stands in
    for another result.
    """

    __tablename__ = "result"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    part: Mapped[int] = mapped_column(default=0)
    alternative_to: Mapped[int | None] = mapped_column(ForeignKey("result.id"))
    sop_class_uid: Mapped[str] = mapped_column(_Uid)
    sop_instance_uid: Mapped[str] = mapped_column(_Uid, index=True)
    series_instance_uid: Mapped[str] = mapped_column(_Uid, index=True)
    attributes: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    store_key: Mapped[str] = mapped_column(String(255))
    digest: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(_Id)
    created_at: Mapped[datetime]
    gone_at: Mapped[datetime | None]
    __table_args__ = (
        Index(
            "uq_result_first",
            "job_id",
            "kind",
            "part",
            unique=True,
            sqlite_where=text("alternative_to IS NULL"),
            postgresql_where=text("alternative_to IS NULL"),
        ),
        # also finds the alternatives of a result
        Index("uq_result_alternative", "alternative_to", "sop_class_uid", "part", unique=True),
        # what is still in the store, the oldest first
        Index(
            "ix_result_kept",
            "created_at",
            sqlite_where=text("gone_at IS NULL"),
            postgresql_where=text("gone_at IS NULL"),
        ),
    )


class RenditionRow(Base):
    """Another SOP class that a result is to be made in, because a destination refused its own.

    Made once for each result and class; the transfers that wait for it point here.
    """

    __tablename__ = "rendition"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    result_id: Mapped[int] = mapped_column(ForeignKey("result.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"), index=True)
    sop_class_uid: Mapped[str] = mapped_column(_Uid)
    queue: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(default=0)
    deaths: Mapped[int] = mapped_column(default=0)
    published: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    next_try_at: Mapped[datetime | None]
    republish_at: Mapped[datetime | None]
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[datetime | None]
    reason: Mapped[str] = mapped_column(Text, default="")
    __table_args__ = (
        UniqueConstraint("result_id", "sop_class_uid"),
        Index("ix_rendition_state_next_try_at", "state", "next_try_at"),
    )


class TransferRow(Base):
    """The delivery of one result, or of one original that a route passes on, to one destination.

    Exactly one of `result_id` and `instance_id` is set; an original has no job. `class_refused`
    says that it was refused because the destination takes no object of its SOP class;
    `rendition_id` what is made for the destination instead. `proof` says how it is known that
    the destination has it (`core.lifecycle.Proof`), `commitment_id` in which storage commitment
    it was asked, `proof_tries` how often the destination was queried and did not list it. For
    one that is sent and not proved, `next_try_at` says when the proof is looked for.
    """

    __tablename__ = "transfer"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    result_id: Mapped[int | None] = mapped_column(ForeignKey("result.id"), index=True)
    instance_id: Mapped[int | None] = mapped_column(ForeignKey("instance.id"), index=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("job.id"), index=True)
    route: Mapped[str] = mapped_column(String(64), default="")
    study_instance_uid: Mapped[str] = mapped_column(
        ForeignKey("study.study_instance_uid"), index=True
    )
    destination: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(default=0)
    refusals: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    next_try_at: Mapped[datetime | None]
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[datetime | None]
    status: Mapped[int | None]
    message: Mapped[str] = mapped_column(Text, default="")
    sent_at: Mapped[datetime | None]
    class_refused: Mapped[bool] = mapped_column(Boolean, default=False)
    rendition_id: Mapped[int | None] = mapped_column(ForeignKey("rendition.id"), index=True)
    proof: Mapped[str] = mapped_column(String(16), default="")
    proof_tries: Mapped[int] = mapped_column(default=0)
    proved_at: Mapped[datetime | None]
    commitment_id: Mapped[int | None] = mapped_column(ForeignKey("commitment.id"), index=True)
    __table_args__ = (
        UniqueConstraint("result_id", "destination"),
        UniqueConstraint("instance_id", "destination"),
        Index("ix_transfer_state_destination", "state", "destination", "next_try_at"),
        # how much went where lately
        Index("ix_transfer_destination_sent_at", "destination", "sent_at"),
    )


class CommitmentRow(Base):
    """A storage commitment that we ask a destination for (PS3.4 Annex J)."""

    __tablename__ = "commitment"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(_Uid, unique=True)
    destination: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    asked_at: Mapped[datetime | None]
    answered_at: Mapped[datetime | None]
    next_try_at: Mapped[datetime | None]
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[datetime | None]
    message: Mapped[str] = mapped_column(Text, default="")
    __table_args__ = (Index("ix_commitment_state_next_try_at", "state", "next_try_at"),)


class CommitmentRequestRow(Base):
    """A storage commitment that a peer asks us for; the answer goes out from here.

    `instances` is a list of [SOP Class UID, SOP Instance UID].
    """

    __tablename__ = "commitment_request"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(_Uid)
    calling_ae: Mapped[str] = mapped_column(String(16))
    instances: Mapped[list[Any]]
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(default=0)
    received_at: Mapped[datetime]
    answered_at: Mapped[datetime | None]
    next_try_at: Mapped[datetime | None]
    message: Mapped[str] = mapped_column(Text, default="")
    __table_args__ = (
        UniqueConstraint("transaction_uid", "calling_ae"),
        Index("ix_commitment_request_state_next_try_at", "state", "next_try_at"),
    )


class TransferAttemptRow(Base):
    """One try to deliver, and how it ended."""

    __tablename__ = "transfer_attempt"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    transfer_id: Mapped[int] = mapped_column(ForeignKey("transfer.id"), index=True)
    at: Mapped[datetime]
    status: Mapped[int | None]
    message: Mapped[str] = mapped_column(Text)


class DestinationRow(Base):
    """How a destination did lately: the wait before the next try is kept across restarts.

    While it is down one sender at a time tries one object (`probe_owner`, `probe_until`).
    `paused` is an administrator's word. `commitment` says whether it offers storage commitment:
    "yes", "no", or empty as long as nobody asked; `commitment_asked_at` when that was learned.
    """

    __tablename__ = "destination"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    failures: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime | None]
    last_error: Mapped[str] = mapped_column(Text, default="")
    last_success_at: Mapped[datetime | None]
    probe_owner: Mapped[str | None] = mapped_column(String(64))
    probe_until: Mapped[datetime | None]
    paused: Mapped[bool] = mapped_column(Boolean, default=False)
    commitment: Mapped[str] = mapped_column(String(16), default="")
    commitment_asked_at: Mapped[datetime | None]


class RemovalRow(Base):
    """Bytes that retention let go and that are yet to be deleted from the store.

    Written in the transaction that sets `gone_at`, deleted when the bytes are. `store_key` is a
    folder where it ends with a slash.
    """

    __tablename__ = "removal"
    store_key: Mapped[str] = mapped_column(String(255), primary_key=True)
    at: Mapped[datetime]


class RefusedClassRow(Base):
    """A SOP class that a destination does not take, as it said when it was sent one."""

    __tablename__ = "refused_sop_class"
    destination: Mapped[str] = mapped_column(String(64), primary_key=True)
    sop_class_uid: Mapped[str] = mapped_column(_Uid, primary_key=True)
    at: Mapped[datetime]
    how: Mapped[str] = mapped_column(Text)


class AccountRow(Base):
    """A person who may sign in to the web pages. `password_hash` is Argon2's own text."""

    __tablename__ = "account"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    password_hash: Mapped[str] = mapped_column(String(255))
    disabled: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[datetime]
    last_sign_in_at: Mapped[datetime | None]


class WebSessionRow(Base):
    """A signed-in browser; `digest` is the SHA-256 of its cookie."""

    __tablename__ = "web_session"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"), index=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    began_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class ApiTokenRow(Base):
    """A program's token; `digest` is the SHA-256 of its secret."""

    __tablename__ = "api_token"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class SignInFailureRow(Base):
    """How often a sign-in failed lately, by name or address."""

    __tablename__ = "sign_in_failure"
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    failures: Mapped[int] = mapped_column(default=0)
    at: Mapped[datetime]
    blocked_until: Mapped[datetime | None]


class NoticeRow(Base):
    """Something that a webhook is told; made once for each target and key."""

    __tablename__ = "notice"
    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    target: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(128))
    event: Mapped[str] = mapped_column(String(32))
    body: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    next_try_at: Mapped[datetime | None]
    message: Mapped[str] = mapped_column(Text, default="")
    __table_args__ = (
        UniqueConstraint("target", "key"),
        Index("ix_notice_state_next_try_at", "state", "next_try_at"),
    )


class NoticeMarkRow(Base):
    """How far the jobs' events have been read for notices."""

    __tablename__ = "notice_mark"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    position: Mapped[int] = mapped_column(_Id)
