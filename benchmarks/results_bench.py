"""How long does it take to write results? A segmentation of 300 slices beside dcmqi's.

    python benchmarks/results_bench.py [--rounds N] [--seg-only]

What is timed, for 1, 5 and 50 segments in the same 300 × 512 × 512 mask, medians of alternating
rounds, all files in the page cache, nobody syncs:

seg_s: our writer in a running worker: read the headers of the 300 source files from disk, build
    the BINARY segmentation from the label map in memory, write the file to disk.
dcmqi_s: dcmqi's itkimage2segimage, one process: read the 300 source files and the mask (one raw,
    uncompressed NRRD, eight bits), build the BINARY segmentation, write the file to disk.
all_objects_s: from the analysis in memory (image, label map, 5 measured lesions) to SEG, SR and
    picture on disk.
peak_mb: most resident memory of a fresh process of ours that makes one segmentation of 50
    segments, interpreter, libraries and label map included.

The result of both is read back and compared with the mask. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from results_input import (
    CATEGORY,
    LESION,
    RADII,
    SHAPE,
    label_map,
    peer_command,
    read_stack,
    write_peer_input,
    write_source,
)
from rich.console import Console
from rich.table import Table

from core.domain import Finding
from core.modelspec import ModelSpec
from core.settings import ResultSettings
from workers.analysis import Analysis, Part
from workers.results.encode import to_bytes
from workers.results.provenance import Provenance
from workers.results.read_seg import read_seg
from workers.results.seg import build_segs

SPEC = ModelSpec.model_validate(
    {
        "schema_version": 1,
        "name": "benchmark",
        "version": "1.0.0",
        "title": "Benchmark",
        "intended_use": "timing",
        "licence": "none",
        "family": {"value": "123110", "scheme": "DCM", "meaning": "Artificial Intelligence"},
        "input": {"modality": ["CT"]},
        "network": {"architecture": "none"},
        "weights": {"file": "none", "sha256": "0" * 64},
        "output": {
            "labels": [
                {
                    "channel": 0,
                    "name": "Lesion",
                    "category": CATEGORY.model_dump(),
                    "type": LESION.model_dump(),
                }
            ]
        },
        "training": {"data": "none", "licence": "none", "config": "none"},
    }
)
PROVENANCE = Provenance("benchmark", datetime(2025, 1, 1, tzinfo=UTC), SPEC, "0.1.0")

# Starts a program from a small process and tells its peak: a child's peak counts from that of
# the process that started it.
MEASURE = """
import os, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def our_seg(paths: list[Path], mask: npt.NDArray[np.uint16], target: Path) -> None:
    """What seg_s times. Only the size of the image's array is looked at."""
    stack = read_stack(paths, np.zeros(SHAPE, dtype=np.float32))
    findings = tuple(
        Finding(n, f"Lesion {n}", CATEGORY, LESION, f"2.25.500.{n}", segment=n)
        for n in range(1, int(mask.max()) + 1)
    )
    analysis = Analysis(SPEC, (Part(stack, mask, findings),), findings)
    (seg,) = build_segs(analysis, PROVENANCE)
    assert seg is not None
    target.write_bytes(to_bytes(seg))


def seconds(work: Any, *args: Any) -> float:
    """Wall-clock time of a call."""
    began = time.perf_counter()
    work(*args)
    return time.perf_counter() - began


def run_peer(folder: Path, segments: int) -> None:
    """What dcmqi_s times."""
    subprocess.run(peer_command(folder, segments), check=True, stdout=subprocess.DEVNULL)


def peak_mb(*command: str | Path) -> float:
    """Most resident memory of a program, MB (10⁶ bytes)."""
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], check=True, capture_output=True, text=True
    )
    return int(told.stdout) * 1024 / 1e6


def all_objects(
    paths: list[Path], mask: npt.NDArray[np.uint16], folder: Path, rounds: int
) -> float:
    """Median time from the analysis to SEG, SR and picture on disk."""
    from workers.lesions.find import find_lesions  # noqa: PLC0415 - not for --seg-only
    from workers.results.make import make_objects  # noqa: PLC0415

    image = np.random.default_rng(1).normal(-24, 60, SHAPE).astype(np.float32)
    image[mask > 0] += 80
    likely = ((mask > 0) * np.float16(0.9))[np.newaxis]
    analysis = find_lesions([(read_stack(paths, image), likely)], SPEC, job_id=PROVENANCE.job_id)

    def work() -> None:
        for made in make_objects(analysis, PROVENANCE, ResultSettings()):
            (folder / made.name).write_bytes(made.data)

    work()
    return statistics.median(seconds(work) for _ in range(rounds))


def compare(folder: Path, rounds: int, *, seg_only: bool) -> dict[str, Any]:
    """Every figure of the last line; the table goes to the console on the way."""
    paths = write_source(folder / "source")
    table = Table(
        "segments", "frames", "ours, s", "dcmqi, s", "times faster", "ours, MB", "dcmqi, MB"
    )
    ours: dict[str, float] = {}
    theirs: dict[str, float] = {}
    memory: dict[int, float] = {}
    stack = read_stack(paths, np.zeros(SHAPE, dtype=np.float32))
    for segments in RADII:
        mask = label_map(segments)
        np.save(folder / f"{segments}.npy", mask)
        write_peer_input(folder, segments, mask)
        target = folder / f"ours-{segments}.dcm"
        our_seg(paths, mask, target)
        run_peer(folder, segments)
        times = [
            (seconds(our_seg, paths, mask, target), seconds(run_peer, folder, segments))
            for _ in range(rounds)
        ]
        our_time, their_time = (statistics.median(column) for column in zip(*times, strict=True))
        ours[str(segments)], theirs[str(segments)] = round(our_time, 3), round(their_time, 3)
        for path in (target, folder / f"dcmqi-{segments}.dcm"):
            if not np.array_equal(read_seg(pydicom.dcmread(path), stack), mask):
                raise SystemExit(f"{path.name} does not hold the mask")
        memory[segments] = peak_mb(
            sys.executable, __file__, "--one", folder / f"{segments}.npy", folder / "source"
        )
        table.add_row(
            str(segments),
            str(pydicom.dcmread(target, stop_before_pixels=True).NumberOfFrames),
            f"{our_time:.2f}",
            f"{their_time:.2f}",
            f"{their_time / our_time:.1f}",
            f"{memory[segments]:.0f}",
            f"{peak_mb(*peer_command(folder, segments)):.0f}",
        )
    console = Console(width=100)
    console.print(table)
    everything = None
    if not seg_only:
        everything = round(all_objects(paths, label_map(5), folder, rounds), 3)
        console.print(f"SEG, SR and picture with 5 segments: {everything:.2f} s")
    return {
        "seg_s": ours,
        "dcmqi_s": theirs,
        "all_objects_s": everything,
        "peak_mb": round(max(memory.values()), 1),
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seg-only", action="store_true", help="leave SR and picture out")
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:  # a fresh process, whose peak is measured
        mask, source = given.one
        our_seg(sorted(source.iterdir()), np.load(mask), mask.with_suffix(".dcm"))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(Path(folder), max(given.rounds, 5), seg_only=given.seg_only)))


if __name__ == "__main__":
    main()
