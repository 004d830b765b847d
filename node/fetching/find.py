"""C-FIND as SCU (PS3.4 Section C.4.1): the matches of a question, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from core.errors import PeerError, SentinodeError
from core.identifiers import DicomAddress
from node.dimse.contexts import UNCOMPRESSED
from node.dimse.scu import associate
from node.fetching.question import MODELS, Answer, Question, plain
from node.fetching.stopping import (
    MESSAGE_ID,
    AnsweredNoError,
    BrokenOffError,
    StoppedError,
    cancelling,
)

_SUCCESS, _CANCELLED = 0x0000, 0xFE00
_PENDING = frozenset({0xFF00, 0xFF01})
# What pynetdicom and pydicom raise when an association breaks or an answer is no data set.
_BROKEN = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, OSError)
# PS3.4 Tables C.4-1 to C.4-3 and PS3.7 Annex C, as a person needs them; classes of statuses below.
_MEANINGS = {
    0x0122: "it does not support this SOP class",
    0x0124: "it does not allow us to ask",
    0xA700: "out of resources",
    0xA701: "out of resources: it cannot count the matches",
    0xA702: "out of resources: it cannot send the objects",
    0xA801: "it does not know the destination",
    0xA900: "it does not accept the keys",
    0xB000: "some objects were not sent",
    0xFE00: "cancelled",
}


class TooManyError(SentinodeError):
    """There are more matches than were wanted; the rest was cancelled."""


def find_contexts() -> list[PresentationContext]:
    """The presentation contexts that questions need."""
    return [build_context(model.find, list(UNCOMPRESSED)) for model in MODELS.values()]


def ask(
    calling_ae: str,
    peer: DicomAddress,
    question: Question,
    timeout: float,
    *,
    most: int = 0,
    stop: threading.Event | None = None,
) -> Iterator[Answer]:
    """The matches of one question, over an association of its own.

    Args:
        timeout: for each answer, seconds.
        most: more matches than these are cancelled; 0: no limit.
        stop: cancels when it is set.

    Raises:
        PeerError: the peer is away, refuses, or breaks off.
        TooManyError: there are more than `most`; raised after these were given.
        StoppedError: `stop` was set.
    """
    with associate(calling_ae, peer, find_contexts(), timeout) as association:
        yield from matches(association, peer, question, most=most, stop=stop)


def matches(
    association: Association,
    peer: DicomAddress,
    question: Question,
    *,
    most: int = 0,
    stop: threading.Event | None = None,
) -> Iterator[Answer]:
    """The same over an association that is open."""
    sop_class = question.model.find
    count, status = 0, _SUCCESS
    with cancelling(association, sop_class, stop) as cancel:
        try:
            answers = association.send_c_find(question.dataset(), sop_class, msg_id=MESSAGE_ID)
            for answer, content in answers:
                if "Status" not in answer:
                    raise BrokenOffError(f"{peer} broke off, or did not answer in time")
                status = int(answer.Status)
                if status not in _PENDING:
                    _check(peer, status, str(answer.get("ErrorComment", "")))
                elif content is not None:
                    count += 1
                    if most and count > most:
                        cancel()  # what is on its way is heard to the end
                    else:
                        yield plain(content)
        except PeerError as error:
            if stop is not None and stop.is_set():
                raise StoppedError("stopped") from error
            raise
        except _BROKEN as error:
            raise BrokenOffError(f"{peer}: no readable answer to C-FIND: {error}") from error
    if stop is not None and stop.is_set():
        raise StoppedError("stopped")
    if most and count > most:
        raise TooManyError(f"{peer} has more than {most} matches")


def meaning(status: int, comment: str = "") -> str:
    """A status in words, with what the peer said of it."""
    known = _MEANINGS.get(status)
    if known is None:
        known = "unable to process" if 0xC000 <= status <= 0xCFFF else "an error"
    said = f" ({comment.strip()})" if comment.strip() else ""
    return f"0x{status:04X}, {known}{said}"


def _check(peer: DicomAddress, status: int, comment: str) -> None:
    """Whether the end of the answers is a good one."""
    if status not in {_SUCCESS, _CANCELLED}:
        raise AnsweredNoError(f"{peer} answered {meaning(status, comment)}", status)
