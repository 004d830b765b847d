"""What a key asks for, in SQL. SQLite's GLOB and PostgreSQL's LIKE mind case, as DICOM does."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import ColumnElement, and_, false, func, or_, true
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.ledger.queries.matching import (
    Matching,
    Moments,
    Name,
    OneOf,
    Span,
    Wildcard,
    after_prefix,
    has_wildcard,
    prefix_of,
)

Column = InstrumentedAttribute[str] | ColumnElement[str]
_ESCAPE = "\\"


def unindexed(column: Any, empty: str | int) -> Any:
    """A column so written that no index is taken for it: nearly all rows have the value.

    SQLite takes an index for any equality, and would read a hundred thousand rows for three.
    """
    return func.coalesce(column, empty)


class Conditions:
    """Makes conditions for the database that a session speaks to."""

    def __init__(self, session: Session) -> None:
        self._sqlite = session.get_bind().dialect.name == "sqlite"

    def of(self, column: Column, matching: Matching, *, bytewise: bool = False) -> Any:
        """The condition that a column matches.

        Args:
            column: where the value is.
            matching: no `Moments`, and of names only the folded ones.
            bytewise: whether the column is compared byte by byte, so that an index can help.
        """
        match matching:
            case OneOf(values):
                return column.in_(values) if len(values) != 1 else column == values[0]
            case Wildcard(pattern):
                return self.like(column, pattern, bytewise=bytewise)
            case Span(low, high):
                return and_(
                    column >= low if low else column != "",
                    column <= high if high else true(),
                )
            case Name(groups, _):
                return self._folded(column, groups[0] if groups else "")
            case Moments():
                raise ValueError("a combined match needs two columns")

    def moments(self, date: Column, time: Column, asked: Moments) -> Any:
        """Combined date-time matching. The dates alone come first, for an index."""
        conditions: list[Any] = [time != "", date != ""]
        (low, low_time), (high, high_time) = asked.low, asked.high
        if low:
            conditions += [date >= low, or_(date > low, time >= low_time)]
        if high:
            conditions += [date <= high, or_(date < high, time <= high_time)]
        return and_(*conditions)

    def group(self, column: Column, asked: str) -> Any:
        """The condition that one folded component group of a name matches."""
        if has_wildcard(asked):
            return self.like(column, asked, bytewise=True)
        return column == asked

    def like(self, column: Column, pattern: str, *, bytewise: bool) -> Any:
        """The condition that a column fits a pattern with `*` and `?`."""
        prefix = prefix_of(pattern)
        if prefix and pattern == f"{prefix}*" and (bytewise or self._sqlite):
            return and_(column >= prefix, column < after_prefix(prefix))
        if self._sqlite:
            fits: Any = column.bool_op("GLOB")(re.sub(r"\*+", "*", pattern.replace("[", "[[]")))
        else:
            escaped = re.sub(r"([\\%_])", r"\\\1", pattern)
            shown = re.sub(r"\*+", "%", escaped).replace("?", "_")
            fits = column.like(shown, escape=_ESCAPE)
        if prefix and (bytewise or self._sqlite):
            return and_(column >= prefix, column < after_prefix(prefix), fits)
        return fits

    def _folded(self, column: Column, asked: str) -> Any:
        """The condition on a column that holds all groups of a folded name, joined by "="."""
        if not asked:
            return false()
        shapes = (f"{asked}=*", f"*={asked}", f"*={asked}=*")
        return or_(
            self.group(column, asked),
            *(self.like(column, shape, bytewise=False) for shape in shapes),
        )
