"""The only place where the node's parts are wired together."""

from __future__ import annotations

from core.errors import LedgerError
from core.ledger import Ledger
from core.modelspec import find_specs
from core.queue import make_app, publish, publish_rendition
from core.settings import Settings
from core.store import Store
from node.dispatch import Dispatcher
from node.intake import Intake
from node.loop import run, stop_on_signals, until_done
from node.renditions import RenditionDispatcher
from node.scp import Door
from node.sender import Sender

_TEND_SECONDS = 2.0


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


def run_scp(settings: Settings) -> None:
    """Role scp: the door, until SIGTERM."""
    stop = stop_on_signals()
    door = Door(settings)
    while not stop.wait(_TEND_SECONDS):
        door.tend()
    door.close()


def run_intake(settings: Settings) -> None:
    """Role intake: from the spool into store and ledger, until SIGTERM."""
    stop = stop_on_signals()
    ledger = until_done(lambda: ready_ledger(settings), stop)
    if ledger is not None:
        run(make_intake(settings, ledger).step, stop)


def run_dispatch(settings: Settings) -> None:
    """Role dispatch: decides, routes and publishes, until SIGTERM."""
    stop = stop_on_signals()
    ledger = until_done(lambda: ready_ledger(settings), stop)
    if ledger is not None:
        jobs = make_dispatcher(settings, ledger)
        renditions = make_rendition_dispatcher(settings, ledger)
        run(lambda: jobs.step() + renditions.step(), stop)


def run_send(settings: Settings) -> None:
    """Role send: delivers results, until SIGTERM."""
    stop = stop_on_signals()
    ledger = until_done(lambda: ready_ledger(settings), stop)
    if ledger is not None:
        sender = make_sender(settings, ledger)
        run(sender.step, stop)
        sender.close()
