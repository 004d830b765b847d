"""Many old studies: `sentinode fetch` brings them from a peer, `sentinode rerun` analyses again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cli.context import console, error_console, load_settings, open_ledger
from cli.peers import address
from cli.stopping import stopping

if TYPE_CHECKING:
    from core.ledger import Ledger
    from node.fetching.again import Again, Done
    from node.fetching.criteria import Span
    from node.fetching.fetch import Fetcher, Report

_ACTOR = "administrator"
_SHOWN = 50  # failures that are listed
_GO_ON = "The same command goes on from here."

Days = Annotated[int | None, typer.Option(min=1, help="Studies of so many days, today included.")]
From = Annotated[str, typer.Option("--from", metavar="DAY", help="First Study Date, YYYY-MM-DD.")]
To = Annotated[
    str, typer.Option("--to", metavar="DAY", help="Last Study Date, YYYY-MM-DD; default: today.")
]
Modality = Annotated[
    list[str] | None, typer.Option(help="Only series of this modality; may be given again.")
]
BodyPart = Annotated[
    list[str] | None,
    typer.Option(help="Only series of this Body Part Examined, as BRAIN or *HEAD*; again too."),
]
PerMinute = Annotated[
    float, typer.Option(min=0.01, help="Most studies (rerun: jobs) begun in a minute.")
]
Queue = Annotated[
    int,
    typer.Option(min=1, help="Wait while so many jobs and arriving series, or more, are open."),
]
Limit = Annotated[int, typer.Option(min=0, help="Most studies (rerun: jobs) now; 0: all.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Begin anew, whatever an earlier call has done.")
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel="Peers")(fetch)
    app.command(rich_help_panel="Work")(rerun)


def fetch(
    context: typer.Context,
    peer: Annotated[str, typer.Argument(help="A peer's name, or AE@host:port.")],
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE…",
            help="More to match, of studies or series: StudyDescription=*HEAD*, ProtocolName=…",
        ),
    ] = None,
    days: Days = None,
    first: From = "",
    last: To = "",
    modality: Modality = None,
    body_part: BodyPart = None,
    patient: Annotated[str, typer.Option(metavar="ID", help="Only of this Patient ID.")] = "",
    priors_of: Annotated[
        str,
        typer.Option(
            metavar="STUDY", help="Earlier studies of the patient of this study, which is here."
        ),
    ] = "",
    unsaid: Annotated[
        bool,
        typer.Option(
            "--unsaid", help="Also series of which the peer does not tell modality or body part."
        ),
    ] = False,
    how: Annotated[
        str, typer.Option(help="get, move, or auto: C-GET where the peer offers it, else C-MOVE.")
    ] = "auto",
    per_minute: PerMinute = 10.0,
    queue: Queue = 20,
    limit: Limit = 0,
    patience: Annotated[
        float, typer.Option(min=0, help="A peer that is away is waited for so long, seconds.")
    ] = 300.0,
    timeout: Annotated[
        float, typer.Option(min=1, help="Longest silence of the peer, seconds.")
    ] = 600.0,
    dry_run: DryRun = False,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Fetch old studies of a peer, day by day, so that they are analysed.

    What is here already is left out. It waits while the node has enough to do or a disk is low.
    After Ctrl-C, or when the peer was away for too long, the same command goes on.
    """
    from core.errors import InvalidValueError
    from node.fetching.criteria import criteria_of, span_of
    from node.fetching.fetch import Fetcher, How, Order
    from node.fetching.journal import Journal
    from node.fetching.throttle import Pace, Throttle

    settings = load_settings(context)
    target = address(settings, peer)
    try:
        chosen = How(how)
    except ValueError as error:
        raise InvalidValueError(f"--how {how!r} is none of get, move, auto") from error
    ledger = open_ledger(settings)
    if priors_of:
        patient, span = _priors(ledger, priors_of, patient, days, first, last)
    else:
        span = span_of(days, first, last, _today())
    if span.first is None and not patient:
        raise InvalidValueError("say of which days (--days, --from) or of whom (--patient)")
    criteria = criteria_of(
        modalities=modality or (),
        body_parts=body_part or (),
        patient_id=patient,
        keys=keys or (),
        unsaid=unsaid,
    )
    # the days as they were written: the call of tomorrow goes on with those of today
    name = "fetch-" + criteria.name(str(target), str(days), first, last, priors_of)
    with stopping("" if dry_run else _GO_ON) as stop:
        if dry_run:
            order = Order(target, criteria, span, patience=patience, except_study=priors_of)
            with _shown(_line_of_fetch, as_json=as_json) as tell:
                _plan(Fetcher(settings, ledger, order, stop, tell), as_json=as_json)
            return
        with (
            Journal(settings, name) as journal,
            _shown(_line_of_fetch, as_json=as_json) as tell,
        ):
            if fresh:
                journal.forget()
            span = _begun(journal, span)
            order = Order(target, criteria, span, chosen, priors_of, timeout, patience, limit)
            fetcher = Fetcher(settings, ledger, order, stop, tell)
            pace = Pace(per_minute, queue)
            throttle = Throttle(settings, ledger, pace, stop, fetcher.waits)
            try:
                fetcher.run(journal, throttle)
            finally:
                _print_report(fetcher.report, as_json=as_json)
    _fail_for(fetcher.report.failed, "studies")


