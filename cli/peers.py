"""Talking to peers by hand: echo and send."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.context import console, error_console, load_settings

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pynetdicom.association import Association

    from core.identifiers import DicomAddress
    from core.settings import Settings

_PANEL = "Peers"
_BATCH = 500
_MOST_KINDS = 64  # of SOP class and transfer syntax; each may need two of the 128 contexts


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel=_PANEL)(echo)


def echo(
    context: typer.Context,
    peer: Annotated[str, typer.Argument(help="A peer's name, or AE@host:port.")],
) -> None:
    """C-ECHO a peer."""
    import time

    from node.scu import echo as c_echo

    settings = load_settings(context)
    target = address(settings, peer)
    began = time.monotonic()
    c_echo(settings.node.ae_title, target)
    typer.echo(f"{target}: well, {1000 * (time.monotonic() - began):.0f} ms")


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
    from node.scu import ObjectUnreadableError, associate, contexts_for

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
                    for path, _ in part:
                        refused += not _send_one(association, path)
                        progress.advance(bar)
    if skipped:
        console.print(f"{skipped} files that are no DICOM images were left out", highlight=False)
    if refused:
        message = f"{refused} of {len(files)} files were not taken by {target}"
        raise PeerError(message, remedy="The lines above say why.")
    if skipped == len(files):
        raise SentinodeError("no DICOM file among them")
    console.print(f"{len(files) - skipped} files sent to {target}", highlight=False)


def _send_one(association: Association, path: Path) -> bool:
    """Send one file; False, and a line, when it was not taken. A warning counts as taken."""
    from core.lifecycle import TransferState
    from node.scu import NoContextError, read_object, store
    from node.sender import judge

    try:
        status, comment = store(association, read_object(path.read_bytes()))
    except NoContextError as error:
        error_console.print(f"{path}: {error}", markup=False, highlight=False)
        return False
    verdict = judge(status, comment)
    if status != 0:
        error_console.print(f"{path}: {verdict.message}", markup=False, highlight=False)
    return verdict.state == TransferState.SENT


def _associations(
    heads: list[tuple[Path, Dataset]],
) -> Iterator[list[tuple[Path, Dataset]]]:
    """Parts of a batch whose presentation contexts fit one association."""
    part: list[tuple[Path, Dataset]] = []
    kinds: set[tuple[str, str]] = set()
    for path, head in heads:
        kind = (str(head.SOPClassUID), str(head.file_meta.TransferSyntaxUID))
        if len(kinds | {kind}) > _MOST_KINDS:
            yield part
            part, kinds = [], set()
        kinds.add(kind)
        part.append((path, head))
    yield part


def _head(path: Path) -> Dataset:
    """The header of a file: what the presentation context needs."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    from node.scu import ObjectUnreadableError

    try:
        head = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        str(head.SOPClassUID)
        str(head.file_meta.TransferSyntaxUID)
    except (InvalidDicomError, AttributeError, OSError, ValueError) as error:
        raise ObjectUnreadableError(f"not a DICOM file: {error}") from error
    return head


def _files(paths: list[Path]) -> Iterator[Path]:
    from core.errors import SentinodeError

    for path in paths:
        if path.is_dir():
            yield from sorted(item for item in path.rglob("*") if item.is_file())
        elif path.is_file():
            yield path
        else:
            raise SentinodeError(f"{path}: no such file or folder")
