"""`sentinode train`: from a configuration file to a model package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.context import error_console


def train(
    config: Annotated[Path, typer.Argument(help="Configuration file (TOML).")],
    out: Annotated[Path, typer.Option(help="Folder of this training.")] = Path("runs/training"),
    package: Annotated[
        Path | None, typer.Option(help="Folder of the package; default: OUT/package/NAME.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after a kill.")] = False,
) -> None:
    """Train a model and write it as a package, with a report."""
    from core.errors import TrainingError
    from models.registry import load
    from models.training.config import read_config
    from models.training.data import read_index
    from models.training.evaluate import score_groups, summarise
    from models.training.export import export
    from models.training.loop import CHECKPOINT, Training
    from models.training.report import write_report

    parsed = read_config(config)
    if (out / CHECKPOINT).exists() and not resume:
        raise TrainingError(
            f"{out} holds a training already",
            remedy="Say --resume to go on with it, or choose another folder with --out.",
        )
    training = Training(parsed, out)
    if resume and training.resume():
        error_console.print(f"going on after epoch {len(training.history)}")
    network = training.run(error_console)
    target = package or out / "package" / parsed.package.name
    spec = export(network, parsed, config.name, target)
    scores, summary = [], {}
    if any(item.split == "val" for item in read_index(parsed.data.folder)):
        scores = score_groups(load(spec), parsed.data.folder, "val")
        summary = summarise(scores)
    report = write_report(out, spec.title, training.history, scores, summary)
    typer.echo(f"package: {target}")
    typer.echo(f"report: {report}")
    for key, value in summary.items():
        typer.echo(f"{key}: {value}")
