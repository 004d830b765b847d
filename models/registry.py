"""Loading a model package and asking it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from core.errors import ModelError, ModelSpecError
from core.modelspec import ModelSpec, find_specs
from models.architectures import build, on_device
from models.preprocessing import Preparation, Spacing, Volume, prepare_volume
from models.weights import load_weights

Probabilities = npt.NDArray[np.float16]


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, ready to be asked."""

    spec: ModelSpec
    network: nn.Module
    device: torch.device
    autocast: bool

    def predict(
        self,
        volume: Volume,
        spacing_mm: Spacing | None,
        *,
        batch_size: int = 8,
        progress: Callable[[int, int], None] | None = None,
    ) -> Probabilities:
        """Ask the model about a volume.

        Args:
            volume: (slices, rows, columns), any real dtype. Axial models want slices from foot
                to head, rows from anterior to posterior, columns from the patient's right to
                left (LPS).
            spacing_mm: (slice, row, column) in mm, or None where it is unknown.
            batch_size: slices at once. Halved by itself when the device's memory does not do.
            progress: called with slices done and slices in all.

        Returns:
            Probabilities (channels, slices, rows, columns), in the grid of `volume`; channels up
            to the last one that has a label.

        Raises:
            ModelError: not even one slice fits into memory.
            ModelSpecError: a label's channel is none of the network's.
        """
        plan = prepare_volume(self.spec.preprocessing, volume, spacing_mm)
        channels = max((label.channel + 1 for label in self.spec.output.labels), default=0)
        answer = np.empty((channels, *volume.shape), dtype=np.float16)
        start, size = 0, batch_size
        while start < len(volume):
            stop = min(start + size, len(volume))
            try:
                answer[:, start:stop] = self._batch(plan, volume[start:stop], channels)
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise ModelError(
                        f"{self.spec.name}: one slice of {volume.shape[1]} × {volume.shape[2]} "
                        f"does not fit into the memory of {self.device}",
                        remedy="Use a larger device, or worker.device = 'cpu'.",
                    ) from error
                torch.cuda.empty_cache()
                size = max(1, size // 2)
                continue
            start = stop
            if progress is not None:
                progress(stop, len(volume))
        return answer

    @torch.inference_mode()
    def _batch(self, plan: Preparation, slices: Volume, channels: int) -> Probabilities:
        images = plan.prepare(slices).to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            logits = self.network(images)
        if logits.shape[1] < channels:
            raise ModelSpecError(
                f"{self.spec.name}: output.labels name channel {channels - 1}, but the network has "
                f"{logits.shape[1]} channel(s), counted from 0"
            )
        restored = plan.restore(logits[:, :channels].float())
        probabilities = torch.sigmoid(restored).half()
        return probabilities.movedim(1, 0).cpu().numpy()


def load(
    model: str | ModelSpec, folders: tuple[Path, ...] = (), device: str = "auto"
) -> LoadedModel:
    """Load a package, by name or specification, onto "cpu", "cuda" or whatever there is.

    Raises:
        ModelError: no package of that name, or no such device.
        WeightsError: its weights are missing, or not those that the specification names.
    """
    if isinstance(model, str):
        specs = find_specs(folders)
        if model not in specs:
            known = ", ".join(sorted(specs)) or "none"
            raise ModelError(f"there is no model {model!r} (there is: {known})")
        model = specs[model]
    place = _device(device)
    network = build(model.network)
    load_weights(network, model)
    network = on_device(network, place).eval()
    return LoadedModel(model, network, place, _bfloat16_helps(place))


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ModelError("no CUDA device on this machine", remedy="Set worker.device to auto.")
    return torch.device(wanted)


def _bfloat16_helps(device: torch.device) -> bool:
    """Where the hardware multiplies bfloat16; elsewhere it is emulated, slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capability = torch.backends.cpu.get_cpu_capability()
    if "AVX512" not in capability:
        return False
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(
        feature in flags.read_text(encoding="ascii", errors="ignore")
        for feature in ("avx512_bf16", "amx_bf16")
    )
