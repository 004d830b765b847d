"""pynetdicom's upper layer provider, but it waits instead of looking every millisecond.

The thread is pynetdicom's own reactor thread, the state machine is pynetdicom's (PS3.8 Section
9.2). Only the way from the socket to the state machine is ours, and that of a plain C-STORE,
which ends here. Every other PDU goes the old way, one at a time, also between two images.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

import structlog
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from node.dimse.pdu import KNOWN_PDUS, P_DATA, PDU_HEADER
from node.door.lane.buffer import Buffer
from node.door.lane.command import CommandSet
from node.door.lane.store import Instance, ProtocolError, StoreMessage
from node.door.lane.waker import RingingQueue, Waker
from node.door.lane.wire import StoreCommand, read_store_command, store_response

log = structlog.get_logger()

# States of PS3.8 Table 9-10.
_ESTABLISHED, _CLOSING = "Sta6", "Sta13"
# Before an association stands a little memory is enough; a request with 128 contexts and many
# transfer syntaxes has some 100 kB, and one of this size is no request.
_FIRST_BUFFER = 16 * 1024
_LONGEST_REQUEST = 1 << 20
# Some peers count the six bytes of the PDU header among its length.
_PDU_SLACK = 1024
# One read takes no more than this beyond a PDU.
_READ_AHEAD = 64 * 1024
# A peer that takes no more than this at once cannot be answered in earnest.
_LEAST_PEER_PDU = 16
# Messages that wait for pynetdicom's other thread; a peer of the standard sends one at a time.
_MOST_QUEUED = 1
_WHILE_QUEUED_SECONDS = 0.02
# Timers are looked at so often; nothing else depends on it.
_LOOK_SECONDS = 1.0
_WHILE_PAUSED_SECONDS = 0.25


class Desk(Protocol):
    """Who takes the images."""

    def begin_instance(
        self, association: Any, command: StoreCommand, transfer_syntax_uid: str
    ) -> Instance | None:
        """Begin an instance; None when it is better left to pynetdicom."""

    def pause_after(self, association: Any) -> float:
        """Seconds to wait before more is read from this peer."""


class LaneReactor(DULServiceProvider):
    """The upper layer of one association.

    Args:
        association: pynetdicom's.
        desk: who takes the images.
        max_pdu: longest PDU that we announce, bytes.
        ended: called when the thread ends.
    """

    def __init__(
        self, association: Any, desk: Desk, max_pdu: int, ended: Callable[[], None]
    ) -> None:
        super().__init__(association)
        self._desk, self._ended = desk, ended
        self._most_pdu = max_pdu + _PDU_SLACK
        self._waker = Waker()
        self.to_provider_queue = RingingQueue(self._waker.wake)
        self._buffer = Buffer(_FIRST_BUFFER)
        self._store: StoreMessage | None = None
        self._command = CommandSet()
        self._contexts: dict[int, tuple[str, str]] | None = None
        self._last_read = self._pdu_since = time.monotonic()
        self._paused_until = 0.0
        self._asked = 1
        self.finished = False

    # what pynetdicom's threads do to each other

    def kill_dul(self) -> None:
        """End the thread."""
        super().kill_dul()
        self._waker.wake()

    def stop_dul(self) -> bool:
        """End the thread if there is no connection any more."""
        if self.state_machine.current_state == "Sta1":
            self.kill_dul()
        return bool(super().stop_dul())

    def run_reactor(self) -> None:
        """The thread: wait, read, act, until the connection has ended."""
        wake_handle = self._waker.open()
        self._idle_timer.start()
        self.assoc._dul_ready.set()
        try:
            while not self._kill_thread:
                if self.artim_timer.expired:
                    self.event_queue.put("Evt18")
                try:
                    # one or the other: what is sent changes the state that is read in
                    if not self._process_recv_primitive() and self.event_queue.empty():
                        self._attend(wake_handle)
                    with contextlib.suppress(queue.Empty):
                        self.state_machine.do_action(self.event_queue.get(block=False))
                except Exception:
                    # a damaged command fails in pynetdicom's decoder, an event out of turn in
                    # its state machine
                    log.exception("association_trouble")
                    self._give_up()
                    return
        finally:
            self._forget_store()
            self.finished = True
            # pynetdicom's other thread may still wait for a request, as long as ARTIM
            self.to_user_queue.put(cast("Any", None))
            self._ended()
            self._waker.close()

    def _give_up(self) -> None:
        """As pynetdicom does after an error of its own: abort past the state machine."""
        abort = A_ABORT_RQ()
        abort.source, abort.reason_diagnostic = 0x02, 0x00
        if self.socket is not None:
            if self.state_machine.current_state != _CLOSING:
                self.socket.send(abort.encode())
            self.socket.close()
        self.assoc.is_aborted, self.assoc.is_established = True, False
        self.assoc._kill = self._kill_thread = True

    # waiting and reading

    def _attend(self, wake_handle: int) -> None:
        """Use what is there; if that is not enough, wait for more and read it."""
        state = self.state_machine.current_state
        if state == _CLOSING:
            self._drain()
            return
        now = time.monotonic()
        if self._paused_until > now:
            self._idle_timer.restart()
            self._wait(None, wake_handle, min(self._paused_until - now, _WHILE_PAUSED_SECONDS))
            return
        if self.assoc.dimse.msg_queue.qsize() > _MOST_QUEUED:
            # what is read faster than it is answered would gather in memory
            self._wait(None, wake_handle, _WHILE_QUEUED_SECONDS)
            return
        if self._digest(state):
            return
        connection = self._connection()
        if connection is None:
            # our own side has closed it
            self.event_queue.put("Evt17")
            return
        if not self._wait(connection, wake_handle, _LOOK_SECONDS):
            self._check_stalled()
            return
        self._read(connection)

    def _connection(self) -> socket.socket | None:
        connection = self.socket.socket if self.socket is not None else None
        return connection if connection is not None and connection.fileno() >= 0 else None

    def _wait(self, connection: socket.socket | None, wake_handle: int, seconds: float) -> bool:
        """Wait until the connection can be read (True), or somebody wants something else."""
        poll = select.poll()
        poll.register(wake_handle, select.POLLIN)
        if connection is not None:
            # a TLS socket may have bytes that the kernel does not know of
            if isinstance(connection, ssl.SSLSocket) and connection.pending():
                return True
            handle = connection.fileno()
            if handle < 0:
                return False
            poll.register(handle, select.POLLIN)
            self._ask_for_a_pdu(connection)
        ready = poll.poll(seconds * 1000)
        woken = any(item == wake_handle for item, _ in ready)
        if woken:
            self._waker.calm()
        return len(ready) > woken

    def _ask_for_a_pdu(self, connection: socket.socket) -> None:
        """Be woken for the rest of a PDU at once, not for every packet of it.

        What is asked for was announced by the PDU's header, so it comes, or the connection ends;
        both end the wait. A TLS socket has other bytes than its user reads.
        """
        wanted = 1
        if self._store is not None and not isinstance(connection, ssl.SSLSocket):
            wanted = max(1, min(self._store.pdu_left - len(self._buffer), _READ_AHEAD))
        if wanted != self._asked:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
            self._asked = wanted

    def _read(self, connection: socket.socket) -> None:
        begun = len(self._buffer) > 0
        try:
            count = self._buffer.fill(connection)
        except (ssl.SSLWantReadError, BlockingIOError):
            return
        except OSError as error:
            log.debug("connection_lost", error=str(error))
            count = 0
        if not count:
            self._forget_store()
            self.event_queue.put("Evt17")
            return
        self._last_read = time.monotonic()
        if not begun:
            self._pdu_since = self._last_read
        self._idle_timer.restart()

    def _drain(self) -> None:
        """PS3.8 Sta13: nothing counts any more; wait for the peer to close, as ARTIM allows."""
        connection = self._connection()
        with contextlib.suppress(OSError):
            readable = connection is not None and select.select([connection], [], [], 0)[0]
            if connection is not None and readable and connection.recv(_READ_AHEAD):
                return
        if self.socket is not None:
            self.socket.close()
        if connection is None:
            self.event_queue.put("Evt17")

    def _check_stalled(self) -> None:
        """Nothing came for a while: was something due?"""
        now = time.monotonic()
        within_pdu = len(self._buffer) > 0 or (self._store is not None and self._store.pdu_left > 0)
        network, dimse = self.network_timeout, self.assoc.dimse_timeout
        if within_pdu and network is not None and now - self._last_read > network:
            self._violated(f"nothing came for {network:g} s in the middle of a PDU")
        elif self._in_message and dimse is not None and now - self._last_read > dimse:
            self._violated(f"nothing came for {dimse:g} s in the middle of a message")

    @property
    def _in_message(self) -> bool:
        begun = self._store is not None or self._command.begun
        return begun or self.assoc.dimse.message is not None

    # what was read

    def _digest(self, state: str) -> bool:
        """Use what the buffer has; returns whether anything was done."""
        buffer = self._buffer
        if self._store is not None and state == _ESTABLISHED:
            return len(buffer) > 0 and self._go_on(self._store)
        self._forget_store()  # we aborted in the middle of an image
        if len(buffer) < PDU_HEADER.size:
            return False
        kind, length = PDU_HEADER.unpack_from(buffer.view, buffer.start)
        established = state == _ESTABLISHED
        most = self._most_pdu if established else _LONGEST_REQUEST
        if kind not in KNOWN_PDUS or length > most:
            self._violated(f"a PDU of type {kind:#04x} and {length} bytes")
            return True
        whole = PDU_HEADER.size + length
        if len(buffer) < whole:
            self._make_room(whole)
            self._check_slow()
            return False
        if kind == P_DATA and established:
            if self._take_command(whole):
                return True
        else:
            self._command = CommandSet()
        data = bytearray(buffer.view[buffer.start : buffer.start + whole])
        buffer.start += whole
        self._pdu_since = time.monotonic()
        self._the_old_way(data)
        return True

    def _make_room(self, whole: int) -> None:
        """For a PDU of so many bytes, but no faster than they come: a length costs nobody much."""
        if self._buffer.capacity < whole and 2 * len(self._buffer) > self._buffer.capacity:
            self._buffer.grow(2 * self._buffer.capacity)

    def _check_slow(self) -> None:
        """A PDU that comes byte by byte must not hold the association for ever."""
        network = self.network_timeout
        if network is not None and time.monotonic() - self._pdu_since > network:
            self._violated(f"a PDU took longer than {network:g} s")

    def _the_old_way(self, data: bytearray) -> None:
        """Hand a PDU to pynetdicom's state machine."""
        try:
            pdu, event = self._decode_pdu(data)
        except Exception as error:  # noqa: BLE001 - whatever its decoder raises
            self._violated(f"a PDU that cannot be decoded: {error}")
            return
        self._recv_pdu.put(pdu)
        self.event_queue.put(event)

    def _violated(self, reason: str) -> None:
        log.warning(
            "association_cut",
            calling_ae=str(self.assoc.requestor.ae_title).strip(),
            peer=f"{self.assoc.requestor.address}:{self.assoc.requestor.port}",
            reason=reason,
        )
        self._forget_store()
        self._command = CommandSet()
        self._buffer.start = self._buffer.end
        self.event_queue.put("Evt19")

    def _forget_store(self) -> None:
        if self._store is not None:
            self._store.discard()
            self._store = None

    # a C-STORE

    def _take_command(self, whole: int) -> bool:
        """Take the PDU at the head of the buffer, if it has to do with a C-STORE's command."""
        if self.assoc.dimse.message is not None:
            return False
        buffer, command = self._buffer, self._command
        try:
            end = command.take(buffer.view[buffer.start : buffer.start + whole])
        except ProtocolError as error:
            self._violated(str(error))
            return True
        if not end:
            buffer.start += whole
            self._pdu_since = time.monotonic()
            return True
        self._command = CommandSet()
        if self._begin_store(command, whole - end):
            buffer.start += end
            buffer.grow(self._most_pdu + _READ_AHEAD)
            return True
        for data in command.pdus:
            self._the_old_way(data)
        return False

    def _begin_store(self, whole_command: CommandSet, pdu_left: int) -> bool:
        """Whether it is a C-STORE that goes this way."""
        context = self._taken_contexts().get(whole_command.context_id)
        if context is None:
            return False
        command = read_store_command(bytes(whole_command.data), whole_command.context_id)
        # as pynetdicom: the class of the command counts, whatever the context was proposed for
        if command is None or not (
            command.sop_class_uid == context[0] or _is_storage(command.sop_class_uid)
        ):
            return False
        instance = self._desk.begin_instance(self.assoc, command, context[1])
        if instance is None:
            return False
        self._store = StoreMessage(command, instance, pdu_left, self._most_pdu)
        return True

    def _taken_contexts(self) -> dict[int, tuple[str, str]]:
        """Contexts of the association that may go this way: SOP class and transfer syntax."""
        if self._contexts is None:
            least = self.assoc.requestor.maximum_length
            others = self.assoc.acceptor.accepted_common_extended
            self._contexts = {
                context.context_id or 0: (
                    str(context.abstract_syntax),
                    str(context.transfer_syntax[0]),
                )
                for context in self.assoc.accepted_contexts
                if (not least or least >= _LEAST_PEER_PDU)
                and context.abstract_syntax not in others
                and _is_storage(str(context.abstract_syntax))
            }
        return self._contexts

    def _go_on(self, message: StoreMessage) -> bool:
        before = self._buffer.start
        try:
            ours = message.feed(self._buffer)
        except ProtocolError as error:
            self._violated(str(error))
            return True
        if not ours:
            self._forget_store()  # an abort, most likely; the state machine looks at it
            return True
        if not message.done:
            return self._buffer.start != before
        status, comment = message.finish()
        self._store = None
        assert self.socket is not None
        most = self.assoc.requestor.maximum_length or 0
        self.socket.send(store_response(message.command, status, comment, most))
        self._idle_timer.restart()
        self._pdu_since = time.monotonic()
        pause = self._desk.pause_after(self.assoc)
        if pause:
            self._paused_until = self._pdu_since + pause
        return True


def _is_storage(sop_class_uid: str) -> bool:
    return uid_to_service_class(sop_class_uid) is StorageServiceClass
