"""`sentinode models …`: what is installed, what comes in, and how good it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from cli.context import console, error_console, load_settings

if TYPE_CHECKING:
    from core.modelspec import ModelSpec

app = typer.Typer(
    help="Models: add, list, show, verify, evaluate, merge, compress, their domain.",
    no_args_is_help=True,
)


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
def add(
    context: typer.Context,
    package: Annotated[
        Path, typer.Argument(help="A package's folder, a MONAI Bundle, or an ONNX file.")
    ],
    spec: Annotated[
        Path | None, typer.Option(help="Specification (TOML), or parts that win over a bundle's.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Folder; default: the first of models.folders.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="In place of the package of that name.")
    ] = False,
) -> None:
    """Install a package: it is copied, checked, loaded and tried; then it has its name."""
    from core.errors import ModelError
    from models.packages.adding import add as install

    settings = load_settings(context)
    zoo = into or next(iter(settings.models.folders), None)
    if zoo is None:
        raise ModelError(
            "there is no folder to put it into",
            remedy="Name one in models.folders (on the node and on every worker), or with --into.",
        )
    verdict = install(package, zoo, spec, replace=replace, allowed=settings.models.allowed)
    found = verdict.spec
    typer.echo(f"added {found.name} {found.version} to {zoo}")
    if zoo.resolve() not in [folder.resolve() for folder in settings.models.folders]:
        error_console.print(f"{zoo} is not in models.folders: the node does not see it there")
    typer.echo(f"hash: {verdict.hash}")


@app.command()
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A model's name, or a package's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """What a package says of itself, and its hash."""
    from models.packages.digest import package_hash

    settings = load_settings(context)
    spec = _spec(name, settings.models.folders)
    found = package_hash(spec.folder)
    allowed = found in settings.models.allowed
    if as_json:
        typer.echo(json.dumps({**spec.model_dump(mode="json"), "hash": found, "allowed": allowed}))
        return
    labels = (*spec.output.labels, *(spec.output.classes.labels if spec.output.classes else ()))
    lines = {
        "name": f"{spec.name} {spec.version}",
        "title": spec.title,
        "intended use": spec.intended_use,
        "licence": spec.licence,
        "input": f"{'/'.join(spec.input.modality)} {spec.input.kind}",
        "preprocessing": ", ".join(step.name for step in spec.preprocessing) or "none of ours",
        "network": spec.network.architecture,
        "labels": "; ".join(
            f"{label.name} ({label.type.value}, {label.type.scheme}, {label.type.meaning})"
            for label in labels
        ),
        "weights": f"{spec.weights.file}, SHA-256 {spec.weights.sha256}",
        "trained on": spec.training.data,
        "folder": str(spec.folder),
        "hash": f"{found} ({'' if allowed else 'not '}in models.allowed)",
    }
    for key, value in lines.items():
        typer.echo(f"{key}: {value}")


@app.command()
def verify(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(help="Names or folders; default: all installed.")
    ] = None,
) -> None:
    """Check packages: specification, checksum, network, and an answer about a small volume."""
    from core.errors import SentinodeError
    from core.modelspec import find_specs
    from models.packages.adding import verify as look

    settings = load_settings(context)
    bad = 0
    for name in names or sorted(find_specs(settings.models.folders)):
        try:
            spec = _spec(name, settings.models.folders)
            verdict = look(spec.folder, settings.models.allowed)
        except SentinodeError as error:
            bad += 1
            typer.echo(f"{name}: FAULT: {error}")
            if error.remedy:
                typer.echo(f"  {error.remedy}")
            continue
        typer.echo(f"{spec.name} {spec.version}: good, hash {verdict.hash}")
    if bad:
        raise typer.Exit(1)


def _spec(name: str, folders: tuple[Path, ...]) -> ModelSpec:
    """A package by its name, or by its folder."""
    from core.errors import ModelError
    from core.modelspec import SPEC_FILE, find_specs, read_spec

    if (Path(name) / SPEC_FILE).is_file():
        return read_spec(Path(name))
    specs = find_specs(folders)
    if name not in specs:
        known = ", ".join(sorted(specs)) or "none"
        raise ModelError(f"there is no model {name!r} (there is: {known})")
    return specs[name]


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
    model = load(name, settings.models.folders, settings.worker.device, settings.models.allowed)
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
    mean: Annotated[
        Literal["logits", "sigmoid"], typer.Option(help="Of logits, or of probabilities.")
    ] = "logits",
) -> None:
    """Make one package of several with the same input and output: an ensemble."""
    from models.training.ensemble import merge as make

    spec = make(packages, folder, mirrored=mirrored, mean=mean)
    size = spec.weights_path.stat().st_size / 1e6
    typer.echo(f"package: {folder} ({len(packages)} members, {size:.1f} MB)")


@app.command()
def compress(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A model's name, or a package's folder.")],
    method: Annotated[str, typer.Option(help="prune, quantise, half or distil.")],
    data: Annotated[Path, typer.Option(help="A folder with images and an index.csv.")],
    out: Annotated[Path, typer.Option(help="Folder of the new package.")],
    config: Annotated[
        Path | None, typer.Option(help="Configuration of its training, for prune and distil.")
    ] = None,
    share: Annotated[float, typer.Option(min=0, max=0.95, help="Of the channels that go.")] = 0.3,
    epochs: Annotated[int, typer.Option(min=0, help="Of learning afterwards.")] = 5,
    rate: Annotated[float, typer.Option(help="Learning rate of that.")] = 5e-4,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Quantise without examples: weights only.")
    ] = False,
    weights_only: Annotated[
        bool,
        typer.Option("--weights-only", help="Quantise on the disk only; any network."),
    ] = False,
    split: Annotated[str, typer.Option(help="Split that both are judged on.")] = "val",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, last line.")] = False,
) -> None:
    """Make a smaller package of a model, and say what it costs: accuracy, size, speed."""
    from dataclasses import asdict

    from core.errors import ModelError
    from models.compression.compare import table
    from models.compression.compress import METHODS, Options
    from models.compression.compress import compress as make
    from models.training.config import read_config

    chosen = next((item for item in METHODS if item == method), None)
    if chosen is None:
        raise ModelError(f"there is no method {method!r} (there is: {', '.join(METHODS)})")
    spec = _spec(name, load_settings(context).models.folders)
    parsed = read_config(config) if config is not None else None
    options = Options(share, epochs, rate, dynamic, weights_only, split)
    made, lines = make(spec, chosen, out, data.resolve(), options, error_console, parsed)
    if as_json:
        typer.echo(json.dumps({"package": str(out), "models": [asdict(line) for line in lines]}))
        return
    typer.echo(table(lines))
    typer.echo(f"package: {out} ({made.name})")
