"""How each destination does: a circuit that opens when it is down, and an administrator's pause.

While a destination is down one sender at a time, of all senders on the ledger, tries one object;
the rest waits. What it answers closes the circuit or keeps it open for a longer wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from core.ledger.rows import insert_unless_there
from core.schema import DestinationRow


class Passage(StrEnum):
    """What a sender may do at a destination.

    free: the destination is well; send all that is due.
    probe: it was down; try one object, nobody else does.
    closed: it is down and its wait is not over, another sender tries it, or it is paused.
    """

    FREE = "free"
    PROBE = "probe"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class DestinationState:
    """How a destination did lately.

    Attributes:
        failures: how often in a row it failed; 0 while it is well.
        paused: an administrator's word.
        commitment: whether it offers storage commitment: "yes", "no", or empty.
    """

    name: str
    failures: int = 0
    next_try_at: datetime | None = None
    last_error: str = ""
    last_success_at: datetime | None = None
    paused: bool = False
    commitment: str = ""
    commitment_asked_at: datetime | None = None

    def commits(self, since: datetime) -> bool:
        """Whether it is worth asking for storage commitment: "no" counts if said after `since`."""
        asked = self.commitment_asked_at
        return self.commitment != "no" or asked is None or asked <= since


def resting(now: datetime) -> Select[str]:
    """SELECT the names of destinations that nobody may go to now."""
    down = DestinationRow.failures > 0
    probed = down & (DestinationRow.probe_until > now)
    return select(DestinationRow.name).where(
        DestinationRow.paused.is_(True) | (DestinationRow.next_try_at > now) | probed
    )


class Circuits:
    """Lets senders pass, and learns from what they met."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, name: str) -> DestinationState:
        """What is known of a destination; one that nobody went to yet is well."""
        row = self._session.get(DestinationRow, name, populate_existing=True)
        return _value(row) if row else DestinationState(name)

    def all(self) -> list[DestinationState]:
        """What is known of every destination, by name."""
        rows = self._session.scalars(select(DestinationRow).order_by(DestinationRow.name))
        return [_value(row) for row in rows]

    def enter(self, name: str, owner: str, until: datetime, now: datetime) -> Passage:
        """Ask to go to a destination; a probe is the caller's until `until` or `leave`."""
        state = self.get(name)
        if state.paused:
            return Passage.CLOSED
        if state.failures == 0:
            return Passage.FREE
        won = self._session.execute(
            update(DestinationRow)
            .where(
                DestinationRow.name == name,
                DestinationRow.paused.is_(False),
                DestinationRow.failures > 0,
                DestinationRow.next_try_at.is_(None) | (DestinationRow.next_try_at <= now),
                DestinationRow.probe_until.is_(None) | (DestinationRow.probe_until <= now),
            )
            .values(probe_owner=owner, probe_until=until)
            .returning(DestinationRow.name)
        ).first()
        return Passage.PROBE if won else Passage.CLOSED

    def keep(self, name: str, owner: str, until: datetime) -> None:
        """Keep a probe that takes long."""
        self._session.execute(
            update(DestinationRow)
            .where(DestinationRow.name == name, DestinationRow.probe_owner == owner)
            .values(probe_until=until)
        )

    def leave(self, name: str, owner: str) -> None:
        """Give a probe back that came to nothing, if it is still the caller's."""
        self._session.execute(
            update(DestinationRow)
            .where(DestinationRow.name == name, DestinationRow.probe_owner == owner)
            .values(probe_owner=None, probe_until=None)
        )

    def failed(self, name: str, error: str, next_try_at: datetime) -> None:
        """The destination as a whole is in trouble: nobody goes there until `next_try_at`."""
        row = self._locked(name)
        row.failures += 1
        row.next_try_at, row.last_error = next_try_at, error
        row.probe_owner = row.probe_until = None

    def well(self, name: str, now: datetime, *, took: bool = True) -> None:
        """The destination answered as one that is well; `took`: it has something new."""
        row = self._locked(name)
        row.failures, row.next_try_at, row.last_error = 0, None, ""
        row.probe_owner = row.probe_until = None
        if took:
            row.last_success_at = now

    def pause(self, name: str, paused: bool) -> None:
        """An administrator stops what goes to a destination, or lets it go on."""
        self._locked(name).paused = paused

    def commitment_learned(self, name: str, offers: bool, now: datetime) -> None:
        """Whether the destination offers storage commitment."""
        row = self._locked(name)
        row.commitment, row.commitment_asked_at = "yes" if offers else "no", now

    def _locked(self, name: str) -> DestinationRow:
        insert_unless_there(
            self._session,
            DestinationRow,
            name=name,
            failures=0,
            last_error="",
            paused=False,
            commitment="",
        )
        return self._session.scalars(
            select(DestinationRow)
            .where(DestinationRow.name == name)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one()


def _value(row: DestinationRow) -> DestinationState:
    return DestinationState(
        name=row.name,
        failures=row.failures,
        next_try_at=row.next_try_at,
        last_error=row.last_error,
        last_success_at=row.last_success_at,
        paused=row.paused,
        commitment=row.commitment,
        commitment_asked_at=row.commitment_asked_at,
    )
