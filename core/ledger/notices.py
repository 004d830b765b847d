"""Notices for webhooks: made once for each target and key, delivered until they are taken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from core.ledger.rows import insert_unless_there
from core.lifecycle import JobState, NoticeState
from core.schema import JobEventRow, JobRow, NoticeMarkRow, NoticeRow

_MARK = "job events"
_LOOK_BACK = 200
_BAD_ENDS = (JobState.FAILED, JobState.QUARANTINED, JobState.HELD)


@dataclass(frozen=True, slots=True)
class NoticeDue:
    """A notice that is to be told.

    Attributes:
        key: names what happened; the same for all targets.
        attempts: how often it was tried before.
    """

    id: int
    target: str
    key: str
    event: str
    body: dict[str, Any]
    attempts: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class BadEnd:
    """A job that ended badly, or is held."""

    event_id: int
    job_id: str
    state: JobState
    route: str
    model: str
    at: datetime


class Notices:
    """Writes and reads notices."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def make(
        self, targets: Iterable[str], event: str, key: str, body: dict[str, Any], now: datetime
    ) -> int:
        """Write down what happened for each target, once; how many were not there already."""
        return sum(
            insert_unless_there(
                self._session,
                NoticeRow,
                target=target,
                key=key,
                event=event,
                body=body,
                state=NoticeState.DUE,
                attempts=0,
                created_at=now,
                next_try_at=now,
                message="",
            )
            for target in targets
        )

    def last(self, event: tuple[str, ...], about: str) -> tuple[str, int]:
        """Which of `event` was written down last about something, and its number; 0 if none."""
        row = self._session.execute(
            select(NoticeRow.event, NoticeRow.id)
            .where(NoticeRow.event.in_(event), NoticeRow.key.startswith(about, autoescape=True))
            .order_by(NoticeRow.id.desc())
            .limit(1)
        ).first()
        return (row[0], row[1]) if row else ("", 0)

    def bad_ends(self) -> list[BadEnd]:
        """Jobs that ended badly since it was last asked; what was before the first time is past."""
        newest = self._session.scalar(select(func.max(JobEventRow.id))) or 0
        if insert_unless_there(self._session, NoticeMarkRow, name=_MARK, position=newest):
            return []
        mark = self._session.scalars(
            select(NoticeMarkRow)
            .where(NoticeMarkRow.name == _MARK)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one()
        # a transaction with a smaller id may have been committed after one with a greater
        rows = self._session.execute(
            select(JobEventRow, JobRow.route, JobRow.model, JobRow.model_version)
            .join(JobRow, JobRow.id == JobEventRow.job_id)
            .where(JobEventRow.id > mark.position - _LOOK_BACK, JobEventRow.id <= newest)
            .where(JobEventRow.state.in_(_BAD_ENDS))
            .order_by(JobEventRow.id)
        ).all()
        mark.position = max(newest, mark.position)
        return [
            BadEnd(row.id, row.job_id, JobState(row.state), route, f"{model} {version}", row.at)
            for row, route, model, version in rows
        ]

    def due(self, now: datetime, until: datetime, limit: int = 20) -> list[NoticeDue]:
        """Claim notices whose time has come; nobody else gets them before `until`."""
        ids = (
            select(NoticeRow.id)
            .where(NoticeRow.state == NoticeState.DUE, NoticeRow.next_try_at <= now)
            .order_by(NoticeRow.next_try_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        rows = self._session.scalars(
            update(NoticeRow)
            .where(NoticeRow.id.in_(ids), NoticeRow.next_try_at <= now)
            .values(next_try_at=until)
            .returning(NoticeRow)
            .execution_options(populate_existing=True)
        ).all()
        return [
            NoticeDue(
                row.id, row.target, row.key, row.event, row.body, row.attempts, row.created_at
            )
            for row in rows
        ]

    def told(
        self,
        notice_id: int,
        state: NoticeState,
        *,
        next_try_at: datetime | None = None,
        message: str = "",
    ) -> None:
        """Write down how telling went."""
        self._session.execute(
            update(NoticeRow)
            .where(NoticeRow.id == notice_id)
            .values(
                state=state,
                attempts=NoticeRow.attempts + 1,
                next_try_at=next_try_at,
                message=message,
            )
        )

    def forget(self, before: datetime) -> None:
        """Let old notices go that are told or given up."""
        self._session.execute(
            delete(NoticeRow).where(
                NoticeRow.created_at < before, NoticeRow.state != NoticeState.DUE
            )
        )
