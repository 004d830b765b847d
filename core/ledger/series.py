"""Facts about series for `node.completeness`, and the decision that one is whole."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, delete, func, select, update
from sqlalchemy.orm import Session

from core.domain import Instance, RouteDecision, Series
from core.errors import NotFoundError
from core.ledger.rows import instance_value, series_value
from core.lifecycle import SeriesState
from core.schema import (
    AssociationRow,
    InstanceRow,
    RouteDecisionRow,
    SeriesAssociationRow,
    SeriesRow,
    StudyRow,
)


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """All that is known about whether a series is whole.

    Attributes:
        revision: of the series when the facts were read.
        last_filed_at: when intake filed the last image; later than received after an outage.
        open_associations: how many that sent images of it are still open.
        last_end: how the last of them ended, or None while all are open.
        last_ended_at: when.
    """

    series_instance_uid: str
    revision: int
    instances: int
    last_received_at: datetime
    last_filed_at: datetime
    open_associations: int
    last_ended_at: datetime | None
    last_end: str | None


class SeriesQueries:
    """Reads and decides about series."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def receiving(self, limit: int = 1000) -> list[SeriesFacts]:
        """The facts of every series that is not yet whole, the quietest first."""
        session = self._session
        rows = session.scalars(
            select(SeriesRow)
            .where(SeriesRow.state == SeriesState.RECEIVING)
            .order_by(SeriesRow.last_received_at)
            .limit(limit)
        ).all()
        uids = [row.series_instance_uid for row in rows]
        associations: dict[str, list[AssociationRow]] = {uid: [] for uid in uids}
        for uid, association in session.execute(
            select(SeriesAssociationRow.series_instance_uid, AssociationRow)
            .join(AssociationRow, AssociationRow.id == SeriesAssociationRow.association_id)
            .where(SeriesAssociationRow.series_instance_uid.in_(uids))
        ):
            associations[uid].append(association)
        counts = self._counts(uids)
        return [
            _facts(
                row, counts.get(row.series_instance_uid, 0), associations[row.series_instance_uid]
            )
            for row in rows
        ]

    def get(self, series_instance_uid: str) -> Series:
        """One series.

        Raises:
            NotFoundError: there is none.
        """
        row = self._session.get(SeriesRow, series_instance_uid)
        if row is None:
            raise NotFoundError(f"no series {series_instance_uid}")
        return series_value(row, self._counts([series_instance_uid]).get(series_instance_uid, 0))

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
        self, series_instance_uid: str, revision: int, reason: str, now: datetime
    ) -> bool:
        """Decide that a series is whole, unless an image came or another node was first."""
        # the study first, as intake does: two orders would be a deadlock
        study = select(SeriesRow.study_instance_uid).where(
            SeriesRow.series_instance_uid == series_instance_uid
        )
        self._session.execute(
            select(StudyRow.study_instance_uid)
            .where(StudyRow.study_instance_uid == study.scalar_subquery())
            .with_for_update(key_share=True)
        )
        result = cast(
            "CursorResult[Any]",
            self._session.execute(
                update(SeriesRow)
                .where(
                    SeriesRow.series_instance_uid == series_instance_uid,
                    SeriesRow.revision == revision,
                    SeriesRow.state == SeriesState.RECEIVING,
                )
                .values(state=SeriesState.WHOLE, decision=reason, decided_at=now)
            ),
        )
        return result.rowcount == 1

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

    def _counts(self, uids: list[str]) -> dict[str, int]:
        rows = self._session.execute(
            select(InstanceRow.series_instance_uid, func.count())
            .where(InstanceRow.series_instance_uid.in_(uids), InstanceRow.current.is_(True))
            .group_by(InstanceRow.series_instance_uid)
        )
        return dict(rows.all())


def _facts(row: SeriesRow, instances: int, associations: list[AssociationRow]) -> SeriesFacts:
    ended = [item for item in associations if item.ended_at is not None]
    last = max(ended, key=lambda item: cast("datetime", item.ended_at), default=None)
    return SeriesFacts(
        series_instance_uid=row.series_instance_uid,
        revision=row.revision,
        instances=instances,
        last_received_at=row.last_received_at,
        last_filed_at=row.last_filed_at,
        open_associations=len(associations) - len(ended),
        last_ended_at=last.ended_at if last else None,
        last_end=last.end if last else None,
    )
