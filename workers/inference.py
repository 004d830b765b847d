"""Models kept in memory between jobs, one copy per worker process."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from core.errors import ModelError
from core.modelspec import ModelSpec, find_specs
from core.settings import Settings

if TYPE_CHECKING:
    from models.registry import LoadedModel

log = structlog.get_logger()


class Models:
    """The models that this process has loaded.

    A package that was replaced on disk is loaded anew: its specification is read for every job,
    which costs a millisecond, and its weights' checksum tells.
    """

    def __init__(self, settings: Settings) -> None:
        self._folders: tuple[Path, ...] = settings.models.folders
        self._allowed = settings.models.allowed
        self._worker = settings.worker
        self._loaded: dict[tuple[str, str, str], LoadedModel] = {}

    def spec(self, name: str, version: str) -> ModelSpec:
        """The specification of a model that a job names.

        Raises:
            ModelError: this worker has no such model, or another version of it.
        """
        specs = find_specs(self._folders)
        if name not in specs:
            raise ModelError(
                f"this worker has no model {name!r}",
                remedy="Put the package into a folder of models.folders on every worker.",
            )
        if specs[name].version != version:
            raise ModelError(
                f"the job wants {name} {version}, this worker has {specs[name].version}",
                remedy="Install the same version on node and workers; then `sentinode retry JOB`.",
            )
        return specs[name]

    def forget(self) -> None:
        """Let go of every model and of the device's memory: it did not do."""
        self._loaded.clear()
        gc.collect()
        if "torch" in sys.modules:
            import torch  # noqa: PLC0415 - only where it is there already

            torch.cuda.empty_cache()  # does nothing where there is no GPU

    def get(self, spec: ModelSpec, device: str | None = None) -> LoadedModel:
        """The model, loaded on first use; on `device` rather than worker.device, if given.

        Raises:
            WeightsError: its weights are missing, or not those that the specification names.
            ModelError: the network cannot be built.
        """
        from models.registry import load  # noqa: PLC0415 - torch, only when there is a job

        place = device or self._worker.device
        key = (spec.name, spec.version, place)
        known = self._loaded.get(key)
        if known is None or known.spec != spec:
            if self._worker.threads:
                import torch  # noqa: PLC0415

                torch.set_num_threads(self._worker.threads)
            for other in [item for item in self._loaded if item[0] == spec.name]:
                del self._loaded[other]  # an earlier version, or another device: not kept
            known = self._loaded[key] = load(spec, device=place, allowed=self._allowed)
            log.info(
                "model_loaded", model=spec.name, version=spec.version, device=str(known.device)
            )
        return known
