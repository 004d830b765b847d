"""What a node loses when everything around it breaks, and it itself: nothing, it should be.

    python benchmarks/torture.py [--seed N] [--ledger sqlite|postgresql|both] [--short]
                                 [--faults N] [--minutes M]

Real processes, real sockets, SQLite with the embedded Valkey, then PostgreSQL with Redis; the
real worker and model code with a threshold for a network. Every kind of fault comes at seeded
random moments, again until it was shown to have hit. Then the faults end, the site settles, and
an audit compares what was acknowledged with what ledger, store and PACS hold.

It prints the table of faults and, as its last line, one JSON object. Exit status 1: an aim was
missed; the folder with every file and log is kept, and named.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.torture.drive import Plan
from support.torture.faults import KINDS
from support.torture.plans import LOOKED_FOR, Leg, Outcome, run_leg, total

LEAST_FAULTS, LEAST_OF_A_KIND, LEAST_ACKNOWLEDGED = 200, 8, 5_000


def main() -> int:
    """Run the legs, print, and say whether every aim was met."""
    options = parse()
    console = Console(width=100)
    legs = plan(options)
    outcomes = []
    for number, leg in enumerate(legs):
        console.print(f"{leg.sql}, {leg.broker}, seed {options.seed + number}:", highlight=False)
        outcome = run_leg(
            leg, options.seed + number, options.redis, lambda text: console.print(text, style="dim")
        )
        outcomes.append(outcome)
        report(console, outcome)
    summed = total(outcomes)
    console.print(table(outcomes))
    missed = [name for name in LOOKED_FOR if summed.found[name]]
    missed += [line for outcome in outcomes for line in outcome.told.troubles]
    if not (options.short or options.faults):
        missed += too_little(summed.hits, summed.acknowledged)
    if missed:
        console.print(f"[red]missed:[/red] {'; '.join(missed)}", highlight=False)
    print(json.dumps(summed.line()))
    return 1 if missed else 0


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=None, help="default: by the clock, printed")
    parser.add_argument("--ledger", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--short", action="store_true", help="each kind once, one leg")
    parser.add_argument("--faults", type=int, default=0, help="about so many in all")
    parser.add_argument("--minutes", type=float, default=18.0, help="longest time of all faults")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    options.redis = next(
        (path for name in ("redis-server", "valkey-server") if (path := shutil.which(name))), ""
    )
    if options.ledger != "sqlite" and not options.redis:
        parser.error("the leg with PostgreSQL needs redis-server (Debian: redis-server)")
    return options


def plan(options: argparse.Namespace) -> list[Leg]:
    """The legs: both servers, half of the faults each."""
    sqls: Any = ("sqlite", "postgresql") if options.ledger == "both" else (options.ledger,)
    if options.short:
        sqls = sqls[:1]
    faults = options.faults or (len(KINDS) if options.short else LEAST_FAULTS * 1.1)
    times = max(1, math.ceil(faults / len(KINDS) / len(sqls)))
    acknowledged = 200 if options.short or options.faults else LEAST_ACKNOWLEDGED * 1.05
    made = Plan(
        times=times,
        acknowledged=math.ceil(acknowledged / len(sqls)),
        minutes=options.minutes / len(sqls) - 1.5,
        gap_seconds=1.0,
    )
    return [Leg(sql, "valkey" if sql == "sqlite" else "redis", made) for sql in sqls]


def report(console: Console, outcome: Outcome) -> None:
    """What is to be said of one leg."""
    told, verdict = outcome.told, outcome.verdict
    console.print(
        f"  {verdict.acknowledged} images acknowledged, {verdict.series} whole series, "
        f"{verdict.objects} results at the PACS ({verdict.repeats} came twice, alike; "
        f"{verdict.later} jobs of a smaller input), {told.seconds:.0f} s, "
        f"settled after {told.settled_after:.0f} s",
        highlight=False,
    )
    if told.died_unasked:
        console.print(f"  ended by themselves and were started again: {told.died_unasked}")
    for name in LOOKED_FOR:
        for line in getattr(verdict, name)[:20]:
            console.print(f"  [red]{name}[/red]: {line}", highlight=False)
    if outcome.kept:
        console.print(f"  kept: {outcome.kept}", highlight=False)


def table(outcomes: list[Outcome]) -> Table:
    """Kinds of faults, and how often each hit."""
    made = Table("fault", *(f"hits, {item.leg.sql}" for item in outcomes), "hits", "tries")
    summed = total(outcomes)
    for kind in KINDS:
        of_legs = [str(item.told.hits[kind.name]) for item in outcomes]
        hits, tries = summed.hits[kind.name], summed.tries[kind.name]
        made.add_row(kind.name, *of_legs, str(hits), str(tries))
    sums = [str(item.told.hits.total()) for item in outcomes]
    made.add_section()
    made.add_row("all", *sums, str(summed.hits.total()), str(summed.tries.total()))
    return made


def too_little(hits: dict[str, int], acknowledged: int) -> list[str]:
    """Which least numbers of the long form were not reached."""
    found = [
        f"{kind.name} hit {hits[kind.name]} times, {LEAST_OF_A_KIND} are wanted"
        for kind in KINDS
        if hits[kind.name] < LEAST_OF_A_KIND
    ]
    if sum(hits.values()) < LEAST_FAULTS:
        found.append(f"{sum(hits.values())} faults, {LEAST_FAULTS} are wanted")
    if acknowledged < LEAST_ACKNOWLEDGED:
        found.append(f"{acknowledged} images acknowledged, {LEAST_ACKNOWLEDGED} are wanted")
    return found


if __name__ == "__main__":
    # ended by SIGTERM it clears away as after Ctrl-C
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    status = main()
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    sys.exit(status)
