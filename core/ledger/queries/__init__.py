"""What other systems ask the ledger: patients, studies, series, instances, steps, bytes.

A key of a query is a frozen value (`matching`), a query is answered page after page (`paging`).
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from core.ledger.queries.attributes import Level
from core.ledger.queries.paging import Page, Place, Query
from core.ledger.queries.series import SeriesAndImages
from core.ledger.queries.steps import Station, StepQueries
from core.ledger.queries.stored import Stored, StoredObjects
from core.ledger.queries.studies import StudyQueries

__all__ = ["Level", "Page", "Place", "Queries", "Query", "Station", "Stored"]


class Queries:
    """Reads for other systems."""

    def __init__(self, session: Session) -> None:
        self._studies = StudyQueries(session)
        self._below = SeriesAndImages(session)
        self._steps = StepQueries(session)
        self.stored = StoredObjects(session)

    def page(self, query: Query, place: Place, limit: int) -> Page:
        """A page of patients, studies, series or instances. It may be empty and not the last."""
        match query.level:
            case Level.SERIES:
                return self._below.series(query, place, limit)
            case Level.IMAGE:
                return self._below.images(query, place, limit)
            case _:
                return self._studies.page(query, place, limit)

    def steps(self, query: Query, station: Station, place: Place, limit: int) -> Page:
        """A page of the worklist. It may be empty and not the last."""
        return self._steps.page(query, station, place, limit)
