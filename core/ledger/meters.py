"""Figures for monitoring: each from an index, so that asking often costs little."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.ledger.circuits import Circuits, DestinationState
from core.lifecycle import SeriesState
from core.schema import InstanceRow, JobRow, SeriesRow, StudyRow, TransferRow


@dataclass(frozen=True, slots=True)
class Figures:
    """What stands in the ledger now.

    Attributes:
        jobs: by (queue, state).
        transfers: by (destination, state).
        newest_instance: number of the instance that was filed last; grows with every one.
    """

    jobs: dict[tuple[str, str], int]
    transfers: dict[tuple[str, str], int]
    destinations: tuple[DestinationState, ...]
    receiving: int
    conflicts: int
    newest_instance: int


class Meters:
    """Reads the figures."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def figures(self) -> Figures:
        """All of them."""
        jobs = self._session.execute(
            select(JobRow.queue, JobRow.state, func.count()).group_by(JobRow.state, JobRow.queue)
        )
        transfers = self._session.execute(
            select(TransferRow.destination, TransferRow.state, func.count()).group_by(
                TransferRow.state, TransferRow.destination
            )
        )
        receiving = select(func.count()).where(SeriesRow.state == SeriesState.RECEIVING)
        conflicts = select(func.count()).where(StudyRow.conflict.is_(True))
        return Figures(
            jobs={(queue, state): number for queue, state, number in jobs},
            transfers={(name, state): number for name, state, number in transfers},
            destinations=tuple(Circuits(self._session).all()),
            receiving=self._session.scalar(receiving) or 0,
            conflicts=self._session.scalar(conflicts) or 0,
            newest_instance=self._session.scalar(select(func.max(InstanceRow.id))) or 0,
        )
