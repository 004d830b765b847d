"""The tasks: nothing slow stands between a job's claim and the first renewal of its lease."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from core.queue import TASK_ANALYSE
from core.settings import Settings
from workers import tasks


def test_torch_is_imported_before_a_job_is_claimed(
    monkeypatch: pytest.MonkeyPatch, make_settings: Callable[..., Settings]
) -> None:
    order: list[str] = []
    fails = False

    def import_module(name: str) -> None:
        order.append(name)
        if fails:
            raise ImportError("no torch here")

    class Recorder:
        def __init__(self, *_: Any) -> None: ...

        def run(self, job_id: str) -> None:
            order.append(f"claims {job_id}")

        run_next = run

    monkeypatch.setattr(tasks, "import_module", import_module)
    monkeypatch.setattr(tasks, "Pipeline", Recorder)
    app = Celery("test", broker="memory://", set_as_current=False)
    tasks.register(app, make_settings())
    app.tasks[TASK_ANALYSE].apply(args=["job-1"])
    fails = True  # then the job tells it, when it asks for its model
    app.tasks[TASK_ANALYSE].apply(args=["job-1"])
    assert [line.split()[0] for line in order] == ["models.registry", "claims"] * 2
