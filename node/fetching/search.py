"""Finding studies at a peer, day by day, and the series of each that are looked for.

A day that has more matches than one answer should hold is asked for hour by hour.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pynetdicom.association import Association

from core.errors import InvalidValueError
from core.identifiers import UID, DicomAddress
from core.ledger.queries.attributes import Level
from node.dimse.scu import NoContextError, associate
from node.fetching.criteria import Criteria
from node.fetching.find import TooManyError, find_contexts, matches
from node.fetching.question import Answer, Question, number, one, tag_of
from node.fetching.stopping import AnsweredNoError

MOST_ANSWERS = 2000
_FIND_SECONDS = 60.0
_STUDY_TOLD = ("StudyInstanceUID", "StudyDate", "PatientID", "ModalitiesInStudy")
_SERIES_TOLD = (
    "SeriesInstanceUID",
    "Modality",
    "BodyPartExamined",
    "NumberOfSeriesRelatedInstances",
)


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """A series that a peer has. `images` is None where it does not tell their number."""

    uid: str
    modality: str
    images: int | None


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """A study that a peer has.

    Attributes:
        day: its Study Date, YYYYMMDD.
        series: those that are looked for.
        others: how many it has besides.
        unsaid: how many of those the peer did not say enough about.
    """

    uid: str
    day: str
    series: tuple[FoundSeries, ...]
    others: int = 0
    unsaid: int = 0


class Search:
    """Asks one peer over an association that is open.

    Args:
        most: matches of one request.
    """

    def __init__(
        self,
        association: Association,
        peer: DicomAddress,
        criteria: Criteria,
        stop: threading.Event | None = None,
        most: int = MOST_ANSWERS,
    ) -> None:
        self._association, self._peer = association, peer
        self._criteria, self._stop, self._most = criteria, stop, most

    def studies(self, day: str) -> list[FoundStudy]:
        """The studies of a day, in order of their UIDs, each with the series that are wanted.

        Args:
            day: YYYYMMDD, or empty for any.

        Raises:
            PeerError: the peer refuses or breaks off.
            TooManyError: one hour has too many.
            StoppedError: somebody asked to stop.
        """
        days: dict[str, str] = {}
        for keys in self._criteria.questions(day):
            for answer in self._of_a_day(keys, day):
                uid = _uid(answer, "StudyInstanceUID")
                if uid and self._criteria.has_study(answer, day):
                    days[uid] = one(answer, "StudyDate") or day
        found = (self._study(uid, days[uid]) for uid in sorted(days))
        return [study for study in found if study.series or study.unsaid]

    def count(self, study_uid: str, series_uid: str) -> int:
        """How many images the peer lists of a series whose number it does not tell.

        Raises:
            PeerError: the peer refuses or breaks off.
        """
        keys = {
            tag_of("StudyInstanceUID"): study_uid,
            tag_of("SeriesInstanceUID"): series_uid,
            tag_of("SOPInstanceUID"): "",
        }
        return sum(1 for _ in self._ask(Level.IMAGE, keys, most=0))

    def classes(self, study_uid: str) -> frozenset[str]:
        """The SOP classes of a study's objects, where the peer tells them."""
        keys = {tag_of("StudyInstanceUID"): study_uid, tag_of("SOPClassesInStudy"): ""}
        answers = self._ask(Level.STUDY, keys, most=0)
        return frozenset(uid for answer in answers for uid in answer.get("SOPClassesInStudy", ()))

    def _of_a_day(self, keys: Mapping[int, str], day: str) -> Iterator[Answer]:
        told = {tag_of(name): "" for name in _STUDY_TOLD}
        asked = told | dict(keys)
        if not day:
            yield from self._ask(Level.STUDY, asked, self._most)
            return
        try:
            # as a whole: of a day that is asked for again hour by hour nothing counts twice
            yield from list(self._ask(Level.STUDY, asked, self._most))
        except TooManyError:
            for hour in range(24):
                hours = {tag_of("StudyTime"): f"{hour:02d}0000-{hour:02d}5959.999999"}
                yield from self._ask(Level.STUDY, asked | hours, self._most)

    def _study(self, uid: str, day: str) -> FoundStudy:
        told = {tag_of(name): "" for name in _SERIES_TOLD}
        study = {tag_of("StudyInstanceUID"): uid}
        wanted, others, unsaid = {}, 0, 0
        for answer in self._ask(Level.SERIES, told | study | dict(self._conditions()), most=0):
            series = _uid(answer, "SeriesInstanceUID")
            says = self._criteria.has_series(answer) if series else False
            if says:
                images = number(answer, "NumberOfSeriesRelatedInstances")
                wanted[series] = FoundSeries(series, one(answer, "Modality"), images)
            else:
                others += 1
                unsaid += says is None
        return FoundStudy(uid, day, tuple(wanted[key] for key in sorted(wanted)), others, unsaid)

    def _conditions(self) -> Mapping[int, str]:
        return self._criteria.series_question()

    def _ask(self, level: Level, keys: Mapping[int, str], most: int) -> Iterator[Answer]:
        question = Question(level, dict(sorted(keys.items())))
        return matches(self._association, self._peer, question, most=most, stop=self._stop)


def classes_of(
    calling_ae: str, peer: DicomAddress, study_uid: str, stop: threading.Event | None = None
) -> frozenset[str]:
    """The SOP classes of a study where the peer tells them, else nothing.

    Raises:
        PeerError: the peer is away.
        StoppedError: somebody asked to stop.
    """
    try:
        with associate(calling_ae, peer, find_contexts(), _FIND_SECONDS) as association:
            return Search(association, peer, Criteria(), stop).classes(study_uid)
    except (NoContextError, AnsweredNoError):
        return frozenset()  # it can send all the same


def _uid(answer: Answer, keyword: str) -> str:
    """A UID of an answer; empty where there is none that could be one."""
    try:
        return str(UID(one(answer, keyword)))
    except InvalidValueError:
        return ""
