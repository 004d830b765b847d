"""Role dispatch: decides, routes, publishes, and keeps the house."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from core.ledger import Ledger
from core.modelspec import find_specs
from core.queue import make_app, publish, publish_rendition
from core.settings import Settings
from core.store import Store
from node.bootstrap.ledger import ready_ledger
from node.deciding.dispatch import Dispatcher
from node.deciding.renditions import RenditionDispatcher
from node.deciding.workitems import WorkitemDesk
from node.keeping.clocks import ClockWatch
from node.keeping.retention import Retention
from node.loop import beside, run, stop_on_signals, until_done
from node.notices.post import Poster
from node.notices.watch import Watch

_TELL_SECONDS = 2.0


def make_dispatcher(settings: Settings, ledger: Ledger) -> Dispatcher:
    """Dispatch to the broker of the settings."""
    app = make_app(settings)
    specs = find_specs(settings.models.folders)
    return Dispatcher(settings, ledger, specs, lambda job, queue: publish(app, job, queue))


def make_rendition_dispatcher(settings: Settings, ledger: Ledger) -> RenditionDispatcher:
    """Dispatch of what destinations get in place of refused objects, to the same broker."""
    app = make_app(settings)
    return RenditionDispatcher(
        settings, ledger, lambda rendition, queue: publish_rendition(app, rendition, queue)
    )


def make_retention(
    settings: Settings, ledger: Ledger, stop: threading.Event | None = None
) -> Retention:
    """Retention by the settings; it ends early when `stop` is set."""
    return Retention(settings, ledger, Store(settings.store_url), stop=stop)


@contextmanager
def telling(settings: Settings, ledger: Ledger, stop: threading.Event) -> Iterator[None]:
    """Tell webhooks as long as the block runs, if there are any in the settings."""
    if not settings.notices:
        yield
        return
    watch, poster = Watch(settings, ledger, socket.gethostname()), Poster(settings, ledger)
    with beside(lambda: watch.step() + poster.step(), stop, _TELL_SECONDS):
        yield
    poster.close()


def run_dispatch(settings: Settings) -> None:
    """Role dispatch: decides, routes and publishes, until SIGTERM."""
    stop = stop_on_signals()
    ledger = until_done(lambda: ready_ledger(settings), stop)
    if ledger is not None:
        jobs = make_dispatcher(settings, ledger)
        renditions = make_rendition_dispatcher(settings, ledger)
        retention = make_retention(settings, ledger, stop)
        clocks = ClockWatch(settings, ledger)
        workitems = WorkitemDesk(settings, ledger, find_specs(settings.models.folders))
        with (
            beside(retention.step, stop, settings.retention.check_seconds),
            telling(settings, ledger, stop),
        ):
            run(lambda: clocks.step() + workitems.step() + jobs.step() + renditions.step(), stop)
        jobs.close()
