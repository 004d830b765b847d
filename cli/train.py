"""`sentinode train`: from a configuration file to a model package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import error_console

if TYPE_CHECKING:
    from models.training.config import Config


def train(
    config: Annotated[Path, typer.Argument(help="Configuration file (TOML).")],
    out: Annotated[Path, typer.Option(help="Folder of this training.")] = Path("runs/training"),
    package: Annotated[
        Path | None, typer.Option(help="Folder of the package; default: OUT/package/NAME.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after a kill.")] = False,
    fold: Annotated[
        str, typer.Option(help="Cross-validation: 2/5 holds the second of five parts out.")
    ] = "",
) -> None:
    """Train a model and write it as a package, with a report."""
    from core.errors import TrainingError
    from models.registry import load
    from models.training.checkpoint import CHECKPOINT
    from models.training.config import read_config, with_fold
    from models.training.data import read_index
    from models.training.dataset import held_out, training_entries
    from models.training.evaluate import score_groups, summarise
    from models.training.export import export
    from models.training.loop import Training
    from models.training.report import write_report, write_scores

    parsed = _with_images(read_config(config), out)
    if fold:
        parsed = with_fold(parsed, fold)
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
    scores, summary, judged = [], {}, ""
    if parsed.data.folds:
        # a fold is judged on what it held out; the val split stays unseen for the last look
        held = held_out(training_entries(parsed), parsed)
        judged = f"fold {parsed.data.fold} of {parsed.data.folds}"
        scores = score_groups(load(spec), parsed.data.folder, only=held)
    elif any(item.split == "val" for item in read_index(parsed.data.folder)):
        judged = "the val split"
        scores = score_groups(load(spec), parsed.data.folder, "val")
    if scores:
        summary = summarise(scores, spec)
        write_scores(out, scores)
    report = write_report(out, spec.title, training.history, scores, summary, judged)
    typer.echo(f"package: {target}")
    typer.echo(f"report: {report}")
    for key, value in summary.items():
        typer.echo(f"{key}: {value}")


def _with_images(config: Config, out: Path) -> Config:
    """A folder without an index holds DICOM: its series with a SEG are laid out in `out` first.

    Raises:
        TrainingError: nothing there to train on.
    """
    from core.settings import load
    from workers.collecting import collect

    source, target = config.data.folder, out / "images"
    if (source / "index.csv").exists() or not source.is_dir():
        return config
    if not (target / "index.csv").exists():
        labels = [label.type for label in config.output.labels]
        with error_console.status("reading DICOM …") as status:
            found = collect(
                source,
                target,
                config.input,
                config.preprocessing,
                labels,
                max_voxels=load().worker.max_voxels,
                progress=lambda done, total: status.update(f"series {done} of {total}"),
            )
        error_console.print(
            f"{found.images} images of {found.series} series and {found.patients} patients, "
            f"{found.with_mask} with a mask",
            highlight=False,
        )
        for why, count in found.left_out.items():
            error_console.print(f"left out: {count} × {why}", highlight=False, markup=False)
    data = config.data.model_copy(update={"folder": target.absolute()})
    return config.model_copy(update={"data": data})
