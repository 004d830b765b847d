"""The ledger: a unit of work and every query. Makes legal moves only.

    with ledger.write() as work:
        work.filing.file(incoming, now)

A unit of work is one transaction: it is committed when the block ends, rolled back when it
raises. `ledger.read()` is the same without the right to write, so that readers never wait for
the one writer of SQLite.
"""

from core.ledger.unit import Ledger, Work

__all__ = ["Ledger", "Work"]
