"""The queue: a Celery application, the names of its tasks, and publishing ids.

A message is only a wake-up: everything about a job or a rendition is in the ledger.
"""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import uuid
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from core.errors import QueueError
from core.settings import Settings

TASK_ANALYSE = "sentinode.analyse"
TASK_RENDER = "sentinode.render"

# Longer than any task: the lease in the ledger decides when a job is run again, not the broker.
_VISIBILITY_TIMEOUT = 6 * 3600
_SOCKET_PATH_LIMIT = 100  # sun_path holds 108 bytes


def socket_path(settings: Settings) -> Path:
    """Where the embedded broker listens: in the data folder, or in /tmp if that path is long."""
    path = settings.data / "valkey.sock"
    if len(str(path)) <= _SOCKET_PATH_LIMIT:
        return path
    token = uuid.uuid5(uuid.NAMESPACE_URL, str(path)).hex[:16]
    return Path(tempfile.gettempdir()) / f"sentinode-{os.getuid()}-{token}" / "valkey.sock"


def make_socket_folder(path: Path) -> None:
    """Make the socket's folder for us alone.

    Raises:
        QueueError: somebody else owns a folder of that name.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.parent.stat()
    shared = status.st_uid != os.getuid() or (
        path.parent.name.startswith("sentinode-") and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    )
    if shared:
        raise QueueError(f"{path.parent} belongs to somebody else; set storage.data elsewhere")


def broker_url(settings: Settings) -> str:
    """The broker's URL, embedded or not."""
    return settings.queue.url or f"redis+socket://{socket_path(settings)}?virtual_host=0"


def make_app(settings: Settings) -> Celery:
    """Make the Celery application. Nothing is connected yet."""
    app = Celery("sentinode", broker=broker_url(settings), set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=True,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        task_default_queue=settings.queue.name,
        task_serializer="json",
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # for ever: a broker may be away for a night
        # a publisher must not hang while the broker is away: the ledger tries again
        broker_transport_options={
            "visibility_timeout": _VISIBILITY_TIMEOUT,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "socket_connect_timeout": 2,
            "socket_timeout": 10,
        },
        task_publish_retry=False,
    )
    return app


def publish(app: Celery, job_id: str, queue: str) -> None:
    """Wake a worker up for a job.

    Raises:
        QueueError: the broker is away.
    """
    _send(app, TASK_ANALYSE, job_id, queue)


def publish_rendition(app: Celery, rendition_id: int, queue: str) -> None:
    """Wake a worker up for an object that stands in for a refused one.

    Raises:
        QueueError: the broker is away.
    """
    _send(app, TASK_RENDER, rendition_id, queue)


def _send(app: Celery, task: str, argument: str | int, queue: str) -> None:
    try:
        app.send_task(task, args=[argument], queue=queue, retry=False)
    except (OperationalError, RedisError, OSError) as error:
        raise QueueError(f"the broker is away: {error}") from error


def ping(app: Celery) -> None:
    """Connect to the broker.

    Raises:
        QueueError: the broker is away.
    """
    connection: Any = app.connection_for_write()
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=3)
    except (OperationalError, RedisError, OSError) as error:
        raise QueueError(f"the broker is away: {error}") from error
    finally:
        connection.release()


def worker_name(pid: int) -> str:
    """The name of the worker of this machine with this process id."""
    return f"sentinode-{pid}@{socket.gethostname()}"


def ping_workers(app: Celery, timeout: float = 2.0, *, here: bool = False) -> dict[str, list[str]]:
    """Names of the workers that answer, and the queues that they serve.

    With `here` only those of this machine.

    Raises:
        QueueError: the broker is away.
    """
    try:
        answers: dict[str, Any] = app.control.inspect(timeout=timeout).active_queues() or {}
    except (OperationalError, RedisError, OSError) as error:
        raise QueueError(f"the broker is away: {error}") from error
    host = f"@{socket.gethostname()}"
    return {
        name: [queue["name"] for queue in queues]
        for name, queues in answers.items()
        if not here or name.endswith(host)
    }
