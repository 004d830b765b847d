"""A model package's specification, read as data.

A package is a folder with `model.toml`, a weights file and `card.md`. The node reads the
specification to know names, versions and inputs without torch; `models` reads the same file to
build the network. Everything a result says about its maker comes from here.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import ModelSpecError

SPEC_FILE = "model.toml"
# PS3.16 CID 7150: what a body has anyway. The second code is an older one for the same.
_ANATOMY = frozenset({"91723000", "123037004", "85756007"})
BUILT_IN_ZOO = Path(__file__).resolve().parent.parent / "models" / "zoo"


def _writable(text: str) -> str:
    if "\\" in text or not text.isprintable():
        raise ValueError("no backslash, line break or control character (PS3.5 Table 6.2-1, LO)")
    return text


Text = Annotated[str, AfterValidator(_writable)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Code(_Frozen):
    """A coded concept (PS3.3 Section 8): value, scheme designator, meaning."""

    value: Annotated[str, Field(min_length=1, max_length=16)]
    scheme: Annotated[str, Field(min_length=1, max_length=16)]
    meaning: Annotated[str, Field(min_length=1, max_length=64)]


class InputSpec(_Frozen):
    """What the model was made for. Anything else is "not applicable", not guessed at.

    Attributes:
        modality: accepted values of Modality (0008,0060).
        kind: "volume" (slices stacked in patient space) or "image" (each image for itself).
        incomplete: what to do with a volume that lacks slices between its first and its last:
            "refuse" it, or "analyse" the slices that are there and say how many are missing.
        of_several: a series may hold several volumes (echoes, time points, b-values): "refuse"
            it, or take the "first" or the "last" of them by the attribute that tells them apart.
        orientation: the plane that the network sees; a volume in another plane is permuted to
            it when its spacing allows.
        min_slices: fewest slices of a volume.
        max_in_plane_spacing_mm: coarsest in-plane spacing, after permuting, in mm.
        body_part: accepted values of Body Part Examined (0018,0015); images that name none are
            accepted. Empty: whatever the images name.
        view: accepted values of View Position (0018,5101), in the same way.
    """

    modality: tuple[str, ...]
    kind: Literal["volume", "image"] = "volume"
    incomplete: Literal["refuse", "analyse"] = "refuse"
    of_several: Literal["refuse", "first", "last"] = "refuse"
    orientation: Literal["axial"] | None = None
    min_slices: Annotated[int, Field(ge=1)] = 1
    max_in_plane_spacing_mm: Annotated[float, Field(gt=0)] | None = None
    body_part: tuple[str, ...] = ()
    view: tuple[str, ...] = ()


class StepSpec(_Frozen):
    """One named preprocessing step and its parameters, in order."""

    name: str
    params: dict[str, Any] = {}


class WindowSpec(_Frozen):
    """How a volume that is too large for the network is shown to it: window by window.

    Attributes:
        size: of a window in voxels after preprocessing: (slices, rows, columns) for a network in
            3D, (rows, columns) for one in 2D.
        overlap: share of a window that its neighbour sees, too.
        blend: "gaussian" trusts a window's middle more than its border; "constant" does not.
        batch: windows at once.
    """

    size: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=2, max_length=3)]
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25
    blend: Literal["gaussian", "constant"] = "gaussian"
    batch: Annotated[int, Field(ge=1)] = 1


class NetworkSpec(_Frozen):
    """The network by its name in `models.architectures`, with its parameters."""

    architecture: str
    params: dict[str, Any] = {}


class WeightsSpec(_Frozen):
    """The weights file beside the specification, and what it must hash to."""

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"


class LabelSpec(_Frozen):
    """One output channel and what it may be called.

    Attributes:
        channel: index of the output channel, from 0.
        name: what a person reads; becomes the Segment Label with a number.
        category: Segmented Property Category (PS3.3 C.8.20.2).
        type: Segmented Property Type; claims no more than the training label says.
        site: anatomic region, when every input of the model shows it.
        color: recommended display colour, sRGB 0 to 255.
        sided: whether left or right of the body's midline says something about it; a side is
            said of the site, so it needs one.
        sought: for a classifier: whether this class is what the model looks for. Classes that
            are not (e.g. "normal") are reported only by their probability. For a rule: whether
            this window is looked for when the settings name none.
    """

    channel: Annotated[int, Field(ge=0)]
    name: Annotated[Text, Field(min_length=1, max_length=58)]
    category: Code
    type: Code
    site: Code | None = None
    color: tuple[int, int, int] = (255, 64, 64)
    sided: bool = False
    sought: bool = True

    @model_validator(mode="after")
    def _a_side_is_of_a_site(self) -> Self:
        if self.sided and self.site is None:
            raise ValueError("sided needs a site: left or right of what?")
        return self

    @property
    def is_structure(self) -> bool:
        """Whether it names anatomy: outlined and called by its name, but no finding."""
        return self.category.scheme == "SCT" and self.category.value in _ANATOMY


class ClassesSpec(_Frozen):
    """The second answer of a network that segments and classifies at once.

    Attributes:
        activation: "softmax" where the classes exclude each other.
        threshold: from which probability on a class counts as present.
        combine: how the images of one series make one answer.
        labels: the classes; `channel` counts the network's classes, not its pixel labels.
    """

    activation: Literal["sigmoid", "softmax"] = "softmax"
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    combine: Literal["mean", "max"] = "mean"
    labels: tuple[LabelSpec, ...]


class OutputSpec(_Frozen):
    """How logits become an answer.

    Attributes:
        kind: "segmentation" (logits for every pixel) or "classification" (logits for every
            image).
        activation: "softmax" where the channels exclude each other.
        threshold: from which probability on a pixel belongs to a lesion, or a class counts as
            present.
        combine: how the images of one series make one answer of a classifier.
        classes: of a segmentation network that also classifies whole images, or None.
    """

    kind: Literal["segmentation", "classification"] = "segmentation"
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    combine: Literal["mean", "max"] = "mean"
    labels: tuple[LabelSpec, ...]
    classes: ClassesSpec | None = None


class PostprocessingSpec(_Frozen):
    """Default least size of a lesion; the settings may ask for another.

    Attributes:
        min_volume_ml: in a volume.
        min_area_mm2: in an image whose pixel size is known.
        min_pixels: in any image.
    """

    min_volume_ml: Annotated[float, Field(ge=0)] = 0.0
    min_area_mm2: Annotated[float, Field(ge=0)] = 0.0
    min_pixels: Annotated[int, Field(ge=0)] = 0


class DomainSpec(_Frozen):
    """What the training images looked like, in a file beside the specification.

    Images that look like none of them are refused (`models.domain`).
    """

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LimitsSpec(_Frozen):
    """What a job of this model may take.

    Attributes:
        seconds: longest time for one job; None leaves it to jobs.time_limit_seconds.
    """

    seconds: Annotated[float, Field(gt=0)] | None = None


class RangeSpec(_Frozen):
    """Values that a rule looks for: from `low` to `high`, both included.

    Attributes:
        name: how the settings call it (`models.windows`).
        channel: of the label in `output.labels` that its regions get.
        low, high: in the rule's unit; no end without.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z-]{0,31}$")]
    channel: Annotated[int, Field(ge=0)]
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _holds_something(self) -> Self:
        if self.low is None and self.high is None:
            raise ValueError("a window needs low, high, or both")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("low is not less than high")
        return self


