"""Storage commitments that peers ask us for (PS3.4 Annex J), and what we can answer.

We say yes for an instance that an archive has committed to us, or that is in the store and that
retention never touches. The yes is written down (`promised_at`) before it is sent: from then on
retention keeps the image until an archive has committed to it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from core.ledger.rows import insert_unless_there
from core.lifecycle import AnswerState, SeriesState, TransferState
from core.schema import CommitmentRequestRow, InstanceRow, SeriesRow, StudyRow, TransferRow

_UIDS_A_QUERY = 500  # PostgreSQL takes 65,535 parameters, SQLite 32,766

# PS3.3 Section C.14.1.1, Failure Reason (0008,1197)
PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
CLASS_CONFLICT = 0x0119


class Standing(StrEnum):
    """What we can say of an instance now.

    safe: an archive has it, or it stays here.
    coming: it is here, and on its way to an archive that may commit to it.
    unsafe: it is here and may go.
    absent: it is not here.
    other_class: it is here with another SOP class.
    """

    SAFE = "safe"
    COMING = "coming"
    UNSAFE = "unsafe"
    ABSENT = "absent"
    OTHER_CLASS = "other class"


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """A peer's request.

    Attributes:
        calling_ae: AE title of who asks, and gets the answer.
        instances: (SOP Class UID, SOP Instance UID) of each object.
        attempts: how often we tried to answer.
    """

    id: int
    transaction_uid: str
    calling_ae: str
    instances: tuple[tuple[str, str], ...]
    attempts: int
    received_at: datetime


@dataclass(slots=True)
class _Found:
    """The current version of an instance."""

    sop_class_uid: str
    store_key: str
    gone: bool
    promised: bool
    receiving: bool
    transfers: list[tuple[TransferState, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Instances:
    """What we know of the instances of a request: where each stands, by SOP Instance UID.

    `store_keys` are those of the safe ones whose safety is our own copy.
    """

    standing: Mapping[str, Standing]
    store_keys: Mapping[str, str]


class CommitRequests:
    """Notes requests, hands them out, and writes down how they were answered."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def note(
        self,
        transaction_uid: str,
        calling_ae: str,
        instances: Sequence[tuple[str, str]],
        received_at: datetime,
    ) -> bool:
        """Keep a request; False when it is known already.

        One that was answered and is asked again under the same Transaction UID is answered
        again: our report may not have arrived.
        """
        listed = [list(item) for item in dict.fromkeys(instances)]
        if insert_unless_there(
            self._session,
            CommitmentRequestRow,
            transaction_uid=transaction_uid,
            calling_ae=calling_ae,
            instances=listed,
            state=AnswerState.DUE,
            attempts=0,
            received_at=received_at,
            message="",
        ):
            return True
        again = self._session.execute(
            update(CommitmentRequestRow)
            .where(
                CommitmentRequestRow.transaction_uid == transaction_uid,
                CommitmentRequestRow.calling_ae == calling_ae,
                CommitmentRequestRow.state != AnswerState.DUE,
                CommitmentRequestRow.received_at < received_at,
            )
            .values(
                instances=listed,
                state=AnswerState.DUE,
                attempts=0,
                received_at=received_at,
                next_try_at=None,
            )
            .returning(CommitmentRequestRow.id)
        )
        return again.first() is not None

    def peers_due(self, now: datetime) -> list[str]:
        """AE titles of those who wait for an answer that is due now; only reads."""
        names = self._session.scalars(
            select(CommitmentRequestRow.calling_ae).where(_due(now)).distinct()
        )
        return sorted(names)

    def counts(self) -> dict[AnswerState, int]:
        """How many requests are answered, waiting, or given up."""
        rows = self._session.execute(
            select(CommitmentRequestRow.state, func.count()).group_by(CommitmentRequestRow.state)
        )
        return {AnswerState(state): number for state, number in rows}

    def claim(
        self, calling_ae: str, now: datetime, until: datetime, limit: int
    ) -> list[CommitRequest]:
        """Take a peer's requests that are due; nobody else gets them before `until`."""
        rows = self._session.scalars(
            select(CommitmentRequestRow)
            .where(CommitmentRequestRow.calling_ae == calling_ae, _due(now))
            .order_by(CommitmentRequestRow.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        ).all()
        for row in rows:
            row.next_try_at = until
        return [
            CommitRequest(
                row.id,
                row.transaction_uid,
                row.calling_ae,
                tuple((item[0], item[1]) for item in row.instances),
                row.attempts,
                row.received_at,
            )
            for row in rows
        ]

    def look(
        self,
        instances: Sequence[tuple[str, str]],
        committing: Collection[str],
        *,
        kept_for_ever: bool,
        forwarded: bool,
    ) -> Instances:
        """Where the instances of a request stand.

        Args:
            instances: (SOP Class UID, SOP Instance UID) of each.
            committing: destinations that are asked for storage commitment.
            kept_for_ever: whether our own copy is durable and retention never touches it.
            forwarded: whether images may be passed on to such a destination once their series
                is whole.
        """
        found = self._find([uid for _, uid in instances])
        standing: dict[str, Standing] = {}
        store_keys: dict[str, str] = {}
        for sop_class, uid in instances:
            item = found.get(uid)
            if item is None:
                standing[uid] = Standing.ABSENT
            elif item.sop_class_uid != sop_class:
                standing[uid] = Standing.OTHER_CLASS
            elif any(state == TransferState.COMMITTED for state, _ in item.transfers):
                standing[uid] = Standing.SAFE
            elif item.gone:
                standing[uid] = Standing.ABSENT
            elif kept_for_ever or item.promised:
                standing[uid] = Standing.SAFE
                store_keys[uid] = item.store_key
            elif (item.receiving and forwarded) or any(
                _may_commit(state, to, committing) for state, to in item.transfers
            ):
                standing[uid] = Standing.COMING
            else:
                standing[uid] = Standing.UNSAFE
        return Instances(standing, store_keys)

    def promise(self, uids: Collection[str], now: datetime) -> set[str]:
        """Write down that we take responsibility for instances, before we say so.

        Locks their studies, so that retention sees it, or we see what retention took.

        Returns:
            Those whose promise can be kept: an archive has the instance, or its bytes are here.
        """
        ordered = sorted(uids)
        self._lock_studies(ordered)
        kept: set[str] = set()
        for part in _parts(ordered):
            archived = (
                select(TransferRow.id)
                .where(
                    TransferRow.instance_id == InstanceRow.id,
                    TransferRow.state == TransferState.COMMITTED,
                )
                .exists()
            )
            rows = self._session.scalars(
                update(InstanceRow)
                .where(
                    InstanceRow.sop_instance_uid.in_(part),
                    InstanceRow.current.is_(True),
                    InstanceRow.gone_at.is_(None) | archived,
                )
                .values(promised_at=now)
                .returning(InstanceRow.sop_instance_uid)
                .execution_options(synchronize_session=False)
            )
            kept.update(rows)
        return kept

    def answered(self, request_id: int, message: str, now: datetime) -> None:
        """The peer took our report."""
        row = self._row(request_id)
        row.state, row.answered_at, row.next_try_at = AnswerState.SENT, now, None
        row.attempts, row.message = row.attempts + 1, message

    def try_again(self, request_id: int, message: str, at: datetime, *, tried: bool) -> None:
        """Not answered yet: because it is too early, or (`tried`) the peer did not take it."""
        row = self._row(request_id)
        row.attempts, row.message, row.next_try_at = row.attempts + tried, message, at

    def give_up(self, request_id: int, message: str) -> None:
        """The peer cannot be told; it may ask again."""
        row = self._row(request_id)
        row.state, row.message, row.next_try_at = AnswerState.FAILED, message, None
        row.attempts += 1

    def _row(self, request_id: int) -> CommitmentRequestRow:
        return self._session.scalars(
            select(CommitmentRequestRow)
            .where(CommitmentRequestRow.id == request_id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one()

    def _find(self, uids: Sequence[str]) -> dict[str, _Found]:
        found: dict[str, _Found] = {}
        for part in _parts(uids):
            rows = self._session.execute(
                select(
                    InstanceRow.sop_instance_uid,
                    InstanceRow.sop_class_uid,
                    InstanceRow.store_key,
                    InstanceRow.gone_at.is_not(None),
                    InstanceRow.promised_at.is_not(None),
                    SeriesRow.state == SeriesState.RECEIVING,
                )
                .join(SeriesRow, SeriesRow.series_instance_uid == InstanceRow.series_instance_uid)
                .where(InstanceRow.sop_instance_uid.in_(part), InstanceRow.current.is_(True))
            )
            for uid, sop_class, key, gone, promised, receiving in rows:
                found[uid] = _Found(sop_class, key, gone, promised, receiving)
            transfers = self._session.execute(
                select(InstanceRow.sop_instance_uid, TransferRow.state, TransferRow.destination)
                .join(InstanceRow, InstanceRow.id == TransferRow.instance_id)
                .where(InstanceRow.sop_instance_uid.in_(part), InstanceRow.current.is_(True))
            )
            for uid, state, destination in transfers:
                found[uid].transfers.append((TransferState(state), destination))
        return found

    def _lock_studies(self, uids: Sequence[str]) -> None:
        """In one order, as everybody does."""
        studies: set[str] = set()
        for part in _parts(uids):
            studies.update(
                self._session.scalars(
                    select(SeriesRow.study_instance_uid)
                    .join(
                        InstanceRow,
                        InstanceRow.series_instance_uid == SeriesRow.series_instance_uid,
                    )
                    .where(InstanceRow.sop_instance_uid.in_(part))
                    .distinct()
                )
            )
        for part in _parts(sorted(studies)):
            self._session.scalars(
                select(StudyRow.study_instance_uid)
                .where(StudyRow.study_instance_uid.in_(part))
                .order_by(StudyRow.study_instance_uid)
                .with_for_update(key_share=True)
            ).all()


def _due(now: datetime) -> ColumnElement[bool]:
    in_time = CommitmentRequestRow.next_try_at.is_(None) | (CommitmentRequestRow.next_try_at <= now)
    return (CommitmentRequestRow.state == AnswerState.DUE) & in_time


def _may_commit(state: TransferState, destination: str, committing: Collection[str]) -> bool:
    open_or_sent = state in {
        TransferState.DUE,
        TransferState.SENDING,
        TransferState.PAUSED,
        TransferState.SENT,
    }
    return open_or_sent and destination in committing


def _parts(uids: Sequence[str]) -> list[list[str]]:
    ordered = list(uids)
    return [
        ordered[start : start + _UIDS_A_QUERY] for start in range(0, len(ordered), _UIDS_A_QUERY)
    ]
