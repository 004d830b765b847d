"""Our inference path beside plain PyTorch float32 and ONNX Runtime, on the same weights.

All three get the same slices through the same preprocessing, with the same number of threads,
in turns (`make bench-models`). Dice is against the lesions that were drawn into the phantom, or
against the masks of a folder (`--data`). A series of 300 slices then goes through our path in a
process of its own, whose peak memory is told. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from core.modelspec import BUILT_IN_ZOO, ModelSpec, WeightsSpec, read_spec
from models.architectures import build
from models.compression.onnx_files import to_onnx
from models.packages.onnx import open_onnx
from models.preprocessing import prepare_volume
from models.registry import LoadedModel, load
from models.training.data import read_groups, read_index
from models.training.metrics import dice
from models.weights import load_weights, sha256

MODEL = "mr-flair-glioma"
ROUNDS = 7
LARGE = (300, 256, 256)  # slices, rows, columns of the series whose memory is measured
Volumes = list[tuple[np.ndarray, np.ndarray]]


def phantom(slices: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A head of noise with bright lesions, and where they are."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:256, :256]
    head = ((row - 128) / 105) ** 2 + ((column - 128) / 85) ** 2 < 1
    volume = np.where(head, rng.normal(300, 25, (slices, 256, 256)), 5.0)
    lesion = np.zeros(volume.shape, bool)
    for at, (y, x, radius) in enumerate([(100, 90, 18), (150, 160, 26), (120, 150, 12)]):
        places = slice(slices * at // 4, slices * (at + 2) // 4)
        lesion[places] |= (row - y) ** 2 + (column - x) ** 2 < radius**2
    volume[lesion] += 330
    return volume.astype(np.float32), lesion


def volumes_of(data: Path | None, most: int) -> Volumes:
    """Whole patients of the val split, or phantoms."""
    if data is None:
        return [phantom(seed=seed) for seed in range(max(1, most // 24))]
    entries = [item for item in read_index(data) if item.split in {"val", ""}]
    found: Volumes = []
    for group in read_groups(entries):
        found.append((group.images, group.masks))
        if sum(len(images) for images, _ in found) >= most:
            break
    return found


def plain(spec: ModelSpec, example: torch.Tensor, folder: Path) -> dict[str, LoadedModel]:
    """The same weights three times: ours, PyTorch as it comes, and ONNX Runtime."""
    ours = load(spec, device="cpu")
    network = build(spec.network)
    load_weights(network, spec)
    network.eval().requires_grad_(False)
    file = folder / "model.onnx"
    file.write_bytes(to_onnx(network, example))
    weights = WeightsSpec(file=str(file), sha256=sha256(file))
    other = spec.model_copy(
        update={
            "weights": weights,
            "network": spec.network.model_copy(update={"architecture": "onnx", "params": {}}),
        }
    )
    session = open_onnx(other, torch.device("cpu"))
    return {
        "sentinode": ours,
        "torch_fp32": replace(ours, network=network, autocast=False),
        "onnxruntime": replace(ours, network=session, autocast=False),
    }


def speeds(models: dict[str, LoadedModel], volumes: Volumes, rounds: int) -> dict[str, float]:
    """Slices a second, median of rounds in turns."""
    count = sum(len(images) for images, _ in volumes)
    taken: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            began = time.perf_counter()
            for images, _ in volumes:
                model.predict(images, None)
            if turn:  # the first warms up
                taken[name].append(time.perf_counter() - began)
    return {name: count / statistics.median(seconds) for name, seconds in taken.items()}


def mean_dice(model: LoadedModel, volumes: Volumes) -> float:
    threshold = model.spec.output.threshold
    return float(np.mean([dice(model.predict(v, None)[0] >= threshold, m) for v, m in volumes]))


def peak_of_a_large_series(name: str) -> dict[str, float]:
    """Ask about 300 slices in a process of its own; its memory before and at its peak, MB."""
    command = [sys.executable, __file__, "--large", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_mb() -> float:
    """Most memory that this process ever had; ru_maxrss would count its parent's, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def large(name: str) -> None:
    model = load(read_spec(BUILT_IN_ZOO / name), device="cpu")
    base = np.tile(phantom()[0].astype(np.int16), (LARGE[0] // 24 + 1, 1, 1))[: LARGE[0]]
    before = peak_mb()
    began = time.perf_counter()
    model.predict(base, (1.0, 0.9, 0.9))
    seconds = time.perf_counter() - began
    peak = peak_mb()
    print(json.dumps({"before_mb": before, "peak_mb": peak, "seconds": seconds}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--data", type=Path, help="folder with an index.csv; default: phantoms")
    parser.add_argument("--slices", type=int, default=48, help="about so many")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--large", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.large:
        large(options.large)
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    spec = read_spec(BUILT_IN_ZOO / options.model)
    volumes = volumes_of(options.data, options.slices)
    first = volumes[0][0]
    example = prepare_volume(spec.preprocessing, first, None).prepare_between(first, 0, 1)
    with tempfile.TemporaryDirectory() as folder:
        models = plain(spec, example, Path(folder))
        found = speeds(models, volumes, options.rounds)
        scores = {name: mean_dice(model, volumes) for name, model in models.items()}
    for name, value in found.items():
        print(f"{name:12} {value:7.1f} slices/s, Dice {scores[name]:.4f}")
    print(
        f"{torch.get_num_threads()} thread(s), {sum(len(v) for v, _ in volumes)} slices of "
        f"{first.shape[1]} × {first.shape[2]}, median of {options.rounds} rounds in turns"
    )
    memory = peak_of_a_large_series(options.model)
    print(
        f"{LARGE[0]} slices of {LARGE[1]} × {LARGE[2]}: peak {memory['peak_mb']:.0f} MB, of which "
        f"{memory['before_mb']:.0f} MB before the question; {memory['seconds']:.1f} s"
    )
    differences = [abs(value - scores["torch_fp32"]) for value in scores.values()]
    summary = {name: round(value, 2) for name, value in found.items()}
    summary["dice_difference"] = round(max(differences), 5)
    summary["peak_mb"] = round(memory["peak_mb"])
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
