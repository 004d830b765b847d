"""A MONAI Bundle asked about a volume.

Its transforms see what they would see of a file that MONAI read: channel first, axes right to
left, anterior to posterior, foot to head, with the affine matrix in RAS. They are undone by
their own records, so the answer has the volume's grid.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.bundle.config_parser import ConfigParser
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import SimpleInferer
from monai.transforms.compose import Compose
from monai.transforms.utils import allow_missing_keys_mode
from torch import nn

from core.errors import ModelError, ModelSpecError, WeightsError
from core.modelspec import ModelSpec
from models.packages.configs import SKIPPED, SafeConfig, read_json
from models.packages.digest import package_hash
from models.preprocessing import Spacing, Volume
from models.weights import read_weights

CONFIG = "configs/inference.json"
METADATA = "configs/metadata.json"
_IMAGE, _PREDICTION = "image", "pred"
# What the node does itself: the activation and the threshold are the specification's.
_OURS = SKIPPED | {"EnsureChannelFirstd", "Invertd", "Activationsd", "AsDiscreted"}
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net")

Found = npt.NDArray[np.float16]


@dataclass
class _Parts:
    network: nn.Module | None
    before: list[Any]
    inferer: Any
    after: list[Any] = field(default_factory=list)


class BundleNetwork(nn.Module):
    """See the module."""

    def __init__(self, network: nn.Module, parts: _Parts, spec: ModelSpec) -> None:
        super().__init__()
        self.network, self.spec = network, spec
        self.before, self.inferer = Compose(parts.before), parts.inferer
        self.after = Compose(parts.after) if parts.after else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, as the bundle's network gives them."""
        answer: Any = self.network(images)
        logits: torch.Tensor = answer[0] if isinstance(answer, list | tuple) else answer
        return logits

    def answer(
        self, volume: Volume, spacing_mm: Spacing | None, device: torch.device, channels: int
    ) -> Found:
        """Probabilities float16 (channels, slices, rows, columns) of (slices, rows, columns).

        `spacing_mm` is (slice, row, column); 1 mm each where it is unknown.

        Raises:
            ModelSpecError: a transform that fails, or fewer channels than labels.
        """
        try:
            data = self.before({_IMAGE: _as_monai(volume, spacing_mm)})
            image = data[_IMAGE]
            logits = self.inferer(image[None].to(device), self)[0].float().cpu()
            if logits.shape[0] < channels:
                raise ModelSpecError(
                    f"{self.spec.name}: output.labels name channel {channels - 1}, but the "
                    f"network has {logits.shape[0]} channel(s), counted from 0"
                )
            softmax = self.spec.output.activation == "softmax"
            seen = logits.softmax(dim=0) if softmax else logits.sigmoid()
            found = self._back(seen, image)
            if self.after is not None:
                found = found * self._kept(found)
        except (ModelError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise ModelSpecError(
                f"{self.spec.name}: its transforms fail: {error}: {error.__cause__}"
            ) from error
        grid = found[:channels].permute(0, 3, 2, 1).half().numpy()
        if grid.shape[1:] != volume.shape:
            raise ModelSpecError(
                f"{self.spec.name}: the answer has {grid.shape[1:]} voxels, the volume "
                f"{volume.shape}: its transforms cannot be undone"
            )
        return np.ascontiguousarray(grid)

    def _back(self, seen: torch.Tensor, image: Any) -> torch.Tensor:
        """Out of the grid that the transforms made, into the volume's."""
        answer = MetaTensor(seen, meta=dict(image.meta))  # the affine matrix is in it
        answer.applied_operations = image.applied_operations
        with allow_missing_keys_mode(self.before):
            undone: Any = self.before.inverse({_IMAGE: answer})[_IMAGE]  # type: ignore[no-untyped-call]
        return torch.as_tensor(undone.as_tensor()).clamp(0, 1)

    def _kept(self, found: torch.Tensor) -> torch.Tensor:
        """What the bundle's own cleaning leaves of the outlines, 0 or 1."""
        assert self.after is not None
        if self.spec.output.activation == "softmax":
            best = found.argmax(dim=0)
            outlined = torch.stack([best == channel for channel in range(len(found))])
        else:
            outlined = found >= self.spec.output.threshold
        cleaned = self.after({_PREDICTION: MetaTensor(outlined.float())})[_PREDICTION]
        return torch.as_tensor(cleaned.as_tensor() > 0)


def _as_monai(volume: Volume, spacing_mm: Spacing | None) -> MetaTensor:
    """(slices, rows, columns) in LPS to (1, x, y, z) with its affine matrix in RAS."""
    slice_mm, row_mm, column_mm = spacing_mm or (1.0, 1.0, 1.0)
    affine = torch.diag(torch.tensor([-column_mm, -row_mm, slice_mm, 1.0], dtype=torch.float64))
    array = np.ascontiguousarray(volume.transpose(2, 1, 0), dtype=np.float32)
    return MetaTensor(torch.from_numpy(array)[None], affine=affine)


def open_bundle(spec: ModelSpec, device: torch.device, allowed: Collection[str]) -> BundleNetwork:
    """Build a bundle's parts and load its weights.

    Args:
        spec: of the package that the bundle lies in.
        device: where its network works.
        allowed: hashes of packages whose own code may run.

    Raises:
        ModelSpecError: it asks for classes or code that are not allowed.
        WeightsError: its weights are not those named, damaged, or hold more than weights.
    """
    content = read_json(spec.folder / str(spec.network.params.get("config", CONFIG)))
    trusted = bool(allowed) and package_hash(spec.folder) in allowed
    parts = _trusted(content, spec.folder, device) if trusted else _safe(content, spec)
    network = _with_weights(parts.network, spec, trusted=trusted)
    network = network.to(device).eval()
    for weight in network.parameters():
        weight.requires_grad_(False)
    return BundleNetwork(network, parts, spec)


def _safe(content: dict[str, Any], spec: ModelSpec) -> _Parts:
    config = SafeConfig(content, spec.name, _if_trusted(spec))
    before = [step for kind, step in config.steps("preprocessing") if kind not in _OURS]
    after = [step for kind, step in config.steps("postprocessing") if kind not in _OURS]
    inferer = config.build("inferer") or SimpleInferer()
    return _Parts(config.build("network_def"), before, inferer, after)


def _if_trusted(spec: ModelSpec) -> str:
    return (
        "If you trust its maker, add the package's hash to models.allowed: "
        f"{package_hash(spec.folder)}"
    )


def _trusted(content: dict[str, Any], folder: Path, device: torch.device) -> _Parts:
    """Everything as MONAI does it, expressions and imports of the package included."""
    parser = ConfigParser(_without_files(content))
    parser["bundle_root"], parser["device"] = str(folder), str(device)

    def made(part: str) -> Any:
        return parser.get_parsed_content(part) if part in parser else None

    def steps(part: str) -> list[Any]:
        found = made(part)
        listed = found.transforms if isinstance(found, Compose) else [found] if found else []
        return [step for step in listed if type(step).__name__ not in _OURS]

    try:
        made("imports")
        return _Parts(
            made("network_def"),
            steps("preprocessing"),
            made("inferer") or SimpleInferer(),
            steps("postprocessing"),
        )
    except Exception as error:
        raise ModelSpecError(f"{folder.name}: its configuration fails: {error}") from error


def _without_files(content: dict[str, Any]) -> dict[str, Any]:
    """The configuration without the transforms that read and write files."""
    made = copy.deepcopy(content)
    for part in ("preprocessing", "postprocessing"):
        listed = made[part].get("transforms") if isinstance(made.get(part), dict) else None
        if isinstance(listed, list):
            listed[:] = [item for item in listed if _kind(item) not in SKIPPED | {"Invertd"}]
    return made


def _kind(item: Any) -> str:
    return str(item.get("_target_", "")).rpartition(".")[2] if isinstance(item, dict) else ""


def _with_weights(network: nn.Module | None, spec: ModelSpec, *, trusted: bool) -> nn.Module:
    data = read_weights(spec)
    if spec.weights_path.suffix == ".ts":
        return _scripted(network, data, spec, trusted=trusted)
    if network is None:
        raise ModelSpecError(f"{spec.name}: its configuration has no network_def")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=not trusted)
    except UnpicklingError as error:
        raise WeightsError(
            f"{spec.name}: {spec.weights.file} holds more than weights: to read it would run the "
            "code in it",
            remedy=f"Ask for a file of weights alone. {_if_trusted(spec)}",
        ) from error
    except Exception as error:
        raise WeightsError(f"{spec.name}: {spec.weights.file} cannot be read: {error}") from error
    return _filled(network, state, spec)


def _scripted(
    network: nn.Module | None, data: bytes, spec: ModelSpec, *, trusted: bool
) -> nn.Module:
    """TorchScript is a program: it runs only if allowed; its weights alone may be taken."""
    if network is None and not trusted:
        raise ModelSpecError(
            f"{spec.name}: {spec.weights.file} is a program (TorchScript), and its configuration "
            "has no network_def that could take its weights",
            remedy=_if_trusted(spec),
        )
    try:
        program: nn.Module = torch.jit.load(  # type: ignore[no-untyped-call]
            io.BytesIO(data), map_location="cpu"
        )
    except Exception as error:
        raise WeightsError(f"{spec.name}: {spec.weights.file} cannot be read: {error}") from error
    if network is None:
        return program
    return _filled(network, program.state_dict(), spec)


def _filled(network: nn.Module, state: Any, spec: ModelSpec) -> nn.Module:
    if isinstance(state, nn.Module):
        state = state.state_dict()
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise WeightsError(f"{spec.name}: {spec.weights.file} holds no weights by their names")
    named = {str(name).removeprefix("module."): value for name, value in state.items()}
    try:
        network.load_state_dict(named)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{spec.name}: the weights do not fit the network: {str(error)[:400]}"
        ) from error
    return network.float()
