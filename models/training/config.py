"""A training's configuration: a validated TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import TrainingError
from core.modelspec import (
    Code,
    InputSpec,
    NetworkSpec,
    OutputSpec,
    PostprocessingSpec,
    StepSpec,
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PackageConfig(_Frozen):
    """`[package]`: what the exported package says of itself."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    title: str
    intended_use: str
    licence: str
    family: Code


class DataConfig(_Frozen):
    """`[data]`: the images.

    Attributes:
        folder: with an index.csv; relative to the configuration file.
        size: rows and columns of a training image; larger ones are cropped at the centre,
            smaller ones padded.
        monitor: share of the training groups that is held out, to watch the training.
    """

    folder: Path
    size: Annotated[int, Field(ge=16)] = 256
    monitor: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    description: str
    licence: str
    citation: str = ""


class AugmentationConfig(_Frozen):
    """`[augmentation]`: how far images are changed; 0 leaves a thing out."""

    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.0
    flip_columns: bool = False
    gain: Annotated[float, Field(ge=0)] = 0.0
    offset: Annotated[float, Field(ge=0)] = 0.0
    gamma: Annotated[float, Field(ge=0)] = 0.0
    bias_field: Annotated[float, Field(ge=0)] = 0.0
    noise: Annotated[float, Field(ge=0)] = 0.0
    blur: Annotated[float, Field(ge=0, le=1)] = 0.0


class TrainingConfig(_Frozen):
    """`[training]`: the schedule. Nothing in it is chosen by looking at the val split."""

    seed: int = 1
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 16
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.05
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    patience: Annotated[int, Field(ge=0)] = 0
    loss: Literal["dice_ce", "dice", "focal"] = "dice_ce"


class Config(_Frozen):
    """A whole configuration file."""

    package: PackageConfig
    data: DataConfig
    input: InputSpec
    preprocessing: tuple[StepSpec, ...] = ()
    network: NetworkSpec
    augmentation: AugmentationConfig = AugmentationConfig()
    training: TrainingConfig
    output: OutputSpec
    postprocessing: PostprocessingSpec = PostprocessingSpec()


def read_config(path: Path) -> Config:
    """Read a configuration file; its data folder becomes absolute.

    Raises:
        TrainingError: with every fault, each by its full key.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        config = Config(**raw)
    except FileNotFoundError as error:
        raise TrainingError(f"{path}: there is no such file") from error
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} is not valid TOML: {error}") from error
    except ValidationError as error:
        faults = "\n".join(
            f"  {'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()
        )
        raise TrainingError(f"{path}: {error.error_count()} fault(s)\n{faults}") from error
    folder = (path.absolute().parent / config.data.folder).resolve()
    return config.model_copy(update={"data": config.data.model_copy(update={"folder": folder})})
