"""Lists that people page through: jobs and studies, the newest first.

A page is found by where the last one ended (keyset), so the thousandth costs what the first
does. Counts stop at `MOST_COUNTED`: nobody needs to know whether 80,000 or 80,001 jobs are done.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, and_, func, literal, or_, select, union_all
from sqlalchemy.orm import Session

from core.domain import Job
from core.errors import InvalidValueError
from core.ledger.rows import job_value
from core.lifecycle import JobState, SeriesState, TransferState
from core.schema import (
    ConflictRow,
    FindingRow,
    InstanceRow,
    JobRow,
    SeriesRow,
    StudyRow,
    TransferRow,
)

MOST_COUNTED = 1000
# With so many studies or fewer their jobs are looked up; with more the jobs are walked through.
_FEW_STUDIES = 400
_JOB_ID = re.compile(r"[0-9a-f]{6,8}(-[0-9a-f-]*)?")
_UID = re.compile(r"[0-9]+(\.[0-9]+){2,}")
_Line = TypeVar("_Line")
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody looks for; an empty value means any.

    Attributes:
        text: found in patient name or id, accession number, description, or a UID or job id.
        since, until: of the moment at which a job was made, or a study first received.
    """

    states: tuple[JobState, ...] = ()
    modality: str = ""
    model: str = ""
    sender: str = ""
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class JobLine:
    """One line of the worklist: a job, whose it is, and where its objects are.

    Attributes:
        delivered: how many of its objects are in each state of delivery.
        findings: how many were found; those that were sought and are absent do not count.
    """

    job: Job
    modality: str
    patient_id: str
    patient_name: str
    accession_number: str
    description: str
    conflict: bool
    delivered: dict[TransferState, int] = field(default_factory=dict)
    findings: int = 0


@dataclass(frozen=True, slots=True)
class StudyLine:
    """One line of the list of studies.

    Attributes:
        jobs: how many of its jobs are in each state.
        states: how many of its series are in each state.
    """

    study_instance_uid: str
    patient_id: str
    patient_name: str
    accession_number: str
    description: str
    study_date: str
    conflict: bool
    first_received_at: datetime
    modalities: tuple[str, ...]
    states: dict[SeriesState, int]
    jobs: dict[JobState, int]


@dataclass(frozen=True, slots=True)
class Arriving:
    """A series that is being received."""

    study_instance_uid: str
    series_instance_uid: str
    patient_name: str
    patient_id: str
    modality: str
    description: str
    images: int
    expected: int | None
    last_received_at: datetime


@dataclass(frozen=True, slots=True)
class Listed(Generic[_Line]):
    """A page of a list.

    Attributes:
        after: what to ask the next page with; empty after the last one.
    """

    lines: tuple[_Line, ...]
    after: str


