"""Asking peers by hand: find, move, get, commit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from cli.context import console, error_console, load_settings, open_ledger
from cli.peers import address
from cli.stopping import stopping

if TYPE_CHECKING:
    from node.fetching.question import Answer
    from node.fetching.retrieve import Outcome

_PANEL = "Peers"
_PEER_HELP = "A peer's name, or AE@host:port."
_FIND_SECONDS = 60.0
_RETRIEVE_SECONDS = 600.0

Peer = Annotated[str, typer.Argument(help=_PEER_HELP)]
Studies = Annotated[list[str], typer.Argument(metavar="STUDY", help="Study Instance UIDs.")]
SeriesOption = Annotated[
    list[str] | None,
    typer.Option("--series", metavar="UID", help="Only this series; may be given again."),
]
ImageOption = Annotated[
    list[str] | None,
    typer.Option(
        "--instance", metavar="UID", help="Only this object of the series; may be given again."
    ),
]
Timeout = Annotated[
    float, typer.Option(min=1, help="Longest silence of the peer, seconds.", show_default=True)
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (find, move, get, commit):
        app.command(rich_help_panel=_PANEL)(command)


def find(
    context: typer.Context,
    peer: Peer,
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY[=VALUE]…",
            help="What to match or to be told: PatientID=123, StudyDate=20240101-20240131, "
            "StudyDescription, (0008,0061)=MR. Wildcards are * and ?.",
        ),
    ] = None,
    level: Annotated[str, typer.Option(help="PATIENT, STUDY, SERIES or IMAGE.")] = "STUDY",
    root: Annotated[
        str, typer.Option(help="study or patient; default: patient at level PATIENT, else study.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most matches; more are cancelled.")] = 500,
    timeout: Timeout = _FIND_SECONDS,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Ask a peer what it has (C-FIND)."""
    from core.errors import InvalidValueError
    from node.fetching.find import TooManyError, ask
    from node.fetching.question import Root, question_of

    settings = load_settings(context)
    target = address(settings, peer)
    try:
        model = Root(root) if root else None
    except ValueError as error:
        raise InvalidValueError(f"--root {root!r} is neither study nor patient") from error
    question = question_of(level, keys or (), model)
    found: list[Answer] = []
    more = ""
    with stopping() as stop:
        answers = ask(settings.node.ae_title, target, question, timeout, most=limit, stop=stop)
        try:
            for answer in answers:
                found.append(answer)
                if as_json:
                    typer.echo(json.dumps(_plain(answer), ensure_ascii=False))
        except TooManyError as error:
            more = f"{error}; --limit shows more, keys narrow it"
    if not as_json:
        _print_found(question.keys, found)
    if more:
        error_console.print(more, highlight=False, markup=False)


def move(
    context: typer.Context,
    peer: Peer,
    studies: Studies,
    to: Annotated[
        str, typer.Option(help="A peer's name or an AE title that PEER knows; default: this node.")
    ] = "",
    series: SeriesOption = None,
    instance: ImageOption = None,
    timeout: Timeout = _RETRIEVE_SECONDS,
) -> None:
    """Have a peer send studies to this node or to another one (C-MOVE)."""
    from core.identifiers import AETitle
    from node.fetching.fetch import check_may_send
    from node.fetching.retrieve import move as c_move

    settings = load_settings(context)
    target = address(settings, peer)
    known = settings.peer(to) if to else None
    destination = AETitle(known.ae_title if known else to or settings.node.ae_title)
    if destination == settings.node.ae_title:
        check_may_send(settings, target)
    own, requests = settings.node.ae_title, _requests(studies, series, instance)
    with stopping("The peer was asked to send no more.") as stop:
        progress = _progress_line(f"{target} → {destination}")
        outcome = c_move(own, target, requests, destination, timeout, stop=stop, tell=progress)
    _end(outcome, outcome.sent, f"{target} sent", f"to {destination}")


def get(
    context: typer.Context,
    peer: Peer,
    studies: Studies,
    series: SeriesOption = None,
    instance: ImageOption = None,
    timeout: Timeout = _RETRIEVE_SECONDS,
) -> None:
    """Get studies of a peer (C-GET). What comes is filed and analysed like any other image.

    It goes into the spool of this machine: run it where intake runs, as the user of the node.
    """
    import threading

    from node.fetching.fetch import How, retrieve
    from node.fetching.search import classes_of

    settings = load_settings(context)
    target = address(settings, peer)
    total, kept = None, 0

    def one(study: str, stop: threading.Event) -> tuple[Outcome, int]:
        requests = _requests([study], series, instance)
        classes = classes_of(settings.node.ae_title, target, study, stop)
        tell = _progress_line(f"{target} → spool")
        return retrieve(settings, target, requests, How.GET, classes, timeout, stop, tell)

    with stopping("What has come is filed.") as stop:
        _requests(studies, series, instance)  # all of them are looked at before the first
        for study in studies:
            outcome, count = one(study, stop)
            kept += count
            if total is None:
                total = outcome
            else:
                total.add(outcome)
    assert total is not None
    _end(total, kept, f"{target} sent", "into the spool")


