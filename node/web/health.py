"""Whether the node is well, for a container platform and for Prometheus.

`/livez` and `/readyz` say nothing of patients or of the node's inside and need no sign-in;
`/metrics` needs a viewer's token.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.responses import JSONResponse, Response

from core import __version__
from core.counters import folder_of
from core.errors import SentinodeError
from core.ledger.meters import Figures
from node.keeping.disk import disks
from node.web.access import Viewer
from node.web.room import InRoom, Room

router = APIRouter(include_in_schema=False)

# name → labels, what it says.
GAUGES: dict[str, tuple[tuple[str, ...], str]] = {
    "sentinode_info": (("version",), "Always 1"),
    "sentinode_ledger_up": ((), "1 when the ledger answers; 0: the figures from it are left out"),
    "sentinode_jobs": (("queue", "state"), "Jobs in each state"),
    "sentinode_transfers": (("destination", "state"), "Deliveries in each state"),
    "sentinode_destination_failures": (
        ("destination",),
        "How often in a row a destination failed as a whole; 0 while it is well",
    ),
    "sentinode_destination_paused": (("destination",), "1 while an administrator paused it"),
    "sentinode_destination_last_success_seconds": (
        ("destination",),
        "When it last took an object, seconds since 1970",
    ),
    "sentinode_series_receiving": ((), "Series whose images still come"),
    "sentinode_studies_in_conflict": ((), "Studies held by an identity conflict"),
    "sentinode_newest_instance": ((), "Number of the instance filed last, by any node"),
    "sentinode_disk_free_bytes": (("holds",), "Free room on each disk of this machine"),
    "sentinode_disk_total_bytes": (("holds",), "Size of each disk of this machine"),
    "sentinode_disk_level": (
        ("holds", "level"),
        "1 for the level that holds: well, low (storage.warn_free_mb), full (storage.min_free_mb)",
    ),
    "sentinode_listeners": ((), "Open pages and programs that follow what changes"),
}
_MB = 1 << 20


@router.get("/livez")
def live() -> JSONResponse:
    """This process answers."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
def ready(room: InRoom) -> JSONResponse:
    """The ledger answers too."""
    try:
        with room.ledger.read() as work:
            work.accounts.any()
    except SentinodeError:
        return JSONResponse({"status": "the ledger is away"}, 503)
    return JSONResponse({"status": "ok"})


@router.get("/metrics")
def metrics(_: Viewer, room: InRoom) -> Response:
    """Figures for Prometheus. Nothing of a patient."""
    registry = CollectorRegistry()
    folder = folder_of(room.settings.data)
    if folder.is_dir():
        MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    registry.register(_Gauges(room))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Gauges:
    """What is asked at this moment."""

    def __init__(self, room: Room) -> None:
        self._room = room

    def describe(self) -> list[Any]:
        """Nothing beforehand: the ledger is asked once, by `collect`."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Every gauge with its values."""
        values = _values(self._room)
        for name, (labels, text) in GAUGES.items():
            family = GaugeMetricFamily(name, text, labels=labels)
            for key, value in values.get(name, {}).items():
                family.add_metric(key, value)
            yield family


def _values(room: Room) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {
        "sentinode_info": {(__version__,): 1},
        "sentinode_listeners": {(): room.changes.listeners},
    }
    try:
        with room.ledger.read() as work:
            found |= _of_ledger(work.meters.figures())
    except SentinodeError:
        found["sentinode_ledger_up"] = {(): 0}
    try:
        for disk in disks(room.settings):
            holds = (",".join(disk.holds),)
            found.setdefault("sentinode_disk_free_bytes", {})[holds] = disk.free_mb * _MB
            found.setdefault("sentinode_disk_total_bytes", {})[holds] = disk.total_mb * _MB
            levels = found.setdefault("sentinode_disk_level", {})
            levels[(*holds, str(disk.level))] = 1
    except SentinodeError:
        pass  # a disk that does not answer has no figures; intake tells of it
    return found


def _of_ledger(figures: Figures) -> dict[str, dict[tuple[str, ...], float]]:
    destinations = figures.destinations
    return {
        "sentinode_ledger_up": {(): 1},
        "sentinode_jobs": {key: float(value) for key, value in figures.jobs.items()},
        "sentinode_transfers": {key: float(value) for key, value in figures.transfers.items()},
        "sentinode_destination_failures": {(item.name,): item.failures for item in destinations},
        "sentinode_destination_paused": {(item.name,): item.paused for item in destinations},
        "sentinode_destination_last_success_seconds": {
            (item.name,): item.last_success_at.timestamp()
            for item in destinations
            if item.last_success_at is not None
        },
        "sentinode_series_receiving": {(): figures.receiving},
        "sentinode_studies_in_conflict": {(): figures.conflicts},
        "sentinode_newest_instance": {(): figures.newest_instance},
    }
