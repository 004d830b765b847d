"""Facts about series, for `node.deciding.completeness`.

The dispatcher asks ten times a second. So it first reads where each series stands, which is
little, and then the facts of those that moved since it last looked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from core.ledger.evidence import Evidence, evidence_value
from core.ledger.watermarks import Watermarks
from core.lifecycle import SeriesState
from core.schema import (
    AssociationRow,
    EvidenceRow,
    InstanceRow,
    SeriesAssociationRow,
    SeriesRow,
)

MOST_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """All that is known about whether a series is whole.

    Attributes:
        revision: of the series when the facts were read.
        instances: how many of its images are filed.
        last_filed_at: when intake filed the last image; later than received after an outage.
        open_associations: how many that sent images of it are still open.
        last_end: how the last of them ended, or None while all are open.
        last_ended_at: when.
        backlog_before: what was received before this moment is filed, on every machine whose
            intake is alive; later images may still lie in a spool, so the quiet time counts only
            up to here. None when no intake has said so (docs/decisions/0014-watermark.md).
        sender: Calling AE title of the association that began last.
        evidence: what was said about it or its study.
        held: SOP Instance UIDs of its images; empty unless some evidence lists instances.
        study_held: the same for the whole study without our own results, for evidence that
            speaks of the whole study.
        study_series: how many series of the study have arrived, without our own results.
        complete_at: when it was last decided that it is whole, with nothing missing; None if
            never, or if the last decision was that it is incomplete.
    """

    series_instance_uid: str
    revision: int
    instances: int
    last_received_at: datetime
    last_filed_at: datetime
    open_associations: int
    last_ended_at: datetime | None
    last_end: str | None
    backlog_before: datetime | None = None
    study_instance_uid: str = ""
    sender: str = ""
    evidence: tuple[Evidence, ...] = ()
    held: frozenset[str] = frozenset()
    study_held: frozenset[str] = frozenset()
    study_series: int = 1
    complete_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a series stands: as long as `marks` stay the same, so do its facts."""

    series_instance_uid: str
    study_instance_uid: str
    revision: int
    marks: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class _Association:
    calling_ae: str
    began_at: datetime
    ended_at: datetime | None
    end: str | None


