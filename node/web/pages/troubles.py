"""What is wrong with the node now, for one line each above the worklist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from core.errors import StoreError
from core.ledger.circuits import DestinationState
from core.settings import Settings
from node.keeping.disk import Level, disks


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that wants somebody.

    Attributes:
        kind: "bad", or "held" where somebody meant it so, or must decide.
        key: of its text, in the section `trouble`.
        path: the page that says more.
    """

    kind: str
    key: str
    path: str
    values: dict[str, Any] = field(default_factory=dict)


def found_troubles(
    settings: Settings, destinations: Sequence[DestinationState], conflicts: Sequence[str]
) -> list[Trouble]:
    """Destinations that are down or paused, disks that fill, patients that disagree.

    Args:
        conflicts: UIDs of studies whose images disagree about the patient.
    """
    found = []
    known = {peer.name for peer in settings.peers if peer.address is not None}
    for item in destinations:
        if item.name in known and item.paused:
            found.append(Trouble("held", "paused", "/peers", {"name": item.name}))
        elif item.name in known and item.failures:
            values = {"name": item.name, "why": item.last_error}
            found.append(Trouble("bad", "down", "/peers", values))
    try:
        levels = {disk.level for disk in disks(settings)}
    except StoreError:
        found.append(Trouble("bad", "store", "/system"))
    else:
        for level in (Level.FULL, Level.LOW):
            if level in levels:
                found.append(Trouble("bad", f"disk_{level}", "/system"))
    if len(conflicts) == 1:
        found.append(Trouble("held", "conflict", f"/studies/{conflicts[0]}"))
    elif conflicts:
        path = f"/studies/{conflicts[0]}"
        found.append(Trouble("held", "conflicts", path, {"n": len(conflicts)}))
    return found
