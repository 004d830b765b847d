"""Saying which images belong together, and seeing what was said: `sentinode expect`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from cli.context import clock_time, console, load_settings, open_ledger

if TYPE_CHECKING:
    from core.ledger import Work
    from core.ledger.evidence import Evidence
    from core.settings import Settings

_PANEL = "Work"
_SAID_BY = "administrator"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel=_PANEL)(expect)


def expect(
    context: typer.Context,
    uid: Annotated[str, typer.Argument(help="Series or Study Instance UID.")],
    count: Annotated[int | None, typer.Option(min=1, help="How many images there are.")] = None,
    instances: Annotated[
        Path | None,
        typer.Option(help="File with their SOP Instance UIDs, one a line; - for standard input."),
    ] = None,
    stat: Annotated[bool, typer.Option("--stat", help="Analyse it first of all.")] = False,
    is_study: Annotated[
        bool | None,
        typer.Option("--study/--series", help="What the UID is, while no image has arrived."),
    ] = None,
) -> None:
    """Say how many or which images a series or study has, so that it starts without waiting.

    Without an option: show what was said about it, and what it waits for.
    """
    from core.clock import now
    from core.errors import SentinodeError
    from core.identifiers import UID, derived_uid
    from core.ledger.evidence import Evidence
    from core.lifecycle import EvidenceSource

    settings = load_settings(context)
    wanted = UID(uid)
    if count is not None and instances is not None:
        raise SentinodeError("--count and --instances say the same thing twice; give one")
    uids = None if instances is None else _uids(instances)
    ledger = open_ledger(settings)
    with ledger.write() as work:
        study = work.evidence.study_of(wanted)
        if is_study is None:
            is_study = None if study is None else study == wanted
        if count is None and uids is None and not stat:
            pass
        elif is_study is None:
            raise SentinodeError(
                f"no image of {wanted} has arrived yet", remedy="Say --series or --study."
            )
        else:
            said = Evidence(
                EvidenceSource.REQUEST,
                wanted,
                now(),
                study_instance_uid=wanted if is_study else study or "",
                series_instance_uid="" if is_study else wanted,
                said_by=_SAID_BY,
            )
            if count is not None or uids is not None:
                work.evidence.note(_with(said, uids=uids, count=count))
            if stat:  # a statement of its own, which leaves an earlier number standing
                work.evidence.note(
                    _with(said, key=derived_uid("evidence", "stat", wanted), stat=True)
                )
    with ledger.read() as work:
        study = wanted if is_study else work.evidence.study_of(wanted) or ""
        evidence = work.evidence.of_study(study) if study else []
        waiting = _waiting(work, study, settings)
    if not study:
        console.print(f"noted; no image of {wanted} has arrived yet", highlight=False)
        return
    console.print(_said_table(evidence))
    for series, why in waiting:
        console.print(Text(f"series {series}: not whole yet: {why}"))
    if stat and not waiting and not is_study:
        console.print("It is whole already; jobs that are made keep their priority.")


def _with(said: Evidence, **changes: object) -> Evidence:
    from dataclasses import replace

    return replace(said, **changes)  # type: ignore[arg-type]


def _uids(path: Path) -> frozenset[str]:
    """The UIDs of a file, one a line.

    Raises:
        SentinodeError: it cannot be read, or holds none.
    """
    from core.errors import SentinodeError
    from core.identifiers import UID

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SentinodeError(f"{path} cannot be read: {error}") from error
    uids = frozenset(UID(line) for line in text.split())
    if not uids:
        raise SentinodeError(f"{path} names no instance")
    return uids


def _waiting(work: Work, study: str, settings: Settings) -> list[tuple[str, str]]:
    """The series of a study that are not whole yet, and what each waits for."""
    from core.clock import now
    from node.deciding.completeness import decide

    standing = [
        item.series_instance_uid
        for item in work.facts.standing()
        if item.study_instance_uid == study
    ]
    moment = now()
    return [
        (facts.series_instance_uid, decide(facts, moment, settings.completeness).reason)
        for facts in work.facts.of(standing)
    ]


def _said_table(evidence: list[Evidence]) -> Table:
    """What was said about a study, the oldest first."""
    table = Table(title="What was said", title_justify="left")
    for name in ("when", "how", "by", "about", "images", "more to come"):
        table.add_column(name, overflow="fold")
    for item in evidence:
        number = len(item.uids) if item.uids is not None else item.count
        stat = "STAT" if item.stat else ""
        table.add_row(
            clock_time(item.at),
            str(item.source),
            item.said_by,
            f"series {item.series_instance_uid}" if item.series_instance_uid else "the study",
            stat if number is None else str(number),
            "" if item.final else "yes",
        )
    return table
