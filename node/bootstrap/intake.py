"""Role intake: from the spool into store and ledger."""

from __future__ import annotations

from core.ledger import Ledger
from core.settings import Settings
from core.store import Store
from node.bootstrap.ledger import ready_ledger
from node.filing.intake import Intake
from node.keeping.disk import DiskWatch
from node.loop import run, stop_on_signals, until_done


def make_intake(settings: Settings, ledger: Ledger) -> Intake:
    """Intake of this machine's spool."""
    return Intake(settings.spool, Store(settings.store_url), ledger)


def run_intake(settings: Settings) -> None:
    """Role intake: from the spool into store and ledger, until SIGTERM."""
    stop = stop_on_signals()
    ledger = until_done(lambda: ready_ledger(settings), stop)
    if ledger is not None:
        intake = make_intake(settings, ledger)
        watch = DiskWatch(settings)
        run(lambda: watch.step() + intake.step(), stop)
        intake.close()
