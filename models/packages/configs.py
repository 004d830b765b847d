"""A MONAI Bundle's configuration, built from an allow-list: nothing in it runs by itself.

MONAI's own parser imports whatever `_target_` names and evaluates every string that begins with
"$". Here `_target_` must be one of the classes below, references ("@id") are followed, and an
expression is a fault, unless the administrator allowed the package by its hash; then MONAI's
parser does it all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import monai.inferers
import monai.networks.nets
import monai.transforms

from core.errors import ModelSpecError

_NETWORKS = {
    *("AttentionUnet", "BasicUNet", "DynUNet", "HighResNet", "SegResNet", "SegResNetDS"),
    *("SegResNetVAE", "SwinUNETR", "UNet", "UNETR", "VNet"),
}
_TRANSFORMS = {
    *("Activationsd", "AsDiscreted", "CastToTyped", "CenterSpatialCropd", "Compose"),
    *("CropForegroundd", "DivisiblePadd", "EnsureChannelFirstd", "EnsureTyped", "FillHolesd"),
    *("GaussianSmoothd", "HistogramNormalized", "Invertd", "KeepLargestConnectedComponentd"),
    *("LabelFilterd", "LoadImaged", "MedianSmoothd", "NormalizeIntensityd", "Orientationd"),
    *("RemoveSmallObjectsd", "Resized", "ResizeWithPadOrCropd", "SaveImaged"),
    *("ScaleIntensityRangePercentilesd", "ScaleIntensityRanged", "ScaleIntensityd", "Spacingd"),
    *("SpatialPadd", "ThresholdIntensityd"),
}
_INFERERS = {"SimpleInferer", "SlidingWindowInferer"}
_PLACES = (
    (monai.networks.nets, _NETWORKS),
    (monai.transforms, _TRANSFORMS),
    (monai.inferers, _INFERERS),
)
# Read and write files: the node does that itself.
SKIPPED = frozenset(["LoadImaged", "SaveImaged"])
_NEVER = frozenset(["pretrained", "func", "lambda", "post_func", "converter"])
_DEEPEST = 30
_DEVICE = "cpu"  # of the transforms; the network goes where the worker says


def read_json(path: Path) -> dict[str, Any]:
    """Read a configuration file of a bundle.

    Raises:
        ModelSpecError: it cannot be read, or is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelSpecError(f"{path}: there is no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelSpecError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelSpecError(f"{path} is no JSON object")
    return content


class SafeConfig:
    """Builds parts of a bundle's configuration from the allow-list."""

    def __init__(self, content: dict[str, Any], name: str, remedy: str = "") -> None:
        self.content, self.name, self.remedy = content, name, remedy

    def build(self, part: str) -> Any:
        """The object that `part` describes; None where there is no such part.

        Raises:
            ModelSpecError: it asks for a class that is not allowed, or for code to run.
        """
        if part not in self.content:
            return None
        return self._made(self.content[part], part, 0)

    def steps(self, part: str) -> list[tuple[str, Any]]:
        """The transforms of a Compose (or a single one) by the names of their classes."""
        node = self._followed(self.content.get(part), part)
        if node is None:
            return []
        if isinstance(node, dict) and self._class(node, part).__name__ == "Compose":
            listed = self._followed(node.get("transforms", []), f"{part}.transforms")
        else:
            listed = node
        listed = listed if isinstance(listed, list) else [listed]
        steps = []
        for number, item in enumerate(listed):
            where = f"{part}.transforms.{number}"
            step = self._followed(item, where)
            if not isinstance(step, dict):
                raise self._fault(where, "is no transform")
            if step.get("_disabled_"):
                continue
            name = self._class(step, where).__name__
            steps.append((name, None if name in SKIPPED | {"Invertd"} else step))
        return [(name, self._made(step, part, 0)) for name, step in steps]

    def _made(self, node: Any, where: str, depth: int) -> Any:
        if depth > _DEEPEST:
            raise self._fault(where, "goes too deep, or in a circle")
        node = self._followed(node, where)
        if isinstance(node, list):
            return [self._made(item, f"{where}.{at}", depth + 1) for at, item in enumerate(node)]
        if not isinstance(node, dict):
            return node
        values = {
            key: self._made(value, f"{where}.{key}", depth + 1)
            for key, value in node.items()
            if not key.startswith("_")
        }
        if "_target_" not in node:
            return values
        wanted = self._class(node, where)
        for key in _NEVER & set(values):
            if values[key]:
                raise self._fault(f"{where}.{key}", "is not taken from a configuration")
        try:
            return wanted(**values)
        except Exception as error:
            raise self._fault(where, f"{wanted.__name__} cannot be made: {error}") from error

    def _followed(self, node: Any, where: str) -> Any:
        """What a reference refers to; anything else as it is, if it asks for no code."""
        for _ in range(_DEEPEST):
            if not isinstance(node, str):
                return node
            if node in {"@device", "$@device"}:
                return _DEVICE
            if node.startswith(("$", "%")):
                raise self._fault(
                    where,
                    f"asks for code to run: {node[:60]!r}",
                    remedy=self.remedy,
                )
            if not node.startswith("@"):
                return node
            node = self._looked_up(node[1:], where)
        raise self._fault(where, "refers to itself")

    def _looked_up(self, reference: str, where: str) -> Any:
        found: Any = self.content
        for part in reference.replace("#", "::").split("::"):
            if isinstance(found, dict) and part in found:
                found = found[part]
            elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            else:
                raise self._fault(where, f"refers to {reference!r}, which is not there")
        return found

    def _class(self, node: dict[str, Any], where: str) -> Any:
        target = node.get("_target_")
        if not isinstance(target, str):
            raise self._fault(where, "names no class (_target_)")
        if node.get("_mode_", "default") != "default":
            raise self._fault(where, f"_mode_ {node['_mode_']!r} is not taken")
        module, _, name = target.rpartition(".")
        if not module or module.split(".")[0] == "monai":
            for place, names in _PLACES:
                found = getattr(place, name, None)
                if isinstance(found, type) and found.__name__ in names:
                    return found
        raise self._fault(
            where,
            f"asks for {target!r}, which is not on the list of classes that packages may use",
            remedy=self.remedy,
        )

    def _fault(self, where: str, what: str, *, remedy: str | None = None) -> ModelSpecError:
        return ModelSpecError(f"{self.name}: {where} {what}", remedy=remedy)
