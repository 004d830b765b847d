"""Keeping audit messages: in a file that only we read, and at a syslog server.

What cannot be written to the file is not done: the request fails. The syslog server is told
beside, from a queue, so that one that is away holds nobody up; what it missed is in the file.
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import structlog

from core.errors import AuditError
from core.settings import Settings
from node.web.audit.messages import Happening, Outcome, Study, message
from node.web.audit.syslog import Syslog

log = structlog.get_logger()

_MB = 1 << 20
# Somebody who looks at a study is told once in so long, not with each of its images.
_AGAIN_AFTER_SECONDS = 900.0
_MOST_REMEMBERED = 4096
_MOST_QUEUED = 10_000
_TAIL = 256 * 1024


class Audit:
    """The audit trail of this process.

    Args:
        now: the time.
    """

    def __init__(self, settings: Settings, now: Callable[[], datetime]) -> None:
        self._file = settings.audit_file
        self._max_bytes = settings.audit.max_mb * _MB
        self._keep = settings.audit.keep
        self._source = settings.node.ae_title
        self._now = now
        self._lock = threading.Lock()
        self._looked: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._waiting: queue.Queue[str | None] = queue.Queue(_MOST_QUEUED)
        self._syslog = Syslog(settings.audit.syslog) if settings.audit.syslog else None
        self._teller: threading.Thread | None = None
        self._full = False
        if self._syslog is not None:
            self._teller = threading.Thread(target=self._tell, name="syslog", daemon=True)
            self._teller.start()

    def note(
        self,
        happening: Happening,
        user: str,
        *,
        address: str = "",
        outcome: Outcome = Outcome.SUCCESS,
        study: Study | None = None,
        query: str = "",
        subject: str = "",
        detail: str = "",
    ) -> None:
        """Keep what happened.

        Raises:
            AuditError: it cannot be written; let it not have happened.
        """
        line = message(
            happening,
            self._now(),
            source=self._source,
            user=user,
            address=address,
            outcome=outcome,
            study=study,
            query=query,
            subject=subject,
            detail=detail,
        )
        self._write(line)
        if self._syslog is None:
            return
        try:
            self._waiting.put_nowait(line)
            self._full = False
        except queue.Full:
            if not self._full:
                self._full = True
                log.warning("audit_not_told", reason="the syslog server is away for long")

    def looked(
        self,
        user: str,
        address: str,
        study: Study,
        happening: Happening = Happening.LOOKED,
        detail: str = "",
    ) -> None:
        """Somebody looked at a study; told again only after a quarter of an hour.

        Raises:
            AuditError: it cannot be written; do not show it.
        """
        key = (user, study.study_instance_uid, happening.name)
        if self._is_new(key):
            self.note(happening, user, address=address, study=study, detail=detail)
            self._remember(key)

    def queried(self, user: str, address: str, what: str) -> None:
        """Somebody listed or searched; the same again is told only after a quarter of an hour.

        Raises:
            AuditError: it cannot be written; do not show it.
        """
        key = (user, what, Happening.QUERIED.name)
        if self._is_new(key):
            self.note(Happening.QUERIED, user, address=address, query=what)
            self._remember(key)

    def _is_new(self, key: tuple[str, str, str]) -> bool:
        with self._lock:
            before = self._looked.get(key)
        return before is None or time.monotonic() - before >= _AGAIN_AFTER_SECONDS

    def _remember(self, key: tuple[str, str, str]) -> None:
        with self._lock:
            self._looked[key] = time.monotonic()
            self._looked.move_to_end(key)
            while len(self._looked) > _MOST_REMEMBERED:
                self._looked.popitem(last=False)

    def newest(self, most: int = 200) -> list[str]:
        """The newest messages of the file, the newest first, each one line of XML.

        Raises:
            AuditError: the file cannot be read.
        """
        try:
            with self._file.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - _TAIL))
                lines = stream.read().decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise AuditError(f"{self._file.name} cannot be read: {error.strerror}") from error
        return [line for line in reversed(lines) if line.startswith("<AuditMessage")][:most]

    def close(self) -> None:
        """Tell the syslog server what waits, for a few seconds at most."""
        if self._teller is not None:
            try:
                self._waiting.put_nowait(None)
                self._teller.join(5)
            except queue.Full:
                log.warning("audit_not_told", reason="the syslog server is away")
        if self._syslog is not None:
            self._syslog.close()

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode()
        try:
            with self._locked(), self._lock:
                self._put_aside(len(data))
                handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                try:
                    os.fchmod(handle, 0o600)
                    written = os.write(handle, data)
                finally:
                    os.close(handle)
        except OSError as error:
            reason = error.strerror or str(error)
            raise AuditError(f"the audit trail cannot be written: {reason}") from error
        if written != len(data):
            raise AuditError("the audit trail cannot be written: its disk is full")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Several processes write one file, and only one may put it aside."""
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(f"{self._file}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _put_aside(self, more: int) -> None:
        try:
            size = self._file.stat().st_size
        except FileNotFoundError:
            return
        if not size or size + more <= self._max_bytes:
            return
        for number in range(self._keep - 1, 0, -1):
            earlier = Path(f"{self._file}.{number}")
            if earlier.exists():
                earlier.replace(f"{self._file}.{number + 1}")
        self._file.replace(f"{self._file}.1")

    def _tell(self) -> None:
        assert self._syslog is not None
        trouble = False
        while (line := self._waiting.get()) is not None:
            try:
                self._syslog.send(line, self._now())
            except OSError as error:
                if not trouble:
                    log.warning("audit_not_told", reason=str(error))
                trouble = True
            else:
                trouble = False
