"""The rate of one peer, kept by all receiver processes of a machine together.

The count lies in a small file beside the receivers' folders in the spool. It is worth nothing
after a restart, so it is never synced; a full disk does not touch it, as its size never changes.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

# A peer that was quiet may send so many seconds' worth at once before it is slowed down.
_BURST_SECONDS = 1.0
# Instances that it may send now (less than 0: owed), and when that was counted.
_STATE = struct.Struct("<dd")
# Intake passes over names with a dot.
_FOLDER = ".rates"


class Rate:
    """Instances a second of one AE title, over all processes that share the spool.

    Args:
        spool: the folder of all receivers of this machine.
        ae_title: whose rate it is.
        per_second: the rate.
        monotonic: the clock, seconds; the same for all processes of a machine.

    Raises:
        OSError: the spool cannot be written.
    """

    def __init__(
        self,
        spool: Path,
        ae_title: str,
        per_second: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second, self._monotonic = per_second, monotonic
        self._burst = max(1.0, per_second * _BURST_SECONDS)
        self._lock = threading.Lock()
        folder = spool / _FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        # a title may have characters that no file name has
        path = folder / ae_title.encode().hex()
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._file = os.fdopen(handle, "r+b", buffering=0)

    def take(self) -> float:
        """Count one instance; returns how long to wait before more is read, seconds."""
        handle = self._file.fileno()
        # flock keeps other processes out, but not the threads of this one
        with self._lock:
            fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                now = self._monotonic()
                tokens = self._tokens(os.pread(handle, _STATE.size, 0), now) - 1
                os.pwrite(handle, _STATE.pack(tokens, now), 0)
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)
        return max(0.0, -tokens / self._per_second)

    def _tokens(self, state: bytes, now: float) -> float:
        """What may be sent now. Nothing is known at the start, nor after the machine's."""
        if len(state) < _STATE.size:
            return self._burst
        tokens: float
        at: float
        tokens, at = _STATE.unpack(state)
        if now < at:
            return self._burst
        return min(self._burst, tokens + (now - at) * self._per_second)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
