"""pynetdicom's association and server around our reactor."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import structlog
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.transport import (
    AssociationSocket,
    RequestHandler,
    ThreadedAssociationServer,
)

from node.dimse.checkpoint import Checkpoint
from node.door.lane.reactor import Desk, LaneReactor
from node.door.lane.waker import RingingQueue

log = structlog.get_logger()

# Connections that wait to be accepted by us, and those accepted that have not associated yet.
_BACKLOG = 128
_MOST_WAITING = 64
_LOOK_SECONDS = 1.0
# Answers are small; what a peer does not read must not pile up.
_SEND_BUFFER = 128 * 1024


class _Checkpoint(Checkpoint):
    """A checkpoint at which the association thread also waits for work.

    In pynetdicom it has nothing to wait for (the event is nearly always set) and sleeps a
    millisecond instead. Here it waits until its queues have something, or it is told to look.
    """

    def __init__(self, association: LaneAssociation) -> None:
        self.bell = threading.Event()
        super().__init__(association)

    def set(self) -> None:
        """Let the thread pass, and look."""
        super().set()
        self.bell.set()

    def clear(self) -> None:
        """Stop the thread, also where it waits for work."""
        threading.Event.clear(self)
        self.bell.set()
        super().clear()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for work, then as the event itself does."""
        self.bell.clear()
        if self.is_set() and not self._association.due:
            self.bell.wait(_LOOK_SECONDS)
        return super().wait(timeout)


class LaneAssociation(Association):
    """An association whose P-DATA of C-STOREs takes the fast lane."""

    def __init__(self, ae: Any, desk: Desk) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        checkpoint = _Checkpoint(self)
        self._reactor_checkpoint = checkpoint
        reactor = LaneReactor(self, desk, ae.maximum_pdu_size, checkpoint.bell.set)
        reactor.to_user_queue = RingingQueue(checkpoint.bell.set)
        self.dul: LaneReactor = reactor
        self.dimse.msg_queue = RingingQueue(checkpoint.bell.set)
        # the timers are the provider's
        self.acse_timeout, self.network_timeout = ae.acse_timeout, ae.network_timeout

    @property
    def due(self) -> bool:
        """Whether the association thread has something to do."""
        return bool(
            self.dimse.msg_queue.qsize()
            or self.dul.to_user_queue.qsize()
            or self.dul.finished
            or self._kill
            or self.dul.idle_timer_expired()
        )


class _Handler(RequestHandler):
    """Makes the association of a new connection."""

    server: DoorServer

    def _create_association(self) -> Association:
        association = super()._create_association() if self.server.desk is None else self._ours()
        self.server.prepare(association)
        self.server.waiting.append(association)
        return association

    def _ours(self) -> Association:
        """As pynetdicom's own, but with our class, and the table of contexts not copied.

        Copying the table takes most of the time of an association's beginning. It is only read.
        """
        assert self.server.desk is not None
        association = LaneAssociation(self.ae, self.server.desk)
        association._server = self.server
        association.name = f"AcceptorThread@{self.client_address[0]}:{self.client_address[1]}"
        association.set_socket(AssociationSocket(association, client_socket=self.request))
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = self.server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        acceptor.supported_contexts = self.server.contexts
        association.requestor.address_info = self.remote
        handlers: dict[Any, Any] = self.server._handlers
        for event, bound in handlers.items():
            if not event.is_intervention:
                for handler, arguments in bound:
                    association.bind(event, handler, arguments)
            elif bound:
                association.bind(event, *bound)
        return association


class DoorServer(ThreadedAssociationServer):
    """The listening socket, and who stands before it.

    Args:
        desk: who takes images by the fast lane; None: everything by pynetdicom's own path.
        share_port: whether other processes listen on the same port.
        linger: seconds after which a read or write that moves nothing is given up.
        prepare: what is to be done with each association before it begins.
    """

    request_queue_size = _BACKLOG

    def __init__(
        self,
        *args: Any,
        desk: Desk | None = None,
        share_port: bool = False,
        linger: float | None = None,
        prepare: Callable[[Association], None] = lambda _: None,
        **kwargs: Any,
    ) -> None:
        self.desk, self._share_port, self._linger = desk, share_port, linger
        self.prepare = prepare
        self.waiting: list[Association] = []
        super().__init__(*args, **{**kwargs, "request_handler": _Handler})

    def server_bind(self) -> None:
        """Bind; with SO_REUSEPORT the kernel spreads connections over all who listen."""
        assert self.socket is not None
        if self._share_port and hasattr(socket, "SO_REUSEPORT"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept. A peer that never reads what we send must not hold a thread for ever."""
        connection, address = super().get_request()
        connection.settimeout(self._linger)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Keep a place free before the door: the longest silent connection goes."""
        self.waiting = [
            item
            for item in self.waiting
            if not item.is_established and (item.ident is None or item.is_alive())
        ]
        if len(self.waiting) > _MOST_WAITING:
            eldest = self.waiting.pop(0)
            log.warning("connection_dropped", peer=str(eldest.requestor.address))
            wrapped = eldest.dul.socket
            if wrapped is not None and wrapped.socket is not None:
                with contextlib.suppress(OSError):
                    wrapped.socket.shutdown(socket.SHUT_RDWR)
        return True
