"""A query, and its answer page after page.

Rows are read in the order of an index, and the next page begins after the last row (keyset):
a million matches cost no more memory than a page, and the database keeps nothing in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, literal, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.ledger.queries.attributes import Level
from core.ledger.queries.matching import Matching

Entry = dict[str, str]


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for.

    Attributes:
        keys: what must match, by keyword; a key that is not here matches everything.
        wanted: keywords whose values are to be told.
    """

    level: Level
    keys: Mapping[str, Matching] = field(default_factory=dict)
    wanted: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Place:
    """Where the next page begins: the phase of the query, and the last row that was read."""

    phase: int = 0
    after: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some matches: values by keyword. `next` is None at the end."""

    entries: tuple[Entry, ...]
    next: Place | None


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a query that is read in one order. The parts of a query have no row in common.

    Attributes:
        rows: the select of what is read; the columns of the order are added at its end.
        order: columns, the last of which tell rows apart; one is enough where it is unique.
        where: conditions that this part has and the others have not.
        descending: whether the greatest come first.
    """

    rows: Any
    order: tuple[InstrumentedAttribute[Any], ...]
    where: tuple[Any, ...] = ()
    descending: bool = False


def read_page(
    session: Session, phases: Sequence[Phase], place: Place, limit: int
) -> tuple[list[Row[Any]], Place | None]:
    """The next rows, at most `limit`, and where the page after them begins."""
    found: list[Row[Any]] = []
    number, after = place.phase, place.after
    while number < len(phases) and len(found) < limit:
        phase = phases[number]
        width = len(phase.order)
        wanted = limit - len(found)
        statement = phase.rows.add_columns(
            *(column.label(f"order_{index}") for index, column in enumerate(phase.order))
        ).where(*phase.where)
        if after is not None:
            here = tuple_(*phase.order) if width > 1 else phase.order[0]
            last: Any = (
                tuple_(*(literal(v, c.type) for v, c in zip(after, phase.order, strict=True)))
                if width > 1
                else after[0]
            )
            statement = statement.where(here < last if phase.descending else here > last)
        ordered = [column.desc() if phase.descending else column.asc() for column in phase.order]
        part = session.execute(statement.order_by(*ordered).limit(wanted)).all()
        found += part
        if len(part) < wanted:
            number, after = number + 1, None
        else:
            after = tuple(part[-1][-width:])
    return found, Place(number, after) if number < len(phases) else None
