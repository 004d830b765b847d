"""The ledger, ready for a role to begin."""

from __future__ import annotations

from core.errors import LedgerError
from core.ledger import Ledger
from core.settings import Settings


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
