"""The legs of a torture, and what they come to together."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from support.torture.audit import Verdict, audit
from support.torture.drive import Plan, Run, Told
from support.torture.site import Site

LOOKED_FOR = ("lost", "missing", "doubled", "foreign", "stuck")


@dataclass(frozen=True, slots=True)
class Leg:
    """One site with its plan."""

    sql: Literal["sqlite", "postgresql"]
    broker: Literal["valkey", "redis"]
    plan: Plan


@dataclass
class Outcome:
    """What became of a leg; `kept` is the folder, where it did not end well."""

    leg: Leg
    told: Told
    verdict: Verdict
    kept: Path | None

    @property
    def well(self) -> bool:
        """Whether every aim is met and every fault hit."""
        return self.verdict.clean and not self.told.troubles


@dataclass
class Sum:
    """All legs together."""

    hits: Counter[str] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    found: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LOOKED_FOR, 0))

    def line(self) -> dict[str, int]:
        """The last line: faults that hit, images acknowledged, and what the audits found."""
        return {"faults": self.hits.total(), "acknowledged": self.acknowledged, **self.found}


def run_leg(leg: Leg, seed: int, redis_program: str, say: Callable[[str], None] = print) -> Outcome:
    """Build the site, torture it, look at what is left, and clear away what ended well.

    Raises:
        TimeoutError: a part of the site did not come back; its files are kept.
    """
    folder = Path(tempfile.mkdtemp(prefix="torture-")) / leg.sql
    site = Site(folder, leg.sql, leg.broker, redis_program)
    outcome: Outcome | None = None
    try:
        site.start()
        told = Run(site, leg.plan, seed, say).run()
        verdict = audit(site, told.unsettled)
        outcome = Outcome(leg, told, verdict, None)
        if not outcome.well:
            outcome.kept = folder
    finally:
        site.close(keep=outcome is None or not outcome.well)
        if outcome is None:
            say(f"  not ended; everything is kept in {folder}")
        elif outcome.well:
            folder.parent.rmdir()
    return outcome


def total(outcomes: Sequence[Outcome]) -> Sum:
    """Add the legs up."""
    result = Sum()
    for outcome in outcomes:
        result.hits += outcome.told.hits
        result.tries += outcome.told.hits + outcome.told.misses
        result.acknowledged += outcome.verdict.acknowledged
        for name in LOOKED_FOR:
            result.found[name] += len(getattr(outcome.verdict, name))
    return result
