"""What a retrieve request names: instances and results with their bytes, page after page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, literal, select
from sqlalchemy.orm import Session

from core.ledger.queries.conditions import Conditions
from core.ledger.queries.counting import retrievable, shown_results
from core.ledger.queries.matching import OneOf
from core.ledger.queries.paging import Phase, Place, read_page
from core.schema import InstanceRow, JobRow, ResultRow, SeriesRow, StudyRow


@dataclass(frozen=True, slots=True)
class Stored:
    """One object whose bytes are in the store.

    Attributes:
        transfer_syntax_uid: empty for an object that we made; its file says it.
        size: bytes.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    store_key: str
    size: int


class StoredObjects:
    """Counts and lists what the unique keys of a request name (PS3.4 Section C.4.2.2.1)."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._conditions = Conditions(session)

    def count(self, keys: Mapping[str, OneOf]) -> int:
        """How many objects there are."""
        return sum(
            self._session.execute(rows.with_only_columns(func.count())).scalar_one()
            for rows in self._parts(keys)
        )

    def kinds(self, keys: Mapping[str, OneOf]) -> set[tuple[str, str]]:
        """SOP class and transfer syntax of the images among them."""
        images, _ = self._parts(keys)
        rows = self._session.execute(
            images.with_only_columns(
                InstanceRow.sop_class_uid, InstanceRow.transfer_syntax_uid
            ).distinct()
        )
        return {(sop_class, syntax) for sop_class, syntax in rows}

    def made(self, keys: Mapping[str, OneOf]) -> tuple[Stored, ...]:
        """Those that we made."""
        _, made = self._parts(keys)
        return tuple(_stored(row) for row in self._session.execute(made))

    def page(
        self, keys: Mapping[str, OneOf], place: Place, limit: int
    ) -> tuple[tuple[Stored, ...], Place | None]:
        """Some of them, and where the next begin; None at the end."""
        images, made = self._parts(keys)
        phases = [
            Phase(images, (SeriesRow.series_instance_uid, InstanceRow.id)),
            Phase(made, (ResultRow.id,)),
        ]
        found, after = read_page(self._session, phases, place, limit)
        return tuple(_stored(row) for row in found), after

    def _parts(self, keys: Mapping[str, OneOf]) -> tuple[Any, Any]:
        make = self._conditions
        upper = [
            make.of(column, keys[keyword])
            for keyword, column in (
                ("PatientID", StudyRow.patient_id),
                ("StudyInstanceUID", StudyRow.study_instance_uid),
            )
            if keyword in keys
        ]
        images = (
            select(
                InstanceRow.sop_class_uid,
                InstanceRow.sop_instance_uid,
                InstanceRow.transfer_syntax_uid,
                InstanceRow.store_key,
                InstanceRow.size,
            )
            .join(SeriesRow, SeriesRow.series_instance_uid == InstanceRow.series_instance_uid)
            .join(StudyRow, StudyRow.study_instance_uid == SeriesRow.study_instance_uid)
            .where(retrievable(), *upper)
        )
        made = (
            shown_results(
                ResultRow.sop_class_uid,
                ResultRow.sop_instance_uid,
                literal(""),
                ResultRow.store_key,
                ResultRow.size,
            )
            .join(StudyRow, StudyRow.study_instance_uid == JobRow.study_instance_uid)
            .where(ResultRow.gone_at.is_(None), *upper)
        )
        if "SeriesInstanceUID" in keys:
            asked = keys["SeriesInstanceUID"]
            images = images.where(make.of(SeriesRow.series_instance_uid, asked))
            made = made.where(make.of(ResultRow.series_instance_uid, asked))
        if "SOPInstanceUID" in keys:
            asked = keys["SOPInstanceUID"]
            images = images.where(make.of(InstanceRow.sop_instance_uid, asked))
            made = made.where(make.of(ResultRow.sop_instance_uid, asked))
        return images, made


def _stored(row: Any) -> Stored:
    sop_class, sop_instance, syntax, key, size = row[:5]
    return Stored(sop_class, sop_instance, syntax, key, size)
