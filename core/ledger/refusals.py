"""SOP classes that destinations do not take, learned from their answers.

A class is remembered when a destination accepts an association but no presentation context for
the class, or answers 0x0122 (PS3.4 Table B.2-1). It is forgotten when the destination takes an
object of the class, when an administrator sends objects again, and counts no longer after
`delivery.relearn_hours`, so that the next object is offered as it is.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core.domain import RefusedClass
from core.ledger.rows import insert_unless_there
from core.schema import RefusedClassRow


class Refusals:
    """Remembers, and forgets."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def learn(self, destination: str, sop_class_uid: str, how: str, now: datetime) -> None:
        """A destination said that it does not take a class."""
        insert_unless_there(
            self._session,
            RefusedClassRow,
            destination=destination,
            sop_class_uid=sop_class_uid,
            at=now,
            how=how,
        )
        row = self._session.scalars(
            select(RefusedClassRow)
            .where(
                RefusedClassRow.destination == destination,
                RefusedClassRow.sop_class_uid == sop_class_uid,
            )
            .with_for_update()
        ).one()
        row.at, row.how = now, how

    def forget(self, destination: str, sop_class_uids: Collection[str]) -> None:
        """It takes these after all, or is to be asked again."""
        self._session.execute(
            delete(RefusedClassRow).where(
                RefusedClassRow.destination == destination,
                RefusedClassRow.sop_class_uid.in_(sop_class_uids),
            )
        )

    def known(self, destination: str, since: datetime) -> dict[str, RefusedClass]:
        """What a destination refused after `since`, by SOP Class UID."""
        rows = self._session.scalars(
            select(RefusedClassRow)
            .where(RefusedClassRow.destination == destination, RefusedClassRow.at > since)
            .order_by(RefusedClassRow.sop_class_uid)
        )
        return {
            row.sop_class_uid: RefusedClass(row.destination, row.sop_class_uid, row.at, row.how)
            for row in rows
        }
