"""How far the intakes are, so that nothing is taken as whole while older images lie in a spool."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.lifecycle import SeriesState
from core.schema import IntakeRow, SeriesRow

# An intake that was silent for so long is dead: its row goes, its spool is read when it is back.
_FORGOTTEN = timedelta(days=1)


class Watermarks:
    """One row for each intake: what lay in its spool before a moment is filed."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def note(self, intake: str, place: str, filed_before: datetime, now: datetime) -> None:
        """Keep how far an intake is. `place` says to a person which machine and folder it is."""
        table: Any = IntakeRow.__table__
        postgres = self._session.get_bind().dialect.name == "postgresql"
        insert = postgresql.insert if postgres else sqlite.insert
        values = {"place": place[:255], "filed_before": filed_before, "at": now}
        self._session.execute(
            insert(table)
            .values(id=intake, **values)
            .on_conflict_do_update(index_elements=["id"], set_=values)
        )
        self._session.execute(delete(IntakeRow).where(IntakeRow.at < now - _FORGOTTEN))

    def leave(self, intake: str) -> None:
        """An intake ends with an empty spool: nobody waits for it."""
        self._session.execute(delete(IntakeRow).where(IntakeRow.id == intake))

    def wanted(self) -> bool:
        """Whether any series is being received, so that somebody asks how far the intakes are."""
        found = select(SeriesRow.series_instance_uid).where(
            SeriesRow.state == SeriesState.RECEIVING
        )
        return self._session.scalar(found.limit(1)) is not None

    def filed_before(self, heard_since: datetime | None = None) -> datetime | None:
        """What was received before this moment is filed, on all machines; None: nobody said so.

        An intake that was last heard of before `heard_since` is taken for dead and not waited for.
        """
        query = select(func.min(IntakeRow.filed_before))
        if heard_since is not None:
            query = query.where(IntakeRow.at >= heard_since)
        return self._session.scalar(query)

    def silent(self, heard_since: datetime) -> list[str]:
        """The places of the intakes that were last heard of before `heard_since`."""
        query = select(IntakeRow.place).where(IntakeRow.at < heard_since)
        return list(self._session.scalars(query.order_by(IntakeRow.place)))
