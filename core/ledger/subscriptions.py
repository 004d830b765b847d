"""Who wants to be told of workitems, and what they have not been told yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, exists, func, or_, select, update
from sqlalchemy.orm import Session

from core.ledger.rows import insert_unless_there
from core.schema import (
    JobEventRow,
    WorkitemEventRow,
    WorkitemFollowerRow,
    WorkitemSubscriptionRow,
    WorkitemToldRow,
)
from core.workitems import FINAL_STATES

_FOLLOWER = "dispatch"


@dataclass(frozen=True, slots=True)
class Subscription:
    """One subscription.

    Attributes:
        filter: the matching keys of a filtered one, as text.
        lock: the workitem stays in the ledger until this ends (PS3.4 Section CC.2.3.3).
        muted: of one workitem: who follows all or some wants to hear no more of it.
    """

    ae_title: str
    uid: str
    filter: str = ""
    lock: bool = False
    muted: bool = False


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

    def add(self, new: Subscription, now: datetime) -> None:
        """Keep a subscription, or change the one that is there.

        From the first one on, what happens to jobs is followed.
        """
        last = self._session.scalar(select(func.max(JobEventRow.id))) or 0
        insert_unless_there(
            self._session, WorkitemFollowerRow, id=_FOLLOWER, last_event=last, at=now
        )
        made = insert_unless_there(
            self._session,
            WorkitemSubscriptionRow,
            ae_title=new.ae_title,
            uid=new.uid,
            filter=new.filter,
            lock=new.lock,
            muted=new.muted,
            at=now,
        )
        if not made:
            self._session.execute(
                update(WorkitemSubscriptionRow)
                .where(
                    WorkitemSubscriptionRow.ae_title == new.ae_title,
                    WorkitemSubscriptionRow.uid == new.uid,
                )
                .values(filter=new.filter, lock=new.lock, muted=new.muted, at=now)
            )

    def unmute(self, ae_title: str) -> None:
        """Who follows all anew wants to hear of every one."""
        self._session.execute(
            delete(WorkitemSubscriptionRow).where(
                WorkitemSubscriptionRow.ae_title == ae_title, WorkitemSubscriptionRow.muted
            )
        )

    def has(self, ae_title: str, uids: Collection[str]) -> bool:
        """Whether a peer has one of these subscriptions."""
        found = select(WorkitemSubscriptionRow.id).where(
            WorkitemSubscriptionRow.ae_title == ae_title,
            WorkitemSubscriptionRow.uid.in_(list(uids)),
        )
        return self._session.scalar(found.limit(1)) is not None

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
        return [
            Subscription(row.ae_title, row.uid, row.filter, row.lock, row.muted) for row in rows
        ]

    def any(self) -> bool:
        """Whether anybody wants to be told anything."""
        return self._session.scalar(select(WorkitemSubscriptionRow.id).limit(1)) is not None

    def is_news(self, uid: str, state: str, readiness: str, now: datetime) -> bool:
        """Note the state that is told of a workitem; False when it was told last, or has ended.

        Several nodes, and one that starts again, tell each change once.
        """
        told = WorkitemToldRow
        values = {"state": state, "readiness": readiness, "at": now}
        if insert_unless_there(self._session, told, uid=uid, **values):
            return True
        moved = self._session.execute(
            update(told)
            .where(
                told.uid == uid,
                told.state.not_in(list(FINAL_STATES)),
                or_(told.state != state, told.readiness != readiness),
            )
            .values(**values)
            .returning(told.uid)
        )
        return moved.first() is not None

    def followed(self) -> tuple[int, datetime] | None:
        """Up to which step in the life of jobs subscribers were told, and when; None: nobody is."""
        row = self._session.execute(
            select(WorkitemFollowerRow.last_event, WorkitemFollowerRow.at).where(
                WorkitemFollowerRow.id == _FOLLOWER
            )
        ).first()
        return None if row is None else (row.last_event, row.at)

    def follow(self, last: int, now: datetime) -> None:
        """Subscribers were told up to this step."""
        follower = WorkitemFollowerRow
        self._session.execute(
            update(follower)
            .where(follower.id == _FOLLOWER, follower.last_event < last)
            .values(last_event=last, at=now)
        )

    def stop_following(self) -> None:
        """Nobody listens any more."""
        self._session.execute(
            delete(WorkitemFollowerRow).where(~exists(select(WorkitemSubscriptionRow.id)))
        )

    def locked(self, uids: Collection[str]) -> bool:
        """Whether a subscriber wants one of these workitems to stay."""
        found = select(WorkitemSubscriptionRow.id).where(
            WorkitemSubscriptionRow.uid.in_(list(uids)), WorkitemSubscriptionRow.lock
        )
        return self._session.scalar(found.limit(1)) is not None

    def forget(self, uids: Collection[str]) -> None:
        """These workitems leave the ledger; what is still to be told of them is told."""
        for table in (WorkitemSubscriptionRow, WorkitemToldRow):
            self._session.execute(delete(table).where(table.uid.in_(list(uids))))

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
