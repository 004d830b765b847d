"""C-MOVE and C-GET as SCU (PS3.4 Sections C.4.2 and C.4.3): one request, counted to its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import StoragePresentationContexts
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, build_context, build_role

from core.errors import PeerError
from core.identifiers import AETitle, DicomAddress
from core.ledger.queries.attributes import Level
from node.dimse.contexts import (
    MOST_PROPOSED,
    RETIRED_CLASSES,
    STORAGE_CLASSES,
    TRANSFER_SYNTAXES,
    UNCOMPRESSED,
)
from node.dimse.scu import NoContextError, associate
from node.fetching.find import find_contexts, meaning
from node.fetching.question import MODELS, Question, Root, tag_of
from node.fetching.stopping import (
    MESSAGE_ID,
    AnsweredNoError,
    BrokenOffError,
    StoppedError,
    cancelling,
)

_SUCCESS, _SOME_FAILED, _CANCELLED = 0x0000, 0xB000, 0xFE00
_PENDING = frozenset({0xFF00, 0xFF01})
_DESTINATION_UNKNOWN = 0xA801
_UNABLE = 0xC  # 0xCxxx: what some answer instead
_BROKEN = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, OSError)
_STORAGE = frozenset(STORAGE_CLASSES)
# Proposed where it is not known what comes: the usual classes, as many as an association carries.
USUAL_CLASSES: tuple[UID, ...] = tuple(
    dict.fromkeys(
        (
            *(UID(str(item.abstract_syntax)) for item in StoragePresentationContexts),
            *RETIRED_CLASSES,
        )
    )
)[: MOST_PROPOSED - 1]


@dataclass(slots=True)
class Outcome:
    """How far a retrieval is, or how it ended.

    Attributes:
        completed, warning, failed, remaining: sub-operations, as the peer counts them.
        failed_uids: SOP Instance UIDs that it names as not sent.
        counted: whether the peer counts at all; in its last answer it need not.
        why: what is wrong in words; empty where everything was sent.
    """

    completed: int = 0
    warning: int = 0
    failed: int = 0
    remaining: int = 0
    failed_uids: list[str] = field(default_factory=list)
    counted: bool = False
    why: str = ""

    @property
    def sent(self) -> int:
        """Objects that were sent, with a warning or without."""
        return self.completed + self.warning

    def add(self, other: Outcome) -> None:
        """Count another request in."""
        self.completed += other.completed
        self.warning += other.warning
        self.failed += other.failed
        self.remaining = other.remaining
        self.failed_uids += other.failed_uids
        self.counted |= other.counted
        self.why = "; ".join(dict.fromkeys(filter(None, (self.why, other.why))))


Tell = Callable[[Outcome], None]
Openings = Callable[[Association], AbstractContextManager[None]]


def requests_for(study: str, series: Collection[str], images: Collection[str]) -> list[Question]:
    """The requests for a study, some of its series, or images of one series.

    One for each series and image: a peer need not take lists.
    """
    keys = {tag_of("StudyInstanceUID"): study}
    if not series:
        return [Question(Level.STUDY, keys)]
    below = [keys | {tag_of("SeriesInstanceUID"): uid} for uid in series]
    if not images:
        return [Question(Level.SERIES, item) for item in below]
    return [Question(Level.IMAGE, below[0] | {tag_of("SOPInstanceUID"): uid}) for uid in images]


def services(calling_ae: str, peer: DicomAddress, timeout: float) -> frozenset[str]:
    """Which of "find", "move" and "get" a peer offers in the Study Root model.

    Raises:
        PeerError: it is away or rejects us.
    """
    model = MODELS[Root.STUDY]
    known = {str(model.find): "find", str(model.move): "move", str(model.get): "get"}
    contexts = [build_context(uid, list(UNCOMPRESSED)) for uid in known]
    try:
        with associate(calling_ae, peer, contexts, timeout) as association:
            accepted = association.accepted_contexts
            return frozenset(known[str(item.abstract_syntax)] for item in accepted)
    except NoContextError:
        return frozenset()


def move(
    calling_ae: str,
    peer: DicomAddress,
    questions: Iterable[Question],
    destination: AETitle,
    timeout: float,
    *,
    stop: threading.Event | None = None,
    tell: Tell | None = None,
) -> Outcome:
    """Have a peer send to an AE title that it knows.

    Args:
        timeout: for each answer, seconds; some peers say nothing until all is sent.

    Raises:
        PeerError: the peer is away, does not offer C-MOVE, or breaks off.
        AnsweredNoError: it refuses as a whole.
        StoppedError: `stop` was set.
    """
    model = MODELS[Root.STUDY]
    contexts = [build_context(model.move, list(UNCOMPRESSED))]
    total = Outcome()
    with associate(calling_ae, peer, contexts, timeout) as association:
        for question in questions:
            with cancelling(association, model.move, stop):
                send = partial(association.send_c_move, question.dataset(), destination)
                answers = _begun(peer, partial(send, model.move, msg_id=MESSAGE_ID))
                total.add(_end(peer, answers, stop, tell, total, str(destination)))
    return total


def get(
    calling_ae: str,
    peer: DicomAddress,
    questions: Iterable[Question],
    classes: Collection[str],
    timeout: float,
    handlers: list[Any],
    opened: Openings,
    *,
    stop: threading.Event | None = None,
    tell: Tell | None = None,
) -> Outcome:
    """Have a peer send over the association of the request itself.

    Args:
        classes: SOP classes that are expected; without them the usual ones are proposed.
        handlers: pynetdicom's, that take what comes.
        opened: entered with the association as long as it is open.

    Raises:
        PeerError: the peer is away, does not offer C-GET, or breaks off.
        AnsweredNoError: it refuses as a whole.
        StoppedError: `stop` was set.
    """
    model = MODELS[Root.STUDY]
    contexts = [build_context(model.get, list(UNCOMPRESSED)), *get_contexts(classes)]
    roles = _roles(contexts[1:])
    total = Outcome()
    with (
        associate(calling_ae, peer, contexts, timeout, handlers, roles) as association,
        opened(association),
    ):
        for question in questions:
            with cancelling(association, model.get, stop):
                send = partial(association.send_c_get, question.dataset())
                answers = _begun(peer, partial(send, model.get, msg_id=MESSAGE_ID))
                total.add(_end(peer, answers, stop, tell, total, ""))
    return total


def get_contexts(classes: Collection[str]) -> list[PresentationContext]:
    """Contexts for what comes by C-GET.

    The peer takes one transfer syntax of each context (PS3.8 Section 9.3.3.2). So that it can
    send compressed objects as it has them, each syntax has a context of its own, as far as they
    fit; where many classes may come, all syntaxes of a class share one.
    """
    known = sorted(UID(item) for item in set(classes) if item in _STORAGE)
    # a class that we do not know is not taken, and the peer says so
    wanted = known or list(USUAL_CLASSES)
    if len(wanted) * len(TRANSFER_SYNTAXES) < MOST_PROPOSED:
        return [build_context(uid, [syntax]) for uid in wanted for syntax in TRANSFER_SYNTAXES]
    return [build_context(uid, list(TRANSFER_SYNTAXES)) for uid in wanted[: MOST_PROPOSED - 1]]


def contexts_to_ask() -> list[PresentationContext]:
    """All that requests of this room propose, for the conformance statement."""
    others = [
        build_context(uid, list(UNCOMPRESSED))
        for model in MODELS.values()
        for uid in ((model.move, model.get) if model is MODELS[Root.STUDY] else ())
    ]
    return [*find_contexts(), *others]


def _roles(contexts: Iterable[PresentationContext]) -> list[SCP_SCU_RoleSelectionNegotiation]:
    """We are SCP of what comes (PS3.7 Annex D.3.3.4)."""
    classes = dict.fromkeys(str(item.abstract_syntax) for item in contexts)
    return [build_role(UID(uid), scp_role=True) for uid in classes]


def _begun(peer: DicomAddress, send: Callable[[], Any]) -> Iterator[tuple[Dataset, Any]]:
    try:
        yield from send()
    except _BROKEN as error:
        raise BrokenOffError(f"{peer}: the association broke: {error}") from error


def _end(
    peer: DicomAddress,
    answers: Iterator[tuple[Dataset, Any]],
    stop: threading.Event | None,
    tell: Tell | None,
    before: Outcome,
    destination: str,
) -> Outcome:
    """Hear all answers to one request; what it came to."""
    outcome, status, comment = Outcome(), _SUCCESS, ""
    try:
        for answer, content in answers:
            if "Status" not in answer:
                raise BrokenOffError(f"{peer} broke off, or did not answer in time")
            status, comment = int(answer.Status), str(answer.get("ErrorComment", ""))
            _count(answer, outcome)
            if status in _PENDING and tell is not None:
                tell(_sum(before, outcome))
            if content is not None and "FailedSOPInstanceUIDList" in content:
                uids = content.FailedSOPInstanceUIDList
                outcome.failed_uids = [uids] if isinstance(uids, str) else [str(u) for u in uids]
    except PeerError as error:
        if stop is not None and stop.is_set():
            raise StoppedError("stopped") from error
        raise
    if stop is not None and stop.is_set():
        raise StoppedError("stopped")
    if status not in {_SUCCESS, _SOME_FAILED} and not outcome.sent:
        remedy = None
        if destination and (status == _DESTINATION_UNKNOWN or status >> 12 == _UNABLE):
            remedy = (
                f"See that the peer has {destination} as a destination, with its address and "
                "port, and that it runs."
            )
        raise AnsweredNoError(f"{peer} answered {meaning(status, comment)}", status, remedy=remedy)
    if outcome.failed or status not in {_SUCCESS, _SOME_FAILED}:
        outcome.why = f"{peer} answered {meaning(status, comment)}; {outcome.failed} not sent"
    return outcome


def _count(answer: Dataset, outcome: Outcome) -> None:
    for name in ("completed", "warning", "failed", "remaining"):
        value = answer.get(f"NumberOf{name.capitalize()}Suboperations")
        if value is not None:
            setattr(outcome, name, int(value))
            outcome.counted = True
        elif name == "remaining":
            outcome.remaining = 0


def _sum(before: Outcome, now: Outcome) -> Outcome:
    total = Outcome()
    total.add(before)
    total.add(now)
    return total
