"""The door: Verification and Storage SCP.

Handlers turn an event into a status and decide nothing else. An instance is answered 0x0000
only when `node.spool.receiver` has it on disk. SQL and the broker are not needed here.
"""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID as PydicomUID
from pynetdicom import AE, evt
from pynetdicom.association import Association as DicomAssociation
from pynetdicom.events import Event
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import A_ASSOCIATE

from core import clock
from core.domain import Association
from core.equipment import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from core.errors import SentinodeError
from core.settings import Settings
from node.dimse.contexts import accepted
from node.dimse.sockets import no_delay
from node.door.gathered import Gathered
from node.door.lane import selfcheck
from node.door.lane.association import DoorServer
from node.door.lane.store import Instance
from node.door.lane.wire import StoreCommand
from node.door.limits import Limits
from node.door.reception import PROCESSING_FAILURE, SUCCESS, Reception, Sender
from node.door.services import Services
from node.loop import stop_on_signals
from node.spool.receiver import ReceiverSpool
from node.worklist.service import QueryService
from node.worklist.ups.service import UpsService

log = structlog.get_logger()

# We count associations ourselves: pynetdicom also counts those that never said who they are.
_NO_LIMIT = 1 << 30
_TEND_SECONDS = 2.0
# how often the listening thread looks whether it should end
_SHUTDOWN_SECONDS = 0.1
_ACCEPTED = 0x00  # PS3.8 Section 7.1.1.7
# Reasons of A-ASSOCIATE-RJ, PS3.8 Table 9-21
CALLED_AE_UNKNOWN = "called AE title not recognised"
CALLING_AE_UNKNOWN = "calling AE title not recognised"


