"""The bare loop of loop_bench.py: the model over arrays in memory, and nothing else."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.modelspec import find_specs

Head = tuple[npt.NDArray[np.float32], tuple[float, float, float]]


def read_heads(heads: list[tuple[Path, ...]], model: str) -> list[Head]:
    """The arrays that a worker shows the model, and their spacing in mm."""
    from workers.images.axial import to_axial  # noqa: PLC0415 - after the spawn, as a worker
    from workers.images.build import build_stacks  # noqa: PLC0415
    from workers.images.read import read_series  # noqa: PLC0415

    spec = find_specs(())[model]
    arrays = []
    for paths in heads:
        stacks = build_stacks(
            read_series([path.read_bytes() for path in paths]), spec.input, max_voxels=2_000_000_000
        )
        view = to_axial(stacks[0])
        arrays.append((view.array, view.spacing_mm))
    return arrays


def bare_per_minute(
    heads: list[tuple[Path, ...]], model: str, *, processes: int, threads: int, seconds: float
) -> float:
    """Studies a minute of so many processes side by side, over about so many seconds."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes)
    answers: Any = context.Queue()
    arguments = (heads, model, threads, seconds, ready, answers)
    children = [context.Process(target=_loop, args=arguments) for _ in range(processes)]
    for child in children:
        child.start()
    rates = [float(answers.get(timeout=600)) for _ in children]
    for child in children:
        child.join()
    return 60 * sum(rates)


def _loop(
    heads: list[tuple[Path, ...]],
    model: str,
    threads: int,
    seconds: float,
    ready: Any,
    answers: Any,
) -> None:
    import torch  # noqa: PLC0415

    from models.registry import load  # noqa: PLC0415

    torch.set_num_threads(threads)
    loaded = load(find_specs(())[model], device="cpu")
    arrays = read_heads(heads, model)
    for array, spacing in arrays[:2]:  # the first one is slower
        loaded.predict(array, spacing)
    ready.wait()
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        array, spacing = arrays[count % len(arrays)]
        loaded.predict(array, spacing)
        count += 1
    answers.put(count / (time.monotonic() - began))
