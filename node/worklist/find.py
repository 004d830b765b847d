"""C-FIND: Patient Root, Study Root (PS3.4 Section C.4.1) and Modality Worklist (Section K.4.1).

The Identifier becomes a query of the ledger; its answer is read page by page, and each match is
written as it is read. Between two matches a cancel is looked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core.errors import QueryError
from core.ledger import Ledger
from core.ledger.queries import Level, Page, Place, Query, Station
from core.ledger.queries.attributes import UNIQUE_KEYS, WORKLIST, Attribute, known_at
from core.ledger.queries.matching import Matching, OneOf
from core.ledger.queries.paging import Entry
from node.worklist.encoding import Element, encode
from node.worklist.identifier import (
    Key,
    combined,
    is_about_the_query,
    level_of,
    matching_of,
    tag_of,
)
from node.worklist.replies import Replies
from node.worklist.statuses import (
    CANCELLED,
    IDENTIFIER_MISMATCH,
    PENDING,
    PENDING_WITH_UNSUPPORTED_KEYS,
    SUCCESS,
)

LEVEL_TAG = 0x00080052
STEP_SEQUENCE = 0x00400100
_FIRST_PAGE, _PAGE = 100, 500
_STEPS = {attribute.keyword: attribute for attribute in WORKLIST if attribute.step}
_OF_WORKLIST = {attribute.keyword: attribute for attribute in WORKLIST if not attribute.step}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it was understood.

    Attributes:
        query: for the ledger.
        told: what an answer has, in the order of tags.
        unsupported: whether some key is not known, or its value not matched.
    """

    query: Query
    told: tuple[Attribute | Element, ...]
    unsupported: bool


def read_query(keys: Mapping[int, Key], root: Level, *, date_and_time: bool = False) -> Asked:
    """A request of Patient Root or Study Root.

    Args:
        keys: of its Identifier.
        root: the uppermost level of the model.
        date_and_time: whether combined date-time matching was negotiated.

    Raises:
        QueryError: a wrong level, a unique key of a level above is missing, a wrong value.
    """
    level = read_level(keys, root)
    known = known_at(level)
    asked, told, unsupported = _matched(keys, known)
    _check_upper_levels(asked, root, level)
    if date_and_time:
        asked = combined(asked, "StudyDate", "StudyTime")
    query = Query(level, asked, frozenset(item.keyword for item in told))
    if level is not Level.PATIENT and "RetrieveAETitle" not in query.wanted:
        told.append(known["RetrieveAETitle"])  # PS3.4 Section C.4.1.1.3.2
    elements: list[Attribute | Element] = [*told, Element(LEVEL_TAG, "CS", level.value)]
    ordered = tuple(sorted(elements, key=_tag))
    return Asked(query, ordered, unsupported)


def read_level(keys: Mapping[int, Key], root: Level) -> Level:
    """The level of a request.

    Raises:
        QueryError: it is none of the model's.
    """
    said = level_of(keys)
    levels = tuple(Level)[tuple(Level).index(root) :]
    if said not in {level.value for level in levels}:
        raise QueryError(
            IDENTIFIER_MISMATCH, "no Query/Retrieve Level of this model", offending=LEVEL_TAG
        )
    return Level(said)


def read_worklist(keys: Mapping[int, Key]) -> Asked:
    """A request of Modality Worklist.

    Dates and times of steps are always matched as moments (Table K.6-1).

    Raises:
        QueryError: a value that cannot be one.
    """
    upper = {tag: key for tag, key in keys.items() if tag != STEP_SEQUENCE}
    asked, told, unsupported = _matched(upper, _OF_WORKLIST)
    elements: list[Attribute | Element] = [*told]
    wanted = {item.keyword for item in told}
    sequence = keys.get(STEP_SEQUENCE)
    if sequence is not None:
        if len(sequence.items) > 1:
            raise QueryError(
                IDENTIFIER_MISMATCH, "more than one item to match", offending=STEP_SEQUENCE
            )
        item = {key.tag: key for key in sequence.items[0]} if sequence.items else {}
        if item:
            of_step, of_step_told, more = _matched(item, _STEPS)
        else:  # universal matching of the sequence: all of it
            of_step, of_step_told, more = {}, list(_STEPS.values()), False
        asked |= of_step
        unsupported = unsupported or more
        wanted |= {attribute.keyword for attribute in of_step_told}
        inner = tuple(
            Element(tag_of(attribute.keyword), attribute.vr, attribute.keyword)
            for attribute in sorted(of_step_told, key=_tag)
        )
        elements.append(Element(STEP_SEQUENCE, "SQ", items=(inner,)))
    start = "ScheduledProcedureStepStart"
    asked = combined(asked, f"{start}Date", f"{start}Time")
    query = Query(Level.STUDY, asked, frozenset(wanted))
    return Asked(query, tuple(sorted(elements, key=_tag)), unsupported)


