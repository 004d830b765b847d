"""Who wants to be told of workitems, and what they have not been told yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from core.ledger.rows import insert_unless_there
from core.schema import WorkitemEventRow, WorkitemSubscriptionRow


@dataclass(frozen=True, slots=True)
class Subscription:
    """One subscription. `filter` are the matching keys of a filtered one, as DICOM JSON."""

    ae_title: str
    uid: str
    filter: str = ""


@dataclass(frozen=True, slots=True)
class DueEvent:
    """What a subscriber is to be told. `kind` is the Event Type ID (PS3.4 Table CC.2.6-1)."""

    id: int
    ae_title: str
    uid: str
    kind: int
    content: Mapping[str, Any]
    attempts: int
    at: datetime


class Subscriptions:
    """Keeps subscriptions, and the queue of events."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, new: Subscription, now: datetime, *, lock: bool = False) -> None:
        """Keep a subscription, or change the one that is there."""
        made = insert_unless_there(
            self._session,
            WorkitemSubscriptionRow,
            ae_title=new.ae_title,
            uid=new.uid,
            filter=new.filter,
            lock=lock,
            at=now,
        )
        if not made:
            self._session.execute(
                update(WorkitemSubscriptionRow)
                .where(
                    WorkitemSubscriptionRow.ae_title == new.ae_title,
                    WorkitemSubscriptionRow.uid == new.uid,
                )
                .values(filter=new.filter, lock=lock, at=now)
            )

    def drop(self, ae_title: str, uid: str | None = None) -> int:
        """End a subscription, or all of a peer with what it was to be told; how many ended."""
        where = [WorkitemSubscriptionRow.ae_title == ae_title]
        if uid is not None:
            where.append(WorkitemSubscriptionRow.uid == uid)
        else:
            self._session.execute(
                delete(WorkitemEventRow).where(WorkitemEventRow.ae_title == ae_title)
            )
        gone = self._session.execute(
            delete(WorkitemSubscriptionRow).where(*where).returning(WorkitemSubscriptionRow.id)
        )
        return len(gone.all())

    def to(self, uids: Collection[str]) -> list[Subscription]:
        """Subscriptions to any of these UIDs."""
        rows = self._session.scalars(
            select(WorkitemSubscriptionRow)
            .where(WorkitemSubscriptionRow.uid.in_(list(uids)))
            .order_by(WorkitemSubscriptionRow.ae_title, WorkitemSubscriptionRow.id)
        )
        return [Subscription(row.ae_title, row.uid, row.filter) for row in rows]

    def any(self) -> bool:
        """Whether anybody wants to be told anything."""
        return self._session.scalar(select(WorkitemSubscriptionRow.id).limit(1)) is not None

    def queue(
        self, ae_title: str, uid: str, kind: int, content: Mapping[str, Any], now: datetime
    ) -> None:
        """An event is to be told."""
        self._session.add(
            WorkitemEventRow(
                ae_title=ae_title,
                uid=uid,
                kind=kind,
                content=dict(content),
                at=now,
                attempts=0,
                next_try_at=now,
            )
        )

    def peers_due(self, now: datetime) -> list[str]:
        """AE titles of those with an event that is due; only reads."""
        rows = self._session.scalars(
            select(WorkitemEventRow.ae_title).where(WorkitemEventRow.next_try_at <= now).distinct()
        )
        return sorted(rows)

    def claim(self, ae_title: str, now: datetime, until: datetime, limit: int) -> list[DueEvent]:
        """Take the oldest events of a peer, in their order; nobody else gets them until then."""
        rows = self._session.scalars(
            select(WorkitemEventRow)
            .where(WorkitemEventRow.ae_title == ae_title)
            .order_by(WorkitemEventRow.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        ).all()
        if not rows or any(row.next_try_at > now for row in rows[:1]):
            return []  # an earlier one waits: they are told in order
        for row in rows:
            row.next_try_at = until
        return [
            DueEvent(row.id, row.ae_title, row.uid, row.kind, row.content, row.attempts, row.at)
            for row in rows
        ]

    def told(self, event_id: int) -> None:
        """A subscriber took an event."""
        self._session.execute(delete(WorkitemEventRow).where(WorkitemEventRow.id == event_id))

    def not_told(self, ae_title: str, next_try_at: datetime) -> None:
        """A subscriber took nothing: all that is left for it waits."""
        self._session.execute(
            update(WorkitemEventRow)
            .where(WorkitemEventRow.ae_title == ae_title)
            .values(next_try_at=next_try_at, attempts=WorkitemEventRow.attempts + 1)
        )
