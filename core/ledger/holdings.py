"""What is to be had of studies: their images and our results, for DICOMweb.

A result belongs to the study that was analysed. One that came back to us by C-STORE is there
once, as the instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from core.domain import Study
from core.ledger.rows import instance_value
from core.lifecycle import JobState
from core.schema import InstanceRow, JobRow, ResultRow, SeriesRow, StudyRow


@dataclass(frozen=True, slots=True)
class StudyMatch:
    """What a study must be; an empty value means any. Texts may hold the wildcards * and ?.

    Attributes:
        uids: one of these.
        dates: first and last Study Date, each of eight digits or empty.
        modalities: one of its series, also of our results, is of one of these.
    """

    uids: tuple[str, ...] = ()
    patient_id: str = ""
    patient_name: str = ""
    accession_number: str = ""
    description: str = ""
    dates: tuple[str, str] = ("", "")
    modalities: tuple[str, ...] = ()
    series_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Holding:
    """One object whose bytes are in the store.

    Attributes:
        transfer_syntax_uid: empty for a result: its file says it.
        own: one of our results.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    store_key: str
    size: int
    transfer_syntax_uid: str = ""
    own: bool = False


@dataclass(frozen=True, slots=True)
class SeriesHeld:
    """A series as it is to be had; of our results' series the objects say what they are.

    Attributes:
        attributes: short attributes of its first image, by keyword.
    """

    series_instance_uid: str
    modality: str
    description: str
    number: str
    instances: int
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StudyHeld:
    """A study with the series of its images, and our results."""

    study: Study
    birth_date: str
    issuer: str
    series: tuple[SeriesHeld, ...]
    results: tuple[Holding, ...]


# The modality of our results, for looking for studies (workers/results).
_KINDS = {"SEG": ("SEG",), "SR": ("SR",), "OT": ("SC",), "KO": ("KO", "REJECTION")}


