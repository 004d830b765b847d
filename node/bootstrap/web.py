"""Role web: pages, the HTTP interface and DICOMweb."""

from __future__ import annotations

from core.settings import Settings
from node.bootstrap.ledger import ready_ledger
from node.loop import run, stop_on_signals, until_done
from node.web.serve import serve


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
