"""The UPS services of the door (PS3.4 Annex CC): orders, questions, claims, subscriptions.

SQL is opened with the first request: the door receives images while it is away, and answers here
with a status. Every check and every move of a request is one transaction; an outside performer
claims by the same kind of conditional UPDATE as our own workers.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pynetdicom import AE
from pynetdicom.dsutils import encode

from core import clock
from core.errors import (
    IllegalMoveError,
    LedgerError,
    MessageError,
    QueryError,
    SentinodeError,
)
from core.identifiers import derived_uid
from core.ledger import Ledger, Work
from core.ledger.evidence import Evidence
from core.ledger.queries.paging import Place
from core.ledger.subscriptions import Subscription
from core.lifecycle import EvidenceSource
from core.settings import Settings
from core.workitems import (
    FILTERED_SUBSCRIPTION,
    FINAL_STATES,
    GLOBAL_SUBSCRIPTION,
    Workitem,
    WorkitemState,
    answer_to,
)
from node.dimse.contexts import (
    UPS_CLASSES,
    UPS_EVENT,
    UPS_PULL,
    UPS_PUSH,
    UPS_QUERY,
    UPS_WATCH,
    accepted_workitems,
)
from node.worklist.identifier import read_identifier
from node.worklist.replies import Replies
from node.worklist.statuses import CANCELLED, PENDING
from node.worklist.ups import events, statuses
from node.worklist.ups.content import Describer, pruned
from node.worklist.ups.matching import narrowed, read_wishes
from node.worklist.ups.reading import (
    bounded,
    check_final,
    read_change,
    read_order,
    uid_of,
)

log = structlog.get_logger()

# PS3.4 Section CC.2: which messages each SOP class of a presentation context carries.
_CREATES = frozenset({UPS_PUSH})
_SETS = frozenset({UPS_PULL})
FINDS = frozenset({UPS_PULL, UPS_WATCH, UPS_QUERY})
_GETS = frozenset(UPS_CLASSES) - {UPS_EVENT}
_CHANGE_STATE, _CANCEL, _SUBSCRIBE, _UNSUBSCRIBE, _SUSPEND = 1, 2, 3, 4, 5
_ACTIONS: dict[str, tuple[int, ...]] = {
    UPS_PULL: (_CHANGE_STATE,),
    UPS_PUSH: (_CANCEL,),
    UPS_WATCH: (_CANCEL, _SUBSCRIBE, _UNSUBSCRIBE, _SUSPEND),
}
_PAGE = 100
_HOURS = 24.0
_TRIES = 3
_LONGEST_REASON = 200
_WHY = {statuses.WRONG_TRANSACTION: "not the Transaction UID of its claim"}
# What a request for cancel tells the performer (PS3.4 Table CC.2.6-1).
_OF_CANCEL = (
    "ReasonForCancellation",
    "ProcedureStepDiscontinuationReasonCodeSequence",
    "ContactURI",
    "ContactDisplayName",
)
_OF_MANY = frozenset({GLOBAL_SUBSCRIPTION, FILTERED_SUBSCRIPTION})
_MOST_REPORTED = 1000  # open workitems that a new subscriber to all of them is told of

Answer = tuple[int | Dataset, Dataset | None]


class UpsService:
    """Answers UPS requests of peers with `worklist = true`."""

    def __init__(
        self,
        settings: Settings,
        open_ledger: Callable[[], Ledger],
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._settings = settings
        self._open_ledger = open_ledger
        self._now = now
        self._allowed = {peer.ae_title for peer in settings.peers if peer.worklist}
        self._addressed = {
            peer.ae_title for peer in settings.peers if peer.worklist and peer.address is not None
        }
        self._describer = Describer.of(settings)
        self._contexts = accepted_workitems(settings)

    def add_to(self, ae: AE) -> None:
        """Offer the SOP classes."""
        for context in self._contexts:
            assert context.abstract_syntax is not None
            ae.add_supported_context(context.abstract_syntax, context.transfer_syntax)

    @property
    def offered(self) -> bool:
        """Whether any peer may use it."""
        return bool(self._contexts)

    def on_create(self, calling: str, context: str, uid: str, attributes: Dataset) -> Answer:
        """N-CREATE (Section CC.2.5): another system orders an analysis."""
        made = str(uid_of(uid, "Affected SOP Instance UID")) if uid else ""
        made = made or str(derived_uid("workitem", uuid.uuid4().hex))

        def take(now: datetime) -> tuple[int, Dataset | None]:
            item, changed = read_order(made, attributes, self._settings, calling, now)
            with self._open_ledger().write() as work:
                if not work.workitems.order(item):
                    raise MessageError(statuses.DUPLICATE, "a workitem has this UID")
                self._note_inputs(work, item, now)
                self._tell(work, item, now)
            log.info("workitem_ordered", workitem=made, calling_ae=calling, route=item.route)
            answer = Dataset()
            answer.AffectedSOPInstanceUID = made
            return (statuses.CREATED_WITH_CHANGES if changed else statuses.SUCCESS), answer

        return self._answered("N-CREATE", calling, context in _CREATES, take)

    def on_get(self, calling: str, context: str, uid: str, tags: list[Any]) -> Answer:
        """N-GET (Section CC.2.7): the attributes that are asked for; without any, all."""

        def take(now: datetime) -> tuple[int, Dataset | None]:
            with self._open_ledger().read() as work:
                item = _found(work, uid)
            whole = self._dataset(item, now)
            if tags:
                told = Dataset()
                for tag in tags:
                    if tag in whole:
                        told.add(whole[tag])
                whole = told
            return statuses.SUCCESS, whole

        return self._answered("N-GET", calling, context in _GETS, take)

    def on_set(self, calling: str, context: str, uid: str, changes: Dataset) -> Answer:
        """N-SET (Section CC.2.6): who performs a workitem tells how it goes."""

        def take(now: datetime) -> tuple[int, Dataset | None]:
            with self._open_ledger().write() as work:
                item = _found(work, uid, lock=True)
                if item.state in FINAL_STATES:
                    raise MessageError(statuses.NO_LONGER_UPDATED, "it has ended")
                if item.state is WorkitemState.IN_PROGRESS:
                    if not _claimed(item, str(changes.get("TransactionUID") or "")):
                        status = statuses.WRONG_TRANSACTION
                        raise MessageError(status, _WHY[status])
                elif item.job_id or item.ordered_by not in ("", calling):
                    raise MessageError(statuses.NOT_AUTHORISED, "only who ordered it may change it")
                if not work.workitems.give(item.uid, read_change(dict(item.given), changes), now):
                    raise MessageError(statuses.INAPPROPRIATE, "our own workers tell how it goes")
                item = _found(work, uid)
                for kind, said in events.of_change(changes):
                    self._tell(work, item, now, kind, said)
            return statuses.SUCCESS, None

        return self._answered("N-SET", calling, context in _SETS, take)

    def on_action(
        self, calling: str, context: str, uid: str, action: int | None, about: Dataset
    ) -> Answer:
        """N-ACTION (Sections CC.2.1 to CC.2.4)."""
        fits = action in _ACTIONS.get(context, ())

        def take(now: datetime) -> tuple[int, Dataset | None]:
            with self._open_ledger().write() as work:
                if action == _CHANGE_STATE:
                    return self._change_state(work, uid, calling, about, now), None
                if action == _CANCEL:
                    return self._cancel(work, uid, calling, about, now), None
                return self._subscription(work, uid, int(action or 0), about, now), None

        return self._answered("N-ACTION", calling, fits, take)

    def find(self, calling: str, replies: Replies, data: bytes) -> tuple[int, int]:
        """C-FIND (Section CC.2.8): tell all matches; the last status, and how many there were.

        Raises:
            QueryError: the keys cannot be read, or the peer may not ask.
            LedgerError: SQL is away.
        """
        if calling not in self._allowed:
            raise QueryError(statuses.NOT_AUTHORISED, "worklist = true is not set for this peer")
        wishes = read_wishes(read_identifier(data, implicit=replies.implicit))
        keys = read_dataset(BytesIO(data), replies.implicit, is_little_endian=True)
        narrow, now = narrowed(wishes), self._now()
        if not narrow.keys() & {"uids", "patients", "studies"}:
            narrow["since"] = now - timedelta(days=self._settings.worklist.days)
        ledger, count = self._open_ledger(), 0
        place: Place | None = Place()
        while place is not None:
            with ledger.read() as work:
                items, place = work.workitems.page(place, _PAGE, **narrow)
            for item in items:
                if replies.cancelled:
                    replies.last(CANCELLED)
                    return CANCELLED, count
                whole = self._dataset(item, now)
                if not all(wish.accepts(whole) for wish in wishes):
                    continue
                replies.match(_bytes(whole, keys, implicit=replies.implicit), PENDING)
                count += 1
            replies.flush()
            if replies.over:
                return CANCELLED, count
        replies.last(statuses.SUCCESS)
        return statuses.SUCCESS, count

    def _change_state(
        self, work: Work, uid: str, calling: str, about: Dataset, now: datetime
    ) -> int:
        item = _found(work, uid, lock=True)
        wanted = str(about.get("ProcedureStepState") or "")
        if wanted not in set(WorkitemState):
            raise MessageError(statuses.INVALID_VALUE, f"no state {wanted[:16]!r}")
        state = WorkitemState(wanted)
        said = str(about.get("TransactionUID") or "")
        free = item.state is WorkitemState.SCHEDULED
        status = answer_to(item.state, state, correct=bool(said) if free else _claimed(item, said))
        if status in {statuses.ALREADY_CANCELED, statuses.ALREADY_COMPLETED_AS_ASKED}:
            return status
        if status:
            raise MessageError(status, _WHY.get(status, f"it is {item.state}"))
        if state is WorkitemState.IN_PROGRESS:
            transaction = str(uid_of(said, "Transaction UID"))
            if not item.outside:
                raise MessageError(statuses.NOT_AUTHORISED, "our own workers perform it")
            due_at = now + timedelta(hours=self._hours(item))
            if not work.workitems.claim(uid, transaction, calling, due_at, now):
                raise MessageError(statuses.WRONG_TRANSACTION, "another performer was faster")
            log.info("workitem_claimed", workitem=uid, calling_ae=calling)
        else:
            check_final(dict(item.given), state)
            reason = "ended by its performer" if state is WorkitemState.CANCELED else ""
            if not work.workitems.end(uid, item.state, state, reason, now):
                raise MessageError(statuses.INAPPROPRIATE, "our own workers perform it")
        self._tell(work, _found(work, uid), now)
        return statuses.SUCCESS

    def _hours(self, item: Workitem) -> float:
        """After how many hours a claim is overdue."""
        for offered in self._settings.workitems:
            if (offered.code, offered.scheme) == item.code[:2]:
                return offered.hours
        return _HOURS  # it is not offered any more

    def _cancel(self, work: Work, uid: str, calling: str, about: Dataset, now: datetime) -> int:
        """Request Cancel (Section CC.2.2): ours ends; who claimed it is asked."""
        said = str(about.get("ReasonForCancellation") or "")[:_LONGEST_REASON]
        reason = f"cancelled on request of {calling}" + (f": {said}" if said else "")
        for _ in range(_TRIES):  # it may begin or end at this very moment
            item = _found(work, uid)
            if item.state is WorkitemState.CANCELED:
                return statuses.ALREADY_CANCELED
            if item.state is WorkitemState.COMPLETED:
                raise MessageError(statuses.ALREADY_COMPLETED, "it is COMPLETED")
            if item.state is WorkitemState.IN_PROGRESS and not item.job_id:
                self._ask_performer(work, item, calling, about, now)
                return statuses.SUCCESS
            if self._ended(work, item, calling, reason, now):
                self._tell(work, _found(work, uid), now)
                return statuses.SUCCESS
        raise MessageError(statuses.INAPPROPRIATE, "it changes all the time")

    def _ended(self, work: Work, item: Workitem, calling: str, reason: str, now: datetime) -> bool:
        """End what nobody else performs; False when it is not what it was."""
        if not item.job_id:
            canceled = WorkitemState.CANCELED
            return work.workitems.end(item.uid, item.state, canceled, reason, now)
        try:
            work.jobs.cancel(item.job_id, calling, now, note=reason)
        except IllegalMoveError:
            return False
        return True

    def _ask_performer(
        self, work: Work, item: Workitem, calling: str, about: Dataset, now: datetime
    ) -> None:
        """UPS Cancel Requested (Table CC.2.6-1) to who claimed it."""
        content = Dataset()
        content.RequestingAE = calling
        for keyword in _OF_CANCEL:
            if keyword in about:
                content.add(about[keyword])
        bounded(content)
        told = self._tell(work, item, now, events.CANCEL_REQUESTED, content)
        if item.performer not in told:
            raise MessageError(statuses.PERFORMER_AWAY, "its performer is not subscribed")

    def _subscription(
        self, work: Work, uid: str, action: int, about: Dataset, now: datetime
    ) -> int:
        receiver = str(about.get("ReceivingAE") or "").strip()
        if receiver not in self._addressed:
            raise MessageError(
                statuses.UNKNOWN_RECEIVER, f"no peer {receiver[:16]} with host and port"
            )
        if uid in _OF_MANY:
            return self._follow_many(work, uid, receiver, action, about, now)
        if action == _SUSPEND:
            raise MessageError(statuses.INAPPROPRIATE, "only for the well-known instances")
        item = _found(work, uid)
        if action == _UNSUBSCRIBE:
            work.subscriptions.drop(receiver, uid)
            if work.subscriptions.has(receiver, _OF_MANY):
                work.subscriptions.add(Subscription(receiver, uid, muted=True), now)
            return statuses.SUCCESS
        lock = _wants_lock(about)
        if lock:
            work.workitems.hold_study(item)
            _found(work, uid)  # retention was not faster
        work.subscriptions.add(Subscription(receiver, uid, lock=lock), now)
        self._tell(work, item, now, only=receiver)  # the state it has now (Section CC.2.3.3)
        return statuses.SUCCESS

    def _follow_many(
        self, work: Work, uid: str, receiver: str, action: int, about: Dataset, now: datetime
    ) -> int:
        """Subscriptions to all workitems, or to those that match; no locks, which nobody ends."""
        if action == _UNSUBSCRIBE:
            work.subscriptions.drop(receiver)
            return statuses.SUCCESS
        if action == _SUSPEND:  # those to single ones stay
            work.subscriptions.drop(receiver, uid)
            return statuses.SUCCESS
        text = events.filter_text(_keys_of(about)) if uid == FILTERED_SUBSCRIPTION else ""
        work.subscriptions.unmute(receiver)
        work.subscriptions.add(Subscription(receiver, uid, text), now)
        for item in self._open(work):
            self._tell(work, item, now, only=receiver)
        return statuses.LOCK_NOT_GRANTED if _wants_lock(about) else statuses.SUCCESS

    def _open(self, work: Work) -> list[Workitem]:
        open_states = [WorkitemState.SCHEDULED, WorkitemState.IN_PROGRESS]
        found, _ = work.workitems.page(Place(), _MOST_REPORTED, states=open_states)
        return found

    def _tell(
        self,
        work: Work,
        item: Workitem,
        now: datetime,
        kind: int = events.STATE_REPORT,
        content: Dataset | None = None,
        *,
        only: str = "",
    ) -> frozenset[str]:
        whole = self._dataset(item, now)
        return events.tell(work, item, whole, now, kind, content, only=only)

    def _note_inputs(self, work: Work, item: Workitem, now: datetime) -> None:
        """The list of its inputs says which images belong together, before any timer does."""
        for part in item.inputs:
            if part.instances:
                said = Evidence(
                    EvidenceSource.REQUEST,
                    item.uid,
                    now,
                    part.study_instance_uid,
                    part.series_instance_uid,
                    said_by=item.ordered_by,
                    uids=frozenset(uid for _, uid in part.instances),
                )
                work.evidence.note(said)

    def _dataset(self, item: Workitem, now: datetime) -> Dataset:
        return self._describer.dataset(item, now)

    def _answered(
        self,
        message: str,
        calling: str,
        fits: bool,
        take: Callable[[datetime], tuple[int, Dataset | None]],
    ) -> Answer:
        """Turn what `take` does into a status."""
        try:
            if calling not in self._allowed:
                raise MessageError(statuses.NOT_AUTHORISED, "worklist = true is not set")
            if not fits:
                raise MessageError(statuses.NO_SUCH_ACTION, f"no such {message} in this SOP class")
            return take(self._now())
        except QueryError as error:
            refused = MessageError(error.status, str(error))
        except MessageError as error:
            refused = error
        except LedgerError as error:
            refused = MessageError(statuses.RESOURCE_LIMITATION, f"the ledger is away: {error}")
        except SentinodeError as error:
            refused = MessageError(statuses.PROCESSING_FAILURE, str(error))
        except Exception:
            log.exception("workitem_trouble", message=message, calling_ae=calling)
            refused = MessageError(statuses.PROCESSING_FAILURE, "internal error; see our log")
        status = f"0x{refused.status:04X}"
        log.warning(
            "workitem_refused",
            message=message,
            calling_ae=calling,
            status=status,
            reason=str(refused),
        )
        answer = Dataset()
        answer.Status = refused.status
        answer.ErrorComment = str(refused).encode("ascii", "replace").decode()[:64]
        return answer, None


def _found(work: Work, uid: str, *, lock: bool = False) -> Workitem:
    item = work.workitems.find(uid, lock=lock)
    if item is None:
        raise MessageError(statuses.UNKNOWN_INSTANCE, "no workitem of this UID")
    return item


def _claimed(item: Workitem, transaction: str) -> bool:
    """Whether that is the Transaction UID of its claim, which only its performer knows (CC.1.1)."""
    return bool(transaction) and not item.job_id and transaction == item.transaction_uid


def _wants_lock(about: Dataset) -> bool:
    return str(about.get("DeletionLock") or "").upper() == "TRUE"


def _keys_of(about: Dataset) -> Any:
    """The matching keys of a filtered subscription."""
    keys = Dataset()
    for element in about:
        if element.keyword not in {"ReceivingAE", "DeletionLock", "SpecificCharacterSet"}:
            keys.add(element)
    data = encode(keys, is_implicit_vr=True, is_little_endian=True) or b""
    return read_identifier(data, implicit=True)


def _bytes(whole: Dataset, keys: Dataset, *, implicit: bool) -> bytes:
    told = pruned(whole, keys)
    for keyword in ("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID"):
        told.add(whole[keyword])
    data = encode(told, is_implicit_vr=implicit, is_little_endian=True)
    if data is None:
        raise QueryError(statuses.PROCESSING_FAILURE, "a match cannot be written")
    return data
