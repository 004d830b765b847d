"""Which jobs go first: the priority of a job, from its route, its request and its modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.settings import JobSettings, Route

STAT = 20
HIGH = 10
ROUTINE = 0
LOW = -10

_OF_ROUTES = {"stat": STAT, "high": HIGH, "routine": ROUTINE, "low": LOW}
# Requested Procedure Priority (0040,1003), PS3.3 C.4.11; ROUTINE and MEDIUM say nothing new
_OF_REQUESTS = {"STAT": STAT, "HIGH": HIGH, "LOW": LOW}


def priority_of(route: Route, attributes: Mapping[str, Any], settings: JobSettings) -> int:
    """The priority of a job; the greater goes first, 0 is routine.

    What the request says and the modalities of jobs.stat_modalities may hurry a job of any
    route. LOW slows only one whose route says nothing special.

    Args:
        route: the route that makes the job.
        attributes: the series' attributes by DICOM keyword.
        settings: `[jobs]`.
    """
    by_route = _OF_ROUTES[route.priority]
    said = str(attributes.get("RequestedProcedurePriority") or "").strip().upper()
    asked = _OF_REQUESTS.get(said, ROUTINE)
    if str(attributes.get("Modality") or "").strip().upper() in _upper(settings.stat_modalities):
        asked = STAT
    if asked > ROUTINE:
        return max(by_route, asked)
    return asked if by_route == ROUTINE else by_route


def _upper(modalities: tuple[str, ...]) -> set[str]:
    return {modality.strip().upper() for modality in modalities}
