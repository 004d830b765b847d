"""Ledgers with their tables and nothing in them: the migrations run once, not for every test."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from core.ledger import Ledger


@cache
def ledger_file() -> bytes:
    """The file of an SQLite ledger that was upgraded from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        ledger = Ledger(sqlite_url(path))
        ledger.upgrade()
        ledger.close()
        return path.read_bytes()


def sqlite_url(path: Path) -> str:
    """The URL of a ledger in a file."""
    return f"sqlite:///{path}"


def new_ledger(path: Path) -> Ledger:
    """A ledger in a file; what is there already stays."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ledger_file())
    return Ledger(sqlite_url(path))
