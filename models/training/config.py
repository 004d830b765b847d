"""A training's configuration: a validated TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import TrainingError
from core.modelspec import (
    ClassesSpec,
    Code,
    InputSpec,
    NetworkSpec,
    OutputSpec,
    PostprocessingSpec,
    StepSpec,
    WindowSpec,
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
        depth: slices of a training stack, for a network in 3D; 0 trains on single slices.
        monitor: share of the training groups that is held out, to watch the training.
        folds, fold: cross-validation by group: the groups are dealt into `folds` parts, of
            which the one numbered `fold` (from 1) is held out instead of `monitor`.
        labels: the index's labels and the class (channel) each is; none: nothing is classified.
        unbiased: weigh the images so that what lies outside their masks tells the label as
            little as possible (`models.training.bias`); for sets in which each class came from
            another device.
    """

    folder: Path
    size: Annotated[int, Field(ge=16)] = 256
    depth: Annotated[int, Field(ge=0)] = 0
    monitor: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    folds: Annotated[int, Field(ge=0, le=50)] = 0
    fold: Annotated[int, Field(ge=0)] = 0
    labels: dict[str, Annotated[int, Field(ge=0)]] = {}
    unbiased: bool = False
    description: str
    licence: str
    citation: str = ""

    @model_validator(mode="after")
    def _fold_is_one_of_them(self) -> Self:
        if self.folds == 1 or self.fold > self.folds or (self.folds and not self.fold):
            raise ValueError(f"fold {self.fold} of {self.folds}: 1/2 is the first of two, say")
        return self

    @property
    def classes(self) -> int:
        """How many classes the labels name."""
        return max(self.labels.values()) + 1 if self.labels else 0


class AugmentationConfig(_Frozen):
    """`[augmentation]`: how far images are changed; 0 leaves a thing out.

    Attributes:
        rotation_degrees, scale, shift: most of each, both ways; shift as a share of half the
            image.
        stretch: most that columns are scaled against rows.
        elastic: spread of a smooth random displacement, as a share of half the image.
        crop: least share of each side that a random crop keeps, blown up to the whole image;
            0 never crops.
        beyond: what comes in from outside the image: its "border" drawn out, or its "darkest"
            value.
        flip_columns: mirror left to right, half of the time.
        gain, offset, gamma: most of each, both ways: of the logarithm of a factor, in units of
            the prepared intensity, of the logarithm of an exponent.
        bias_field: spread of the logarithm of a smooth random factor.
        blur: share of images that are blurred with 3 × 3.
        sharpness: most that fine detail is strengthened or weakened, as a share of itself.
        coarse: share of images that are seen at a lower resolution, down to a third.
        texture: share of images that pass a random 3 × 3 kernel near the identity
            (Xu et al. 2021), which changes the look of a device.
        noise: most noise, in units of the prepared intensity.
        edges: share of images that get uniform borders, as collimation makes them.
        cutout: most of a side that a hidden square takes (DeVries and Taylor 2017).
        mixup: parameter of the beta distribution that two images are mixed with
            (Zhang et al. 2018).
        lonely: share of images whose neighbouring slices are replaced by the slice itself.
    """

    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.0
    stretch: Annotated[float, Field(ge=0, lt=1)] = 0.0
    elastic: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    crop: Annotated[float, Field(ge=0, le=1)] = 0.0
    beyond: Literal["border", "darkest"] = "border"
    flip_columns: bool = False
    gain: Annotated[float, Field(ge=0)] = 0.0
    offset: Annotated[float, Field(ge=0)] = 0.0
    gamma: Annotated[float, Field(ge=0)] = 0.0
    bias_field: Annotated[float, Field(ge=0)] = 0.0
    noise: Annotated[float, Field(ge=0)] = 0.0
    blur: Annotated[float, Field(ge=0, le=1)] = 0.0
    sharpness: Annotated[float, Field(ge=0)] = 0.0
    coarse: Annotated[float, Field(ge=0, le=1)] = 0.0
    texture: Annotated[float, Field(ge=0, le=1)] = 0.0
    edges: Annotated[float, Field(ge=0, le=1)] = 0.0
    cutout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0
    lonely: Annotated[float, Field(ge=0, le=1)] = 0.0


class TrainingConfig(_Frozen):
    """`[training]`: the schedule. Nothing in it is chosen by looking at the val split.

    Attributes:
        optimiser: "gd" is plain gradient descent: one step an epoch, over the whole set.
        momentum: of "sgd".
        schedule: what the learning rate does after the warm-up: "cosine" down to zero
            (Loshchilov and Hutter 2017), "constant", or "steps": a tenth after half of the
            training and again after three quarters.
        loss: for pixels.
        class_loss: for the classes of images.
        class_share: the weight of the class loss, where a network learns both; 1 leaves the
            pixels out.
        class_weights: "balanced": each class counts the same, however rare.
        label_smoothing: share of a label that is spread over all classes (Szegedy et al. 2016).
        regions: a cascade's classifier is shown the masks, and its segmenter rests.
        start: parts of the network (dotted name, or "" for all of it) and the package whose
            weights they begin with; relative to the configuration file. A part that rests
            keeps them.
        imagenet: encoders of EfficientNet-Lite0 that begin with ImageNet's weights
            (`models.training.pretrained`).
        rest: parts that are not trained.
    """

    seed: int = 1
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 16
    optimiser: Literal["gd", "sgd", "adam", "adamw"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    schedule: Literal["cosine", "constant", "steps"] = "cosine"
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.05
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    patience: Annotated[int, Field(ge=0)] = 0
    loss: Literal["dice_ce", "dice", "ce", "mse", "focal"] = "dice_ce"
    class_loss: Literal["ce", "mse", "focal"] = "ce"
    class_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    regions: bool = False
    start: dict[str, Path] = {}
    imagenet: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()


class Config(_Frozen):
    """A whole configuration file."""

    package: PackageConfig
    data: DataConfig
    input: InputSpec
    preprocessing: tuple[StepSpec, ...] = ()
    network: NetworkSpec
    window: WindowSpec | None = None
    augmentation: AugmentationConfig = AugmentationConfig()
    training: TrainingConfig
    output: OutputSpec
    postprocessing: PostprocessingSpec = PostprocessingSpec()

    @property
    def class_output(self) -> OutputSpec | ClassesSpec:
        """Where the activation of the classes is said."""
        return self.output.classes or self.output


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
    here = path.absolute().parent
    start = {part: (here / package).resolve() for part, package in config.training.start.items()}
    return config.model_copy(
        update={
            "data": config.data.model_copy(
                update={"folder": (here / config.data.folder).resolve()}
            ),
            "training": config.training.model_copy(update={"start": start}),
        }
    )


def with_fold(config: Config, fold: str) -> Config:
    """The same configuration with the fold "i/k" held out.

    Raises:
        TrainingError: no such fold.
    """
    number, _, count = fold.partition("/")
    try:
        data = DataConfig(**{**config.data.model_dump(), "fold": int(number), "folds": int(count)})
    except ValueError as error:
        raise TrainingError(f"--fold {fold}: no such fold; 2/5 is the second of five") from error
    return config.model_copy(update={"data": data})
