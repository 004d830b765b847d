"""How fast is the whole loop, from the door to the result at the PACS?

    python benchmarks/loop_bench.py [--studies N] [--rounds N] [--seconds S]

The real brain model on phantom FLAIR series of 24 slices of 256 × 256, measured in one run:

loop_per_min: studies a minute through the whole node (DCMTK's storescu sends them all at once;
    SEG, picture and SR arrive at a PACS in this process), with 1, 2 and 4 worker processes, each
    with one thread of torch. Timed from the first C-STORE to the last report, after a warm-up.
bare_per_min: the same model over the same arrays in memory, nothing else, in as many processes
    as cores, each with one thread of torch. A single process with a thread for each core is
    printed beside it.
turnaround_p95_s: one study at a time through a node at rest: from the response to the last image
    to the arrival of the last object, less the seconds of inference that the job notes. With an
    Instance Availability Notification that came before, and with the timer's default quiet time,
    which is part of the figure.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from loop_bare import bare_per_minute
from loop_site import MODEL, Loop, Studies, Study, cores, running
from rich.console import Console
from rich.table import Table

WORKERS = (1, 2, 4)
# Steps of the way, as the job's row and its summary tell them.
STEPS = ("decided and queued", "claimed", "computed", "of that: inference", "delivered")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=24, help="for each number of workers")
    parser.add_argument("--rounds", type=int, default=20, help="of the turnaround, each kind")
    parser.add_argument("--seconds", type=float, default=40, help="of each bare loop")
    options = parser.parse_args()
    console = Console(width=100)
    with tempfile.TemporaryDirectory(prefix="loop-") as name:
        folder = Path(name)
        studies = Studies(folder)
        bare = {
            f"{processes} × {threads}": bare_per_minute(
                studies.heads, MODEL, processes=processes, threads=threads, seconds=options.seconds
            )
            for processes, threads in dict.fromkeys(((cores(), 1), (1, cores())))
        }
        for key, rate in bare.items():
            console.print(f"bare loop, processes × threads {key}: {rate:.1f} studies a minute")
        loops = {}
        for workers in WORKERS:
            loops[workers] = through_the_node(folder / f"w{workers}", studies, workers, options)
            console.print(f"{workers} workers: {loops[workers]:.1f} studies a minute")
        turnaround = turnarounds(folder / "turnaround", studies, options.rounds, console)
    bare_per_min = bare[f"{cores()} × 1"]
    table = Table("workers", "studies/min", "of the bare loop", title=f"{cores()} cores")
    for workers, rate in loops.items():
        table.add_row(str(workers), f"{rate:.1f}", f"{rate / bare_per_min:.2f}")
    console.print(table)
    console.print(f"CUDA: {cuda(console)}")
    line = {
        "loop_per_min": {str(workers): round(rate, 1) for workers, rate in loops.items()},
        "bare_per_min": round(bare_per_min, 1),
        "turnaround_p95_s": {kind: round(value, 2) for kind, value in turnaround.items()},
    }
    print(json.dumps(line))


def through_the_node(
    folder: Path, studies: Studies, workers: int, options: argparse.Namespace
) -> float:
    """Studies a minute with so many workers."""
    with running(folder, workers=workers, threads=1, quiet=1) as loop:
        first = studies.make(2 * workers)  # every worker has loaded the model then
        loop.send_quickly(first)
        loop.wait_for(first, 300)
        batch = studies.make(options.studies)
        began = time.monotonic()
        loop.send_quickly(batch)
        ended = loop.wait_for(batch, 900)
        return 60 * len(batch) / (ended - began)


def turnarounds(folder: Path, studies: Studies, rounds: int, console: Console) -> dict[str, float]:
    """95th percentile in seconds, by kind of evidence."""
    found: dict[str, float] = {}
    quiet = 5.0  # the default
    with running(folder, workers=1, threads=cores(), quiet=quiet) as loop:
        warm = studies.make(2)
        loop.send_quickly(warm)
        loop.wait_for(warm, 300)
        kinds: dict[str, Callable[[Loop, Study], None]] = {
            "evidence": Loop.notify,
            "timer": lambda _loop, _study: None,
        }
        for kind, before in kinds.items():
            seconds, steps = [], []
            for study in studies.make(rounds):
                before(loop, study)
                wall = time.time() - time.monotonic()
                last = loop.send_timed(study)
                arrived = loop.wait_for([study], 120)
                job = loop.life(study)
                infer = float(_summary(job)["seconds"]["infer"])
                seconds.append(arrived - last - infer)
                steps.append(way(job, last + wall, arrived + wall, infer))
            ordered = sorted(seconds)
            found[kind] = ordered[math.ceil(0.95 * len(ordered)) - 1]
            medians = [statistics.median(values) for values in zip(*steps, strict=True)]
            told = ", ".join(f"{n} {s:.2f}" for n, s in zip(STEPS, medians, strict=True))
            note = f" (quiet time {quiet:g} s)" if kind == "timer" else ""
            console.print(
                f"turnaround by {kind}{note}: median {statistics.median(seconds):.2f} s, "
                f"p95 {found[kind]:.2f} s; medians of the way, s: {told}",
                highlight=False,
            )
    return found


def way(job: dict[str, Any], last: float, arrived: float, infer: float) -> list[float]:
    """How long each of `STEPS` took, in seconds; moments by the wall clock."""
    queued, started, finished = (
        _moment(job[name]) for name in ("queued_at", "started_at", "finished_at")
    )
    return [queued - last, started - queued, finished - started, infer, arrived - finished]


def cuda(console: Console) -> str:
    """Whether the CUDA path was run."""
    import torch  # noqa: PLC0415

    return "not run: no GPU" if not torch.cuda.is_available() else "there is a GPU: run a worker"


def _summary(job: dict[str, Any]) -> dict[str, Any]:
    value = job["summary"]
    return dict(json.loads(value) if isinstance(value, str) else value)


def _moment(value: Any) -> float:
    """Seconds since 1970 of a moment as SQLite keeps it: UTC without a zone."""
    parsed = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return (parsed - datetime(1970, 1, 1, tzinfo=parsed.tzinfo)).total_seconds()


if __name__ == "__main__":
    main()
