"""Queries at the levels SERIES and IMAGE, below studies that the query names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import exists, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.domain import ResultKind
from core.ledger.queries.attributes import KEPT_OF_SERIES
from core.ledger.queries.conditions import Conditions
from core.ledger.queries.counting import (
    MODALITY,
    ONLINE,
    UNAVAILABLE,
    instances_of_series,
    retrievable,
    shown_results,
)
from core.ledger.queries.matching import Matching, Moments
from core.ledger.queries.paging import Entry, Page, Phase, Place, Query, read_page
from core.ledger.queries.studies import COLUMNS as STUDY_COLUMNS
from core.ledger.queries.studies import StudyQueries, upper_entry
from core.schema import InstanceRow, JobRow, ResultRow, SeriesRow, StudyRow

_COLUMNS: dict[str, InstrumentedAttribute[str]] = {
    "Modality": SeriesRow.modality,
    "SeriesNumber": SeriesRow.number,
    "SeriesInstanceUID": SeriesRow.series_instance_uid,
    "SeriesDescription": SeriesRow.description,
}
_UPPER = list(STUDY_COLUMNS.values())
_Part = tuple[Phase, Callable[[list[Any]], list[Entry]]]
_COUNTS = frozenset({"NumberOfSeriesRelatedInstances", "InstanceAvailability"})


class SeriesAndImages:
    """Pages of series, and of instances. Series of images come first, then those that we made."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._conditions = Conditions(session)
        self._studies = StudyQueries(session)

    def series(self, query: Query, place: Place, limit: int) -> Page:
        """A page of series."""
        images = (
            select(*_UPPER, *_COLUMNS.values(), SeriesRow.attributes)
            .join(StudyRow, StudyRow.study_instance_uid == SeriesRow.study_instance_uid)
            .where(*self._studies.where(query.keys), *self._where(query.keys))
        )
        # a series that came back to us is one of images, whole or not
        made = (
            shown_results(
                *_UPPER,
                func.min(ResultRow.id),
                ResultRow.series_instance_uid,
                func.count(ResultRow.id) - func.count(ResultRow.gone_at),
            )
            .join(StudyRow, StudyRow.study_instance_uid == JobRow.study_instance_uid)
            .where(
                *self._studies.where(query.keys),
                *self._uid(ResultRow.series_instance_uid, query.keys, "SeriesInstanceUID"),
                ~exists().where(SeriesRow.series_instance_uid == ResultRow.series_instance_uid),
            )
            .group_by(*_UPPER, ResultRow.series_instance_uid)
        )
        parts: list[_Part] = [
            (
                Phase(images, (SeriesRow.series_instance_uid,)),
                lambda rows: self._series_entries(rows, query.wanted),
            ),
            (Phase(made, (ResultRow.series_instance_uid,)), self._made_entries),
        ]
        return self._in_turn(parts, query.keys, place, limit)

    def _in_turn(
        self, parts: Sequence[_Part], keys: Mapping[str, Matching], place: Place, limit: int
    ) -> Page:
        """The next entries of one part after the other."""
        entries: list[Entry] = []
        number, after = place.phase, place.after
        read = 0
        while number < len(parts) and read < limit:
            phase, made_of = parts[number]
            rows, rest = read_page(self._session, [phase], Place(0, after), limit - read)
            entries += [entry for entry in made_of(rows) if _accepts(keys, entry)]
            read += len(rows)
            number, after = (number, rest.after) if rest is not None else (number + 1, None)
        return Page(tuple(entries), Place(number, after) if number < len(parts) else None)

    def _series_entries(self, rows: list[Any], wanted: frozenset[str]) -> list[Entry]:
        entries = [self._series_entry(row) for row in rows]
        if wanted & _COUNTS and entries:
            uids = [entry["SeriesInstanceUID"] for entry in entries]
            counts = instances_of_series(self._session, uids)
            for entry in entries:
                _tell_count(entry, counts.get(entry["SeriesInstanceUID"], 0))
        return entries

    def _series_entry(self, row: Any) -> Entry:
        width = len(_UPPER)
        entry = upper_entry(row)
        entry |= {
            keyword: str(value)
            for keyword, value in zip(_COLUMNS, row[width : width + len(_COLUMNS)], strict=True)
        }
        kept = row[width + len(_COLUMNS)] or {}
        entry |= {key: _text(kept[key]) for key in KEPT_OF_SERIES if key in kept}
        return entry

    def _made_entries(self, rows: list[Any]) -> list[Entry]:
        width = len(_UPPER)
        firsts = {row[width]: row for row in rows}
        told = {
            result_id: (kind, attributes)
            for result_id, kind, attributes in self._session.execute(
                select(ResultRow.id, ResultRow.kind, ResultRow.attributes).where(
                    ResultRow.id.in_(firsts)
                )
            )
        }
        entries = []
        for result_id, row in firsts.items():
            kind, attributes = told[result_id]
            entry = upper_entry(row)
            entry |= {key: str(value) for key, value in attributes.items()}
            entry["Modality"] = MODALITY[ResultKind(kind)]
            entry["SeriesInstanceUID"] = row[width + 1]
            _tell_count(entry, row[width + 2])
            entries.append(entry)
        return entries

    def images(self, query: Query, place: Place, limit: int) -> Page:
        """A page of instances that can be retrieved."""
        keys = query.keys
        images = (
            select(
                *_UPPER,
                *_COLUMNS.values(),
                InstanceRow.sop_instance_uid,
                InstanceRow.sop_class_uid,
                InstanceRow.number,
            )
            .join(SeriesRow, SeriesRow.series_instance_uid == InstanceRow.series_instance_uid)
            .join(StudyRow, StudyRow.study_instance_uid == SeriesRow.study_instance_uid)
            .where(
                retrievable(),
                *self._studies.where(keys),
                *self._where(keys),
                *self._uid(InstanceRow.sop_instance_uid, keys, "SOPInstanceUID"),
                *self._uid(InstanceRow.sop_class_uid, keys, "SOPClassUID"),
                *self._uid(InstanceRow.number, keys, "InstanceNumber"),
            )
        )
        made = (
            shown_results(
                *_UPPER,
                ResultRow.kind,
                ResultRow.attributes,
                ResultRow.series_instance_uid,
                ResultRow.sop_instance_uid,
                ResultRow.sop_class_uid,
            )
            .join(StudyRow, StudyRow.study_instance_uid == JobRow.study_instance_uid)
            .where(
                ResultRow.gone_at.is_(None),
                *self._studies.where(keys),
                *self._uid(ResultRow.series_instance_uid, keys, "SeriesInstanceUID"),
                *self._uid(ResultRow.sop_instance_uid, keys, "SOPInstanceUID"),
                *self._uid(ResultRow.sop_class_uid, keys, "SOPClassUID"),
            )
        )
        parts: list[_Part] = [
            (
                Phase(images, (InstanceRow.sop_instance_uid,)),
                lambda rows: [self._image_entry(row) for row in rows],
            ),
            (
                Phase(made, (ResultRow.sop_instance_uid,)),
                lambda rows: [self._made_image(row) for row in rows],
            ),
        ]
        return self._in_turn(parts, keys, place, limit)

    def _image_entry(self, row: Any) -> Entry:
        keywords = (*_COLUMNS, "SOPInstanceUID", "SOPClassUID", "InstanceNumber")
        rest = zip(keywords, row[len(_UPPER) :], strict=False)
        return (
            upper_entry(row)
            | {keyword: str(value) for keyword, value in rest}
            | {"InstanceAvailability": ONLINE}
        )

    def _made_image(self, row: Any) -> Entry:
        kind, attributes, series, sop_instance, sop_class = row[len(_UPPER) : len(_UPPER) + 5]
        return (
            upper_entry(row)
            | {key: str(value) for key, value in attributes.items()}
            | {
                "Modality": MODALITY[ResultKind(kind)],
                "SeriesInstanceUID": series,
                "SOPInstanceUID": sop_instance,
                "SOPClassUID": sop_class,
                "InstanceAvailability": ONLINE,
            }
        )

    def _where(self, keys: Mapping[str, Matching]) -> list[Any]:
        return [
            self._conditions.of(column, keys[keyword])
            for keyword, column in _COLUMNS.items()
            if keyword in keys
        ]

    def _uid(
        self, column: InstrumentedAttribute[str], keys: Mapping[str, Matching], keyword: str
    ) -> list[Any]:
        return [self._conditions.of(column, keys[keyword])] if keyword in keys else []


def _tell_count(entry: Entry, count: int) -> None:
    entry["NumberOfSeriesRelatedInstances"] = str(count)
    entry["InstanceAvailability"] = ONLINE if count else UNAVAILABLE


# Asked here, not in SQL: what only the attributes of a series of images or of a result say. The
# series of a study are few.
_HERE = KEPT_OF_SERIES | {"Modality", "SeriesNumber", "SeriesDescription", "InstanceNumber"}


def _accepts(keys: Mapping[str, Matching], entry: Entry) -> bool:
    return all(
        isinstance(matching, Moments) or matching.accepts(entry.get(keyword, ""))
        for keyword, matching in keys.items()
        if keyword in _HERE
    )


def _text(value: Any) -> str:
    return "\\".join(map(str, value)) if isinstance(value, list) else str(value)
