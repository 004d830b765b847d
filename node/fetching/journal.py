"""What a long order has done so far: a file of lines, so that a second call goes on.

It lives in the data folder as long as the order is not over. Each line is one JSON object and is
on the disk before the next step begins; a line that a power cut left torn is dropped. There are
UIDs and days in it, and nothing else of a patient.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from core.errors import SentinodeError
from core.settings import Settings

_FOLDER = "orders"


class Journal:
    """The journal of one order. One that says no more than what was begun is not kept.

    Raises:
        SentinodeError: the same order runs already, or the data folder cannot be written.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._path = settings.data / _FOLDER / f"{name}.jsonl"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._path.open("a+b")
        except OSError as error:
            raise SentinodeError(
                f"what was done cannot be noted: {error}",
                remedy="Run it as the user of the node; see storage.data.",
            ) from error
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._stream.close()
            raise SentinodeError("the same order runs already") from error
        self._lines = list(self._read())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if all("begun" in line for line in self._lines):
            self._path.unlink(missing_ok=True)  # nothing was done
        self._stream.close()

    @property
    def lines(self) -> tuple[dict[str, Any], ...]:
        """What was noted, in order; empty for an order that begins."""
        return tuple(self._lines)

    def note(self, line: dict[str, Any]) -> None:
        """Add a line; it is on the disk when this returns.

        Raises:
            SentinodeError: the disk does not take it.
        """
        try:
            self._stream.write(json.dumps(line, ensure_ascii=True).encode() + b"\n")
            self._stream.flush()
            os.fdatasync(self._stream.fileno())
        except OSError as error:
            raise SentinodeError(f"what was done cannot be noted: {error}") from error
        self._lines.append(line)

    def forget(self) -> None:
        """The order is over, or begins anew."""
        self._stream.truncate(0)
        self._lines.clear()

    def _read(self) -> Iterator[dict[str, Any]]:
        self._stream.seek(0)
        good = 0
        for raw in self._stream.read().splitlines(keepends=True):
            try:
                line = json.loads(raw) if raw.endswith(b"\n") else None
            except ValueError:
                line = None
            if not isinstance(line, dict):
                break
            good += len(raw)
            yield line
        self._stream.truncate(good)
