"""Talking to peers by hand: echo, send, pause, resume, resend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.context import console, error_console, load_settings, open_ledger

if TYPE_CHECKING:
    from pynetdicom.association import Association

    from core.identifiers import DicomAddress
    from core.settings import Settings
    from node.dimse.scu import Head

_PANEL = "Peers"
_BATCH = 500
_MOST_KINDS = 64  # of SOP class and transfer syntax; each may need two of the 128 contexts


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (echo, pause, resume, resend):
        app.command(rich_help_panel=_PANEL)(command)


def echo(
    context: typer.Context,
    peer: Annotated[str, typer.Argument(help="A peer's name, or AE@host:port.")],
) -> None:
    """C-ECHO a peer."""
    import time

    from node.dimse.scu import echo as c_echo

    settings = load_settings(context)
    target = address(settings, peer)
    began = time.monotonic()
    c_echo(settings.node.ae_title, target)
    typer.echo(f"{target}: well, {1000 * (time.monotonic() - began):.0f} ms")


def pause(
    context: typer.Context,
    destination: Annotated[str, typer.Argument(help="A peer's name.")],
) -> None:
    """Send nothing more to a destination, until `resume`. What is due waits."""
    _set_paused(context, destination, paused=True)


def resume(
    context: typer.Context,
    destination: Annotated[str, typer.Argument(help="A peer's name.")],
) -> None:
    """Let what is due go to a destination again."""
    _set_paused(context, destination, paused=False)


def _set_paused(context: typer.Context, name: str, *, paused: bool) -> None:
    settings = load_settings(context)
    address(settings, name)  # one that nothing can be sent to is a slip of the pen
    with open_ledger(settings).write() as work:
        work.circuits.pause(name, paused)
    typer.echo(f"{name}: {'paused' if paused else 'goes on'}")


def resend(
    context: typer.Context,
    study_uid: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")],
    to: Annotated[str, typer.Option(help="Only to this peer.")] = "",
) -> None:
    """Send again what destinations refused of a study, originals and results."""
    with open_ledger(load_settings(context)).write() as work:
        count = work.transfers.send_study_again(study_uid, to)
    typer.echo(f"{count} object(s) are due again")


def address(settings: Settings, peer: str) -> DicomAddress:
    """The address of a peer by its name in the settings, or of `AE@host:port`.

    Raises:
        SentinodeError: no such peer, or nothing can be sent to it.
    """
    from core.errors import SentinodeError
    from core.identifiers import DicomAddress

    if "@" in peer:
        return DicomAddress.parse(peer)
    known = settings.peer(peer)
    if known is None:
        names = ", ".join(item.name for item in settings.peers) or "none"
        raise SentinodeError(f"no peer is called {peer!r} (there is: {names})")
    if known.address is None:
        raise SentinodeError(f"peer {peer!r} has no host and port in the settings")
    return known.address


def send_files(settings: Settings, peer: str, paths: list[Path]) -> None:
    """Send files and folders to a peer, with a progress bar.

    Raises:
        SentinodeError: nothing to send, or not everything was taken.
    """
    from core.errors import PeerError, SentinodeError
    from node.dimse.scu import ObjectUnreadableError, associate, contexts_for

    target = address(settings, peer)
    files = list(_files(paths))
    if not files:
        raise SentinodeError("no files to send", remedy="Name files or folders after the peer.")
    refused = skipped = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=error_console) as progress:
        bar = progress.add_task(f"to {target}", total=len(files))
        for start in range(0, len(files), _BATCH):
            batch = files[start : start + _BATCH]
            heads = []
            for path in batch:
                try:
                    heads.append((path, _head(path)))
                except ObjectUnreadableError as error:
                    # a folder also holds other things: a DICOMDIR, a note
                    refused += path in paths
                    skipped += path not in paths
                    progress.advance(bar)
                    error_console.print(f"{path}: {error}", highlight=False, markup=False)
            if not heads:
                continue
            for part in _associations(heads):
                contexts = contexts_for([head for _, head in part])
                with associate(settings.node.ae_title, target, contexts, 60) as association:
                    for path, head in part:
                        refused += not _send_one(association, path, head)
                        progress.advance(bar)
    if skipped:
        console.print(f"{skipped} files that are no DICOM images were left out", highlight=False)
    if refused:
        message = f"{refused} of {len(files)} files were not taken by {target}"
        raise PeerError(message, remedy="The lines above say why.")
    if skipped == len(files):
        raise SentinodeError("no DICOM file among them")
    console.print(f"{len(files) - skipped} files sent to {target}", highlight=False)


def _send_one(association: Association, path: Path, head: Head) -> bool:
    """Send one file; False, and a line, when it was not taken. A warning counts as taken."""
    from core.lifecycle import TransferState
    from node.dimse.scu import NoContextError, store_file
    from node.sending.judge import judge

    try:
        status, comment = store_file(association, path, head)
    except NoContextError as error:
        error_console.print(f"{path}: {error}", markup=False, highlight=False)
        return False
    verdict = judge(status, comment)
    if status != 0:
        error_console.print(f"{path}: {verdict.message}", markup=False, highlight=False)
    return verdict.state == TransferState.SENT


def _associations(heads: list[tuple[Path, Head]]) -> Iterator[list[tuple[Path, Head]]]:
    """Parts of a batch whose presentation contexts fit one association."""
    part: list[tuple[Path, Head]] = []
    kinds: set[Head] = set()
    for path, head in heads:
        if len(kinds | {head}) > _MOST_KINDS:
            yield part
            part, kinds = [], set()
        kinds.add(head)
        part.append((path, head))
    yield part


def _head(path: Path) -> Head:
    """What a file says that it holds."""
    from node.dimse.scu import ObjectUnreadableError, head_of

    try:
        with path.open("rb") as stream:
            return head_of(stream)
    except OSError as error:
        raise ObjectUnreadableError(f"cannot be read: {error}") from error


def _files(paths: list[Path]) -> Iterator[Path]:
    from core.errors import SentinodeError

    for path in paths:
        if path.is_dir():
            yield from sorted(item for item in path.rglob("*") if item.is_file())
        elif path.is_file():
            yield path
        else:
            raise SentinodeError(f"{path}: no such file or folder")