class Browse:
    """Lists for people."""

    def __init__(self, session: Session) -> None:
        self._session = session
        # SQLite's LIKE minds no case by itself; to lower 400,000 texts would double its time
        self._folds = session.get_bind().dialect.name == "sqlite"

    def jobs(self, wanted: Wanted, after: str = "", limit: int = 50) -> Listed[JobLine]:
        """A page of the worklist.

        Raises:
            InvalidValueError: `after` is none of ours.
        """
        query: Any = select(
            JobRow,
            StudyRow.patient_id,
            StudyRow.patient_name,
            StudyRow.accession_number,
            StudyRow.description,
            StudyRow.conflict,
        ).join(StudyRow, StudyRow.study_instance_uid == JobRow.study_instance_uid)
        for condition in self._of_jobs(wanted):
            query = query.where(condition)
        query = _page(query, JobRow.created_at, JobRow.id, after, limit)
        rows = self._session.execute(query).all()
        ids = [row[0].id for row in rows[:limit]]
        delivered, findings = self._delivered(ids), self._found(ids)
        lines = tuple(
            JobLine(
                job=job_value(job),
                modality=job.modality,
                patient_id=patient_id,
                patient_name=patient_name,
                accession_number=accession_number,
                description=description,
                conflict=conflict,
                delivered=delivered.get(job.id, {}),
                findings=findings.get(job.id, 0),
            )
            for job, patient_id, patient_name, accession_number, description, conflict in rows[
                :limit
            ]
        )
        more = len(rows) > limit
        return Listed(lines, mark(lines[-1].job.created_at, lines[-1].job.id) if more else "")

    def studies(self, wanted: Wanted, after: str = "", limit: int = 50) -> Listed[StudyLine]:
        """A page of the list of studies; of `wanted` the times, the text and the modality count.

        Raises:
            InvalidValueError: `after` is none of ours.
        """
        query: Select[Any] = select(StudyRow)
        if wanted.since is not None:
            query = query.where(StudyRow.first_received_at >= wanted.since)
        if wanted.until is not None:
            query = query.where(StudyRow.first_received_at < wanted.until)
        if wanted.text.strip():
            query = query.where(_says(wanted.text, self._folds))
        if wanted.modality:
            query = query.where(
                select(SeriesRow.series_instance_uid)
                .where(
                    SeriesRow.study_instance_uid == StudyRow.study_instance_uid,
                    SeriesRow.modality == wanted.modality,
                )
                .exists()
            )
        key = StudyRow.study_instance_uid
        query = _page(query, StudyRow.first_received_at, key, after, limit)
        rows: Sequence[StudyRow] = self._session.scalars(query).all()
        uids = [row.study_instance_uid for row in rows[:limit]]
        series, jobs = self._series_of(uids), self._jobs_of(uids)
        lines = tuple(
            StudyLine(
                study_instance_uid=row.study_instance_uid,
                patient_id=row.patient_id,
                patient_name=row.patient_name,
                accession_number=row.accession_number,
                description=row.description,
                study_date=row.study_date,
                conflict=row.conflict,
                first_received_at=row.first_received_at,
                modalities=tuple(sorted({m for m, _ in series.get(row.study_instance_uid, ())})),
                states=_count(SeriesState(s) for _, s in series.get(row.study_instance_uid, ())),
                jobs=_count(JobState(s) for s in jobs.get(row.study_instance_uid, ())),
            )
            for row in rows[:limit]
        )
        if len(rows) <= limit:
            return Listed(lines, "")
        return Listed(lines, mark(lines[-1].first_received_at, lines[-1].study_instance_uid))

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state; `MOST_COUNTED` + 1 stands for more."""
        parts = []
        for state in JobState:
            some = select(JobRow.id).where(JobRow.state == state).limit(MOST_COUNTED + 1)
            name = literal(str(state), literal_execute=True)
            parts.append(select(name, func.count()).select_from(some.subquery()))
        rows = self._session.execute(union_all(*parts))
        return {JobState(name): count for name, count in rows}

    def conflicts(self, limit: int = 100) -> list[str]:
        """Studies whose images disagree about the patient, those that were found last first."""
        newest = func.max(ConflictRow.id)
        return list(
            self._session.scalars(
                select(ConflictRow.study_instance_uid)
                .where(ConflictRow.decided_at.is_(None))
                .group_by(ConflictRow.study_instance_uid)
                .order_by(newest.desc())
                .limit(limit)
            )
        )

    def arriving(self, limit: int = 12) -> list[Arriving]:
        """Series that are being received, those that were heard of last first."""
        rows = self._session.execute(
            select(SeriesRow, StudyRow)
            .join(StudyRow, StudyRow.study_instance_uid == SeriesRow.study_instance_uid)
            .where(SeriesRow.state == SeriesState.RECEIVING)
            .order_by(SeriesRow.last_received_at.desc())
            .limit(limit)
        ).all()
        uids = [series.series_instance_uid for series, _ in rows]
        images = dict(
            self._session.execute(
                select(InstanceRow.series_instance_uid, func.count())
                .where(InstanceRow.series_instance_uid.in_(uids), InstanceRow.current.is_(True))
                .group_by(InstanceRow.series_instance_uid)
            ).all()
        )
        return [
            Arriving(
                study_instance_uid=study.study_instance_uid,
                series_instance_uid=series.series_instance_uid,
                patient_name=study.patient_name,
                patient_id=study.patient_id,
                modality=series.modality,
                description=series.description,
                images=images.get(series.series_instance_uid, 0),
                expected=series.expected,
                last_received_at=series.last_received_at,
            )
            for series, study in rows
        ]

    def choices(self, among: int = 1000) -> dict[str, list[str]]:
        """Models, modalities and senders of the newest jobs, for a list to choose from."""
        newest = (
            select(JobRow.model, JobRow.modality, JobRow.sender)
            .order_by(JobRow.created_at.desc())
            .limit(among)
            .subquery()
        )
        rows = self._session.execute(select(newest).distinct()).all()
        names = ("model", "modality", "sender")
        return {
            name: sorted({row[place] for row in rows if row[place]})
            for place, name in enumerate(names)
        }

    def _of_jobs(self, wanted: Wanted) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        if wanted.states:
            found.append(JobRow.state.in_(wanted.states))
        if wanted.modality:
            found.append(JobRow.modality == wanted.modality)
        if wanted.model:
            found.append(JobRow.model == wanted.model)
        if wanted.sender:
            found.append(JobRow.sender == wanted.sender)
        if wanted.since is not None:
            found.append(JobRow.created_at >= wanted.since)
        if wanted.until is not None:
            found.append(JobRow.created_at < wanted.until)
        text = wanted.text.strip()
        if not text:
            return found
        if _JOB_ID.fullmatch(text.lower()):
            found.append(
                or_(
                    JobRow.id.startswith(text.lower(), autoescape=True),
                    JobRow.study_instance_uid.in_(self._few_studies(text) or [""]),
                )
            )
            return found
        few = self._few_studies(text)
        found.append(
            _says(text, self._folds) if few is None else JobRow.study_instance_uid.in_(few)
        )
        return found

    def _few_studies(self, text: str) -> list[str] | None:
        """The studies that say `text`, or None when they are many."""
        some = (
            select(StudyRow.study_instance_uid)
            .where(_says(text, self._folds))
            .limit(_FEW_STUDIES + 1)
        )
        uids = list(self._session.scalars(some))
        return uids if len(uids) <= _FEW_STUDIES else None

    def _delivered(self, jobs: Sequence[str]) -> dict[str, dict[TransferState, int]]:
        rows = self._session.execute(
            select(TransferRow.job_id, TransferRow.state, func.count())
            .where(TransferRow.job_id.in_(jobs))
            .group_by(TransferRow.job_id, TransferRow.state)
        )
        found: dict[str, dict[TransferState, int]] = {}
        for job_id, state, count in rows:
            found.setdefault(job_id or "", {})[TransferState(state)] = count
        return found

    def _found(self, jobs: Sequence[str]) -> dict[str, int]:
        rows = self._session.execute(
            select(FindingRow.job_id, func.count())
            .where(FindingRow.job_id.in_(jobs), FindingRow.present.is_(True))
            .group_by(FindingRow.job_id)
        )
        return {row[0]: row[1] for row in rows}

    def _series_of(self, studies: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
        rows = self._session.execute(
            select(SeriesRow.study_instance_uid, SeriesRow.modality, SeriesRow.state).where(
                SeriesRow.study_instance_uid.in_(studies)
            )
        )
        found: dict[str, list[tuple[str, str]]] = {}
        for uid, modality, state in rows:
            found.setdefault(uid, []).append((modality, state))
        return found

    def _jobs_of(self, studies: Sequence[str]) -> dict[str, list[str]]:
        rows = self._session.execute(
            select(JobRow.study_instance_uid, JobRow.state).where(
                JobRow.study_instance_uid.in_(studies)
            )
        )
        found: dict[str, list[str]] = {}
        for uid, state in rows:
            found.setdefault(uid, []).append(state)
        return found


def mark(at: datetime, key: str) -> str:
    """Where a page ended, as text for an address."""
    return base64.urlsafe_b64encode(f"{at.isoformat()}|{key}".encode()).decode().rstrip("=")


def _marked(after: str) -> tuple[datetime, str]:
    try:
        text = base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)).decode()
        at, bar, key = text.partition("|")
        moment = datetime.fromisoformat(at)
    except (ValueError, binascii.Error) as error:
        raise InvalidValueError(f"{after!r} is no place in a list") from error
    if not bar or moment.tzinfo is None:
        raise InvalidValueError(f"{after!r} is no place in a list")
    return moment, key


def _page(query: Select[Any], at: Any, key: Any, after: str, limit: int) -> Select[Any]:
    """The newest first, from where the last page ended; one line more, to know if more follow."""
    if after:
        moment, last = _marked(after)
        # the first condition alone is what an index can use on every database
        query = query.where(at <= moment, or_(at < moment, key < last))
    return query.order_by(at.desc(), key.desc()).limit(limit + 1)


def _says(text: str, folds: bool) -> ColumnElement[bool]:
    """Studies that have every word of `text` somewhere in what a person reads.

    Args:
        folds: whether the database's LIKE minds no case by itself.
    """
    text = text.strip()
    if _UID.fullmatch(text):
        return StudyRow.study_instance_uid == text
    read = (
        StudyRow.patient_name,
        StudyRow.patient_id,
        StudyRow.accession_number,
        StudyRow.description,
    )

    words = text.split()[:8]
    if folds:
        return and_(*(or_(*(item.contains(w, autoescape=True) for item in read)) for w in words))
    # to lower all at once is quicker there than four times ILIKE; a word holds no line's end
    whole = func.lower(read[0] + "\n" + read[1] + "\n" + read[2] + "\n" + read[3])
    return and_(*(whole.contains(func.lower(_escaped(w)), escape="/") for w in words))


def _escaped(word: str) -> str:
    for special in "/%_":
        word = word.replace(special, f"/{special}")
    return word


def _count(items: Iterable[_Key]) -> dict[_Key, int]:
    found: dict[_Key, int] = {}
    for item in items:
        found[item] = found.get(item, 0) + 1
    return found
