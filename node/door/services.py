"""Normalised services of the door: MPPS, Instance Availability Notification, Storage Commitment.

What is told here is evidence of which images belong together, or a request that is answered
later. The door needs no SQL for it: each message is checked as far as its own content goes,
written durably into the spool as a notice (`node.spool.notices`), and only then answered.
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID as PydicomUID
from pynetdicom import AE, evt
from pynetdicom.association import Association as DicomAssociation
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext

from core import clock
from core.domain import Association
from core.errors import MessageError, OutOfSpaceError, RefusedError
from core.identifiers import derived_uid
from core.settings import Settings
from node.dimse.contexts import (
    AVAILABILITY,
    COMMITMENT,
    PERFORMED_STEP,
    UPS_CLASSES,
    accepted_services,
)
from node.dimse.messages import (
    FINAL_STATES,
    read_availability,
    read_commit_report,
    read_commit_request,
    read_step_creation,
    read_step_setting,
)
from node.spool.notices import Notice, NoticeKind, write_notice
from node.spool.receiver import ReceiverSpool
from node.worklist.ups.service import UpsService

log = structlog.get_logger()

SUCCESS = 0x0000
# PS3.7 Annex C
PROCESSING_FAILURE = 0x0110
DUPLICATE_INSTANCE = 0x0111
NOT_AUTHORISED = 0x0124
UNRECOGNISED_OPERATION = 0x0211
RESOURCE_LIMITATION = 0x0213
# PS3.4 Table F.7.2-2
NO_LONGER_UPDATED = "Performed Procedure Step Object may no longer be updated"
NO_LONGER_UPDATED_ID = 0xA710

_COMMENT_LENGTH = 64  # VR LO of Error Comment (0000,0902)
_MOST_STEPS = 10_000

Answer = tuple[int | Dataset, Dataset | None]


class Services:
    """Takes the messages of peers that may send us images.

    Args:
        settings: which services are on, and who may use them.
        spool: where notices are written.
        association_of: what we know of an association of pynetdicom; None once it has ended.
        workitems: answers messages about workitems.
    """

    def __init__(
        self,
        settings: Settings,
        spool: ReceiverSpool,
        association_of: Callable[[DicomAssociation], Association | None],
        now: Callable[[], datetime] = clock.now,
        workitems: UpsService | None = None,
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._association_of = association_of
        self._now = now
        self._workitems = workitems if workitems is not None and workitems.offered else None
        self._senders = {peer.ae_title for peer in settings.peers if peer.send}
        self._known = {peer.ae_title for peer in settings.peers}
        self._commits = any(peer.commit for peer in settings.peers)
        # procedure steps that this process saw: their last state. More would need SQL.
        self._steps: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def contexts(self) -> list[PresentationContext]:
        """The presentation contexts that the settings want; empty while all is off."""
        return accepted_services(self._settings)

    def add_to(self, ae: AE) -> None:
        """Offer the services at an application entity.

        Not by `ae.supported_contexts = …`: pynetdicom drops the roles there, and without them
        an archive cannot report on an association of its own.
        """
        for context in self.contexts():
            assert context.abstract_syntax is not None
            ae.add_supported_context(
                context.abstract_syntax,
                context.transfer_syntax,
                scu_role=context.scu_role,
                scp_role=context.scp_role,
            )

    def handlers(self) -> list[tuple[Any, Callable[[Event], Answer]]]:
        """What pynetdicom is to call for which event."""
        of_workitems = [(evt.EVT_N_GET, self._on_get)] if self._workitems is not None else []
        if not self.contexts() and not of_workitems:
            return []
        return [
            *of_workitems,
            (evt.EVT_N_CREATE, self._on_create),
            (evt.EVT_N_SET, self._on_set),
            (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_N_EVENT_REPORT, self._on_report),
        ]

    def _on_get(self, event: Event) -> Answer:
        request: Any = event.request
        tags = list(event.attribute_identifiers)
        return self._about_workitems(
            event, "on_get", str(request.RequestedSOPInstanceUID or ""), tags
        )

    def _about_workitems(self, event: Event, name: str, uid: str, *content: Any) -> Answer:
        """Let a message in a UPS context be answered by who knows workitems."""
        assert self._workitems is not None
        context = str(event.context.abstract_syntax)
        calling = str(event.assoc.requestor.ae_title).strip()
        answer: Answer = getattr(self._workitems, name)(calling, context, uid, *content)
        return answer

    def _is_of_workitem(self, event: Event) -> bool:
        of_ups = str(event.context.abstract_syntax) in UPS_CLASSES
        return self._workitems is not None and of_ups

    def _on_create(self, event: Event) -> Answer:
        if self._is_of_workitem(event):
            named = str(cast("Any", event.request).AffectedSOPInstanceUID or "")
            return self._about_workitems(event, "on_create", named, event.attribute_list)

        def take(association: Association) -> Dataset | None:
            request: Any = event.request
            self._may_send(association)
            # PS3.7 Section 10.1.5.1.4: without one, we name it in the response
            named = request.AffectedSOPInstanceUID
            uid = str(named or derived_uid("notice", uuid.uuid4().hex))
            if str(request.AffectedSOPClassUID) == AVAILABILITY:
                content = read_availability(uid, event.attribute_list)
                self._write(NoticeKind.AVAILABILITY, association, content)
            elif str(request.AffectedSOPClassUID) == PERFORMED_STEP:
                self._create_step(uid, association, event.attribute_list)
            else:
                raise MessageError(UNRECOGNISED_OPERATION, "nothing of this SOP class is created")
            if named:
                return None
            answer = Dataset()
            answer.AffectedSOPInstanceUID = PydicomUID(uid)
            return answer

        return self._answered(event, take)

    def _on_set(self, event: Event) -> Answer:
        if self._is_of_workitem(event):
            named = str(cast("Any", event.request).RequestedSOPInstanceUID or "")
            return self._about_workitems(event, "on_set", named, event.modification_list)

        def take(association: Association) -> None:
            request: Any = event.request
            self._may_send(association)
            if str(request.RequestedSOPClassUID) != PERFORMED_STEP:
                raise MessageError(UNRECOGNISED_OPERATION, "nothing of this SOP class is set")
            uid = str(request.RequestedSOPInstanceUID)
            content = read_step_setting(uid, event.modification_list)
            if self._step(uid) in FINAL_STATES:
                raise MessageError(
                    PROCESSING_FAILURE, NO_LONGER_UPDATED, error_id=NO_LONGER_UPDATED_ID
                )
            self._write(NoticeKind.MPPS, association, content)
            self._remember_step(uid, content["status"])

        return self._answered(event, take)

    def _on_action(self, event: Event) -> Answer:
        if self._is_of_workitem(event):
            named = str(cast("Any", event.request).RequestedSOPInstanceUID or "")
            about = (event.action_type, event.action_information)
            return self._about_workitems(event, "on_action", named, *about)

        def take(association: Association) -> None:
            request: Any = event.request
            self._may_send(association)
            if str(request.RequestedSOPClassUID) != COMMITMENT or not (
                self._settings.services.commitment
            ):
                raise MessageError(UNRECOGNISED_OPERATION, "we do not commit to storage")
            content = read_commit_request(
                event.action_type, str(request.RequestedSOPInstanceUID), event.action_information
            )
            self._write(NoticeKind.COMMIT_REQUEST, association, content)

        return self._answered(event, take)

    def _on_report(self, event: Event) -> Answer:
        def take(association: Association) -> None:
            request: Any = event.request
            self._may_report(association)
            if str(request.AffectedSOPClassUID) != COMMITMENT or not self._commits:
                raise MessageError(UNRECOGNISED_OPERATION, "we asked for nothing")
            report = read_commit_report(event.event_type, event.event_information)
            self._write(NoticeKind.COMMIT_REPORT, association, report.content())

        return self._answered(event, take)

    def _answered(self, event: Event, take: Callable[[Association], Dataset | None]) -> Answer:
        """Turn what `take` does into a status."""
        association = self._association_of(event.assoc)
        if association is None:  # the connection closed while the message was on its way
            return PROCESSING_FAILURE, None
        bound = log.bind(
            association=association.id,
            calling_ae=association.calling_ae,
            message=type(event.request).__name__.replace("_", "-"),
        )
        try:
            return SUCCESS, take(association)
        except RefusedError as error:
            status = RESOURCE_LIMITATION if isinstance(error, OutOfSpaceError) else error.status
            bound.warning(
                "message_refused",
                status=f"0x{status:04X}",
                reason=str(error),
                remedy=error.remedy,
            )
            return _failure(status, str(error), getattr(error, "error_id", None)), None
        except Exception:  # noqa: BLE001 - the peer must get an answer, and we the traceback
            bound.exception("message_refused", status=f"0x{PROCESSING_FAILURE:04X}")
            return _failure(PROCESSING_FAILURE, "internal error; see the receiver's log"), None

    def _may_send(self, association: Association) -> None:
        if not self._settings.node.accept_unknown and association.calling_ae not in self._senders:
            raise MessageError(NOT_AUTHORISED, f"{association.calling_ae} may not send to us")

    def _may_report(self, association: Association) -> None:
        # an archive may report under another title than it stores under; it must be a peer
        if association.calling_ae not in self._known:
            raise MessageError(NOT_AUTHORISED, f"{association.calling_ae} is no peer of ours")

    def _create_step(self, uid: str, association: Association, attributes: Dataset) -> None:
        content = read_step_creation(uid, attributes)
        if self._step(uid) is not None:
            raise MessageError(DUPLICATE_INSTANCE, "this performed procedure step exists")
        self._write(NoticeKind.MPPS, association, content)
        self._remember_step(uid, content["status"])

    def _write(self, kind: NoticeKind, association: Association, content: dict[str, Any]) -> None:
        self._spool.check_space()
        try:
            write_notice(self._spool, Notice(kind, association, self._now(), content))
        except OSError as error:
            raise OutOfSpaceError(f"the spool cannot be written: {error}") from error
        log.info("notice_taken", kind=str(kind), calling_ae=association.calling_ae)

    def _step(self, uid: str) -> str | None:
        with self._lock:
            return self._steps.get(uid)

    def _remember_step(self, uid: str, status: str) -> None:
        with self._lock:
            if status:
                self._steps[uid] = status
            while len(self._steps) > _MOST_STEPS:
                self._steps.popitem(last=False)


def _failure(status: int, comment: str, error_id: int | None = None) -> Dataset:
    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = comment.encode("ascii", "replace").decode()[:_COMMENT_LENGTH]
    if error_id is not None:
        answer.ErrorID = error_id
    return answer
