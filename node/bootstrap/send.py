"""Role send: delivers results, answers and events."""

from __future__ import annotations

from core.ledger import Ledger
from core.settings import Settings
from core.store import Store
from node.bootstrap.ledger import ready_ledger
from node.loop import run, stop_on_signals, until_done
from node.sending.answers import Answerer
from node.sending.sender import Sender
from node.sending.workitem_events import WorkitemTeller


def make_sender(settings: Settings, ledger: Ledger) -> Sender:
    """The sender to the peers of the settings."""
    return Sender(settings, ledger, Store(settings.store_url))


def make_answerer(settings: Settings, ledger: Ledger) -> Answerer:
    """Answers to the storage commitment requests of peers."""
    return Answerer(settings, ledger, Store(settings.store_url))


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