def commit(
    context: typer.Context,
    peer: Peer,
    studies: Studies,
    images: Annotated[
        bool | None,
        typer.Option("--images/--results", help="Only the images, or only what we made of them."),
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Longest wait for the peer's report, seconds.")
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Ask a peer whether it is responsible for what we hold of studies (storage commitment).

    The exit status is 0 only if it commits to all of them.
    """
    from core.errors import PeerError, SentinodeError
    from core.identifiers import UID
    from core.ledger.commitments import failure
    from node.fetching.committing import LINGER_SECONDS, ask_to_commit

    settings = load_settings(context)
    target = address(settings, peer)
    ledger = open_ledger(settings)
    objects: list[tuple[str, str]] = []
    with ledger.read() as work:
        for study in studies:
            held = work.holdings.objects(UID(study))
            if not held:
                raise SentinodeError(f"nothing is here of study {study}")
            objects += [
                (item.sop_class_uid, item.sop_instance_uid)
                for item in held
                if images is None or item.own is not images
            ]
    if not objects:
        raise SentinodeError("nothing is here of that kind")
    if not any(one.commit for one in settings.peers):
        wait = min(wait, LINGER_SECONDS)  # nothing else could bring the report
    with stopping() as stop:
        answers = ask_to_commit(settings.node.ae_title, target, ledger, objects, wait, stop)
    if as_json:
        content = {
            "committed": answers.committed,
            "failed": {uid: failure(code) for uid, code in answers.failed.items()},
            "reported_to_door": answers.by_door,
            "unanswered": answers.open,
        }
        typer.echo(json.dumps(content))
    else:
        for uid, code in answers.failed.items():
            error_console.print(f"{uid}: {failure(code)}", highlight=False, markup=False)
        for said in answers.by_door:
            console.print(f"{target} reported to our door: {said}", highlight=False)
        if answers.committed:
            number = len(answers.committed)
            console.print(f"{target} is responsible for {number} object(s)", highlight=False)
    if answers.failed or any(not said.endswith(" 0 failed") for said in answers.by_door):
        raise PeerError(f"{target} does not commit to all of them", remedy="Send them again.")
    if answers.open:
        heard = any(one.commit for one in settings.peers)
        raise PeerError(
            f"no report about {answers.open} object(s) within {wait:g} s",
            remedy=_LATER if heard else _NOT_HEARD,
        )


_LATER = "A report that comes later is taken by our door; --wait waits longer."
_NOT_HEARD = (
    "It may report on an association of its own, and our door takes none: write "
    "commit = true under this peer, start the node again, and ask once more."
)


def _requests(
    studies: Sequence[str], series: list[str] | None, images: list[str] | None
) -> list[Any]:
    """The retrieval requests that a command line names.

    Raises:
        InvalidValueError: no UID, or one that does not fit the others.
    """
    from core.errors import InvalidValueError
    from core.identifiers import UID
    from node.fetching.retrieve import requests_for

    if (series or images) and len(studies) > 1:
        raise InvalidValueError("--series and --instance go with one study")
    if images and len(series or ()) != 1:
        raise InvalidValueError("--instance goes with one --series")
    wanted = [UID(uid) for uid in series or ()], [UID(uid) for uid in images or ()]
    return [item for study in studies for item in requests_for(UID(study), *wanted)]


def _progress_line(name: str) -> Any:
    """Tells how far a retrieval is, where somebody looks on."""

    def tell(outcome: Outcome) -> None:
        if error_console.is_terminal:
            done = outcome.sent + outcome.failed
            line = f"{name}: {done} of {done + outcome.remaining}"
            error_console.print(line, end="\r", highlight=False, markup=False)

    return tell


def _end(outcome: Outcome, count: int, who: str, where: str) -> None:
    """Say how a retrieval ended.

    Raises:
        PeerError: not everything came.
    """
    from core.errors import PeerError

    for uid in outcome.failed_uids:
        error_console.print(f"not sent: {uid}", highlight=False, markup=False)
    if outcome.why:
        raise PeerError(f"{outcome.why} ({count} came)", remedy="")
    if not count and outcome.counted:
        raise PeerError(f"{who} nothing", remedy="See `sentinode find` for what it has.")
    console.print(f"{who} {count} object(s) {where}", highlight=False, markup=False)


def _print_found(keys: Any, found: Sequence[Answer]) -> None:
    from node.fetching.question import name_of

    names = [name_of(tag) for tag in keys]
    shown = [name for name in names if any(answer.get(name) for answer in found)]
    table = Table(title=f"{len(found)} match(es)", title_justify="left")
    for name in shown:
        table.add_column(name, overflow="fold")
    for answer in found:
        table.add_row(*(Text("\\".join(answer.get(name, ()))) for name in shown))
    console.print(table)


def _plain(answer: Answer) -> dict[str, Any]:
    """An answer as JSON: a text where there is one value, a list where there are more."""
    return {
        name: values[0] if len(values) == 1 else list(values) for name, values in answer.items()
    }