def rerun(
    context: typer.Context,
    days: Days = None,
    first: From = "",
    last: To = "",
    modality: Modality = None,
    body_part: BodyPart = None,
    route: Annotated[
        list[str] | None, typer.Option(help="Only by this route; may be given again.")
    ] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Also what the present version of the model has done, or failed at."
        ),
    ] = False,
    per_minute: PerMinute = 30.0,
    queue: Queue = 20,
    limit: Limit = 0,
    dry_run: DryRun = False,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Analyse again what is here: by routes and model versions that came after the images.

    The jobs have a low priority. After Ctrl-C the same command goes on.
    """
    from core.errors import InvalidValueError
    from core.modelspec import find_specs
    from node.fetching.again import Again, Selection
    from node.fetching.criteria import criteria_of, span_of
    from node.fetching.journal import Journal
    from node.fetching.throttle import Pace, Throttle

    settings = load_settings(context)
    known = {item.name for item in settings.routes if item.model}
    for name in route or ():
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise InvalidValueError(f"no route with a model is called {name!r} (there is: {names})")
    span = span_of(days, first, last, _today())
    if span.first is None:
        raise InvalidValueError("say of which days: --days, or --from and --to")
    # written the same way as for `fetch`
    wanted = criteria_of(modalities=modality or (), body_parts=body_part or ())
    routes = tuple(sorted(set(route or ())))
    order = wanted.name("rerun", str(days), first, last, *routes, str(again))
    ledger = open_ledger(settings)
    specs = find_specs(settings.models.folders)
    with (
        stopping("" if dry_run else _GO_ON) as stop,
        _shown(_line_of_rerun, as_json=as_json) as tell,
    ):
        if dry_run:
            chosen = Selection(span, wanted.modalities, wanted.body_parts, routes, again)
            _plan_rerun(Again(settings, ledger, specs, chosen, stop, tell), as_json=as_json)
            return
        with Journal(settings, f"rerun-{order}") as journal:
            if fresh:
                journal.forget()
            span = _begun(journal, span)
            chosen = Selection(span, wanted.modalities, wanted.body_parts, routes, again)
            work = Again(settings, ledger, specs, chosen, stop, tell)
            throttle = Throttle(settings, ledger, Pace(per_minute, queue), stop, work.waits)
            try:
                work.run(throttle, journal, _ACTOR, limit)
            finally:
                _print_done(work.done, as_json=as_json)
    _fail_for(work.done.failed, "series")


def _today() -> Any:
    """The day by the clock on the wall; Study Dates have no time zone."""
    return datetime.now().astimezone().date()


def _priors(
    ledger: Ledger, study: str, patient: str, days: int | None, first: str, last: str
) -> tuple[str, Span]:
    """Patient ID and days of a study's priors.

    Raises:
        InvalidValueError: an option that does not go with it.
        NotFoundError: the study is not here, or tells no patient.
    """
    from core.errors import InvalidValueError, NotFoundError
    from core.identifiers import UID
    from node.fetching.criteria import Span, span_of

    if patient or first or last:
        raise InvalidValueError("--priors-of goes with --days only")
    with ledger.read() as work:
        found = work.backlog.patient_of(UID(study))
    if found is None:
        raise NotFoundError(f"study {study} is not here")
    patient_id, date = found
    if not patient_id:
        raise NotFoundError(f"study {study} has no Patient ID")
    return patient_id, Span() if days is None else span_of(days, "", date, _today())


def _begun(journal: Any, span: Span) -> Span:
    """The days of an order; with those of an earlier call that was cut off."""
    from node.fetching.criteria import Span, span_of

    for line in journal.lines:
        if line.get("begun"):
            first, last = line["begun"]
            was = span_of(None, str(first), str(last), _today())
            error_console.print(
                f"Going on with what was begun for {was}; --fresh begins anew.", highlight=False
            )
            assert was.first and was.last and span.first and span.last
            return Span(min(was.first, span.first), max(was.last, span.last))
    if not journal.lines:
        journal.note({"begun": [str(span.first), str(span.last)] if span.first else []})
    return span


@contextmanager
def _shown(line: Any, *, as_json: bool) -> Iterator[Any]:
    """A line that says how far it is; where nobody looks on, only why it waits."""
    if error_console.is_terminal and not as_json:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=error_console, transient=True) as progress:
            bar = progress.add_task("")
            yield lambda state: progress.update(bar, description=line(state))
        return
    told = ""

    def tell(state: Any) -> None:
        nonlocal told
        if state.waits != told:
            told = state.waits
            text = f"waiting: {told}" if told else "going on"
            error_console.print(text, highlight=False, markup=False)

    yield tell


def _line_of_fetch(report: Report) -> str:
    text = (
        f"day {report.days_done} of {report.days}"
        f" ({report.day or 'any'}): {report.fetched} fetched, {report.here} here, "
        f"{len(report.failed)} failed, {report.found} found"
    )
    return text + (f" · waiting: {report.waits}" if report.waits else "")


def _line_of_rerun(done: Done) -> str:
    text = f"{done.looked} series looked at: {done.made} jobs, {len(done.failed)} failed"
    return text + (f" · waiting: {done.waits}" if done.waits else "")


def _plan(fetcher: Fetcher, *, as_json: bool) -> None:
    """Say what would be fetched."""
    studies = series = 0
    for study, missing in fetcher.plan():
        studies += bool(missing)
        series += missing
        images = [item.images for item in study.series]
        if as_json:
            content = {
                "study": study.uid,
                "day": study.day,
                "series": len(study.series),
                "missing": missing,
                "images": None if None in images else sum(filter(None, images)),
                "unsaid": study.unsaid,
            }
            typer.echo(json.dumps(content))
            continue
        what = f"{missing} of {len(study.series)} series" if missing else "is here"
        hidden = f", {study.unsaid} of which the peer says too little" if study.unsaid else ""
        console.print(f"{study.day}  {study.uid}  {what}{hidden}", highlight=False)
    if not as_json:
        console.print(f"{studies} studies with {series} series would be fetched", highlight=False)
    _tell_unsaid(fetcher.report)
    _fail_for(_print_failed(fetcher.report.failed), "days")


def _plan_rerun(again: Again, *, as_json: bool) -> None:
    """Say what would be analysed."""
    from node.fetching.again import Step

    made = 0
    for choice in again.plan():
        made += choice.step is not Step.LEAVE
        series = choice.series
        if as_json:
            content = {
                "study": series.study_instance_uid,
                "series": series.series_instance_uid,
                "day": series.study_date,
                "route": choice.route.name,
                "step": choice.step.value,
                "why": choice.why,
            }
            typer.echo(json.dumps(content))
        elif choice.step is not Step.LEAVE:
            uid = series.series_instance_uid
            line = f"{series.study_date}  {uid}  {choice.route.name}: {choice.why}"
            console.print(line, highlight=False, markup=False)
    if not as_json:
        console.print(f"{made} jobs would be made", highlight=False)


def _print_report(report: Report, *, as_json: bool) -> None:
    if as_json:
        content = {
            "over": report.over,
            "days": report.days,
            "days_done": report.days_done,
            "found": report.found,
            "fetched": report.fetched,
            "objects": report.objects,
            "here": report.here,
            "unsaid_series": report.unsaid,
            "failed": dict(report.failed),
        }
        typer.echo(json.dumps(content))
        return
    _print_failed(report.failed)
    console.print(
        f"{report.days_done} of {report.days} days: {report.fetched} studies fetched "
        f"({report.objects} objects), {report.here} were here, {len(report.failed)} failed",
        highlight=False,
    )
    _tell_unsaid(report)
    if not report.over:
        console.print(f"Not over. {_GO_ON}", highlight=False)


def _print_done(done: Done, *, as_json: bool) -> None:
    if as_json:
        content = {
            "over": done.over,
            "series": done.looked,
            "jobs": done.made,
            "left": done.left,
            "failed": dict(done.failed),
        }
        typer.echo(json.dumps(content))
        return
    _print_failed(done.failed)
    console.print(f"{done.looked} series looked at, {done.made} jobs made", highlight=False)
    for why, count in sorted(done.left.items()):
        console.print(f"{count} left: {why}", highlight=False, markup=False)
    if not done.over:
        console.print(f"Not over. {_GO_ON}", highlight=False)


def _tell_unsaid(report: Report) -> None:
    if report.unsaid:
        text = (
            f"{report.unsaid} series were left out because the peer does not tell their modality "
            "or body part; --unsaid takes them"
        )
        error_console.print(text, highlight=False)


def _print_failed(failed: list[tuple[str, str]]) -> list[tuple[str, str]]:
    for uid, why in failed[:_SHOWN]:
        error_console.print(f"{uid}: {why}", highlight=False, markup=False)
    if len(failed) > _SHOWN:
        error_console.print(f"… and {len(failed) - _SHOWN} more", highlight=False)
    return failed


def _fail_for(failed: list[tuple[str, str]], what: str) -> None:
    """End with an error where something failed.

    Raises:
        SentinodeError: it did.
    """
    from core.errors import SentinodeError

    if failed:
        raise SentinodeError(
            f"{len(failed)} {what} failed", remedy="The lines above say why; call it again."
        )
