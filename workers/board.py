"""What the computing child and its parent tell each other: a page of memory that both see.

The child notes which job it has. When it dies, its successor reads the note and gives the job
back at once, without waiting for the lease to run out. The parent writes down that it is being
stopped, and whose job it ended because it took too long. Nothing here touches the ledger: the
parent must have no connection when it forks.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import threading
import time
import zlib
from dataclasses import asdict, dataclass

# After its limit a job has so long to notice by itself, at the next check.
LIMIT_GRACE_SECONDS = 30.0

_SIZE = 4096
_STOPPING, _OVERDUE, _NOTE = 0, 64, 1024
_HEADER = struct.Struct("<II")  # length and checksum: a half-written page reads as empty
_MOMENT = struct.Struct("<d")


@dataclass(frozen=True, slots=True)
class Note:
    """Who computes what.

    Attributes:
        pid: of the child.
        owner: of the job's lease.
        limit: longest time for the job, s; None as long as the model is not known.
        ends_at: when that is over, by the clock of `time.monotonic`.
    """

    pid: int
    job_id: str
    owner: str
    limit: float | None = None
    ends_at: float | None = None


class Board:
    """Shared by a process and all that it forks later."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)

    def note(self, note: Note) -> None:
        """Write down what this process computes."""
        self._write(_NOTE, json.dumps(asdict(note)).encode())

    def read(self) -> Note | None:
        """What the child computes, or None."""
        data = self._read(_NOTE)
        return Note(**json.loads(data)) if data else None

    def clear(self) -> None:
        """Nothing is being computed."""
        self._write(_NOTE, b"")

    def take_over(self) -> tuple[Note, bool] | None:
        """What a dead child left, and whether it was ended because its job took too long.

        The board is empty afterwards. None where nothing was left.
        """
        note = self.read()
        if note is None or note.pid == os.getpid():
            return None
        overdue = self._read(_OVERDUE) == note.owner.encode()
        self.clear()
        return note, overdue

    def mark_overdue(self, owner: str) -> None:
        """The child of this owner is ended because its job took too long."""
        self._write(_OVERDUE, owner.encode())

    def stop(self) -> None:
        """The worker is being stopped from now on."""
        self._memory[_STOPPING : _STOPPING + _MOMENT.size] = _MOMENT.pack(time.monotonic())

    def stopping_for(self) -> float | None:
        """Since when the worker is being stopped, s; None when it is not."""
        (moment,) = _MOMENT.unpack_from(self._memory, _STOPPING)
        return time.monotonic() - moment if moment else None

    def _write(self, place: int, data: bytes) -> None:
        begin = place + _HEADER.size
        self._memory[begin : begin + len(data)] = data
        self._memory[place:begin] = _HEADER.pack(len(data), zlib.crc32(data))

    def _read(self, place: int) -> bytes:
        length, checksum = _HEADER.unpack_from(self._memory, place)
        begin = place + _HEADER.size
        data = bytes(self._memory[begin : begin + length]) if length < _SIZE else b""
        return data if zlib.crc32(data) == checksum else b""


class Watch(threading.Thread):
    """In the parent: ends a child that does not end by itself when its job's time is over.

    It neither logs nor locks anything: the parent may fork at any moment.
    """

    def __init__(
        self, board: Board, *, grace: float = LIMIT_GRACE_SECONDS, poll_seconds: float = 1.0
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self._board = board
        self._grace = grace
        self._poll_seconds = poll_seconds

    def run(self) -> None:
        """Look now and then, until the process ends."""
        ended = ""
        while True:
            time.sleep(self._poll_seconds)
            note = self._board.read()
            if note is None or note.ends_at is None or note.owner == ended:
                continue
            if time.monotonic() > note.ends_at + self._grace:
                ended = note.owner
                self._board.mark_overdue(ended)
                try:
                    os.kill(note.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue  # it died at this moment; its successor reads the note