class Door:
    """Receives instances into the spool.

    Raises:
        SentinodeError: the port cannot be listened on.
    """

    def __init__(self, settings: Settings) -> None:
        node = settings.node
        self._node = node
        self._unended: list[Association] = []
        self._open: dict[DicomAssociation, Sender] = {}
        self._lock = threading.Lock()
        durable = settings.storage.fsync
        if not durable:
            log.warning("not_durable", remedy="Set storage.fsync = true: a power cut loses images.")
        self._limits = Limits(settings)
        self._spool = ReceiverSpool(settings.spool, settings.storage.min_free_mb, durable=durable)
        self._reception = Reception(settings, self._spool, self._limits)
        self._queries = QueryService(settings)
        workitems = UpsService(settings, self._queries.ledger)
        self._queries.workitems = workitems
        services = Services(settings, self._spool, self._association_of, workitems=workitems)
        lane = self._fast_lane()
        self._gathered = Gathered(lane=lane)
        self._ae = _application_entity(settings)
        services.add_to(self._ae)
        workitems.add_to(self._ae)
        self._queries.add_to(self._ae)
        handlers: list[Any] = [
            *services.handlers(),
            *self._queries.handlers(),
            (evt.EVT_CONN_OPEN, no_delay),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_ACSE_SENT, self._on_answer),
            (evt.EVT_REJECTED, self._on_rejected),
            (evt.EVT_PDU_RECV, self._on_pdu),
            (evt.EVT_C_ECHO, self._on_echo),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_ABORTED, self._on_aborted),
            (evt.EVT_CONN_CLOSE, self._on_closed),
        ]
        try:
            self._server = self._ae.make_server(
                (node.host, node.port),
                evt_handlers=handlers,
                server_class=DoorServer,
                desk=self if lane else None,
                share_port=node.receivers > 1,
                linger=node.network_timeout,
                prepare=self._queries.take_over,
            )
        except OSError as error:
            self._spool.close()
            self._limits.close()
            raise SentinodeError(
                f"port {node.port} on {node.host} cannot be listened on: {error}",
                remedy="End the other program on that port, or set node.port.",
            ) from error
        # as `AE.start_server` does, which knows no other class of server
        self._ae._servers.append(self._server)
        threading.Thread(
            target=self._server.serve_forever, args=(_SHUTDOWN_SECONDS,), name="door", daemon=True
        ).start()
        log.info("door_open", ae_title=node.ae_title, host=node.host, port=self.port)

    def _fast_lane(self) -> bool:
        if not self._node.fast_lane:
            return False
        trouble = selfcheck.trouble()
        if trouble:
            log.warning(
                "fast_lane_off",
                reason=trouble,
                remedy="Images are received by pynetdicom's own path, which is slower.",
            )
        return not trouble

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
        self._limits.close()
        self._queries.close()
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

    # an association begins

    def _on_requested(self, event: Event) -> None:
        association: Any = event.assoc
        wanted = association.requestor.primitive
        calling = wanted.calling_ae_title.strip()
        if self._why_unknown(calling, wanted.called_ae_title.strip()):
            return  # pynetdicom rejects it, with the reason of the standard
        reason = self._limits.enter(association, calling)
        if not reason:
            return
        association.requestor.ae_title = wanted.calling_ae_title
        # PS3.8 Table 9-21: transient, service provider (presentation), local limit exceeded
        association.acse.send_reject(0x02, 0x03, 0x02)
        self._tell_rejected(association, reason)
        association.kill()

    def _on_answer(self, event: Event) -> None:
        """Open the association before the peer hears that it is accepted.

        pynetdicom tells of it only afterwards, and a quick peer's first image is here by then.
        """
        noted: Any = event
        answer = noted.primitive
        if isinstance(answer, A_ASSOCIATE) and answer.result == _ACCEPTED:
            self._opening(event.assoc)

    def _opening(self, association: DicomAssociation) -> None:
        address = association.requestor.address
        opened = Association(
            id=uuid.uuid4().hex,
            calling_ae=association.requestor.ae_title.strip(),
            called_ae=association.acceptor.ae_title.strip(),
            peer_address=f"{address}:{association.requestor.port}",
            began_at=clock.now(),
        )
        with self._lock:
            self._open[association] = Sender(opened)
        if not association.accepted_contexts:
            log.warning(
                "association_without_context",
                calling_ae=opened.calling_ae,
                peer=opened.peer_address,
                remedy="The peer proposed nothing that is in our table of contexts.",
            )

    def _on_rejected(self, event: Event) -> None:
        association: Any = event.assoc
        wanted = association.requestor.primitive
        calling = association.requestor.ae_title.strip()
        reason = self._why_unknown(calling, wanted.called_ae_title.strip())
        self._tell_rejected(association, reason or "its request was not acceptable")

    def _why_unknown(self, calling_ae: str, called_ae: str) -> str:
        """The same questions as pynetdicom asks, for its event does not carry the answer."""
        if called_ae != self._node.ae_title:
            return CALLED_AE_UNKNOWN
        known = self._ae.require_calling_aet
        return CALLING_AE_UNKNOWN if known and calling_ae not in known else ""

    def _tell_rejected(self, association: Any, reason: str) -> None:
        log.warning(
            "association_rejected",
            calling_ae=association.requestor.ae_title.strip(),
            called_ae=association.requestor.primitive.called_ae_title.strip(),
            peer=f"{association.requestor.address}:{association.requestor.port}",
            reason=reason,
        )

    def _sender(self, association: DicomAssociation) -> Sender | None:
        with self._lock:
            return self._open.get(association)

    def _association_of(self, association: DicomAssociation) -> Association | None:
        sender = self._sender(association)
        return sender.association if sender is not None else None

    # what comes over it

    def _on_echo(self, event: Event) -> int:
        return SUCCESS

    def begin_instance(
        self, association: Any, command: StoreCommand, transfer_syntax_uid: str
    ) -> Instance | None:
        """Begin an instance that comes by the fast lane."""
        sender = self._sender(association)
        if sender is None:
            return None
        return self._reception.begin(
            sender, command.sop_class_uid, command.sop_instance_uid, transfer_syntax_uid
        )

    def pause_after(self, association: Any) -> float:
        """Seconds to wait after an instance of this peer, so that it keeps to its rate."""
        return self._limits.pause(association.requestor.ae_title.strip())

    def _on_store(self, event: Event) -> int | Dataset:
        """The same by pynetdicom's own path, with the data set in memory."""
        request: Any = event.request
        sender = self._sender(event.assoc)
        if sender is None:  # the connection closed while the request was on its way
            log.warning("instance_refused", reason="the association has ended")
            return PROCESSING_FAILURE
        incoming = self._reception.begin(
            sender,
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID),
            str(event.context.transfer_syntax),
        )
        if request.DataSet is not None:
            incoming.write([request.DataSet.getbuffer()])
        status, comment = incoming.finish()
        pause = self.pause_after(event.assoc)
        if pause:
            threading.Event().wait(pause)  # the peer waits for our answer
        if status == SUCCESS:
            return SUCCESS
        answer = Dataset()
        answer.Status, answer.ErrorComment = status, comment
        return answer

    def _on_pdu(self, event: Event) -> None:
        """Count what pynetdicom gathers in memory; a message that is too long is cut off."""
        if not isinstance(event.pdu, P_DATA_TF):
            return
        association: Any = event.assoc
        most = self._limits.most_bytes(str(association.requestor.ae_title).strip())
        reason = self._gathered.add(association, event.pdu, most)
        if not reason:
            return
        sender = self._sender(association)
        log.warning(
            "association_cut",
            calling_ae=sender.association.calling_ae if sender else "",
            peer=sender.association.peer_address if sender else "",
            reason=reason,
        )
        # the abort is looked at before this PDU, so nothing more is gathered
        association.dul.event_queue.put("Evt19")  # PS3.8 Table 9-10: abort
        self._gathered.drop(association)

    # it ends

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
        self._gathered.forget(dicom_association)
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


def run_scp(settings: Settings) -> None:
    """Role scp: the door, until SIGTERM."""
    stop = stop_on_signals()
    door = Door(settings)
    while not stop.wait(_TEND_SECONDS):
        door.tend()
    door.close()


def _application_entity(settings: Settings) -> AE:
    node = settings.node
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
    ae.maximum_associations = _NO_LIMIT
    ae.maximum_pdu_size = node.max_pdu
    ae.acse_timeout = node.acse_timeout
    ae.dimse_timeout = node.dimse_timeout
    ae.network_timeout = node.network_timeout
    return ae
