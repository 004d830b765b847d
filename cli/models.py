"""`sentinode models …`: what is installed, and how good it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cli.context import console, error_console, load_settings

app = typer.Typer(help="Models: list, evaluate, merge, their domain.", no_args_is_help=True)


@app.command("list")
def list_models(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Installed model packages."""
    from core.modelspec import find_specs

    specs = find_specs(load_settings(context).models.folders)
    if as_json:
        for spec in specs.values():
            typer.echo(spec.model_dump_json())
        return
    table = Table(title="Models", title_justify="left")
    for name in ("name", "version", "input", "what it does", "licence"):
        table.add_column(name, overflow="fold")
    for spec in specs.values():
        wanted = f"{'/'.join(spec.input.modality)} {spec.input.kind}"
        table.add_row(spec.name, spec.version, wanted, spec.title, spec.licence)
    console.print(table)


@app.command()
def evaluate(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A model's name.")],
    folder: Annotated[Path, typer.Argument(help="A folder with images and an index.csv.")],
    split: Annotated[str, typer.Option(help="Only this split of the index.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, last line.")] = False,
    as_dicom: Annotated[
        bool,
        typer.Option("--as-dicom", help="Wrap the images as DICOM and go the worker's own way."),
    ] = False,
) -> None:
    """Judge a model on a folder of images. Nothing is left out."""
    from models.registry import load
    from models.training.evaluate import score_groups, summarise

    settings = load_settings(context)
    model = load(name, settings.models.folders, settings.worker.device)
    examine = None
    if as_dicom:
        from workers.judging import examine_as_dicom

        examine = examine_as_dicom(model, settings)
    with error_console.status(f"judging {name} …") as status:
        scores = score_groups(
            model,
            folder,
            split,
            lambda done, total: status.update(f"judging {name}: {done} of {total} groups"),
            examine=examine,
        )
    summary = summarise(scores, model.spec)
    if as_json:
        typer.echo(json.dumps(summary))
        return
    for key, value in summary.items():
        typer.echo(f"{key}: {value}")


@app.command()
def domain(
    package: Annotated[Path, typer.Argument(help="Folder of a model package; it is changed.")],
    folder: Annotated[Path, typer.Argument(help="The images that it was trained on.")],
    foreign: Annotated[
        list[Path] | None, typer.Option(help="A folder of other images, which it should refuse.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, last line.")] = False,
) -> None:
    """Measure what a model's training images look like, so that it refuses others."""
    from core.modelspec import read_spec
    from models.training.domain import keep, measure

    spec = read_spec(package)
    with error_console.status(f"measuring {spec.name} …") as status:
        found, figures = measure(
            spec,
            folder,
            foreign or [],
            lambda done, total: status.update(f"measuring: {done} of {total} groups"),
        )
    keep(found, package)
    if as_json:
        typer.echo(json.dumps(figures))
        return
    for key, value in figures.items():
        typer.echo(f"{key}: {value}")


@app.command()
def merge(
    folder: Annotated[Path, typer.Argument(help="Folder of the new package.")],
    packages: Annotated[list[Path], typer.Argument(help="Packages, such as those of the folds.")],
    mirrored: Annotated[
        bool, typer.Option("--mirrored", help="Ask about the mirrored image, too.")
    ] = False,
) -> None:
    """Make one package of several that differ in their weights only: an ensemble."""
    from models.training.ensemble import merge as make

    spec = make(packages, folder, mirrored=mirrored)
    size = spec.weights_path.stat().st_size / 1e6
    typer.echo(f"package: {folder} ({len(packages)} members, {size:.1f} MB)")
