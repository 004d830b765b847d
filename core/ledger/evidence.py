"""The book of evidence: what each kind of message says, kept as statements, and read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import and_, delete, func, or_, select, update

from core.ledger.placing import Placing
from core.ledger.statements import Evidence, evidence_value
from core.lifecycle import EvidenceSource
from core.schema import EvidenceRow, SeriesRow

__all__ = ["Evidence", "EvidenceBook", "evidence_value"]


class EvidenceBook(Placing):
    """Writes and reads statements."""

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
        # on the row of the step itself an empty list says: it ended with a list of its series
        listed = frozenset[str]() if final and series is not None else None
        news = self.note(replace(said, final=final, uids=listed))
        of_this = and_(EvidenceRow.source == EvidenceSource.MPPS, EvidenceRow.key == key)
        study = study_instance_uid or self._study_of(EvidenceSource.MPPS, key)
        step = self._step(key)
        # what was said earlier and comes now counts, unless the end has replaced it
        counts = news or (at <= step.at and step.uids is None)
        for series_uid, uids in (series or {}).items() if counts else ():
            self.note(
                replace(
                    said,
                    study_instance_uid=study,
                    series_instance_uid=series_uid,
                    uids=frozenset(uids),
                    final=final or step.final,
                )
            )
        if study:
            self._session.execute(
                update(EvidenceRow)
                .where(of_this, EvidenceRow.study_instance_uid == "")
                .values(study_instance_uid=study)
            )
        if final:
            # a series that it named while it ran and names no more: nothing is to come of it.
            # Without a list the earlier ones hold, and keep their time: a later one may yet come
            dropped = {} if series is None else {"uids": None, "count": None, "at": at}
            self._session.execute(
                update(EvidenceRow)
                .where(of_this, EvidenceRow.at <= at, EvidenceRow.final.is_(False))
                .values(final=True, **dropped)
            )

    def _step(self, key: str) -> EvidenceRow:
        """What was said of a step itself. Its `uids` are an empty list when its end had a list."""
        return self._session.scalars(
            select(EvidenceRow)
            .where(
                EvidenceRow.source == EvidenceSource.MPPS,
                EvidenceRow.key == key,
                EvidenceRow.series_instance_uid == "",
            )
            .execution_options(populate_existing=True)
        ).one()

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

    def _study_of(self, source: EvidenceSource, key: str) -> str:
        return (
            self._session.scalar(
                select(func.max(EvidenceRow.study_instance_uid)).where(
                    EvidenceRow.source == source, EvidenceRow.key == key
                )
            )
            or ""
        )
