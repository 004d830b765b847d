"""Where the node's parts are wired together; the door, which needs no SQL, wires itself."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import LedgerError
from core.ledger import Ledger
from core.modelspec import find_specs
from core.queue import make_app, publish, publish_rendition
from core.settings import Settings
from core.store import Store
from node.deciding.dispatch import Dispatcher
from node.deciding.renditions import RenditionDispatcher
from node.deciding.workitems import WorkitemDesk
from node.filing.intake import Intake
from node.keeping.clocks import ClockWatch
from node.keeping.disk import DiskWatch
from node.keeping.retention import Retention
from node.loop import beside, run, stop_on_signals, until_done
from node.notices.post import Poster
from node.notices.watch import Watch
from node.sending.answers import Answerer
from node.sending.sender import Sender
from node.sending.workitem_events import WorkitemTeller
from node.web.serve import serve

_TELL_SECONDS = 2.0


def ready_ledger(settings: Settings) -> Ledger:
    """The ledger, its tables at the newest revision.

    Our own SQLite file is upgraded unasked; a server's tables are the administrator's.

    Raises:
        LedgerError: the tables are older or newer than this version of the software.
    """
    ledger = Ledger(settings.ledger_url)
    if settings.embedded_ledger:
        ledger.upgrade()
        return ledger
    revision, head = ledger.revision(), Ledger.head()
    if revision != head:
        error = LedgerError(
            f"the ledger's tables are at revision {revision or 'none'}, this version needs {head}",
            remedy="Run `sentinode db upgrade`.",
        )
        error.retry = False
        raise error
    return ledger


def make_intake(settings: Settings, ledger: Ledger) -> Intake:
    """Intake of this machine's spool."""
    return Intake(settings.spool, Store(settings.store_url), ledger)


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


def make_sender(settings: Settings, ledger: Ledger) -> Sender:
    """The sender to the peers of the settings."""
    return Sender(settings, ledger, Store(settings.store_url))


def make_answerer(settings: Settings, ledger: Ledger) -> Answerer:
    """Answers to the storage commitment requests of peers."""
    return Answerer(settings, ledger, Store(settings.store_url))


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


def run_intake(settings: Settings) -> None:
    """Role intake: from the spool into store and ledger, until SIGTERM."""
    stop = stop_on_signals()
    ledger = until_done(lambda: ready_ledger(settings), stop)
    if ledger is not None:
        intake = make_intake(settings, ledger)
        watch = DiskWatch(settings)
        run(lambda: watch.step() + intake.step(), stop)
        intake.close()


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


def run_send(settings: Settings) -> None:
    """Role send: delivers results, until SIGTERM."""
    stop = stop_on_signals()
    ledger = until_done(lambda: ready_ledger(settings), stop)
    if ledger is not None:
        sender = make_sender(settings, ledger)
        answerer = make_answerer(settings, ledger)
        asked = settings.services.commitment
        teller = WorkitemTeller(settings, ledger)
        offered = any(peer.worklist for peer in settings.peers)

        def step() -> int:
            told = teller.step() if offered else 0
            return sender.step() + (answerer.step() if asked else 0) + told

        run(step, stop)
        teller.close()
        sender.close()
        answerer.close()


def run_web(settings: Settings) -> None:
    """Role web: pages, the HTTP interface and DICOMweb, until SIGTERM."""
    stop = stop_on_signals()
    ledger = until_done(lambda: ready_ledger(settings), stop)
    if ledger is not None:

        def step() -> int:
            serve(settings, ledger, stop)
            return 1

        run(step, stop)
        ledger.close()
