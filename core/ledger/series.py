"""Series: one with its instances, and the decision that it is whole."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from core.domain import Instance, RouteDecision, Series
from core.errors import NotFoundError
from core.ledger.facts import Facts, SeriesFacts, counts_of
from core.ledger.rows import instance_value, series_value
from core.lifecycle import EvidenceSource, SeriesState
from core.schema import (
    AssociationRow,
    InstanceRow,
    RouteDecisionRow,
    SeriesRow,
    StudyRow,
)

__all__ = ["SeriesFacts", "SeriesQueries"]


class SeriesQueries:
    """Reads and decides about series."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def receiving(self, heard_since: datetime | None = None) -> list[SeriesFacts]:
        """The facts of every series that is not yet whole, the quietest first."""
        return Facts(self._session).receiving(heard_since)

    def get(self, series_instance_uid: str) -> Series:
        """One series.

        Raises:
            NotFoundError: there is none.
        """
        row = self._session.get(SeriesRow, series_instance_uid)
        if row is None:
            raise NotFoundError(f"no series {series_instance_uid}")
        return series_value(
            row, counts_of(self._session, [series_instance_uid]).get(series_instance_uid, 0)
        )

    def instances(self, series_instance_uid: str) -> list[Instance]:
        """The current versions of its instances."""
        rows = self._session.scalars(
            select(InstanceRow)
            .where(
                InstanceRow.series_instance_uid == series_instance_uid,
                InstanceRow.current.is_(True),
            )
            .order_by(InstanceRow.id)
        )
        return [instance_value(row) for row in rows]

    def mark_whole(
        self,
        series_instance_uid: str,
        revision: int,
        reason: str,
        now: datetime,
        *,
        source: EvidenceSource = EvidenceSource.QUIET,
        expected: int | None = None,
        incomplete: bool = False,
    ) -> bool:
        """Decide that a series is whole, unless an image came or another node was first.

        Args:
            revision: of the series when its facts were read.
            reason: why, for a person.
            source: which kind of evidence decided.
            expected: how many images there should be, where anybody said so.
            incomplete: more was announced than came.
        """
        # the study first, as intake does: two orders would be a deadlock
        study = select(SeriesRow.study_instance_uid).where(
            SeriesRow.series_instance_uid == series_instance_uid
        )
        self._session.execute(
            select(StudyRow.study_instance_uid)
            .where(StudyRow.study_instance_uid == study.scalar_subquery())
            .with_for_update(key_share=True)
        )
        marked = self._session.execute(
            update(SeriesRow)
            .where(
                SeriesRow.series_instance_uid == series_instance_uid,
                SeriesRow.revision == revision,
                SeriesRow.state == SeriesState.RECEIVING,
            )
            .values(
                state=SeriesState.WHOLE,
                decision=reason,
                decided_at=now,
                decided_by=source,
                expected=expected,
                incomplete=incomplete,
            )
            .returning(SeriesRow.series_instance_uid)
        )
        return marked.first() is not None

    def explain(
        self, series_instance_uid: str, revision: int, decisions: list[RouteDecision]
    ) -> None:
        """Keep why each route took the series or not."""
        self._session.execute(
            delete(RouteDecisionRow).where(
                RouteDecisionRow.series_instance_uid == series_instance_uid,
                RouteDecisionRow.revision == revision,
            )
        )
        for decision in decisions:
            self._session.add(
                RouteDecisionRow(
                    series_instance_uid=series_instance_uid,
                    revision=revision,
                    route=decision.route,
                    matched=decision.matched,
                    reason=decision.reason,
                )
            )

    def senders(self, series_instance_uid: str) -> dict[int, str]:
        """Calling AE title of who sent each current instance of a series, by instance id."""
        rows = self._session.execute(
            select(InstanceRow.id, AssociationRow.calling_ae)
            .join(AssociationRow, AssociationRow.id == InstanceRow.association_id)
            .where(
                InstanceRow.series_instance_uid == series_instance_uid,
                InstanceRow.current.is_(True),
            )
        )
        return {key: value for key, value in rows}  # noqa: C416
