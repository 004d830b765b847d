"""What belongs to studies and series: modalities, and how much of it can be retrieved.

Our own results count as series and instances of their study: those of a job that is done, as
they were made first. A study in an identity conflict shows none, for they may be another's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Select, exists, func, select
from sqlalchemy.orm import Session, aliased

from core.domain import ResultKind
from core.ledger.queries.conditions import unindexed
from core.ledger.queries.matching import Matching
from core.lifecycle import JobState
from core.schema import InstanceRow, JobRow, ResultRow, SeriesRow, StudyRow

# What the objects themselves say (`workers.results`).
MODALITY = {
    ResultKind.SEG: "SEG",
    ResultKind.SR: "SR",
    ResultKind.SC: "OT",
    ResultKind.KO: "KO",
}
ONLINE, UNAVAILABLE = "ONLINE", "UNAVAILABLE"  # PS3.3 Section C.4.23.1.1


@dataclass(slots=True)
class Content:
    """What belongs to one study or one series; `instances` counts what can be retrieved."""

    modalities: set[str] = field(default_factory=set)
    series: set[str] = field(default_factory=set)
    instances: int = 0


def shown_results(*columns: Any) -> Select[Any]:
    """Results that are told and given, whether their bytes are there or not.

    Not what came back to us as an instance: that one is told.
    """
    study = aliased(StudyRow)
    return (
        select(*columns)
        .select_from(ResultRow)
        .join(JobRow, JobRow.id == ResultRow.job_id)
        .join(study, study.study_instance_uid == JobRow.study_instance_uid)
        .where(
            unindexed(JobRow.state, "") == JobState.DONE,
            ResultRow.kind.in_(list(MODALITY)),
            unindexed(ResultRow.alternative_to, 0) == 0,
            study.conflict.is_(False),
            ~exists().where(
                InstanceRow.sop_instance_uid == ResultRow.sop_instance_uid,
                InstanceRow.current.is_(True),
            ),
        )
    )


def has_results(kinds: Collection[ResultKind]) -> Any:
    """The condition that a study has results of these kinds."""
    return (
        shown_results(ResultRow.id)
        .where(
            ResultRow.kind.in_(list(kinds)),
            JobRow.study_instance_uid == StudyRow.study_instance_uid,
        )
        .exists()
    )


def of_modality(matching: Matching) -> tuple[ResultKind, ...]:
    """The kinds of results whose modality matches."""
    return tuple(
        kind
        for kind, modality in MODALITY.items()
        if hasattr(matching, "accepts") and matching.accepts(modality)  # type: ignore[call-arg]
    )


def retrievable() -> Any:
    """The condition that an instance can be retrieved: what its sender means now, with bytes."""
    return InstanceRow.current.is_(True) & InstanceRow.gone_at.is_(None)


def contents_of_studies(
    session: Session, uids: Collection[str], *, instances: bool
) -> dict[str, Content]:
    """What belongs to each of these studies; instances are counted only if asked for."""
    found = {uid: Content() for uid in uids}
    rows = session.execute(
        select(
            SeriesRow.study_instance_uid, SeriesRow.series_instance_uid, SeriesRow.modality
        ).where(SeriesRow.study_instance_uid.in_(uids))
    )
    for study, series, modality in rows:
        found[study].series.add(series)
        if modality:
            found[study].modalities.add(modality)
    results = session.execute(
        shown_results(
            JobRow.study_instance_uid,
            ResultRow.series_instance_uid,
            ResultRow.kind,
            ResultRow.gone_at.is_(None),
        ).where(JobRow.study_instance_uid.in_(uids))
    )
    for study, series, kind, there in results:
        found[study].series.add(series)
        found[study].modalities.add(MODALITY[ResultKind(kind)])
        found[study].instances += there
    if instances:
        counted = session.execute(
            select(SeriesRow.study_instance_uid, func.count())
            .join(InstanceRow, InstanceRow.series_instance_uid == SeriesRow.series_instance_uid)
            .where(SeriesRow.study_instance_uid.in_(uids), retrievable())
            .group_by(SeriesRow.study_instance_uid)
        )
        for study, count in counted:
            found[study].instances += count
    return found


def instances_of_series(session: Session, uids: Collection[str]) -> dict[str, int]:
    """How many instances of each of these series can be retrieved; results are left out."""
    rows = session.execute(
        select(InstanceRow.series_instance_uid, func.count())
        .where(InstanceRow.series_instance_uid.in_(uids), retrievable())
        .group_by(InstanceRow.series_instance_uid)
    )
    return dict(rows.all())
