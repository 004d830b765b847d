"""Retention: which bytes may go from the store, and letting them go (docs/decisions/0019).

Bytes go in two steps. One transaction, under the study's lock, sets `gone_at` and writes the keys
into the table `removal`: from then on nobody uses them. Then they are deleted from the store, and
their keys from the table. A crash in between leaves keys that the next run finds; several nodes
may do it side by side. An image that arrives again takes its key out of the table first, and puts
its bytes back while it holds it (`Filing`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Select, delete, func, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.ledger.kept import Keeping, Kept
from core.ledger.rows import insert_many_unless_there
from core.schema import InstanceRow, JobRow, RemovalRow, ResultRow, SeriesRow, StudyRow

_ROWS = 2000  # looked at for a page
# when the last row came or was made, and its id
Cursor = tuple[datetime, int]


@dataclass(frozen=True, slots=True)
class Portion:
    """What goes together: the images of a series, or the results of a job.

    Attributes:
        key: Series Instance UID, or job id.
        newest: when the last of it came or was made.
        size: bytes.
    """

    key: str
    study_instance_uid: str
    newest: datetime
    objects: int
    size: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some portions, the oldest first. One may be on several pages, for its rows lie apart.

    `after`: where to go on; None at the end.
    """

    portions: tuple[Portion, ...]
    after: Cursor | None


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the store holds by the ledger's account; sizes in bytes."""

    originals: int
    original_bytes: int
    results: int
    result_bytes: int

    @property
    def size(self) -> int:
        """All of it, bytes."""
        return self.original_bytes + self.result_bytes


