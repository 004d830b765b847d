"""Celery's tasks. A task carries an id and nothing else; the ledger knows the rest."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

import structlog
from celery import Celery

from core.errors import SentinodeError
from core.ledger import Ledger
from core.queue import TASK_ANALYSE, TASK_RENDER
from core.settings import Settings
from core.store import Store
from workers.board import Board
from workers.inference import Models
from workers.pipeline import Pipeline
from workers.render import Renderer

log = structlog.get_logger()


def register(app: Celery, settings: Settings, board: Board | None = None) -> None:
    """Give `app` the tasks of this installation; `board` is shared with the worker's parent."""

    @cache  # one per process, made after the fork: connections and models are not shared
    def pipeline() -> Pipeline:
        ledger, store = Ledger(settings.ledger_url), Store(settings.store_url)
        return Pipeline(settings, ledger, store, Models(settings), board)

    @cache
    def renderer() -> Renderer:
        return Renderer(settings, Ledger(settings.ledger_url), Store(settings.store_url))

    @app.task(name=TASK_ANALYSE, bind=True)
    def analyse(task: Any, job_id: str) -> None:
        # the message wakes up; which job is the best is asked when there is a hand free for it
        queue = (task.request.delivery_info or {}).get("routing_key")
        # before the claim: importing torch keeps every thread of the process waiting, on a busy
        # machine for longer than a lease. Should it fail, the job itself says so.
        with suppress(ImportError):
            import_module("models.registry")
        try:
            if queue:
                pipeline().run_next(queue)
            else:
                pipeline().run(job_id)
        except SentinodeError as error:
            # nothing is lost: the job's lease runs out, or it was never claimed, and the
            # dispatcher publishes it again
            log.warning("job_left", job=job_id, error=str(error), remedy=error.remedy)

    @app.task(name=TASK_RENDER)
    def render(rendition_id: int) -> None:
        try:
            renderer().run(rendition_id)
        except SentinodeError as error:
            # as with a job
            log.warning(
                "rendition_left", rendition=rendition_id, error=str(error), remedy=error.remedy
            )
