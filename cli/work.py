"""Looking at the work and deciding about it: worklist, show, retry, conflicts, resolve."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.context import age, clock_time, console, load_settings, open_ledger, styled
from cli.findings import findings_table, measurements_table
from cli.retention import disk_line, retention_line

if TYPE_CHECKING:
    from core.domain import Delivered, Job, Result, Series
    from core.ledger import Ledger
    from core.ledger.views import JobLife

_PANEL = "Work"
_SHORT_ID = 8
_ACTOR = "administrator"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (worklist, show, study, retry, cancel, conflicts, resolve):
        app.command(rich_help_panel=_PANEL)(command)


def worklist(
    context: typer.Context,
    state: Annotated[str, typer.Option(help="Only these states, with commas.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most lines.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep looking until Ctrl-C.")] = False,
) -> None:
    """Jobs with state, model, age and error, the newest first."""
    settings = load_settings(context)
    ledger = open_ledger(settings)
    states = _states(state)
    if as_json:
        with ledger.read() as work:
            for job in work.views.jobs(states, limit):
                typer.echo(json.dumps(asdict(job), default=str))
        return
    room = f"{disk_line(settings)}. Retention: {retention_line(settings, ledger)[0]}."
    table = _worklist_table(ledger, states, limit, room)
    if not watch:
        console.print(table)
        return
    with Live(table, console=console, screen=False) as live:
        try:
            while True:
                time.sleep(1)
                live.update(_worklist_table(ledger, states, limit, room))
        except KeyboardInterrupt:
            return


def _states(text: str) -> tuple[Any, ...]:
    from core.errors import SentinodeError
    from core.lifecycle import JobState

    try:
        return tuple(JobState(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        known = ", ".join(JobState)
        raise SentinodeError(f"{error}", remedy=f"States are: {known}.") from error


def _worklist_table(ledger: Ledger, states: tuple[Any, ...], limit: int, room: str) -> Table:
    with ledger.read() as work:
        jobs = work.views.jobs(states, limit)
        counts = work.views.counts()
    summary = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    table = Table(
        title=f"Worklist — {summary}",
        title_justify="left",
        caption=Text(room),
        caption_justify="left",
        expand=True,
    )
    for name in ("job", "state", "model", "route", "try", "age", "what"):
        table.add_column(name, no_wrap=name != "what", ratio=1 if name == "what" else None)
    for job in jobs:
        table.add_row(
            job.id[:_SHORT_ID],
            styled(job.state),
            f"{job.model} {job.model_version}",
            job.route,
            str(job.attempt),
            age(job.created_at),
            Text(_in_a_line(job)),
        )
    return table


def _in_a_line(job: Job) -> str:
    return f"{job.reason} — {job.remedy}" if job.remedy else job.reason


def show(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="A job's id, or its beginning.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Everything about one job: its life, findings, objects and transfers."""
    from core.store import Store

    settings = load_settings(context)
    ledger = open_ledger(settings)
    with ledger.read() as work:
        life = work.views.job_life(job)
    if as_json:
        typer.echo(json.dumps(asdict(life), default=_plain))
        return
    print_life(life, Store(settings.store_url))


def print_life(life: JobLife, store: Any) -> None:
    """Print a job's life, findings, objects and transfers."""
    job = life.job
    console.print(f"[bold]Job {job.id}[/bold]  {styled(job.state)}")
    console.print(Text(f"{job.model} {job.model_version}, route {job.route}, run {job.run}"))
    console.print(Text(_turn_of(job)))
    console.print(Text(f"study {job.study_instance_uid}"))
    for series in life.study.series:
        if series.series_instance_uid in job.series_instance_uids:
            console.print(Text(f"series {series.description!r}: {series.decision}"))
    if job.reason:
        console.print(Text(_in_a_line(job), style="yellow"))
    events = Table(title="Life", title_justify="left")
    for name in ("when", "state", "what", "who"):
        events.add_column(name)
    for event in life.events:
        who = event.actor.partition(":")[0]
        events.add_row(clock_time(event.at), styled(event.state), Text(event.note), who)
    console.print(events)
    _print_input(job)
    if life.findings:
        console.print(findings_table(life.findings))
        measured = measurements_table(life.findings)
        if measured is not None:
            console.print(measured)
    _print_objects(life, store)
    _print_transfers(life)


def _turn_of(job: Job) -> str:
    """What decides when it is a job's turn, and what it has been through."""
    parts = [f"priority {job.priority}", f"{job.size / 1e6:.1f} MB"]
    parts += [f"from {job.sender}"] if job.sender else []
    parts += [f"memory ran out {job.strain} time(s)"] if job.strain else []
    parts += [f"its worker died {job.deaths} time(s)"] if job.deaths else []
    parts += [f"lost {job.losses} time(s) without a known cause"] if job.losses else []
    parts += [f"results of job {job.same_as}"] if job.same_as else []
    return ", ".join(parts)