class Retention:
    """Lists what is old, and lets it go."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._keeping = Keeping(session)

    def holdings(self) -> Holdings:
        """What the store holds. Reads every row that still has bytes."""
        originals = self._session.execute(
            select(func.count(), func.coalesce(func.sum(InstanceRow.size), 0)).where(
                InstanceRow.gone_at.is_(None)
            )
        ).one()
        results = self._session.execute(
            select(func.count(), func.coalesce(func.sum(ResultRow.size), 0)).where(
                ResultRow.gone_at.is_(None)
            )
        ).one()
        return Holdings(originals[0], int(originals[1]), results[0], int(results[1]))

    def originals(self, before: datetime | None, after: Cursor | None) -> Page:
        """Series with images in the store, the oldest first.

        Args:
            before: only those that got no image since; None: all.
            after: go on after this row.
        """
        rows = select(
            InstanceRow.received_at, InstanceRow.id, InstanceRow.series_instance_uid
        ).where(InstanceRow.gone_at.is_(None))
        if before is not None:
            rows = rows.where(InstanceRow.received_at < before)
        keys, after = self._next(rows, InstanceRow.received_at, InstanceRow.id, after)
        oldest = func.min(InstanceRow.received_at)
        query = (
            select(
                InstanceRow.series_instance_uid,
                SeriesRow.study_instance_uid,
                SeriesRow.last_received_at,
                func.count(),
                func.sum(InstanceRow.size),
            )
            .join(SeriesRow, SeriesRow.series_instance_uid == InstanceRow.series_instance_uid)
            .where(InstanceRow.gone_at.is_(None), InstanceRow.series_instance_uid.in_(keys))
            .group_by(
                InstanceRow.series_instance_uid,
                SeriesRow.study_instance_uid,
                SeriesRow.last_received_at,
            )
            .order_by(oldest, InstanceRow.series_instance_uid)
        )
        if before is not None:
            query = query.where(_old_series(before))
        return Page(self._portions(query), after)

    def results(self, before: datetime, after: Cursor | None) -> Page:
        """Jobs with results in the store that were made before a moment, the oldest first."""
        old = ResultRow.gone_at.is_(None) & (ResultRow.created_at < before)
        rows = select(ResultRow.created_at, ResultRow.id, ResultRow.job_id).where(old)
        keys, after = self._next(rows, ResultRow.created_at, ResultRow.id, after)
        oldest = func.min(ResultRow.created_at)
        query = (
            select(
                ResultRow.job_id,
                JobRow.study_instance_uid,
                func.max(ResultRow.created_at),
                func.count(),
                func.sum(ResultRow.size),
            )
            .join(JobRow, JobRow.id == ResultRow.job_id)
            .where(old, ResultRow.job_id.in_(keys))
            .group_by(ResultRow.job_id, JobRow.study_instance_uid)
            .order_by(oldest, ResultRow.job_id)
        )
        return Page(self._portions(query), after)

    def _next(
        self,
        rows: Select[datetime, int, str],
        moment: InstrumentedAttribute[datetime],
        row_id: InstrumentedAttribute[int],
        after: Cursor | None,
    ) -> tuple[list[str], Cursor | None]:
        """The keys in the next rows, and where to go on. Reads an index in its order."""
        if after is not None:
            since, last = after
            rows = rows.where((moment > since) | ((moment == since) & (row_id > last)))
        found = self._session.execute(rows.order_by(moment, row_id).limit(_ROWS)).all()
        keys = list(dict.fromkeys(key for _, _, key in found))
        return keys, (found[-1][0], found[-1][1]) if len(found) == _ROWS else None

    def _portions(self, query: Select[str, str, datetime, int, int]) -> tuple[Portion, ...]:
        return tuple(
            Portion(key, study, newest, objects, int(size))
            for key, study, newest, objects, size in self._session.execute(query)
        )

    def kept_originals(
        self, portions: Sequence[Portion], committing: Collection[str]
    ) -> dict[str, Kept]:
        """The series of these that must stay, and why."""
        return self._keeping.series([item.key for item in portions], committing)

    def kept_results(
        self, portions: Sequence[Portion], committing: Collection[str]
    ) -> dict[str, Kept]:
        """The jobs of these whose results must stay, and why."""
        return self._keeping.results([item.key for item in portions], committing)

    def let_originals_go(
        self, portion: Portion, before: datetime | None, committing: Collection[str], now: datetime
    ) -> tuple[int, int]:
        """Let the images of a series go, if they still may; how many, and their bytes."""
        if not self._lock(portion.study_instance_uid):
            return 0, 0
        if self._keeping.series([portion.key], committing):
            return 0, 0
        which = (InstanceRow.series_instance_uid == portion.key) & InstanceRow.gone_at.is_(None)
        if before is not None:
            which &= InstanceRow.series_instance_uid.in_(
                select(SeriesRow.series_instance_uid).where(_old_series(before))
            )
        return self.mark_originals(which, now)

    def let_results_go(
        self, portion: Portion, before: datetime, committing: Collection[str], now: datetime
    ) -> tuple[int, int]:
        """Let the results of a job go, if they still may; how many, and their bytes."""
        if not self._lock(portion.study_instance_uid):
            return 0, 0
        if self._keeping.results([portion.key], committing):
            return 0, 0
        which = (ResultRow.job_id == portion.key) & (ResultRow.created_at < before)
        return self.mark_results(which & ResultRow.gone_at.is_(None), now)

    def mark_originals(self, which: ColumnElement[bool], now: datetime) -> tuple[int, int]:
        """Set `gone_at` and note the keys; the study is locked by the caller."""
        rows = self._session.execute(
            update(InstanceRow)
            .where(which)
            .values(gone_at=now)
            .returning(InstanceRow.store_key, InstanceRow.size)
            .execution_options(synchronize_session=False)
        ).all()
        self.note([key for key, _ in rows], now)
        return len(rows), sum(size for _, size in rows)

    def mark_results(self, which: ColumnElement[bool], now: datetime) -> tuple[int, int]:
        """The same for results."""
        rows = self._session.execute(
            update(ResultRow)
            .where(which)
            .values(gone_at=now)
            .returning(ResultRow.store_key, ResultRow.size)
            .execution_options(synchronize_session=False)
        ).all()
        self.note([key for key, _ in rows], now)
        return len(rows), sum(size for _, size in rows)

    def note(self, keys: Collection[str], now: datetime) -> None:
        """Write keys down that are to be deleted from the store."""
        rows = [{"store_key": key, "at": now} for key in keys]
        insert_many_unless_there(self._session, RemovalRow, rows)

    def to_remove(self, limit: int) -> list[str]:
        """Keys to be deleted from the store, locked: nobody else deletes or puts them back."""
        return list(
            self._session.scalars(
                select(RemovalRow.store_key)
                .order_by(RemovalRow.at, RemovalRow.store_key)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
        )

    def removed(self, keys: Collection[str]) -> None:
        """These keys are deleted from the store."""
        self._session.execute(delete(RemovalRow).where(RemovalRow.store_key.in_(keys)))

    def put_last(self, keys: Collection[str], now: datetime) -> None:
        """These could not be deleted: the others come first next time."""
        self._session.execute(
            update(RemovalRow).where(RemovalRow.store_key.in_(sorted(keys))).values(at=now)
        )

    def pending(self) -> int:
        """How many keys are yet to be deleted from the store."""
        return self._session.scalar(select(func.count()).select_from(RemovalRow)) or 0

    def _lock(self, study_instance_uid: str) -> bool:
        return (
            self._session.scalars(
                select(StudyRow)
                .where(StudyRow.study_instance_uid == study_instance_uid)
                .with_for_update(key_share=True)
                .execution_options(populate_existing=True)
            ).one_or_none()
            is not None
        )


def _old_series(before: datetime) -> ColumnElement[bool]:
    return SeriesRow.last_received_at < before
