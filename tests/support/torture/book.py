"""The book: what was acknowledged, by whom, and what a modality has sent as a whole.

Every acknowledgement is also a line in a file, in the order in which it came.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.torture.patients import Series


class Book:
    """Written by every modality, read by the faults and by the audit."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._stream = path.open("w", encoding="utf-8")
        self.acknowledged: dict[str, tuple[Series, int]] = {}
        self.answered: Counter[str] = Counter()
        self.whole: dict[str, Series] = {}
        self.statuses: Counter[int] = Counter()
        self.by_door: Counter[str] = Counter()
        self.broken = 0
        self._open: Counter[str] = Counter()

    def answer(self, series: Series, index: int, status: int, door: str) -> None:
        """Note a response. Only 0x0000 acknowledges."""
        uid = series.sop_uid(index)
        with self._lock:
            self.statuses[status] += 1
            if status != 0x0000:
                return
            self.acknowledged[uid] = (series, index)
            self.answered[uid] += 1
            self.by_door[door] += 1
            line = {"at": time.time(), "series": series.uid, "image": index, "uid": uid}
            self._stream.write(json.dumps({**line, "door": door}) + "\n")
            self._stream.flush()

    def finish(self, series: Series) -> None:
        """Every image of the series was acknowledged."""
        with self._lock:
            self.whole[series.uid] = series

    def break_off(self) -> None:
        """An association ended before the modality released it."""
        with self._lock:
            self.broken += 1

    @contextmanager
    def sending(self, door: str) -> Iterator[None]:
        """An association to `door` is open and images are on their way."""
        with self._lock:
            self._open[door] += 1
        try:
            yield
        finally:
            with self._lock:
                self._open[door] -= 1

    def being_sent(self, door: str) -> int:
        """How many associations to `door` send now."""
        with self._lock:
            return self._open[door]

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