class RuleSpec(_Frozen):
    """A fixed rule in place of a network: regions of connected voxels within a window of values.

    Attributes:
        unit: UCUM unit that the images' values must have; others are not applicable.
        windows: each with a label of its own.
        inside_body: whether what lies outside the body (air, table) is left out.
        remark: what every reader of the results must know, one sentence.
    """

    unit: Literal["[hnsf'U]", "g/ml{SUVbw}"]
    windows: Annotated[tuple[RangeSpec, ...], Field(min_length=1)]
    inside_body: bool = False
    remark: Annotated[Text, Field(min_length=1)]


class TrainingSpec(_Frozen):
    """What the weights were trained on.

    Attributes:
        labels: the labels of the training images' index, and the class (channel) of each.
    """

    data: str
    licence: str
    config: str
    citation: str = ""
    labels: dict[str, int] = {}


class ModelSpec(_Frozen):
    """A model package's specification.

    A package has either a rule, or a network and its weights.

    Attributes:
        name: the package's name, as routes use it.
        version: the version that jobs and results carry.
        family: coded algorithm family for Algorithm Identification (PS3.16 CID 7162).
        network, weights: of no meaning where there is a rule.
        window: how volumes are cut for the network; None shows it whole slices.
        folder: where the package lies; not part of the file.
    """

    schema_version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    title: Annotated[Text, Field(min_length=1)]
    intended_use: str
    licence: str
    family: Code
    input: InputSpec
    preprocessing: tuple[StepSpec, ...] = ()
    rule: RuleSpec | None = None
    network: NetworkSpec = NetworkSpec(architecture="none")
    window: WindowSpec | None = None
    weights: WeightsSpec = WeightsSpec(file="none", sha256="0" * 64)
    output: OutputSpec
    postprocessing: PostprocessingSpec = PostprocessingSpec()
    limits: LimitsSpec = LimitsSpec()
    domain: DomainSpec | None = None
    training: TrainingSpec
    folder: Path = Path()

    @model_validator(mode="after")
    def _a_rule_or_a_network(self) -> Self:
        given = self.model_fields_set & {"network", "weights"}
        if self.rule is None:
            if len(given) < 2:
                raise ValueError("network and weights are needed where there is no rule")
            return self
        if given or self.preprocessing or self.output.classes is not None:
            raise ValueError("a rule has no network, weights, preprocessing or classes")
        if self.output.kind != "segmentation":
            raise ValueError("a rule gives a segmentation")
        wanted = [window.channel for window in self.rule.windows]
        if sorted(wanted) != sorted(label.channel for label in self.output.labels):
            raise ValueError("rule.windows and output.labels need the same channels, each once")
        if len({window.name for window in self.rule.windows}) < len(wanted):
            raise ValueError("rule.windows: two have the same name")
        return self

    @property
    def weights_path(self) -> Path:
        """The weights file's path."""
        return self.folder / self.weights.file


def read_spec(folder: Path) -> ModelSpec:
    """Read the specification in `folder`.

    Raises:
        ModelSpecError: no specification there, or one with faults; every fault is named.
    """
    path = folder / SPEC_FILE
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelSpecError(f"{folder} is no model package: it has no {SPEC_FILE}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ModelSpecError(f"{path} cannot be read: {error}") from error
    try:
        return ModelSpec(**{**raw, "folder": folder})
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()
        )
        raise ModelSpecError(f"{path}: {faults}") from error


def find_specs(folders: tuple[Path, ...] = ()) -> dict[str, ModelSpec]:
    """Every model package in the built-in zoo and in `folders`, by name.

    A package in `folders` replaces a built-in one of the same name, so that a hospital can
    retrain a model without changing its routes.

    Raises:
        ModelSpecError: a package's specification has faults.
    """
    found: dict[str, ModelSpec] = {}
    for zoo in (BUILT_IN_ZOO, *folders):
        if not zoo.is_dir():
            continue
        for spec_path in sorted(zoo.glob(f"*/{SPEC_FILE}")):
            spec = read_spec(spec_path.parent)
            found[spec.name] = spec
    return found