def _print_input(job: Job) -> None:
    """What was analysed, and what its reader must know."""
    images, expected = job.summary.get("images"), job.summary.get("expected")
    if images is not None:
        revision = job.summary.get("revision", 1)
        later = f", revision {revision}" if revision > 1 else ""
        console.print(Text(f"{images} of {expected or images} images analysed{later}"))
    for remark in job.summary.get("remarks", ()):
        console.print(Text(remark, style="yellow"))


def _print_objects(life: JobLife, store: Any) -> None:
    """What the job made, and what was made in its place."""
    if life.results:
        objects = Table(title="Objects", title_justify="left")
        for name in ("kind", "what", "SOP Instance UID", "bytes", "stored as"):
            objects.add_column(name, overflow="fold")
        kept = life.job.state == "failed"
        for result in life.results:
            objects.add_row(
                _kind_of(result),
                _what_of(result, kept=kept),
                result.sop_instance_uid,
                str(result.size),
                Text(store.describe(result.store_key)),
            )
        console.print(objects)
    if life.renditions:
        console.print(_renditions_table(life))


def _print_transfers(life: JobLife) -> None:
    """What went where, and what the destinations are known to refuse."""
    from core.sopclasses import name_of

    if life.transfers:
        transfers = Table(title="Transfers", title_justify="left")
        for name in ("object", "to", "state", "known by", "tries", "last answer", "next"):
            transfers.add_column(name, overflow="fold")
        for transfer, attempts in life.transfers:
            transfers.add_row(
                _kind_of(transfer.result) if transfer.result else transfer.kind,
                transfer.destination,
                styled(transfer.state),
                transfer.proof,
                str(len(attempts)),
                Text("; ".join(filter(None, (transfer.message, transfer.waits_for)))),
                clock_time(transfer.next_try_at),
            )
        console.print(transfers)
    for refused in life.refused:
        line = (
            f"{refused.destination} does not take {name_of(refused.sop_class_uid)}, as it said at "
            f"{clock_time(refused.at)}: {refused.how}"
        )
        console.print(Text(line))


def _kind_of(result: Result) -> str:
    """A result's kind, and which it is where there are several."""
    alternative = " (instead)" if result.alternative_to is not None else ""
    return result.kind + (f" {result.part + 1}" if result.part else "") + alternative


def _what_of(result: Result, *, kept: bool) -> str:
    from core.sopclasses import name_of

    if not result.sop_class_uid:
        return "for pages, never sent"
    name = name_of(result.sop_class_uid).removesuffix(" Storage")
    return f"{name}: kept, not sent" if kept else name


def _renditions_table(life: JobLife) -> Table:
    """What is made in place of objects that a destination refused."""
    from core.sopclasses import name_of

    table = Table(title="Made instead of refused objects", title_justify="left")
    for name in ("of", "as", "for", "state", "tries", "what"):
        table.add_column(name, overflow="fold")
    for item in life.renditions:
        asking = sorted(t.destination for t, _ in life.transfers if t.rendition_id == item.id)
        table.add_row(
            _kind_of(item.result),
            name_of(item.sop_class_uid),
            ", ".join(asking),
            styled(item.state),
            str(item.attempts),
            Text(item.reason),
        )
    return table


