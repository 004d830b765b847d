"""What the commands share: settings, ledger, console, small formats."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from core.clock import now

if TYPE_CHECKING:
    from core.ledger import Ledger
    from core.settings import Settings

console = Console()
error_console = Console(stderr=True)

# What the node writes holds patients' images: nobody else on the machine may read it.
_PRIVATE = 0o077

STATE_STYLES = {
    "done": "green",
    "sent": "green",
    "committed": "green",
    "running": "cyan",
    "sending": "cyan",
    "queued": "cyan",
    "not_applicable": "yellow",
    "held": "magenta",
    "paused": "magenta",
    "failed": "red",
    "refused": "red",
    "quarantined": "red",
}


def load_settings(context: typer.Context) -> Settings:
    """The settings that the command line names.

    Raises:
        SettingsError: they have faults.
    """
    from core.settings import load

    os.umask(_PRIVATE)
    path: Path | None = context.obj
    return load(path)


def open_ledger(settings: Settings) -> Ledger:
    """The ledger with tables of the right revision.

    Raises:
        LedgerError: it is away, or its tables are of another revision.
    """
    from node.bootstrap.ledger import ready_ledger

    return ready_ledger(settings)


def age(moment: datetime | None) -> str:
    """How long ago, short."""
    if moment is None:
        return ""
    return span(now() - moment)


def span(duration: timedelta) -> str:
    """A duration, short."""
    seconds = max(0, int(duration.total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def styled(state: str) -> str:
    """A state in its colour; the word alone says it too."""
    style = STATE_STYLES.get(state)
    return f"[{style}]{state}[/{style}]" if style else state


def clock_time(moment: datetime | None) -> str:
    """A moment in the local time zone, to the tenth of a second."""
    if moment is None:
        return ""
    local = moment.astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S}.{local.microsecond // 100000}"
