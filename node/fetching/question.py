"""What is asked of a peer by C-FIND, and what it answers, as plain texts.

A question is a level and keys as a person writes them: `PatientName=DOE*`, `StudyDate=20240101-`,
`(0008,1030)=*brain*`, or a keyword alone, which asks for the value (PS3.4 Section C.2.2.1).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydicom import config
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID as PydicomUID

from core.errors import InvalidValueError, QueryError
from core.identifiers import UID
from core.ledger.queries.attributes import QUERY_RETRIEVE, UNIQUE_KEYS, Level
from node.dimse.contexts import (
    PATIENT_ROOT_FIND,
    PATIENT_ROOT_GET,
    PATIENT_ROOT_MOVE,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
)
from node.worklist.identifier import keys_of

_TAG = re.compile(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?")
_DATE = re.compile(r"\d{8}|\d{8}-(\d{8})?|-\d{8}")
_TIME = re.compile(r"[\d.]{2,13}|[\d.]{2,13}-([\d.]{2,13})?|-[\d.]{2,13}")
_LEVEL_TAG, _CHARACTER_SET_TAG = 0x00080052, 0x00080005
# What an answer is asked for besides the keys of a request, level by level.
RETURNED: Mapping[Level, tuple[str, ...]] = {
    Level.PATIENT: ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    Level.STUDY: (
        "StudyDate",
        "StudyTime",
        "StudyInstanceUID",
        "AccessionNumber",
        "PatientID",
        "PatientName",
        "ModalitiesInStudy",
        "StudyDescription",
        "NumberOfStudyRelatedInstances",
    ),
    Level.SERIES: (
        "Modality",
        "SeriesNumber",
        "SeriesInstanceUID",
        "SeriesDescription",
        "BodyPartExamined",
        "NumberOfSeriesRelatedInstances",
    ),
    Level.IMAGE: ("InstanceNumber", "SOPInstanceUID", "SOPClassUID"),
}

Answer = Mapping[str, tuple[str, ...]]


class Root(StrEnum):
    """The information model (PS3.4 Section C.3)."""

    STUDY = "study"
    PATIENT = "patient"


@dataclass(frozen=True, slots=True)
class Model:
    """The SOP classes of a root."""

    find: PydicomUID
    move: PydicomUID
    get: PydicomUID


MODELS: Mapping[Root, Model] = {
    Root.STUDY: Model(STUDY_ROOT_FIND, STUDY_ROOT_MOVE, STUDY_ROOT_GET),
    Root.PATIENT: Model(PATIENT_ROOT_FIND, PATIENT_ROOT_MOVE, PATIENT_ROOT_GET),
}


@dataclass(frozen=True, slots=True)
class Question:
    """A request of C-FIND, C-MOVE or C-GET.

    Attributes:
        keys: by tag; an empty text asks for the value.
    """

    level: Level
    keys: Mapping[int, str] = field(default_factory=dict)
    root: Root = Root.STUDY

    @property
    def model(self) -> Model:
        """The SOP classes of its root."""
        return MODELS[self.root]

    def dataset(self) -> Dataset:
        """The Identifier (PS3.4 Section C.4.1.1.3).

        Raises:
            InvalidValueError: a value cannot be one of its value representation.
        """
        made = Dataset()
        if not all(value.isascii() for value in self.keys.values()):
            made.SpecificCharacterSet = "ISO_IR 192"
        made.QueryRetrieveLevel = self.level.value
        for tag, value in self.keys.items():
            made.add(_element(tag, value))
        return made

    def check(self) -> None:
        """See that the unique keys of the levels above are there (PS3.4 Section C.4.1.2.1).

        Raises:
            InvalidValueError: one is missing.
        """
        levels = tuple(Level)
        first = levels.index(Level.PATIENT if self.root is Root.PATIENT else Level.STUDY)
        for above in levels[first : levels.index(self.level)]:
            keyword = UNIQUE_KEYS[above]
            value = self.keys.get(tag_of(keyword), "")
            if not value or any(mark in value for mark in "*?\\"):
                raise InvalidValueError(
                    f"at level {self.level} one {keyword} must be named: {keyword}=…"
                )


def question_of(level: str, keys: Iterable[str], root: Root | None = None) -> Question:
    """A question as it is written on a command line, with the level's usual keys to be told.

    Args:
        level: PATIENT, STUDY, SERIES or IMAGE; INSTANCE is taken for IMAGE.
        keys: `KEYWORD=VALUE`, `(gggg,eeee)=VALUE`, or without value.
        root: default: Patient Root at level PATIENT, else Study Root.

    Raises:
        InvalidValueError: a level, a key or a value that is none, or a unique key is missing.
    """
    name = level.strip().upper()
    try:
        asked = Level("IMAGE" if name == "INSTANCE" else name)
    except ValueError as error:
        known = ", ".join(Level)
        raise InvalidValueError(f"{level!r} is no level: {known}") from error
    chosen = root or (Root.PATIENT if asked is Level.PATIENT else Root.STUDY)
    if asked is Level.PATIENT and chosen is Root.STUDY:
        raise InvalidValueError("the study root has no level PATIENT; use --root patient")
    written = dict(read_key(text) for text in keys)
    made = {tag_of(keyword): "" for keyword in RETURNED[asked]} | written
    question = Question(asked, dict(sorted(made.items())), chosen)
    question.check()
    question.dataset()
    return question


def read_key(text: str) -> tuple[int, str]:
    """The tag and the value of `KEYWORD=VALUE`.

    Raises:
        InvalidValueError: no such key, or one that is not asked for in this way.
    """
    name, _, value = text.partition("=")
    tag = tag_of(name.strip())
    if tag in {_LEVEL_TAG, _CHARACTER_SET_TAG}:
        raise InvalidValueError(f"{name} is set by itself (see --level)")
    if not tag >> 16 & 1 and _vr(tag) == "SQ":
        raise InvalidValueError(f"{name} is a sequence; its items cannot be asked for here")
    return tag, value.strip()


def tag_of(name: str) -> int:
    """The tag of a keyword, or of `(gggg,eeee)`.

    Raises:
        InvalidValueError: there is none.
    """
    tag = tag_for_keyword(name)
    if tag is not None:
        return tag
    match = _TAG.fullmatch(name)
    if match is not None:
        return int(match[1] + match[2], 16)
    names = [entry[4] for entry in DicomDictionary.values()]
    near = difflib.get_close_matches(name, [item for item in names if item], 3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise InvalidValueError(f"{name!r} is no DICOM keyword and no tag (gggg,eeee){hint}")


def level_of_key(tag: int) -> Level | None:
    """The level whose attribute a key is, as far as our own table knows it."""
    keyword = keyword_for_tag(tag)
    for level, attributes in QUERY_RETRIEVE.items():
        if keyword in {attribute.keyword for attribute in attributes}:
            return level
    return None


def plain(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """An answer's values by keyword, or by tag where there is none. Sequences are left out.

    Whatever is wrong with the values, they are only text here; nothing is raised.
    """
    try:
        keys = keys_of(dataset)
    except QueryError:  # text that is not in the character set that it names
        if "SpecificCharacterSet" in dataset:
            del dataset["SpecificCharacterSet"]
        keys = keys_of(dataset, anything=True)
    return {name_of(tag): key.values for tag, key in keys.items() if key.vr != "SQ"}


def name_of(tag: int) -> str:
    """The keyword of a tag, or `(gggg,eeee)` where it has none."""
    return keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def one(answer: Answer, keyword: str) -> str:
    """The first value of an attribute, or empty."""
    return next(iter(answer.get(keyword, ())), "")


def number(answer: Answer, keyword: str) -> int | None:
    """The value of an attribute as a number; None where it is none."""
    text = one(answer, keyword)
    return int(text) if text.isascii() and text.isdigit() else None


def _vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "LO"


def _element(tag: int, text: str) -> DataElement:
    vr = _vr(tag)
    wrong = InvalidValueError(f"{name_of(tag)}: {text!r} is none of its values")
    values: Any = [part.strip() for part in text.split("\\")] if text else []
    if vr == "UI":
        for item in values:
            UID(item)
    elif vr == "DA" and not all(map(_DATE.fullmatch, values)):
        raise InvalidValueError(f"{wrong}: write YYYYMMDD or a range, YYYYMMDD-YYYYMMDD")
    elif vr == "TM" and not all(map(_TIME.fullmatch, values)):
        raise InvalidValueError(f"{wrong}: write HHMMSS or a range, HHMMSS-HHMMSS")
    # a pattern or a range is no value of the attribute, so nothing is validated
    try:
        value = values if len(values) > 1 else (values[0] if values else None)
        return DataElement(tag, vr, value, validation_mode=config.IGNORE)
    except (ValueError, TypeError, OverflowError) as error:
        raise wrong from error