class Facts:
    """Reads what is known about series; writes nothing."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def standing(self) -> list[Standing]:
        """Where every series stands that is not yet whole, the quietest first."""
        columns = (SeriesRow.last_received_at, SeriesRow.series_instance_uid)
        query = (
            select(*columns, SeriesRow.study_instance_uid, SeriesRow.revision)
            .where(SeriesRow.state == SeriesState.RECEIVING)
            .order_by(*columns)
            .limit(MOST_AT_ONCE)
        )
        found: list[Standing] = []
        page = self._session.execute(query).all()
        while page:
            found += self._with_marks([(uid, study, number) for _, uid, study, number in page])
            if len(page) < MOST_AT_ONCE:
                break
            moment, uid = page[-1][:2]
            after = (columns[0] > moment) | ((columns[0] == moment) & (columns[1] > uid))
            page = self._session.execute(query.where(after)).all()
        return found

    def _with_marks(self, rows: Sequence[tuple[str, str, int]]) -> list[Standing]:
        studies = {series: study for series, study, _ in rows}
        open_ended = self._association_marks(list(studies))
        said = self._evidence_marks(studies)
        # what is said of a study is held against all its series
        of_study = self._revisions({studies[uid] for uid, marks in said.items() if marks})
        return [
            Standing(
                series,
                study,
                revision,
                (revision, open_ended.get(series), said[series], of_study.get(study)),
            )
            for series, study, revision in rows
        ]

    def receiving(self, heard_since: datetime | None = None) -> list[SeriesFacts]:
        """The facts of every series that is not yet whole, the quietest first.

        An intake last heard of before `heard_since` is taken for dead: nobody waits for it.
        """
        return self.of([item.series_instance_uid for item in self.standing()], heard_since)

    def of(self, uids: Sequence[str], heard_since: datetime | None = None) -> list[SeriesFacts]:
        """The facts of those of some series that are not yet whole, the quietest first."""
        rows = self._session.scalars(
            select(SeriesRow)
            .where(
                SeriesRow.series_instance_uid.in_(uids), SeriesRow.state == SeriesState.RECEIVING
            )
            .order_by(SeriesRow.last_received_at)
        ).all()
        studies = {row.series_instance_uid: row.study_instance_uid for row in rows}
        backlog_before = Watermarks(self._session).filed_before(heard_since)
        associations = self._associations(list(studies))
        counts = counts_of(self._session, list(studies))
        said = self._evidence(studies)
        listed = [
            uid for uid, items in said.items() if any(item.uids is not None for item in items)
        ]
        held = self._held(InstanceRow.series_instance_uid.in_(listed), by_study=False)
        broad = {
            studies[uid]
            for uid, items in said.items()
            if any(not item.series_instance_uid and item.speaks for item in items)
        }
        study_held = self._held(
            SeriesRow.study_instance_uid.in_(broad) & (SeriesRow.state != SeriesState.OWN),
            by_study=True,
        )
        study_series = self._series_of(broad)
        facts = []
        for row in rows:
            uid, study = row.series_instance_uid, row.study_instance_uid
            ended = [item for item in associations[uid] if item.ended_at is not None]
            last = max(ended, key=lambda item: cast("datetime", item.ended_at), default=None)
            latest = max(associations[uid], key=lambda item: item.began_at, default=None)
            facts.append(
                SeriesFacts(
                    series_instance_uid=uid,
                    study_instance_uid=study,
                    revision=row.revision,
                    instances=counts.get(uid, 0),
                    last_received_at=row.last_received_at,
                    last_filed_at=row.last_filed_at,
                    open_associations=len(associations[uid]) - len(ended),
                    last_ended_at=last.ended_at if last else None,
                    last_end=last.end if last else None,
                    backlog_before=backlog_before,
                    sender=latest.calling_ae if latest else "",
                    evidence=said[uid],
                    held=held.get(uid, frozenset()),
                    study_held=study_held.get(study, frozenset()),
                    study_series=study_series.get(study, 1),
                    complete_at=None if row.incomplete else row.decided_at,
                )
            )
        return facts

    def _associations(self, uids: Sequence[str]) -> dict[str, list[_Association]]:
        """The associations that sent images of each series."""
        found: dict[str, list[_Association]] = {uid: [] for uid in uids}
        for uid, calling_ae, began_at, ended_at, end in self._session.execute(
            select(
                SeriesAssociationRow.series_instance_uid,
                AssociationRow.calling_ae,
                AssociationRow.began_at,
                AssociationRow.ended_at,
                AssociationRow.end,
            )
            .join(AssociationRow, AssociationRow.id == SeriesAssociationRow.association_id)
            .where(SeriesAssociationRow.series_instance_uid.in_(uids))
        ):
            found[uid].append(_Association(calling_ae, began_at, ended_at, end))
        return found

    def _association_marks(self, uids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """How many associations sent images of each series, and how many of them have ended."""
        rows = self._session.execute(
            select(
                SeriesAssociationRow.series_instance_uid,
                func.count(),
                func.count(AssociationRow.ended_at),
            )
            .join(AssociationRow, AssociationRow.id == SeriesAssociationRow.association_id)
            .where(SeriesAssociationRow.series_instance_uid.in_(uids))
            .group_by(SeriesAssociationRow.series_instance_uid)
        )
        return {uid: (all_of_them, ended) for uid, all_of_them, ended in rows}

    def _evidence_marks(self, studies: dict[str, str]) -> dict[str, tuple[object, ...]]:
        """What tells one state of the evidence about each series from another."""
        marks: dict[str, list[object]] = {uid: [] for uid in studies}
        by_study: dict[str, list[object]] = {study: [] for study in studies.values()}
        columns = (EvidenceRow.id, EvidenceRow.at, EvidenceRow.final, EvidenceRow.count)
        for uid, *mark in self._session.execute(
            select(EvidenceRow.series_instance_uid, *columns)
            .where(EvidenceRow.series_instance_uid.in_(studies))
            .order_by(EvidenceRow.id)
        ):
            marks[uid].append(tuple(mark))
        for study, *mark in self._session.execute(
            select(EvidenceRow.study_instance_uid, *columns)
            .where(
                EvidenceRow.study_instance_uid.in_(by_study), EvidenceRow.series_instance_uid == ""
            )
            .order_by(EvidenceRow.id)
        ):
            by_study[study].append(tuple(mark))
        return {uid: (*marks[uid], *by_study[study]) for uid, study in studies.items()}

    def _evidence(self, studies: dict[str, str]) -> dict[str, tuple[Evidence, ...]]:
        """What was said about each series or its study."""
        said: dict[str, list[Evidence]] = {uid: [] for uid in studies}
        of_study: dict[str, list[Evidence]] = {study: [] for study in studies.values()}
        for row in self._session.scalars(
            select(EvidenceRow).where(EvidenceRow.series_instance_uid.in_(studies))
        ):
            said[row.series_instance_uid].append(evidence_value(row))
        for row in self._session.scalars(
            select(EvidenceRow).where(
                EvidenceRow.study_instance_uid.in_(of_study), EvidenceRow.series_instance_uid == ""
            )
        ):
            of_study[row.study_instance_uid].append(evidence_value(row))
        return {uid: (*said[uid], *of_study[study]) for uid, study in studies.items()}

    def _held(self, condition: ColumnElement[bool], *, by_study: bool) -> dict[str, frozenset[str]]:
        """The SOP Instance UIDs of current instances, by series or by study."""
        key = SeriesRow.study_instance_uid if by_study else SeriesRow.series_instance_uid
        found: dict[str, set[str]] = {}
        for uid, sop_instance_uid in self._session.execute(
            select(key, InstanceRow.sop_instance_uid)
            .join(SeriesRow, SeriesRow.series_instance_uid == InstanceRow.series_instance_uid)
            .where(condition, InstanceRow.current.is_(True))
        ):
            found.setdefault(uid, set()).add(sop_instance_uid)
        return {uid: frozenset(items) for uid, items in found.items()}

    def _revisions(self, studies: Iterable[str]) -> dict[str, int]:
        """A number for each study that changes with every image of it."""
        rows = self._session.execute(
            select(SeriesRow.study_instance_uid, func.sum(SeriesRow.revision))
            .where(SeriesRow.study_instance_uid.in_(list(studies)))
            .group_by(SeriesRow.study_instance_uid)
        )
        return {study: int(total) for study, total in rows}

    def _series_of(self, studies: Iterable[str]) -> dict[str, int]:
        """How many series of each study have arrived, without our own results."""
        rows = self._session.execute(
            select(SeriesRow.study_instance_uid, func.count())
            .where(
                SeriesRow.study_instance_uid.in_(list(studies)),
                SeriesRow.state != SeriesState.OWN,
            )
            .group_by(SeriesRow.study_instance_uid)
        )
        return {key: value for key, value in rows}  # noqa: C416


def counts_of(session: Session, uids: Sequence[str]) -> dict[str, int]:
    """How many current instances each series has; one without any is left out."""
    rows = session.execute(
        select(InstanceRow.series_instance_uid, func.count())
        .where(InstanceRow.series_instance_uid.in_(uids), InstanceRow.current.is_(True))
        .group_by(InstanceRow.series_instance_uid)
    )
    return {key: value for key, value in rows}  # noqa: C416
