"""What one peer may take of the door: associations, bytes an instance, instances a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from core.errors import TooLargeError
from core.settings import Settings
from node.door.rates import Rate

MB = 1 << 20


class Limits:
    """The limits of the settings: associations counted for this receiver process, rates for all.

    `monotonic` is the clock, in seconds.

    Raises:
        OSError: the spool cannot be written.
    """

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        node = settings.node
        self._most_of_all, self._most_of_one = node.max_associations, node.max_associations_per_peer
        self._most_mb = node.max_instance_mb
        self._mb = {p.ae_title: p.max_instance_mb for p in settings.peers if p.max_instance_mb}
        self._rates = {
            peer.ae_title: Rate(settings.spool, peer.ae_title, peer.max_per_second, monotonic)
            for peer in settings.peers
            if peer.max_per_second
        }
        self._lock = threading.Lock()
        self._inside: dict[threading.Thread, str] = {}

    def enter(self, association: threading.Thread, calling_ae: str) -> str:
        """Count an association that asks to come in; returns why it may not, or nothing.

        It counts until its thread ends, so nothing has to be given back.
        """
        with self._lock:
            self._inside = {item: ae for item, ae in self._inside.items() if item.is_alive()}
            if len(self._inside) >= self._most_of_all:
                return "too many associations at once"
            if list(self._inside.values()).count(calling_ae) >= self._most_of_one:
                return "too many associations of this AE title at once"
            self._inside[association] = calling_ae
        return ""

    def check_size(self, calling_ae: str, size: int) -> None:
        """Hold the bytes of an instance so far against what the peer may send.

        Raises:
            TooLargeError: it is larger.
        """
        most = self.most_bytes(calling_ae)
        if size > most:
            raise TooLargeError(f"the instance is larger than {most // MB} MB")

    def most_bytes(self, calling_ae: str) -> int:
        """The largest instance of a peer, bytes."""
        return (self._mb.get(calling_ae) or self._most_mb) * MB

    def pause(self, calling_ae: str) -> float:
        """Count an instance; returns how long to wait before more is read, seconds.

        All associations of an AE title share its rate, so that two do not get twice as much,
        whichever process of this machine has them.
        """
        rate = self._rates.get(calling_ae)
        return rate.take() if rate is not None else 0.0

    def close(self) -> None:
        """Let go of the files of the rates."""
        for rate in self._rates.values():
            rate.close()
