"""The sender: what is due goes out until the destination has it, and that is proved.

Each destination is served in threads of its own, one that sends and one that looks for the proof,
so that a slow one holds nobody up. One that is away waits with exponential backoff and jitter,
is tried with one object by one sender, and gets everything when it is back.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime

from core import clock
from core.ledger import Ledger
from core.settings import Settings
from core.store import Store
from node.sending.delivery import Delivery
from node.sending.prover import Prover
from node.servants import Servants


class Sender:
    """Delivers results, and originals that a route passes on, to their destinations."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        store: Store,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._ledger = ledger
        self._now = now
        owner = f"sender:{uuid.uuid4().hex}"
        self._delivery = Delivery(settings, ledger, store, owner, now)
        self._prover = Prover(settings, ledger, f"{owner}:proof", now)
        self._sending = Servants(self._delivery.serve)
        self._proving = Servants(self._prover.serve)

    def step(self, *, wait_seconds: float = 0.0) -> int:
        """Begin what is due; returns how many objects were delivered or proved since.

        With `wait_seconds` the step waits so long for those it serves.

        Raises:
            LedgerError: SQL is away.
        """
        self._delivery.keep_leases()
        now = self._now()
        with self._ledger.read() as work:
            to_send = work.transfers.destinations_due(now)
            to_prove = work.proofs.destinations_due(now)
        self._sending.begin(to_send)
        self._proving.begin(to_prove)
        return self._sending.ended(wait_seconds) + self._proving.ended(wait_seconds)

    def close(self) -> None:
        """Let what is under way come to its end."""
        self._sending.close()
        self._proving.close()
