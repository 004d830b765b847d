"""Loading a model package and asking it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from core.errors import MemoryShortError, ModelError, ModelSpecError
from core.modelspec import ModelSpec, WindowSpec, find_specs
from models.activation import classify_with_maps, scaled
from models.answer import Answer, as_answer
from models.domain import Domain, Strange, read_domain
from models.packages.bundle import BundleNetwork
from models.packages.opening import open_network
from models.preprocessing import Preparation, Spacing, Volume, prepare_volume
from models.windows import ask_in_windows

Probabilities = npt.NDArray[np.float16]
Scores = npt.NDArray[np.float32]
Activations = npt.NDArray[np.float16]


class Examined(NamedTuple):
    """All that a model answers.

    Attributes:
        pixels: what `predict` gives; None for a classifier.
        scores: those of `classify`; None for a model that answers for pixels only.
        activations: those of `classify`.
    """

    pixels: Probabilities | None
    scores: Scores | None
    activations: Activations | None


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, ready to be asked."""

    spec: ModelSpec
    network: nn.Module
    device: torch.device
    autocast: bool
    domain: Domain | None = None

    def strangeness(self, volume: Volume, spacing_mm: Spacing | None) -> list[Strange]:
        """How unlike the training images it looks: one figure for a volume, or for each image.

        Nothing where the package does not say what its training images look like.
        """
        if self.domain is None:
            return []
        whole = self.spec.input.kind == "volume"
        return self.domain.judge(self.spec.preprocessing, volume, spacing_mm, whole=whole)

    def predict(
        self,
        volume: Volume,
        spacing_mm: Spacing | None,
        *,
        batch_size: int = 8,
        progress: Callable[[int, int], None] | None = None,
    ) -> Probabilities:
        """Ask a segmentation model about a volume.

        Args:
            volume: (slices, rows, columns), any real dtype. Axial models want slices from foot
                to head, rows from anterior to posterior, columns from the patient's right to
                left (LPS).
            spacing_mm: (slice, row, column) in mm, or None where it is unknown.
            batch_size: slices at once. Halved by itself when the device's memory does not do.
            progress: called with slices done and slices in all; what it raises ends the work.

        Returns:
            Probabilities (channels, slices, rows, columns), in the grid of `volume`; channels up
            to the last one that has a label.

        Raises:
            MemoryShortError: not even one slice fits into memory.
            ModelSpecError: a label's channel is none of the network's, or the network does not
                answer for every pixel.
        """
        if isinstance(self.network, BundleNetwork):
            return self._by_bundle(self.network, volume, spacing_mm, progress)
        plan = prepare_volume(self.spec.preprocessing, volume, spacing_mm)
        if self.spec.window is not None:
            return self._in_windows(plan, volume, self.spec.window, progress)
        answer = np.empty((self._channels, *volume.shape), dtype=np.float16)

        def ask(start: int, stop: int) -> None:
            answer[:, start:stop] = self._segment(plan, plan.prepare_between(volume, start, stop))

        self._in_batches(volume, batch_size, ask, progress)
        return answer

    def classify(
        self,
        volume: Volume,
        spacing_mm: Spacing | None,
        *,
        batch_size: int = 8,
        activations: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Scores, Activations | None]:
        """Ask a classifier about each image of a series.

        Args:
            volume: (frames, rows, columns), any real dtype, as for `predict`.
            spacing_mm: (frame, row, column) in mm, or None where it is unknown.
            batch_size: frames at once. Halved by itself when the device's memory does not do.
            activations: also say where in each frame the model looked (`models.activation`).
            progress: called with frames done and frames in all; what it raises ends the work.

        Returns:
            Probabilities float32 (classes, frames), classes up to the last one that has a label;
            and class activation maps float16 (frames, rows, columns) in the grid of `volume`,
            of the sought class that is highest in that frame, each frame's highest value 1 (or
            all 0 where nothing speaks for the class). None where they were not asked for, or
            where the network has no places to speak of.

        Raises:
            MemoryShortError: not even one frame fits into memory.
            ModelSpecError: a label's channel is none of the network's, or the network does not
                give one answer for the whole image.
        """
        plan = prepare_volume(self.spec.preprocessing, volume, spacing_mm)
        scores = np.empty((self._classes, len(volume)), dtype=np.float32)
        maps = np.zeros(volume.shape, dtype=np.float16) if activations else None
        without = False

        def ask(start: int, stop: int) -> None:
            nonlocal without
            scores[:, start:stop], found = self._classify(
                plan, plan.prepare_between(volume, start, stop), activations=activations
            )
            if maps is None or found is None:
                without = True
            else:
                maps[start:stop] = found

        self._in_batches(volume, batch_size, ask, progress)
        return scores, None if without else maps

    def examine(
        self,
        volume: Volume,
        spacing_mm: Spacing | None,
        *,
        batch_size: int = 8,
        activations: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Examined:
        """Ask for all that the model answers, in one pass; arguments as for `classify`.

        Raises:
            MemoryShortError, ModelSpecError: as `predict` and `classify`.
        """
        if self.spec.output.kind == "classification":
            return Examined(
                None,
                *self.classify(
                    volume,
                    spacing_mm,
                    batch_size=batch_size,
                    activations=activations,
                    progress=progress,
                ),
            )
        if self.spec.output.classes is None:
            found = self.predict(volume, spacing_mm, batch_size=batch_size, progress=progress)
            return Examined(found, None, None)
        plan = prepare_volume(self.spec.preprocessing, volume, spacing_mm)
        answer = np.empty((self._channels, *volume.shape), dtype=np.float16)
        scores = np.empty((self._classes, len(volume)), dtype=np.float32)
        maps = np.zeros(volume.shape, dtype=np.float16) if activations else None
        without = False

        @torch.no_grad()
        def ask(start: int, stop: int) -> None:
            nonlocal without
            given, found = self._given(plan.prepare_between(volume, start, stop), activations)
            answer[:, start:stop] = self._probabilities(plan, given)
            scores[:, start:stop] = self._scores(given)
            if maps is None or found is None:
                without = True
            else:
                maps[start:stop] = self._maps(plan, found)

        self._in_batches(volume, batch_size, ask, progress)
        return Examined(answer, scores, None if without else maps)

    @property
    def _channels(self) -> int:
        """The network's channels up to the last one that has a label."""
        return max((label.channel + 1 for label in self.spec.output.labels), default=0)

    @property
    def _classes(self) -> int:
        """The classes up to the last one that has a label."""
        labels = (self.spec.output.classes or self.spec.output).labels
        return max((label.channel + 1 for label in labels), default=0)

    def _in_batches(
        self,
        volume: Volume,
        batch_size: int,
        ask: Callable[[int, int], None],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Call `ask` with the start and stop of each batch, smaller ones where memory is short."""
        start, size = 0, batch_size
        while start < len(volume):
            stop = min(start + size, len(volume))
            try:
                ask(start, stop)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise MemoryShortError(
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

    @torch.inference_mode()
    def _by_bundle(
        self,
        network: BundleNetwork,
        volume: Volume,
        spacing_mm: Spacing | None,
        progress: Callable[[int, int], None] | None,
    ) -> Probabilities:
        """The bundle's own transforms and inferer do it all, the whole volume at once."""
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                answer = network.answer(volume, spacing_mm, self.device, self._channels)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryShortError(
                f"{self.spec.name}: a volume of {' × '.join(map(str, volume.shape))} does not fit "
                f"into the memory of {self.device}",
                remedy="Use a larger device, or worker.device = 'cpu'.",
            ) from error
        if progress is not None:
            progress(len(volume), len(volume))
        return answer

    @torch.inference_mode()
    def _in_windows(
        self,
        plan: Preparation,
        volume: Volume,
        window: WindowSpec,
        progress: Callable[[int, int], None] | None,
    ) -> Probabilities:
        """See `models.windows`."""

        def ask(images: torch.Tensor) -> torch.Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                given = self.network(images.to(self.device))
            return self._pixels(given)

        try:
            return ask_in_windows(
                ask,
                lambda logits: self._activated(plan.restore(logits)),
                plan,
                volume,
                window,
                self._channels,
                progress,
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryShortError(
                f"{self.spec.name}: a window of {' × '.join(map(str, window.size))} does not fit "
                f"into the memory of {self.device}",
                remedy="Use a larger device, worker.device = 'cpu', or a smaller window.",
            ) from error

    @torch.inference_mode()
    def _segment(self, plan: Preparation, prepared: torch.Tensor) -> Probabilities:
        """(channels, slices, rows, columns)."""
        images = prepared.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            given = self.network(images)
        return self._probabilities(plan, given)

    def _probabilities(self, plan: Preparation, given: torch.Tensor | Answer) -> Probabilities:
        logits = self._pixels(given)
        if self.spec.output.activation == "sigmoid":  # channels without a label are not needed
            logits = logits[:, : self._channels]
        probabilities = self._activated(plan.restore(logits.float()))
        return probabilities.half().movedim(1, 0).cpu().numpy()

    def _pixels(self, given: torch.Tensor | Answer) -> torch.Tensor:
        logits = as_answer(given).pixels
        return self._check(logits, given, "one answer for every pixel", self._channels)

    def _activated(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities of the channels up to the last one that has a label."""
        if self.spec.output.activation == "softmax":  # over all channels, labelled or not
            return logits.softmax(dim=1)[:, : self._channels]
        return logits[:, : self._channels].sigmoid()

    @torch.no_grad()
    def _classify(
        self, plan: Preparation, prepared: torch.Tensor, *, activations: bool
    ) -> tuple[Scores, Activations | None]:
        """(classes, frames) and (frames, rows, columns)."""
        given, maps = self._given(prepared, activations)
        return self._scores(given), None if maps is None else self._maps(plan, maps)

    def _given(
        self, prepared: torch.Tensor, activations: bool
    ) -> tuple[torch.Tensor | Answer, torch.Tensor | None]:
        """What the network gives, and where it looked if that is wanted."""
        images = prepared.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            if activations:
                return classify_with_maps(self.network, images, self._sought)
            return self.network(images), None

    @staticmethod
    def _maps(plan: Preparation, maps: torch.Tensor) -> Activations:
        """(frames, rows, columns), each frame's highest value 1."""
        # padding is no part of the image: its share of the map does not count as the highest
        found: Activations = scaled(plan.restore(maps))[:, 0].half().cpu().numpy()
        return found

    def _scores(self, given: torch.Tensor | Answer) -> Scores:
        logits = as_answer(given).image
        logits = self._check(logits, given, "one answer for each image", self._classes)
        softmax = (self.spec.output.classes or self.spec.output).activation == "softmax"
        values = logits.float().softmax(dim=1) if softmax else logits.float().sigmoid()
        return values[:, : self._classes].T.cpu().numpy()

    @property
    def _sought(self) -> tuple[int, ...]:
        """Channels of what the model looks for; of all labels where none is said to be."""
        labels = (self.spec.output.classes or self.spec.output).labels
        return tuple(label.channel for label in labels if label.sought) or tuple(
            label.channel for label in labels
        )

    def _check(
        self, logits: torch.Tensor | None, given: torch.Tensor | Answer, wanted: str, channels: int
    ) -> torch.Tensor:
        if logits is None:
            has = "none such" if isinstance(given, Answer) else f"{given.ndim} axes"
            raise ModelSpecError(
                f"output.kind is {self.spec.output.kind!r}, so the network should give {wanted}, "
                f"but its answer has {has}"
            )
        if logits.shape[1] < channels:
            raise ModelSpecError(
                f"{self.spec.name}: output.labels name channel {channels - 1}, but the "
                f"network has {logits.shape[1]} channel(s), counted from 0"
            )
        return logits


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the device or of the machine.

    The CPU's allocator of torch has no class of its own for it.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("DefaultCPUAllocator", "can't allocate memory")
    )


def load(
    model: str | ModelSpec,
    folders: tuple[Path, ...] = (),
    device: str = "auto",
    allowed: Collection[str] = (),
) -> LoadedModel:
    """Load a package, by name or specification, onto "cpu", "cuda" or whatever there is.

    `allowed` are hashes of packages whose own code may run (models.allowed).

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
    if model.rule is not None:
        raise ModelError(f"{model.name} is a rule: it has no network to load")
    place = _device(device)
    network = open_network(model, place, allowed)
    return LoadedModel(model, network, place, _bfloat16_helps(place), read_domain(model))


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
