"""Evidence: what somebody said about which images belong to a study or a series.

Written by every door, read only by `node.deciding.completeness`. A statement takes the place of an
earlier one of the same source and key; one that came earlier, or that takes back an end that
was already told, changes nothing. So statements may come twice and in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Select, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from core.identifiers import derived_uid
from core.ledger.rows import insert_unless_there
from core.lifecycle import EvidenceSource
from core.schema import EvidenceRow, InstanceRow, SeriesRow

# A commitment whose images never came is not looked at for ever.
_PLACED_WITHIN = timedelta(days=1)
_UIDS_A_QUERY = 500  # PostgreSQL takes 65,535 parameters, SQLite 32,766


@dataclass(frozen=True, slots=True)
class Evidence:
    """One statement.

    Attributes:
        source: what kind of statement it is.
        key: tells statements of one source apart, e.g. the MPPS's or the transaction's UID.
        study_instance_uid: empty where it is not known (yet).
        series_instance_uid: empty where it speaks of the whole study.
        said_by: AE title of who said it, or empty.
        final: False where more is to come.
        uids: the SOP Instance UIDs that it lists; None where it lists none.
        count: how many there are, where only that is known.
        stat: who said it wants the analysis first.
        at: when it was said.
    """

    source: EvidenceSource
    key: str
    at: datetime
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    said_by: str = ""
    final: bool = True
    uids: frozenset[str] | None = None
    count: int | None = None
    stat: bool = False

    @property
    def speaks(self) -> bool:
        """Whether it says anything about how many images there are, or that more are to come."""
        return bool(self.uids) or self.count is not None or not self.final


class EvidenceBook:
    """Writes and reads statements."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def note(self, evidence: Evidence) -> bool:
        """Keep one statement; False when a later one, or an end, is there already."""
        values = {
            "said_by": evidence.said_by[:16],
            "final": evidence.final,
            "count": evidence.count,
            "uids": None if evidence.uids is None else sorted(evidence.uids),
            "stat": evidence.stat,
            "at": evidence.at,
        }
        where = {
            "source": evidence.source,
            "key": evidence.key,
            "series_instance_uid": evidence.series_instance_uid,
        }
        if insert_unless_there(
            self._session,
            EvidenceRow,
            study_instance_uid=evidence.study_instance_uid,
            **where,
            **values,
        ):
            return True
        same = and_(*(getattr(EvidenceRow, name) == value for name, value in where.items()))
        if evidence.study_instance_uid:
            self._session.execute(
                update(EvidenceRow)
                .where(same, EvidenceRow.study_instance_uid == "")
                .values(study_instance_uid=evidence.study_instance_uid)
            )
        newer = EvidenceRow.at <= evidence.at
        if not evidence.final:
            newer &= EvidenceRow.final.is_(False)
        changed = self._session.execute(
            update(EvidenceRow).where(same, newer).values(**values).returning(EvidenceRow.id)
        )
        return changed.first() is not None

    def performed(
        self,
        key: str,
        said_by: str,
        study_instance_uid: str,
        series: Mapping[str, Sequence[str]] | None,
        final: bool,
        at: datetime,
    ) -> None:
        """Keep what a Modality Performed Procedure Step says (PS3.4 Section F.7).

        Args:
            key: its SOP Instance UID.
            study_instance_uid: empty when it is set, for only its creation names the study.
            series: SOP Instance UIDs by Series Instance UID, as far as they are known now; None
                where it says nothing of them, so that what it said earlier holds.
            final: it was completed or discontinued.
        """
        said = Evidence(EvidenceSource.MPPS, key, at, study_instance_uid, said_by=said_by)
        news = self.note(replace(said, final=final))
        of_this = and_(EvidenceRow.source == EvidenceSource.MPPS, EvidenceRow.key == key)
        study = study_instance_uid or self._study_of(EvidenceSource.MPPS, key)
        for series_uid, uids in (series or {}).items() if news else ():
            self.note(
                replace(
                    said,
                    study_instance_uid=study,
                    series_instance_uid=series_uid,
                    uids=frozenset(uids),
                    final=final,
                )
            )
        if study:
            self._session.execute(
                update(EvidenceRow)
                .where(of_this, EvidenceRow.study_instance_uid == "")
                .values(study_instance_uid=study)
            )
        if final:
            # a series that it named while it ran and names no more: nothing is to come of it
            dropped = {} if series is None else {"uids": None, "count": None}
            self._session.execute(
                update(EvidenceRow)
                .where(of_this, EvidenceRow.at <= at, EvidenceRow.final.is_(False))
                .values(final=True, at=at, **dropped)
            )

    def available(
        self,
        key: str,
        said_by: str,
        study_instance_uid: str,
        series: Mapping[str, Sequence[str]],
        at: datetime,
    ) -> None:
        """Keep what an Instance Availability Notification lists (PS3.4 Annex R)."""
        for series_uid, uids in series.items():
            self.note(
                Evidence(
                    EvidenceSource.AVAILABILITY,
                    key,
                    at,
                    study_instance_uid,
                    series_uid,
                    said_by,
                    uids=frozenset(uids),
                )
            )

    def committing(
        self, transaction_uid: str, said_by: str, uids: Iterable[str], at: datetime
    ) -> None:
        """Keep the instances that a storage commitment request lists (PS3.4 Section J.3.2).

        It names neither study nor series: those are learned from the instances that have
        arrived. Until one has, the statement has no study; `place` looks again.
        """
        self._place(
            Evidence(
                EvidenceSource.COMMITMENT,
                transaction_uid,
                at,
                said_by=said_by,
                uids=frozenset(uids),
            )
        )

    def place(self, now: datetime) -> int:
        """Find the study of commitments whose instances had not arrived; how many were found.

        Reads one index entry when there is nothing to do.
        """
        rows = self._session.scalars(self._unplaced(now).limit(100)).all()
        return sum(self._place(evidence_value(row)) for row in rows)

    def has_unplaced(self, now: datetime) -> bool:
        """Whether `place` has anything to look for; only reads."""
        return self._session.scalar(self._unplaced(now).limit(1)) is not None

    def of_study(self, study_instance_uid: str) -> list[Evidence]:
        """Everything that was said about a study and its series, the oldest first."""
        rows = self._session.scalars(
            select(EvidenceRow)
            .where(
                or_(
                    EvidenceRow.study_instance_uid == study_instance_uid,
                    EvidenceRow.series_instance_uid.in_(
                        select(SeriesRow.series_instance_uid).where(
                            SeriesRow.study_instance_uid == study_instance_uid
                        )
                    ),
                )
            )
            .order_by(EvidenceRow.at, EvidenceRow.id)
        )
        return [evidence_value(row) for row in rows]

    def study_of(self, uid: str) -> str | None:
        """The study that a UID is, or whose series it is, as far as instances have arrived."""
        return self._session.scalar(
            select(SeriesRow.study_instance_uid)
            .where(or_(SeriesRow.series_instance_uid == uid, SeriesRow.study_instance_uid == uid))
            .limit(1)
        )

    def forget(self, before: datetime) -> int:
        """Remove statements from before a moment whose study never came; returns how many."""
        gone = self._session.execute(
            delete(EvidenceRow)
            .where(
                EvidenceRow.at < before,
                EvidenceRow.study_instance_uid.not_in(select(SeriesRow.study_instance_uid)),
                EvidenceRow.series_instance_uid.not_in(select(SeriesRow.series_instance_uid)),
            )
            .returning(EvidenceRow.id)
        )
        return len(gone.all())

    def _unplaced(self, now: datetime) -> Select[EvidenceRow]:
        return select(EvidenceRow).where(
            EvidenceRow.study_instance_uid == "",
            EvidenceRow.source == EvidenceSource.COMMITMENT,
            EvidenceRow.at > now - _PLACED_WITHIN,
        )

    def _place(self, said: Evidence) -> bool:
        """Keep a commitment with the studies of those of its instances that have arrived."""
        studies = self._studies_of(said.uids or frozenset())
        if not studies:
            self.note(said)
            return False
        # a transaction over several studies becomes one statement for each
        first, *others = sorted(studies)
        arrived_elsewhere = frozenset[str]().union(*(studies[item] for item in others))
        listed = said.uids or frozenset()
        self.note(replace(said, study_instance_uid=first, uids=listed - arrived_elsewhere))
        for study in others:
            elsewhere = frozenset[str]().union(
                *(uids for item, uids in studies.items() if item != study)
            )
            self.note(
                replace(
                    said,
                    key=derived_uid("evidence", said.key, study),
                    study_instance_uid=study,
                    uids=listed - elsewhere,
                )
            )
        return True

    def _studies_of(self, uids: frozenset[str]) -> dict[str, frozenset[str]]:
        """The instances among `uids` that have arrived, by study."""
        ordered = sorted(uids)
        found: dict[str, set[str]] = {}
        for start in range(0, len(ordered), _UIDS_A_QUERY):
            for study, uid in self._session.execute(
                select(SeriesRow.study_instance_uid, InstanceRow.sop_instance_uid)
                .join(SeriesRow, SeriesRow.series_instance_uid == InstanceRow.series_instance_uid)
                .where(
                    InstanceRow.sop_instance_uid.in_(ordered[start : start + _UIDS_A_QUERY]),
                    InstanceRow.current.is_(True),
                )
            ):
                found.setdefault(study, set()).add(uid)
        return {study: frozenset(items) for study, items in found.items()}

    def _study_of(self, source: EvidenceSource, key: str) -> str:
        return (
            self._session.scalar(
                select(func.max(EvidenceRow.study_instance_uid)).where(
                    EvidenceRow.source == source, EvidenceRow.key == key
                )
            )
            or ""
        )


def evidence_value(row: EvidenceRow) -> Evidence:
    """A row as a value."""
    return Evidence(
        source=EvidenceSource(row.source),
        key=row.key,
        at=row.at,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        said_by=row.said_by,
        final=row.final,
        uids=None if row.uids is None else frozenset(row.uids),
        count=row.count,
        stat=row.stat,
    )
