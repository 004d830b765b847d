"""Queries at the levels PATIENT and STUDY."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from sqlalchemy import and_, exists, func, literal_column, not_, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.ledger.queries.attributes import Level
from core.ledger.queries.conditions import Conditions
from core.ledger.queries.counting import (
    ONLINE,
    UNAVAILABLE,
    contents_of_studies,
    has_results,
    of_modality,
)
from core.ledger.queries.matching import Matching, Moments, Name, OneOf, Span, prefix_of
from core.ledger.queries.paging import Entry, Page, Phase, Place, Query, read_page
from core.schema import SeriesRow, StudyRow

# Columns by keyword, each once.
COLUMNS: dict[str, InstrumentedAttribute[str]] = {
    "PatientName": StudyRow.patient_name,
    "PatientID": StudyRow.patient_id,
    "IssuerOfPatientID": StudyRow.issuer_of_patient_id,
    "PatientBirthDate": StudyRow.patient_birth_date,
    "PatientSex": StudyRow.patient_sex,
    "StudyDate": StudyRow.study_date,
    "StudyTime": StudyRow.study_time,
    "AccessionNumber": StudyRow.accession_number,
    "StudyID": StudyRow.study_id,
    "StudyInstanceUID": StudyRow.study_instance_uid,
    "StudyDescription": StudyRow.description,
    "ReferringPhysicianName": StudyRow.referring_physician,
    "RequestedProcedureDescription": StudyRow.procedure,
}
NAME_COLUMNS = (StudyRow.name_alphabetic, StudyRow.name_ideographic, StudyRow.name_phonetic)
STUDY_MOMENTS = "StudyDate+StudyTime"  # combined date-time matching, PS3.4 Section C.2.2.2.5.1
_SELECTIVE = ("StudyInstanceUID", "AccessionNumber", "PatientID")
_SHORT_DAYS = 62
_PATIENT = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
)
_COUNTS = frozenset(
    {
        "ModalitiesInStudy",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
        "InstanceAvailability",
    }
)
_INSTANCE_COUNTS = frozenset({"NumberOfStudyRelatedInstances", "InstanceAvailability"})


def upper_entry(row: Sequence[Any]) -> Entry:
    """The values of a patient and a study, from a row that begins with `COLUMNS`."""
    return dict(zip(COLUMNS, row, strict=False))


class StudyQueries:
    """Pages of studies, and of patients."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._conditions = Conditions(session)

    def studies(self, query: Query, place: Place, limit: int) -> Page:
        """A page of studies, the newest first where nothing else gives an order."""
        if _looks_through_names(query.keys):
            entries, after = self._by_name_alone(query.keys, place, limit)
        else:
            rows = select(*COLUMNS.values()).where(*self.where(query.keys, names=False))
            phases = self.phases(rows, query.keys)
            found, after = read_page(self._session, phases, place, limit)
            entries = [upper_entry(row) for row in found]
        if query.wanted & _COUNTS and entries:
            self._count(query.wanted, entries)
        return Page(tuple(entries), after)

    def _by_name_alone(
        self, keys: Mapping[str, Matching], place: Place, limit: int
    ) -> tuple[list[Entry], Place | None]:
        """Look through the names of their index, and read the studies that match.

        In one step PostgreSQL would read every study, to look at its name there.
        """
        phases = self.phases(select(StudyRow.study_instance_uid.label("uid")), keys)
        found, after = read_page(self._session, phases, place, limit)
        uids = [row.uid for row in found]
        rows = self._session.execute(
            select(*COLUMNS.values()).where(StudyRow.study_instance_uid.in_(uids))
        )
        entries = {entry["StudyInstanceUID"]: entry for entry in map(upper_entry, rows)}
        # one that retention forgot in between is left out
        return [entries[uid] for uid in uids if uid in entries], after

    def _count(self, wanted: frozenset[str], entries: Sequence[Entry]) -> None:
        uids = [entry["StudyInstanceUID"] for entry in entries]
        contents = contents_of_studies(
            self._session, uids, instances=bool(wanted & _INSTANCE_COUNTS)
        )
        for entry in entries:
            content = contents[entry["StudyInstanceUID"]]
            entry["ModalitiesInStudy"] = "\\".join(sorted(content.modalities))
            entry["NumberOfStudyRelatedSeries"] = str(len(content.series))
            entry["NumberOfStudyRelatedInstances"] = str(content.instances)
            entry["InstanceAvailability"] = ONLINE if content.instances else UNAVAILABLE

    def patients(self, query: Query, place: Place, limit: int) -> Page:
        """A page of patients: those of the studies that match."""
        told = [COLUMNS[keyword] for keyword in _PATIENT]
        grouped = (StudyRow.patient_id, StudyRow.issuer_of_patient_id)
        rows = (
            select(*(func.max(column) if column not in grouped else column for column in told))
            .where(*self.where(query.keys))
            .group_by(*grouped)
        )
        phases = [Phase(rows, grouped)]
        found, after = read_page(self._session, phases, place, limit)
        entries = [dict(zip(_PATIENT, map(str, row), strict=False)) for row in found]
        if any(keyword.startswith("NumberOfPatient") for keyword in query.wanted):
            self._count_patients(entries)
        return Page(tuple(entries), after)

    def _count_patients(self, entries: Sequence[Entry]) -> None:
        studies: dict[tuple[str, str], list[str]] = {}
        rows = self._session.execute(
            select(
                StudyRow.patient_id, StudyRow.issuer_of_patient_id, StudyRow.study_instance_uid
            ).where(StudyRow.patient_id.in_({entry["PatientID"] for entry in entries}))
        )
        for patient, issuer, uid in rows:
            studies.setdefault((patient, issuer), []).append(uid)
        for entry in entries:
            uids = studies[entry["PatientID"], entry["IssuerOfPatientID"]]
            contents = contents_of_studies(self._session, uids, instances=True).values()
            entry["NumberOfPatientRelatedStudies"] = str(len(uids))
            entry["NumberOfPatientRelatedSeries"] = str(sum(len(item.series) for item in contents))
            entry["NumberOfPatientRelatedInstances"] = str(sum(item.instances for item in contents))

    def where(self, keys: Mapping[str, Matching], *, names: bool = True) -> list[Any]:
        """What the keys of a patient and a study ask for; the patient's name only if `names`."""
        conditions: list[Any] = []
        make = self._conditions
        for keyword, matching in keys.items():
            if keyword == STUDY_MOMENTS and isinstance(matching, Moments):
                conditions.append(make.moments(StudyRow.study_date, StudyRow.study_time, matching))
            elif keyword == "PatientName" and isinstance(matching, Name):
                if names:
                    conditions.append(or_(*self._names(matching)))
            elif keyword == "ReferringPhysicianName":
                conditions.append(make.of(StudyRow.referring_key, matching))
            elif keyword == "ModalitiesInStudy":
                conditions.append(self._modality(matching))
            elif keyword in COLUMNS:
                bytewise = keyword == "StudyTime"
                conditions.append(make.of(COLUMNS[keyword], matching, bytewise=bytewise))
        return conditions

    def phases(self, rows: Any, keys: Mapping[str, Matching]) -> list[Phase]:
        """In which order studies are read, so that an index finds them.

        A name is looked for in one component group after the other.
        """
        by_uid = (StudyRow.study_instance_uid,)
        by_date = (StudyRow.study_date, StudyRow.study_instance_uid)
        asked = keys.get("PatientName")
        names = self._names(asked) if isinstance(asked, Name) else []
        if any(isinstance(keys.get(keyword), OneOf) for keyword in _SELECTIVE):
            return [Phase(rows, by_uid, tuple([or_(*names)] if names else []))]
        if not isinstance(asked, Name) or _is_short(keys):
            return [Phase(rows, by_date, tuple([or_(*names)] if names else []), descending=True)]
        if not asked.anywhere:
            first = next((index for index, text in enumerate(asked.groups) if prefix_of(text)), 0)
            return [Phase(rows, (NAME_COLUMNS[first], *by_uid), (and_(*names),))]
        return [
            Phase(
                rows,
                (NAME_COLUMNS[index], *by_uid),
                (condition, *(not_(earlier) for earlier in names[:index])),
            )
            for index, condition in enumerate(names)
        ]

    def _names(self, asked: Name) -> list[Any]:
        """The conditions on the groups: any of them, or one that holds them all."""
        make = self._conditions
        if not asked.anywhere:
            pairs = zip(NAME_COLUMNS, asked.groups, strict=False)
            return [and_(*(make.group(column, text) for column, text in pairs if text))]
        first, *others = NAME_COLUMNS
        text = asked.groups[0]
        return [
            make.group(first, text),
            # written out, not as a parameter: only then the partial index is taken
            *(and_(column != literal_column("''"), make.group(column, text)) for column in others),
        ]

    def _modality(self, matching: Matching) -> Any:
        of_series = exists().where(
            SeriesRow.study_instance_uid == StudyRow.study_instance_uid,
            self._conditions.of(SeriesRow.modality, matching),
        )
        kinds = of_modality(matching)
        return or_(of_series, has_results(kinds)) if kinds else of_series

    def page(self, query: Query, place: Place, limit: int) -> Page:
        """A page of the query's level."""
        if query.level is Level.PATIENT:
            return self.patients(query, place, limit)
        return self.studies(query, place, limit)


def _looks_through_names(keys: Mapping[str, Matching]) -> bool:
    """Whether a name, of which not even the beginning is known, is all that is asked for."""
    asked = keys.get("PatientName")
    return len(keys) == 1 and isinstance(asked, Name) and not prefix_of(asked.groups[0])


def _is_short(keys: Mapping[str, Matching]) -> bool:
    """Whether the dates asked for are so few that they find a study sooner than its name does."""
    asked = keys.get("StudyDate")
    if isinstance(asked, OneOf):
        return True
    if isinstance(asked, Span):
        low, high = asked.low, asked.high
    elif isinstance(moments := keys.get(STUDY_MOMENTS), Moments):
        low, high = moments.low[0], moments.high[0]
    else:
        return False
    if not low or not high:
        return False
    days = date.fromisoformat(high).toordinal() - date.fromisoformat(low).toordinal()
    return days <= _SHORT_DAYS
