"""What studies are looked for, and whether an answer is one of them.

A peer may ignore keys that it does not know (PS3.4 Section C.2.2.1.3) and then answers with more
than was asked for. So what it says of the usual keys is held against them here once more; what it
does not say is neither yes nor no.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from fnmatch import fnmatchcase

from core.errors import InvalidValueError
from core.ledger.queries.attributes import UNIQUE_KEYS, Level
from node.fetching.question import Answer, level_of_key, one, read_key, tag_of

_STUDY_DATE, _PATIENT = "StudyDate", "PatientID"
_LONGEST_SPAN = 36_525  # days


@dataclass(frozen=True, slots=True)
class Span:
    """Days of studies, both ends included; None: no bound, only where a patient is named."""

    first: date | None = None
    last: date | None = None

    def days(self) -> Iterator[str]:
        """Each day as YYYYMMDD, the newest first; an empty text where there is no bound."""
        if self.first is None or self.last is None:
            yield ""
            return
        day = self.last
        while day >= self.first:
            yield f"{day:%Y%m%d}"
            day -= timedelta(days=1)

    def __str__(self) -> str:
        if self.first is None or self.last is None:
            return "any day"
        return f"{self.first} to {self.last}"


def span_of(days: int | None, first: str, last: str, today: date) -> Span:
    """A span as it is written: the last `days` days, today included, or from and to.

    Raises:
        InvalidValueError: no day, or the first is after the last.
    """
    if days is not None and first:
        raise InvalidValueError("name --days or --from, not both")
    end = _day(last) if last else today
    if days is not None:
        if not 0 < days <= _LONGEST_SPAN:
            raise InvalidValueError(f"--days is from 1 to {_LONGEST_SPAN}")
        return Span(end - timedelta(days=days - 1), end)
    if not first:
        if last:
            raise InvalidValueError("--to needs --from or --days")
        return Span()
    begin = _day(first)
    if begin > end:
        raise InvalidValueError(f"--from {begin} is after --to {end}")
    if (end - begin).days >= _LONGEST_SPAN:
        raise InvalidValueError(f"at most {_LONGEST_SPAN} days at once")
    return Span(begin, end)


@dataclass(frozen=True, slots=True)
class Criteria:
    """What is looked for.

    Attributes:
        modalities, body_parts: one of them each; empty: any. Body parts may have wildcards.
        patient_id: only this patient's, compared exactly.
        study_keys, series_keys: further keys of the level, as pairs of tag and value; the peer
            matches them.
        unsaid: take series also where the peer says nothing of what is asked for.
    """

    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    patient_id: str = ""
    study_keys: tuple[tuple[int, str], ...] = ()
    series_keys: tuple[tuple[int, str], ...] = ()
    unsaid: bool = False

    def name(self, *more: str) -> str:
        """A short name that the same criteria always have."""
        text = json.dumps([asdict(self), *more], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def questions(self, day: str) -> list[Mapping[int, str]]:
        """The keys at STUDY level for one day, one set for each modality."""
        keys = dict(self.study_keys)
        if day:
            keys[tag_of(_STUDY_DATE)] = day
        if self.patient_id:
            keys[tag_of(_PATIENT)] = self.patient_id
        tag = tag_of("ModalitiesInStudy")
        return [keys | {tag: modality} for modality in self.modalities or ("",)]

    def series_question(self) -> Mapping[int, str]:
        """The keys at SERIES level, without the study's."""
        keys = dict(self.series_keys)
        if len(self.modalities) == 1:
            keys[tag_of("Modality")] = self.modalities[0]
        if len(self.body_parts) == 1:
            keys[tag_of("BodyPartExamined")] = self.body_parts[0]
        return keys

    @property
    def any_series(self) -> bool:
        """Whether all series of a study are looked for. If not, the peer may have more of them."""
        return not (self.modalities or self.body_parts or self.series_keys)

    def has_study(self, answer: Answer, day: str) -> bool:
        """Whether an answer at STUDY level is one of those that are looked for."""
        if day and one(answer, _STUDY_DATE) not in {"", day}:
            return False
        if self.patient_id and one(answer, _PATIENT) != self.patient_id:
            return False
        return _says(answer, "ModalitiesInStudy", self.modalities) is not False

    def has_series(self, answer: Answer) -> bool | None:
        """The same at SERIES level; None where the peer does not say enough."""
        said = [
            _says(answer, "Modality", self.modalities),
            _says(answer, "BodyPartExamined", self.body_parts),
        ]
        if False in said:
            return False
        return None if None in said and not self.unsaid else True


def criteria_of(
    *,
    modalities: Iterable[str] = (),
    body_parts: Iterable[str] = (),
    patient_id: str = "",
    keys: Iterable[str] = (),
    unsaid: bool = False,
) -> Criteria:
    """Criteria as they are written on a command line.

    Raises:
        InvalidValueError: a key that is none of studies or series, or says what an option says.
    """
    by_level: dict[Level, dict[int, str]] = {Level.STUDY: {}, Level.SERIES: {}}
    taken = {"ModalitiesInStudy": "--modality", "Modality": "--modality", "StudyDate": "--from"}
    taken |= {"BodyPartExamined": "--body-part", "PatientID": "--patient"}
    for text in keys:
        tag, value = read_key(text)
        name = text.partition("=")[0].strip()
        option = next((taken[item] for item in taken if tag_of(item) == tag), "")
        if option:
            raise InvalidValueError(f"{name}: use {option}")
        if not value:
            raise InvalidValueError(f"{name} has no value")
        level = level_of_key(tag)
        if level is Level.PATIENT:
            level = Level.STUDY
        if level not in by_level or tag == tag_of(UNIQUE_KEYS[Level.SERIES]):
            raise InvalidValueError(f"{name} is no attribute by which studies are chosen")
        by_level[level][tag] = value
    return Criteria(
        modalities=_plain(modalities, "--modality"),
        body_parts=tuple(sorted({item.strip().upper() for item in body_parts if item.strip()})),
        patient_id=patient_id.strip(),
        study_keys=tuple(sorted(by_level[Level.STUDY].items())),
        series_keys=tuple(sorted(by_level[Level.SERIES].items())),
        unsaid=unsaid,
    )


def _plain(values: Iterable[str], option: str) -> tuple[str, ...]:
    found = sorted({item.strip().upper() for item in values if item.strip()})
    for item in found:
        if any(mark in item for mark in "*?\\"):
            raise InvalidValueError(f"{option} {item}: no wildcards; name it more than once")
    return tuple(found)


def _says(answer: Answer, keyword: str, wanted: Collection[str]) -> bool | None:
    if not wanted:
        return True
    values = [value.upper() for value in answer.get(keyword, ()) if value]
    if not values:
        return None
    return any(fnmatchcase(value, pattern) for value in values for pattern in wanted)


def _day(text: str) -> date:
    for form in ("%Y-%m-%d", "%Y%m%d"):
        try:
            return datetime.strptime(text.strip(), form).date()
        except ValueError:
            continue
    raise InvalidValueError(f"{text!r} is no day: write YYYY-MM-DD")