def study(
    context: typer.Context,
    uid: Annotated[str, typer.Argument(help="Study Instance UID; default: the newest.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """A study's series: when whole, and why each route took it or not."""
    ledger = open_ledger(load_settings(context))
    with ledger.read() as work:
        studies = [work.views.study(uid)] if uid else work.views.studies(20)
        decisions = {
            series.series_instance_uid: work.views.route_decisions(series.series_instance_uid)
            for item in studies
            for series in item.series
        }
        delivered = {
            item.study_instance_uid: work.views.delivered(item.study_instance_uid)
            for item in studies
        }
    for item in studies:
        if as_json:
            content = asdict(item) | {
                "route_decisions": {
                    series: [asdict(decision) for decision in made]
                    for series, made in decisions.items()
                },
                "delivered": [asdict(part) for part in delivered[item.study_instance_uid]],
            }
            typer.echo(json.dumps(content, default=str))
            continue
        console.print(series_table(item.study_instance_uid, item.series, decisions))
        if delivered[item.study_instance_uid]:
            console.print(delivered_table(delivered[item.study_instance_uid]))


def series_table(
    study_uid: str, all_series: tuple[Series, ...], decisions: dict[str, tuple[Any, ...]]
) -> Table:
    """The series of a study with what was decided about them."""
    table = Table(title=f"Study {study_uid}", title_justify="left")
    for name in ("series", "images", "state", "whole because", "routes"):
        table.add_column(name, overflow="fold")
    for series in all_series:
        routes = "\n".join(
            f"{item.route}: {item.reason}" for item in decisions[series.series_instance_uid]
        )
        if series.state == "own":
            routes = "our own result: never analysed"
        table.add_row(
            Text(f"{series.modality} {series.description}"),
            str(series.instances),
            styled(series.state),
            Text(series.decision),
            Text(routes),
        )
    return table


def delivered_table(delivered: tuple[Delivered, ...]) -> Table:
    """What went where of a study, and how it is known."""
    table = Table(title="Delivered", title_justify="left")
    for name in ("to", "what", "number", "state", "known by", "last answer"):
        table.add_column(name, overflow="fold")
    for part in delivered:
        table.add_row(
            part.destination,
            "originals" if part.kind == "IMAGE" else part.kind,
            str(part.count),
            styled(part.state),
            part.proof,
            Text(part.message),
        )
    return table


def retry(
    context: typer.Context,
    jobs: Annotated[list[str], typer.Argument(help="Job ids, or their beginnings.")],
    again: Annotated[
        bool, typer.Option("--again", help="Analyse once more even if the job is done.")
    ] = False,
) -> None:
    """Run a failed job again, or send its refused objects again."""
    from core.clock import now
    from core.lifecycle import JobState
    from core.modelspec import find_specs

    settings = load_settings(context)
    ledger = open_ledger(settings)
    specs = find_specs(settings.models.folders)
    for prefix in jobs:
        with ledger.write() as work:
            job = work.views.job(prefix)
            if job.state == JobState.DONE and not again:
                sent = work.transfers.send_again(job.same_as or job.id)
                message = (
                    f"{sent} object(s) of job {job.id[:_SHORT_ID]} are due again"
                    if sent
                    else f"job {job.id[:_SHORT_ID]} is done and nothing was refused; "
                    "--again analyses it once more"
                )
            else:
                version = specs[job.model].version if job.model in specs else None
                made = work.jobs.rerun(job.id, _ACTOR, now(), model_version=version)
                message = f"job {made[:_SHORT_ID]} was made from the input of {job.id[:_SHORT_ID]}"
        typer.echo(message)


def cancel(
    context: typer.Context,
    jobs: Annotated[
        list[str] | None, typer.Argument(help="Job ids, or their beginnings.", show_default=False)
    ] = None,
    study: Annotated[
        str, typer.Option(metavar="UID", help="Every job of this study that is not finished.")
    ] = "",
) -> None:
    """End jobs that are not finished. One that is running stops at its next step."""
    from core.clock import now
    from core.errors import SentinodeError

    if not jobs and not study:
        raise SentinodeError("no job and no study was named", remedy="See `sentinode worklist`.")
    ledger = open_ledger(load_settings(context))
    ended: list[str] = []
    # all or none: an id that is wrong leaves the others as they are
    with ledger.write() as work:
        if study:
            ended += work.jobs.cancel_study(study, _ACTOR, now())
        for prefix in jobs or ():
            job = work.views.job(prefix)
            if job.id not in ended:
                work.jobs.cancel(job.id, _ACTOR, now())
                ended.append(job.id)
    names = ", ".join(job_id[:_SHORT_ID] for job_id in ended) or "none"
    typer.echo(f"cancelled: {len(ended)} job(s): {names}")


def conflicts(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Studies whose images disagree about whose they are; their jobs are held."""
    ledger = open_ledger(load_settings(context))
    with ledger.read() as work:
        found = work.conflicts.open()
    if as_json:
        for item in found:
            typer.echo(json.dumps(asdict(item), default=str))
        return
    if not found:
        typer.echo("No identity conflicts.")
        return
    table = Table(title="Identity conflicts", title_justify="left")
    for name in ("study", "attribute", "earlier", "later", "found"):
        table.add_column(name, overflow="fold")
    for item in found:
        table.add_row(
            item.study_instance_uid,
            item.keyword,
            Text(item.earlier),
            Text(item.later),
            age(item.found_at),
        )
    console.print(table)
    typer.echo("Decide with: sentinode resolve STUDY --release | --cancel")


def resolve(
    context: typer.Context,
    study_uid: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")],
    release: Annotated[
        bool, typer.Option("--release/--cancel", help="Let its work go on, or end it.")
    ],
) -> None:
    """Decide an identity conflict."""
    from core.clock import now

    ledger = open_ledger(load_settings(context))
    with ledger.write() as work:
        touched = work.conflicts.decide(study_uid, release, _ACTOR, now())
    typer.echo(f"{'released' if release else 'cancelled'}: {touched} job(s)")


def _plain(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else str(value)