class Holdings:
    """Reads what is to be had."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def studies(self, match: StudyMatch, limit: int, offset: int = 0) -> list[StudyHeld]:
        """Studies that match, those that came last first."""
        query = select(StudyRow).order_by(
            StudyRow.first_received_at.desc(), StudyRow.study_instance_uid
        )
        for condition in _conditions(match):
            query = query.where(condition)
        rows = self._session.scalars(query.limit(limit).offset(offset)).all()
        uids = [row.study_instance_uid for row in rows]
        series, results = self._series(uids), self._results(uids)
        return [
            StudyHeld(
                study=Study(
                    study_instance_uid=row.study_instance_uid,
                    patient_id=row.patient_id,
                    patient_name=row.patient_name,
                    accession_number=row.accession_number,
                    description=row.description,
                    study_date=row.study_date,
                    first_received_at=row.first_received_at,
                    conflict=row.conflict,
                ),
                birth_date=row.patient_birth_date,
                issuer=row.issuer_of_patient_id,
                series=tuple(series.get(row.study_instance_uid, ())),
                results=tuple(results.get(row.study_instance_uid, ())),
            )
            for row in rows
        ]

    def objects(self, study_uid: str, series_uid: str = "", sop_uid: str = "") -> list[Holding]:
        """The objects of a study, of one of its series, or one of them."""
        query = (
            select(InstanceRow)
            .join(SeriesRow, SeriesRow.series_instance_uid == InstanceRow.series_instance_uid)
            .where(
                SeriesRow.study_instance_uid == study_uid,
                InstanceRow.current.is_(True),
                InstanceRow.gone_at.is_(None),
            )
            .order_by(InstanceRow.series_instance_uid, InstanceRow.id)
        )
        if series_uid:
            query = query.where(InstanceRow.series_instance_uid == series_uid)
        if sop_uid:
            query = query.where(InstanceRow.sop_instance_uid == sop_uid)
        found = []
        for row in self._session.scalars(query):
            item = instance_value(row)
            found.append(
                Holding(
                    study_instance_uid=study_uid,
                    series_instance_uid=item.series_instance_uid,
                    sop_instance_uid=item.sop_instance_uid,
                    sop_class_uid=item.sop_class_uid,
                    store_key=item.store_key,
                    size=item.size,
                    transfer_syntax_uid=item.transfer_syntax_uid,
                )
            )
        return found + [
            item
            for item in self._results([study_uid]).get(study_uid, [])
            if series_uid in {"", item.series_instance_uid}
            and sop_uid in {"", item.sop_instance_uid}
        ]

    def _series(self, studies: Sequence[str]) -> dict[str, list[SeriesHeld]]:
        counted = self._session.execute(
            select(SeriesRow, func.count())
            .join(InstanceRow, InstanceRow.series_instance_uid == SeriesRow.series_instance_uid)
            .where(
                SeriesRow.study_instance_uid.in_(studies),
                InstanceRow.current.is_(True),
                InstanceRow.gone_at.is_(None),
            )
            .group_by(SeriesRow.series_instance_uid)
            .order_by(SeriesRow.number, SeriesRow.series_instance_uid)
        )
        found: dict[str, list[SeriesHeld]] = {}
        for row, count in counted:
            found.setdefault(row.study_instance_uid, []).append(
                SeriesHeld(
                    series_instance_uid=row.series_instance_uid,
                    modality=row.modality,
                    description=row.description,
                    number=row.number,
                    instances=count,
                    attributes=row.attributes,
                )
            )
        return found

    def _results(self, studies: Sequence[str]) -> dict[str, list[Holding]]:
        rows = self._session.execute(
            select(ResultRow, JobRow.study_instance_uid)
            .join(JobRow, JobRow.id == ResultRow.job_id)
            .where(JobRow.study_instance_uid.in_(studies), _to_be_had())
            .order_by(ResultRow.id)
        )
        found: dict[str, list[Holding]] = {}
        for row, study in rows:
            found.setdefault(study, []).append(
                Holding(
                    study_instance_uid=study,
                    series_instance_uid=row.series_instance_uid,
                    sop_instance_uid=row.sop_instance_uid,
                    sop_class_uid=row.sop_class_uid,
                    store_key=row.store_key,
                    size=row.size,
                    own=True,
                )
            )
        return found


def _to_be_had() -> ColumnElement[bool]:
    """A result that counts: of a job that is done, or whose results count for one that is."""
    job = aliased(JobRow)
    counts = exists().where(
        or_(job.id == ResultRow.job_id, job.same_as == ResultRow.job_id),
        job.study_instance_uid == JobRow.study_instance_uid,
        job.state == JobState.DONE,
    )
    back = exists().where(
        InstanceRow.sop_instance_uid == ResultRow.sop_instance_uid, InstanceRow.gone_at.is_(None)
    )
    return (
        (ResultRow.sop_class_uid != "")
        & ResultRow.gone_at.is_(None)
        & ResultRow.alternative_to.is_(None)
        & counts
        & ~back
    )


def _conditions(match: StudyMatch) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if match.uids:
        found.append(StudyRow.study_instance_uid.in_(match.uids))
    if match.series_uids:
        found.append(
            StudyRow.study_instance_uid.in_(
                select(SeriesRow.study_instance_uid).where(
                    SeriesRow.series_instance_uid.in_(match.series_uids)
                )
            )
            | StudyRow.study_instance_uid.in_(
                select(JobRow.study_instance_uid)
                .join(ResultRow, ResultRow.job_id == JobRow.id)
                .where(ResultRow.series_instance_uid.in_(match.series_uids), _to_be_had())
            )
        )
    for column, text in (
        (StudyRow.patient_id, match.patient_id),
        (StudyRow.accession_number, match.accession_number),
        (StudyRow.description, match.description),
    ):
        if text.strip("*"):
            found.append(
                column.like(_pattern(text), escape="\\") if _wild(text) else column == text
            )
    if match.patient_name.strip("*"):
        found.append(_named(match.patient_name))
    first, last = match.dates
    if first:
        found.append(StudyRow.study_date >= first)
    if last:
        found.append((StudyRow.study_date <= last) & (StudyRow.study_date != ""))
    if match.modalities:
        kinds = [kind for name in match.modalities for kind in _KINDS.get(name, ())]
        of_images = select(SeriesRow.study_instance_uid).where(
            SeriesRow.modality.in_(match.modalities)
        )
        condition: ColumnElement[bool] = StudyRow.study_instance_uid.in_(of_images)
        if kinds:
            of_results = (
                select(JobRow.study_instance_uid)
                .join(ResultRow, ResultRow.job_id == JobRow.id)
                .where(ResultRow.kind.in_(kinds), _to_be_had())
            )
            condition |= StudyRow.study_instance_uid.in_(of_results)
        found.append(condition)
    return found


def _named(text: str) -> ColumnElement[bool]:
    """Any of a name's groups (PS3.5 6.2.1.2), without regard to case (PS3.4 C.2.2.2.1)."""
    pattern = _pattern(text)
    name = StudyRow.patient_name
    return or_(
        *(
            name.ilike(around[0] + pattern + around[1], escape="\\")
            for around in (("", ""), ("", "=%"), ("%=", ""), ("%=", "=%"))
        )
    )


def _wild(text: str) -> bool:
    return "*" in text or "?" in text


def _pattern(text: str) -> str:
    """DICOM's wildcards as SQL's."""
    for plain in ("\\", "%", "_"):
        text = text.replace(plain, f"\\{plain}")
    return text.replace("*", "%").replace("?", "_")
