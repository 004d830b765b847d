"""What retention would remove, and removing it now; and the lines about disks for other pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cli.context import console, load_settings, open_ledger

if TYPE_CHECKING:
    from core.ledger import Ledger
    from core.settings import Settings
    from node.keeping.retention import Report, Retention

_PANEL = "Work"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=_PANEL)(retention)


def retention(
    context: typer.Context,
    run: Annotated[
        bool, typer.Option("--run/--dry-run", help="Remove it now, or only list it.")
    ] = False,
) -> None:
    """What is old enough to go, by the settings under [retention]. The node does it by itself."""
    settings = load_settings(context)
    ledger = open_ledger(settings)
    keeper = _retention(settings, ledger)
    if not keeper.wanted:
        typer.echo("Nothing is ever removed: no limit is set under [retention].")
        return
    report = keeper.run(dry=not run)
    console.print(_table(report, done=run))
    if report.over:
        typer.echo(
            f"The store holds {size(report.over)} more than retention.max_store_gb, and nothing "
            "more may go."
        )


def _table(report: Report, *, done: bool) -> Table:
    table = Table(title="Removed" if done else "Would be removed", title_justify="left")
    for name in ("what", "number", "size"):
        table.add_column(name, overflow="fold")
    for what, tally in (
        ("images, by age", report.by_age),
        ("images, by space", report.by_space),
        ("results, by age", report.results),
    ):
        table.add_row(what, str(tally.objects), size(tally.size))
    if report.leaving:
        table.add_row("studies: their images and results; rows follow", str(report.leaving), "")
    table.add_row("studies from the ledger", str(report.studies), "")
    for reason, number in sorted(report.kept.items()):
        table.add_row(f"stays: {reason}", str(number), "")
    return table


def retention_line(settings: Settings, ledger: Ledger) -> tuple[str, bool]:
    """What retention would remove now, in a line; and whether the store is over its limit."""
    keeper = _retention(settings, ledger)
    if not keeper.wanted:
        return "nothing is ever removed", False
    report = keeper.run(dry=True)
    images = report.by_age.objects + report.by_space.objects
    bytes_ = report.by_age.size + report.by_space.size + report.results.size
    parts = [
        f"would remove {images} image(s) and {report.results.objects} result(s), {size(bytes_)}, "
        f"and {report.studies} study(ies) from the ledger"
    ]
    if report.kept:
        reasons = (f"{number} × {reason}" for reason, number in sorted(report.kept.items()))
        parts.append(f"stays: {', '.join(reasons)}")
    if report.over:
        parts.append(f"{size(report.over)} above retention.max_store_gb")
    return "; ".join(parts), report.over > 0


def disk_line(settings: Settings) -> str:
    """Free space of our disks, in a line, with a word where one is low."""
    from node.keeping.disk import Level, disks

    storage = settings.storage
    words = {
        Level.WELL: "",
        Level.LOW: f", low: below {storage.warn_free_mb} MB",
        Level.FULL: f", full: below {storage.min_free_mb} MB images are refused",
    }
    return "; ".join(
        f"{size(disk.free_mb << 20)} free for {', '.join(disk.holds)}{words[disk.level]}"
        for disk in disks(settings)
    )


def size(number: int) -> str:
    """A number of bytes, short."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"


def _retention(settings: Settings, ledger: Ledger) -> Retention:
    from node.bootstrap.dispatch import make_retention

    return make_retention(settings, ledger)
