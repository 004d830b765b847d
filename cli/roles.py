"""Running the node: `up`, and each role by itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import load_settings

if TYPE_CHECKING:
    from core.settings import Settings

_PANEL = "Run"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (up, scp, intake, dispatch, send, worker, web, health):
        app.command(rich_help_panel=_PANEL)(command)
    app.command(hidden=True)(broker)


def up(
    context: typer.Context,
    roles: Annotated[
        str,
        typer.Option(help="Roles, with commas: broker, scp, intake, dispatch, send, worker, web."),
    ] = "",
) -> None:
    """Run all roles on this machine (or those of --roles), until Ctrl-C or SIGTERM."""
    from core import logs
    from node.bootstrap.ledger import ready_ledger
    from node.supervisor import ROLES, Supervisor, role_command

    settings = load_settings(context)
    logs.configure(settings.logs, "up")
    wanted = [role.strip() for role in roles.split(",") if role.strip()] or [
        role
        for role in ROLES
        if (role != "broker" or settings.embedded_broker)
        and (role != "web" or settings.web.enabled)
    ]
    config: Path | None = context.obj
    supervisor = Supervisor(
        wanted,
        lambda role: role_command(role, config.absolute() if config else None),
        settings.data / "run",
        {"scp": settings.node.receivers, "worker": settings.worker.processes},
    )
    if settings.embedded_ledger:
        ready_ledger(settings).close()  # migrated once, before all processes look at it
    supervisor.run()


def scp(context: typer.Context) -> None:
    """Role: receive instances into the spool (Verification and Storage SCP)."""
    from node.door.scp import run_scp

    run_scp(_begin(context, "scp"))


def intake(context: typer.Context) -> None:
    """Role: file spooled instances in store and ledger. Runs beside scp, on its machine."""
    from node.bootstrap.intake import run_intake

    run_intake(_begin(context, "intake"))


def dispatch(context: typer.Context) -> None:
    """Role: decide what is whole, route it, queue jobs, heal lost ones."""
    from node.bootstrap.dispatch import run_dispatch

    run_dispatch(_begin(context, "dispatch"))


def send(
    context: typer.Context,
    peer: Annotated[
        str | None, typer.Argument(help="Send files to this peer, then end.", show_default=False)
    ] = None,
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files and folders to send.", show_default=False)
    ] = None,
) -> None:
    """Send files to a peer. Without arguments: role, deliver results to their destinations."""
    if peer is None:
        from node.bootstrap.send import run_send

        run_send(_begin(context, "send"))
        return
    from cli.peers import send_files

    send_files(load_settings(context), peer, paths or [])


def worker(
    context: typer.Context,
    queue: Annotated[
        str, typer.Option(help="Queues to serve, with commas; default: gpu,cpu by device.")
    ] = "",
) -> None:
    """Role: analyse queued jobs."""
    from workers.app import run_worker

    settings = _begin(context, "worker")
    queues = tuple(name.strip() for name in queue.split(",") if name.strip())
    changes: dict[str, object] = {"queues": queues} if queues else {}
    if settings.worker.processes > 1 and not settings.worker.threads:
        # each would take all cores, and they would wait for each other
        changes["threads"] = max(1, len(os.sched_getaffinity(0)) // settings.worker.processes)
    if changes:
        chosen = settings.worker.model_copy(update=changes)
        settings = settings.model_copy(update={"worker": chosen})
    run_worker(settings)


def web(context: typer.Context) -> None:
    """Role: the pages, the HTTP interface and DICOMweb."""
    from node.bootstrap.web import run_web

    run_web(_begin(context, "web"))


def broker(context: typer.Context) -> None:
    """Role: the embedded Valkey."""
    from core.broker import exec_broker

    exec_broker(load_settings(context))


def health(
    context: typer.Context,
    role: Annotated[str, typer.Argument(help="scp, ledger, worker or web.")] = "scp",
) -> None:
    """Exit status 0 if a role answers; for container health checks."""
    from core.errors import SentinodeError
    from core.identifiers import AETitle, DicomAddress
    from core.ledger import Ledger
    from core.queue import make_app, ping_workers

    settings = load_settings(context)
    if role == "scp":
        from node.dimse.scu import echo

        host = "127.0.0.1" if settings.node.host in {"0.0.0.0", "::"} else settings.node.host  # noqa: S104
        own = settings.node.ae_title
        echo(own, DicomAddress(AETitle(own), host, settings.node.port), timeout=5)
    elif role == "ledger":
        Ledger(settings.ledger_url).revision()
    elif role == "worker":
        if not ping_workers(make_app(settings), here=True):
            raise SentinodeError("no worker of this machine answers on the broker")
    elif role == "web":
        from cli.users import check_pages

        check_pages(settings)
    else:
        raise SentinodeError(f"no such role: {role}", remedy="Say scp, ledger, worker or web.")
    typer.echo(f"{role}: well")


def _begin(context: typer.Context, role: str) -> Settings:
    from core import counters, logs
    from core.processes import die_with_parent

    settings = load_settings(context)
    logs.configure(settings.logs, role)
    counters.configure(settings.data)
    die_with_parent()
    return settings