def answer(
    ledger: Ledger, asked: Asked, replies: Replies, station: Station | None, own_title: str
) -> tuple[int, int]:
    """Tell all matches; the status at the end, and how many there were.

    Args:
        station: for a worklist.
        own_title: Retrieve AE Title.

    Raises:
        LedgerError: SQL is away.
    """
    pending = PENDING_WITH_UNSUPPORTED_KEYS if asked.unsupported else PENDING
    place: Place | None = Place()
    count, limit = 0, _FIRST_PAGE
    while place is not None:
        page = _page(ledger, asked.query, station, place, limit)
        for entry in page.entries:
            if replies.cancelled:
                replies.last(CANCELLED)
                return CANCELLED, count
            entry["RetrieveAETitle"] = own_title
            identifier = encode(_elements(asked.told, entry), implicit=replies.implicit)
            replies.match(identifier, pending)
            count += 1
        replies.flush()
        if replies.cancelled:
            replies.last(CANCELLED)
            return CANCELLED, count
        if replies.over:
            return CANCELLED, count
        place, limit = page.next, _PAGE
    replies.last(SUCCESS)
    return SUCCESS, count


def _page(ledger: Ledger, query: Query, station: Station | None, place: Place, limit: int) -> Page:
    """One page in a transaction of its own: a peer that reads slowly holds nothing."""
    with ledger.read() as work:
        if station is not None:
            return work.queries.steps(query, station, place, limit)
        return work.queries.page(query, place, limit)


def _matched(
    keys: Mapping[int, Key], known: Mapping[str, Attribute]
) -> tuple[dict[str, Matching], list[Attribute], bool]:
    """What is matched, what is told, and whether some key is not supported."""
    asked: dict[str, Matching] = {}
    told: list[Attribute] = []
    unsupported = False
    for key in keys.values():
        if is_about_the_query(key):
            continue
        attribute = known.get(key.keyword)
        if attribute is None:
            # PS3.4 Section C.2.2.1.3: what is not supported is not in the response
            unsupported = True
            continue
        told.append(attribute)
        if not attribute.matched:
            unsupported = unsupported or bool(key.values)
            continue
        matching = matching_of(attribute, key)
        if matching is not None:
            asked[attribute.keyword] = matching
    return asked, told, unsupported


def _check_upper_levels(asked: Mapping[str, Matching], root: Level, level: Level) -> None:
    """PS3.4 Section C.4.1.2.1: one value for the unique key of each level above."""
    levels = tuple(Level)
    for upper in levels[levels.index(root) : levels.index(level)]:
        keyword = UNIQUE_KEYS[upper]
        if not isinstance(asked.get(keyword), OneOf):
            raise QueryError(
                IDENTIFIER_MISMATCH,
                f"{keyword} is needed at level {level.value}",
                offending=tag_of(keyword),
            )


def _tag(item: Attribute | Element) -> int:
    return item.tag if isinstance(item, Element) else tag_of(item.keyword)


def _elements(told: tuple[Attribute | Element, ...], entry: Entry) -> list[Element]:
    """An answer. The items of a sequence name keywords where their values go."""
    made = []
    for item in told:
        if isinstance(item, Attribute):
            made.append(Element(tag_of(item.keyword), item.vr, entry.get(item.keyword, "")))
        elif item.vr == "SQ":
            content = tuple(
                Element(inner.tag, inner.vr, entry.get(inner.value, "")) for inner in item.items[0]
            )
            made.append(Element(item.tag, "SQ", items=(content,)))
        else:
            made.append(item)
    return made
