"""The Celery worker of this installation."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from importlib import import_module
from pathlib import Path

import structlog
from celery.platforms import SecurityWarning  # type: ignore[attr-defined]
from celery.signals import worker_process_init, worker_shutting_down

from core import logs
from core.queue import make_app, worker_name
from core.settings import Settings
from workers.board import Board, Watch
from workers.successor import settle, settle_restart
from workers.tasks import register

log = structlog.get_logger()


def queues_of(settings: Settings) -> tuple[str, ...]:
    """The queues to serve: as set, or gpu and cpu where there is a GPU, or cpu."""
    if settings.worker.queues:
        return settings.worker.queues
    if settings.worker.device != "cpu" and _has_cuda():
        return ("gpu", settings.queue.name)
    return (settings.queue.name,)


def run_worker(settings: Settings) -> None:
    """Serve the queues until SIGTERM; a running job is finished first.

    One child process computes: should it crash (a broken decoder, no memory), Celery starts
    another, which gives the job of the dead one back. Torch is loaded in the child only, so that
    CUDA is never carried over a fork.
    """
    app = make_app(settings)
    board = Board()
    register(app, settings, board)

    @worker_shutting_down.connect(weak=False)
    def _on_stop(**_: object) -> None:
        board.stop()

    @worker_process_init.connect(weak=False)
    def _on_child(**_: object) -> None:
        logs.configure(settings.logs, "worker")
        left = board.take_over()
        if left is None:
            threading.Thread(target=settle_restart, args=(settings,), daemon=True).start()
        else:
            note, overdue = left
            # not waited for: Celery ends a child that is not ready within seconds
            threading.Thread(
                target=settle, args=(note, settings), kwargs={"overdue": overdue}, daemon=True
            ).start()
        # torch takes seconds to import; the first job should find it there
        threading.Thread(target=import_module, args=("models.registry",), daemon=True).start()

    # Celery warns of pickled messages when run as root; ours are JSON only
    warnings.filterwarnings("ignore", category=SecurityWarning)
    Watch(board).start()
    queues = queues_of(settings)
    log.info("worker_ready", queues=list(queues))
    app.worker_main(
        [
            "--quiet",
            "worker",
            "--pool=prefork",
            "--concurrency=1",
            f"--queues={','.join(queues)}",
            f"--hostname={worker_name(os.getpid())}",
            "--without-gossip",
            "--without-mingle",
            "--loglevel=WARNING",
        ]
    )


def _has_cuda() -> bool:
    """Asked in another process: CUDA must not be touched before the worker forks."""
    if not Path("/proc/driver/nvidia").exists():
        return False
    code = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
