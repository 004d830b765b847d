"""Setting up and looking after the node: init, check, db."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from cli.context import console, load_settings

if TYPE_CHECKING:
    from pydantic import BaseModel

    from core.ledger import Ledger
    from core.settings import Settings

_PANEL = "Begin"
_WELL, _WARNING, _BAD = "well", "warning", "not well"

_EXAMPLES = """
# Who we know. `archive = true`: results go there by default. A scanner wants no results.
#
# [[peers]]
# name = "pacs"
# ae_title = "PACS"
# host = "192.0.2.10"
# port = 104
# archive = true
#
# [[peers]]
# name = "mr1"
# ae_title = "MR1"

# Which series go to which model. Every route that does not match says why.
# A value, a list of values, { regex = "…" } or { min = …, max = … } for any DICOM keyword.
[[routes]]
name = "brain-flair"
model = "mr-flair-glioma"
min_instances = 10
# destinations = ["pacs"]   # default: the peers with archive = true
# queue = "gpu"             # default: queue.name
[routes.match]
Modality = "MR"
SeriesDescription = { regex = "(?i)flair" }
"""

db_app = typer.Typer(help="The ledger's tables.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel=_PANEL)(init)
    app.command(rich_help_panel=_PANEL)(check)
    app.add_typer(db_app, name="db", rich_help_panel=_PANEL)


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("sentinode.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite it.")] = False,
) -> None:
    """Write a commented sentinode.toml with every setting at its default."""
    from core.errors import SentinodeError

    if path.exists() and not force:
        raise SentinodeError(f"{path} exists already", remedy="Say --force to overwrite it.")
    try:
        path.write_text(commented_settings(), encoding="utf-8")
    except OSError as error:
        raise SentinodeError(f"{path} cannot be written: {error.strerror}") from error
    typer.echo(f"{path} written. Add your peers, then: sentinode check, sentinode up")


def commented_settings() -> str:
    """The text of a sentinode.toml in which every setting is at its default and explained."""
    from core.settings import Settings

    lines = [
        "# Settings of Sentinode. A variable overrides a line: SENTINODE_NODE__PORT=11113",
        "# Lines that begin with # show the default.",
    ]
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if name in {"peers", "routes"} or not isinstance(section, type):
            continue
        lines += ["", f"[{name}]", *_section_lines(section)]
    return "\n".join(lines) + "\n" + _EXAMPLES


def _section_lines(section: type[BaseModel]) -> Iterator[str]:
    for key, field in section.model_fields.items():
        yield f"# {key} = {_toml(field.default)}  # {field.description}"


def _toml(value: Any) -> str:
    if value is None or value == "":
        return '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        pairs = (f"{_toml(str(key))} = {_toml(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True, slots=True)
class _Line:
    what: str
    state: str
    detail: str
    remedy: str = ""


def check(context: typer.Context) -> None:
    """Is all well? Settings, disk, ledger, retention, broker, workers, peers, models, device."""
    settings = load_settings(context)
    lines = [
        _Line("settings", _WELL, f"{len(settings.peers)} peers, {len(settings.routes)} routes"),
        *_check_routes(settings),
        *_check_shelf(settings),
        *_probe("disk", lambda: _check_disk(settings)),
        *_probe("store", lambda: _check_store(settings)),
        *_probe("ledger", lambda: _check_ledger(settings)),
        *_probe("retention", lambda: _check_retention(settings)),
        *_probe("commitment", lambda: _check_commitment(settings)),
        *_probe("broker", lambda: _check_broker(settings)),
        *_probe("models", lambda: _check_models(settings)),
        *_probe("device", lambda: _check_device(settings)),
    ]
    for peer in settings.peers:
        if peer.address is not None:
            lines += _probe(f"peer {peer.name}", lambda peer=peer: _check_peer(settings, peer))  # type: ignore[misc]
    table = Table(title="Check", title_justify="left")
    for name in ("what", "state", "detail", "remedy"):
        table.add_column(name, overflow="fold")
    styles = {_WELL: "green", _WARNING: "yellow", _BAD: "red"}
    for line in lines:
        style = styles[line.state]
        table.add_row(
            line.what, f"[{style}]{line.state}[/{style}]", Text(line.detail), Text(line.remedy)
        )
    console.print(table)
    if any(line.state == _BAD for line in lines):
        raise typer.Exit(1)


def _probe(what: str, look: Callable[[], list[_Line]]) -> list[_Line]:
    from core.errors import SentinodeError

    try:
        return look()
    except SentinodeError as error:
        return [_Line(what, _BAD, str(error), error.remedy)]


def _check_routes(settings: Settings) -> list[_Line]:
    return [
        _Line(
            f"route {route.name}",
            _WARNING,
            "its results go nowhere",
            "Give it destinations, or a peer archive = true.",
        )
        for route in settings.routes
        if route.model and not settings.destinations(route)
    ]


def _check_shelf(settings: Settings) -> list[_Line]:
    from node.spool.receiver import UNREADABLE

    shelf = settings.spool / UNREADABLE
    count = len(list(shelf.iterdir())) if shelf.is_dir() else 0
    if not count:
        return []
    remedy = f"Look at them in {shelf}; the log says why (instance_unreadable, _unfilable)."
    return [_Line("spool", _WARNING, f"{count} instance(s) could not be filed", remedy)]


def _check_disk(settings: Settings) -> list[_Line]:
    from node.keeping.disk import Level, disks

    storage = settings.storage
    states = {Level.WELL: _WELL, Level.LOW: _WARNING, Level.FULL: _BAD}
    remedies = {
        Level.WELL: "",
        Level.LOW: "Free space soon, or set limits under [retention].",
        Level.FULL: "Free space, set limits under [retention], or lower storage.min_free_mb.",
    }
    return [
        _Line(
            "disk",
            states[disk.level],
            f"{disk.free_mb} of {disk.total_mb} MB free for {', '.join(disk.holds)}; warned below "
            f"{storage.warn_free_mb} MB, instances are refused below {storage.min_free_mb} MB",
            remedies[disk.level],
        )
        for disk in disks(settings)
    ]


def _check_retention(settings: Settings) -> list[_Line]:
    from cli.retention import retention_line

    ledger = _current_ledger(settings)
    if ledger is None:
        return []
    detail, over = retention_line(settings, ledger)
    if not over:
        return [_Line("retention", _WELL, detail)]
    remedy = "See what keeps the images that stay, or raise retention.max_store_gb."
    return [_Line("retention", _WARNING, detail, remedy)]


def _check_commitment(settings: Settings) -> list[_Line]:
    from core.lifecycle import AnswerState
    from node.sending.answers import can_commit

    ledger = _current_ledger(settings)
    asked = [peer.name for peer in settings.peers if peer.commit]
    if ledger is None or not (asked or settings.services.commitment):
        return []
    lines = []
    with ledger.read() as work:
        known = {name: work.circuits.get(name) for name in asked}
        counts = work.commit_requests.counts()
    for name, state in known.items():
        what = f"commitment {name}"
        if state.commitment == "no":
            remedy = "Set commit = false for it, or switch its storage commitment on."
            detail = "it does not offer storage commitment; what is sent to it is never removed"
            lines.append(_Line(what, _WARNING, detail, remedy))
        else:
            offers = "it commits" if state.commitment else "it was not asked yet"
            lines.append(_Line(what, _WELL, offers))
    if settings.services.commitment:
        told = ", ".join(
            f"{counts.get(state, 0)} {word}"
            for state, word in (
                (AnswerState.SENT, "answered"),
                (AnswerState.DUE, "waiting"),
                (AnswerState.FAILED, "given up"),
            )
        )
        if can_commit(settings):
            lines.append(_Line("commitment requests", _WELL, told))
        else:
            detail = f"{told}; every request is answered with no"
            remedy = (
                "Forward the images to an archive with commit = true, or keep them: no limit "
                "under [retention] for originals, ledger and store, and storage.fsync on."
            )
            lines.append(_Line("commitment requests", _WARNING, detail, remedy))
    return lines


def _current_ledger(settings: Settings) -> Ledger | None:
    """The ledger, if its tables are of our revision; what is wrong with it is told elsewhere."""
    from core.errors import LedgerError
    from core.ledger import Ledger

    ledger = Ledger(settings.ledger_url)
    try:
        return ledger if ledger.revision() == Ledger.head() else None
    except LedgerError:
        return None


def _check_store(settings: Settings) -> list[_Line]:
    from core.store import Store

    Store(settings.store_url).probe()
    return [_Line("store", _WELL, settings.store_url)]


def _check_ledger(settings: Settings) -> list[_Line]:
    from core.ledger import Ledger

    ledger = Ledger(settings.ledger_url)
    revision, head = ledger.revision(), Ledger.head()
    shown = ledger.url.render_as_string(hide_password=True)
    if revision == head:
        return [_Line("ledger", _WELL, f"{shown}, revision {revision}")]
    remedy = "Run `sentinode db upgrade`."
    if settings.embedded_ledger:
        return [_Line("ledger", _WARNING, f"{shown}: revision {revision or 'none'}", remedy)]
    return [_Line("ledger", _BAD, f"{shown}: revision {revision or 'none'}, not {head}", remedy)]


def _check_broker(settings: Settings) -> list[_Line]:
    from core.errors import QueueError
    from core.queue import make_app, ping, ping_workers

    app = make_app(settings)
    try:
        ping(app)
    except QueueError as error:
        if settings.embedded_broker:
            detail = "the embedded broker does not run"
            return [_Line("broker", _WARNING, detail, "It runs inside `sentinode up`.")]
        return [_Line("broker", _BAD, str(error), error.remedy)]
    workers = ping_workers(app)
    lines = [_Line("broker", _WELL, "embedded" if settings.embedded_broker else "by queue.url")]
    wanted = {settings.queue_of(route) for route in settings.routes}
    missing = wanted - {queue for queues in workers.values() for queue in queues}
    if missing:
        names = ", ".join(sorted(missing))
        lines.append(
            _Line("workers", _WARNING, f"no worker serves: {names}", "Start `sentinode worker`.")
        )
    else:
        lines.append(_Line("workers", _WELL, f"{len(workers)} answer"))
    return lines


def _check_models(settings: Settings) -> list[_Line]:
    from core.modelspec import find_specs

    lines = []
    for spec in find_specs(settings.models.folders).values():
        if spec.rule is not None or spec.weights_path.is_file():
            lines.append(_Line(f"model {spec.name}", _WELL, f"{spec.version}: {spec.title}"))
        else:
            remedy = "Install the package again."
            lines.append(
                _Line(f"model {spec.name}", _BAD, f"{spec.weights.file} is missing", remedy)
            )
    return lines or [_Line("models", _WARNING, "none installed", "Set models.folders.")]


def _check_device(settings: Settings) -> list[_Line]:
    from importlib.util import find_spec

    if find_spec("torch") is None:  # a node without workers
        return [_Line("device", _WELL, "no torch here: jobs run on workers elsewhere")]
    import torch

    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name(0) if cuda else f"CPU, {torch.get_num_threads()} threads"
    if settings.worker.device == "cuda" and not cuda:
        return [_Line("device", _BAD, "no CUDA device", "Set worker.device to auto or cpu.")]
    return [_Line("device", _WELL, name if settings.worker.device != "cpu" else "CPU (as set)")]


def _check_peer(settings: Settings, peer: Any) -> list[_Line]:
    from node.dimse.scu import echo

    echo(settings.node.ae_title, peer.address, timeout=5)
    return [_Line(f"peer {peer.name}", _WELL, f"{peer.address} answers C-ECHO")]


@db_app.command()
def upgrade(context: typer.Context) -> None:
    """Bring the tables to the newest revision."""
    from core.ledger import Ledger

    ledger = Ledger(load_settings(context).ledger_url)
    before = ledger.revision()
    ledger.upgrade()
    typer.echo(f"ledger: {before or 'none'} → {ledger.revision()}")


@db_app.command()
def current(context: typer.Context) -> None:
    """Say the revision of the tables, and the newest."""
    from core.ledger import Ledger

    ledger = Ledger(load_settings(context).ledger_url)
    typer.echo(f"tables: {ledger.revision() or 'none'}, newest: {Ledger.head()}")
