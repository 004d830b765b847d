"""The console script: one file per family of commands, only wiring.

Heavy imports are inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import ask, expect, fetch, peers, retention, roles, setup, work
from cli.demo import demo
from cli.models import app as models_app
from cli.train import train
from cli.users import app as users_app
from core import __version__
from core.errors import SentinodeError, SettingsError

CONFIG_VARIABLE = "SENTINODE_CONFIG"
EXIT_ERROR, EXIT_SETTINGS = 1, 2

app = typer.Typer(
    name="sentinode",
    help="A DICOM node that looks at every study with AI and sends SEG and SR back to the PACS.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sentinode {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            envvar=CONFIG_VARIABLE,
            help="Settings file; default: sentinode.toml in this folder, if there is one.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    context.obj = config


setup.add_to(app)
roles.add_to(app)
work.add_to(app)
expect.add_to(app)
retention.add_to(app)
peers.add_to(app)
ask.add_to(app)
fetch.add_to(app)
app.command(rich_help_panel="Begin")(demo)
app.command(rich_help_panel="Models")(train)
app.add_typer(models_app, name="models", rich_help_panel="Models")
app.add_typer(users_app, name="user", rich_help_panel="Web")


def main() -> None:
    """Run the command line; errors of ours are told as text, without a traceback."""
    try:
        app()
    except SettingsError as error:
        _tell(error)
        sys.exit(EXIT_SETTINGS)
    except SentinodeError as error:
        _tell(error)
        sys.exit(EXIT_ERROR)
    except BrokenPipeError:
        # the reader of our output has gone (`sentinode worklist | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_ERROR)


def _tell(error: SentinodeError) -> None:
    typer.secho(f"Error: {error}", err=True, fg="red")
    if error.remedy:
        typer.secho(error.remedy, err=True)
