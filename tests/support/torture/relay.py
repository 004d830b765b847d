"""A wire between two programs that can break in the middle of an image, or be pulled out."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

_P_DATA_TF = 4  # PS3.8 Table 9-22
_HEADER = struct.Struct(">BBL")
_AT_ONCE = 65536
# A PDU that is longer than this carries pixels or the body of a result, not a command.
_DATA_BYTES = 1500


class Relay:
    """Passes connections on to `target` on loopback, PDU by PDU in the sender's direction.

    Attributes:
        cuts: how often a connection was broken within a P-DATA PDU.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self._target = target
        self.port = port
        self.cuts = 0
        self._cut_after: int | None = None
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listener: socket.socket | None = None
        self.plug()

    def plug(self) -> None:
        """Listen; the port stays the same."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port = int(listener.getsockname()[1])
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def unplug(self) -> None:
        """Refuse connections, and reset those that are open."""
        with self._lock:
            listener, self._listener = self._listener, None
            pairs = list(self._pairs)
        if listener is not None:
            # wakes the thread that waits in accept; close alone does not
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for pair in pairs:
            _reset(*pair)

    def cut_after(self, data_pdus: int) -> None:
        """Break the connection that brings the next but `data_pdus` data PDU, in its middle."""
        with self._lock:
            self._cut_after = data_pdus

    def heal(self) -> None:
        """Cut no more."""
        with self._lock:
            self._cut_after = None

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                _reset(near)
                continue
            far.settimeout(None)
            for side in (near, far):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.add((near, far))
            threading.Thread(target=self._pass_on, args=(near, far), daemon=True).start()
            threading.Thread(target=_pump, args=(far, near), daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        try:
            while (header := _exactly(near, _HEADER.size)) is not None:
                kind, _, length = _HEADER.unpack(header)
                if kind == _P_DATA_TF and length > _DATA_BYTES and self._cuts_now():
                    half = _exactly(near, length // 2)
                    if half is not None:
                        far.sendall(header + half)
                        with self._lock:
                            self.cuts += 1
                    break
                far.sendall(header)
                left = length
                while left:
                    piece = near.recv(min(left, _AT_ONCE))
                    if not piece:
                        return
                    far.sendall(piece)
                    left -= len(piece)
        except OSError:
            pass  # one side is gone; the other one learns of it here
        finally:
            _reset(near, far)
            with self._lock:
                self._pairs.discard((near, far))

    def _cuts_now(self) -> bool:
        with self._lock:
            if self._cut_after is None:
                return False
            if self._cut_after > 0:
                self._cut_after -= 1
                return False
            self._cut_after = None
            return True


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(_AT_ONCE):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        _reset(source, target)


def _exactly(source: socket.socket, count: int) -> bytes | None:
    """So many bytes, or None when the other side closed."""
    pieces = bytearray()
    while len(pieces) < count:
        piece = source.recv(count - len(pieces))
        if not piece:
            return None
        pieces += piece
    return bytes(pieces)


def _reset(*sockets: socket.socket) -> None:
    for item in sockets:
        with contextlib.suppress(OSError):
            item.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            item.close()
