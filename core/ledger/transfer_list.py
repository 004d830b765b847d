"""Transfers as lists that people page through, the newest first."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from core.domain import Transfer
from core.ledger.rows import transfer_value
from core.ledger.transfers import with_objects
from core.lifecycle import TransferState
from core.schema import TransferRow


class TransferList:
    """Reads transfers."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def page(
        self,
        *,
        states: tuple[TransferState, ...] = (),
        destination: str = "",
        study_instance_uid: str = "",
        before: int | None = None,
        limit: int = 50,
    ) -> list[Transfer]:
        """A page of transfers, those with the greatest ids below `before`."""
        query: Any = with_objects().order_by(TransferRow.id.desc()).limit(limit)
        if states:
            query = query.where(TransferRow.state.in_(states))
        if destination:
            query = query.where(TransferRow.destination == destination)
        if study_instance_uid:
            query = query.where(TransferRow.study_instance_uid == study_instance_uid)
        if before is not None:
            query = query.where(TransferRow.id < before)
        return [transfer_value(*row) for row in self._session.execute(query)]
