"""The door: Verification and Storage SCP.

Handlers turn an event into a status and decide nothing else. An instance is answered 0x0000
only when `node.spool` has it on disk. SQL and the broker are not needed here.
"""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID as PydicomUID
from pynetdicom import AE, evt
from pynetdicom.association import Association as DicomAssociation
from pynetdicom.events import Event
from pynetdicom.transport import ThreadedAssociationServer

from core import clock
from core.domain import Association
from core.equipment import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from core.errors import NotAuthorisedError, RefusedError, SentinodeError, UnreadableError
from core.settings import Settings
from node.contexts import accepted
from node.examine import check_announced, examine
from node.sockets import no_delay
from node.spool import ReceivedInstance, ReceiverSpool

log = structlog.get_logger()

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110  # PS3.7 Annex C
_COMMENT_LENGTH = 64  # VR LO of Error Comment (0000,0902)

# Reasons of A-ASSOCIATE-RJ, PS3.8 Table 9-21
CALLED_AE_UNKNOWN = "called AE title not recognised"
CALLING_AE_UNKNOWN = "calling AE title not recognised"
LIMIT_EXCEEDED = "too many associations at once"


@dataclass(slots=True)
class _Open:
    """An association that is open now."""

    association: Association
    count: int = 0


class Door:
    """Receives instances into the spool.

    Raises:
        SentinodeError: the port cannot be listened on.
    """

    def __init__(self, settings: Settings) -> None:
        node = settings.node
        self._node = node
        self._senders = {peer.ae_title for peer in settings.peers if peer.send}
        self._unended: list[Association] = []
        self._open: dict[DicomAssociation, _Open] = {}
        self._lock = threading.Lock()
        self._spool = ReceiverSpool(settings.spool, settings.storage.min_free_mb)
        ae = AE(ae_title=node.ae_title)
        ae.implementation_class_uid = PydicomUID(IMPLEMENTATION_CLASS_UID)
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.supported_contexts = accepted()
        ae.require_called_aet = True
        if not node.accept_unknown:
            # our own title is known, so that `sentinode health` can echo the port
            ae.require_calling_aet = sorted(
                {peer.ae_title for peer in settings.peers} | {node.ae_title}
            )
        ae.maximum_associations = node.max_associations
        ae.maximum_pdu_size = node.max_pdu
        ae.acse_timeout = node.acse_timeout
        ae.dimse_timeout = node.dimse_timeout
        ae.network_timeout = node.network_timeout
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, no_delay),
            (evt.EVT_ESTABLISHED, self._on_established),
            (evt.EVT_REJECTED, self._on_rejected),
            (evt.EVT_C_ECHO, self._on_echo),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_ABORTED, self._on_aborted),
            (evt.EVT_CONN_CLOSE, self._on_closed),
        ]
        try:
            server = ae.start_server((node.host, node.port), block=False, evt_handlers=handlers)
        except OSError as error:
            self._spool.close()
            raise SentinodeError(
                f"port {node.port} on {node.host} cannot be listened on: {error}",
                remedy="End the other program on that port, or set node.port.",
            ) from error
        assert isinstance(server, ThreadedAssociationServer)
        self._ae, self._server = ae, server
        log.info("door_open", ae_title=node.ae_title, host=node.host, port=self.port)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def close(self, grace_seconds: float = 10.0) -> None:
        """Take no more associations; let running ones finish, then abort them."""
        self._server.shutdown()
        waiter = threading.Event()
        deadline = grace_seconds
        while self._ae.active_associations and deadline > 0:
            waiter.wait(0.1)
            deadline -= 0.1
        for association in list(self._ae.active_associations):
            association.abort()
        self._server.server_close()
        for association in list(self._open):
            self._end(association, "aborted")
        self.tend()
        self._spool.close()
        log.info("door_closed")

    def tend(self) -> None:
        """Note the ends of associations that could not be written when they came."""
        with self._lock:
            unended, self._unended = self._unended, []
        for association in unended:
            self._note_end(association)

    def _note_end(self, association: Association) -> None:
        try:
            self._spool.end(association)
        except OSError as error:
            # a series waits for this end: it is written when the disk takes it again
            log.warning("association_end_not_written", association=association.id, error=str(error))
            with self._lock:
                self._unended.append(association)

    def _on_established(self, event: Event) -> None:
        association = event.assoc
        address = association.requestor.address
        opened = Association(
            id=uuid.uuid4().hex,
            calling_ae=association.requestor.ae_title.strip(),
            called_ae=association.acceptor.ae_title.strip(),
            peer_address=f"{address}:{association.requestor.port}",
            began_at=clock.now(),
        )
        with self._lock:
            self._open[association] = _Open(opened)
        if not association.accepted_contexts:
            log.warning(
                "association_without_context",
                calling_ae=opened.calling_ae,
                peer=opened.peer_address,
                remedy="The peer proposed nothing that is in our table of contexts.",
            )

    def _on_rejected(self, event: Event) -> None:
        association: Any = event.assoc
        log.warning(
            "association_rejected",
            calling_ae=association.requestor.ae_title.strip(),
            called_ae=association.requestor.primitive.called_ae_title.strip(),
            peer=f"{association.requestor.address}:{association.requestor.port}",
            reason=self._why_rejected(association),
        )

    def _why_rejected(self, association: Any) -> str:
        """The same questions as pynetdicom asked, for the event does not carry the answer."""
        if association.requestor.primitive.called_ae_title.strip() != self._node.ae_title:
            return CALLED_AE_UNKNOWN
        known = self._ae.require_calling_aet
        if known and association.requestor.ae_title.strip() not in known:
            return CALLING_AE_UNKNOWN
        return LIMIT_EXCEEDED

    def _on_echo(self, event: Event) -> int:
        return SUCCESS

    def _on_store(self, event: Event) -> int | Dataset:
        request: Any = event.request
        with self._lock:
            opened = self._open.get(event.assoc)
        if opened is None:  # the connection closed while the request was on its way
            log.warning("instance_refused", reason="the association has ended")
            return PROCESSING_FAILURE
        bound = log.bind(
            association=opened.association.id,
            calling_ae=opened.association.calling_ae,
            sop_instance_uid=str(request.AffectedSOPInstanceUID)[:64],
        )
        try:
            self._store(event, opened)
        except RefusedError as error:
            bound.warning(
                "instance_refused",
                status=f"0x{error.status:04X}",
                reason=str(error),
                remedy=error.remedy,
            )
            return _answer(error.status, str(error))
        except Exception:  # noqa: BLE001 - the sender must get an answer, and we the traceback
            bound.exception("instance_refused", status=f"0x{PROCESSING_FAILURE:04X}")
            return _answer(PROCESSING_FAILURE, "internal error; see the receiver's log")
        bound.debug("instance_spooled")
        return SUCCESS

    def _store(self, event: Event, opened: _Open) -> None:
        association = opened.association
        if not self._node.accept_unknown and association.calling_ae not in self._senders:
            raise NotAuthorisedError(f"{association.calling_ae} may not send us images")
        self._spool.check_space()
        request: Any = event.request
        if request.DataSet is None:
            raise UnreadableError("the C-STORE command came without a data set")
        encoded: memoryview = request.DataSet.getbuffer()
        syntax = PydicomUID(event.context.transfer_syntax)
        identity = examine(BytesIO(encoded), len(encoded), syntax)
        check_announced(
            identity, str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        )
        opened.count += 1
        instance = ReceivedInstance(
            sop_class_uid=identity.sop_class_uid,
            sop_instance_uid=identity.sop_instance_uid,
            transfer_syntax_uid=str(syntax),
            association=association,
            received_at=clock.now(),
        )
        self._spool.write(instance, opened.count, encoded)

    def _on_released(self, event: Event) -> None:
        self._end(event.assoc, "released")

    def _on_aborted(self, event: Event) -> None:
        self._end(event.assoc, "aborted")

    def _on_closed(self, event: Event) -> None:
        # after a release or an abort there is nothing left to end
        self._end(event.assoc, "broken off")

    def _end(self, dicom_association: DicomAssociation, how: str) -> None:
        with self._lock:
            opened = self._open.pop(dicom_association, None)
        if opened is None:
            return
        ended = replace(opened.association, ended_at=clock.now(), end=how)
        self._note_end(ended)
        # our own health checks come every minute; nobody needs to read of them
        tell = log.debug if ended.calling_ae == self._node.ae_title else log.info
        tell(
            "association_ended",
            association=ended.id,
            calling_ae=ended.calling_ae,
            peer=ended.peer_address,
            end=how,
            instances=opened.count,
        )


def _answer(status: int, comment: str) -> Dataset:
    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = comment.encode("ascii", "replace").decode()[:_COMMENT_LENGTH]
    return answer
