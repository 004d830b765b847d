"""What one peer may take of the door: associations, bytes an instance, instances a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from core.errors import TooLargeError
from core.settings import Settings

MB = 1 << 20
# A peer that was quiet may send so many seconds' worth at once before it is slowed down.
_BURST_SECONDS = 1.0


@dataclass(slots=True)
class _Bucket:
    """Tokens of one AE title; negative ones are owed."""

    rate: float
    tokens: float
    filled_at: float


class Limits:
    """The limits of the settings, counted for this receiver process.

    `monotonic` is the clock, in seconds.
    """

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        node = settings.node
        self._most_of_all, self._most_of_one = node.max_associations, node.max_associations_per_peer
        self._most_mb = node.max_instance_mb
        self._mb = {p.ae_title: p.max_instance_mb for p in settings.peers if p.max_instance_mb}
        self._rates = {p.ae_title: p.max_per_second for p in settings.peers if p.max_per_second}
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._inside: dict[threading.Thread, str] = {}
        self._buckets: dict[str, _Bucket] = {}

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

        All associations of an AE title share its rate, so that two do not get twice as much.
        """
        rate = self._rates.get(calling_ae)
        if rate is None:
            return 0.0
        burst = max(1.0, rate * _BURST_SECONDS)
        with self._lock:
            now = self._monotonic()
            bucket = self._buckets.setdefault(calling_ae, _Bucket(rate, burst, now))
            bucket.tokens = min(burst, bucket.tokens + (now - bucket.filled_at) * rate) - 1
            bucket.filled_at = now
            return max(0.0, -bucket.tokens / rate)
