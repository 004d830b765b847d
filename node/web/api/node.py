"""The node itself: peers, routes, models, queues, disks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from core.errors import BadRequestError, NotFoundError
from core.ledger.browse_figures import ModelFigures, QueueFigures, WorkerFigures
from core.ledger.circuits import DestinationState
from core.lifecycle import TransferState
from core.modelspec import ModelSpec
from core.settings import Peer, Route, rule_faults
from node.keeping.disk import Level, disks
from node.web import actions
from node.web.access import Administrator, Operator, Viewer
from node.web.api.shapes import Name
from node.web.room import InRoom, Room

router = APIRouter()


class PeerNow(BaseModel):
    """A peer of the settings, and how it does as a destination.

    Attributes:
        state: None where nothing was sent there yet.
        transfers: how many wait, are sent, and so on.
    """

    peer: Peer
    state: DestinationState | None
    transfers: dict[TransferState, int]


class Pause(BaseModel):
    """Whether a destination is paused."""

    paused: bool


class ModelNow(BaseModel):
    """A model package that is installed, and how its jobs did lately."""

    name: str
    version: str
    title: str
    intended_use: str
    licence: str
    trained_on: str
    labels: list[str]
    used: ModelFigures


class DiskNow(BaseModel):
    """A disk that something of ours lies on, MB."""

    holds: list[str]
    free_mb: int
    total_mb: int
    level: Level


class Trial(BaseModel):
    """A route that is tried, and against how many of the newest series."""

    route: Route
    limit: Annotated[int, Query(ge=1, le=1000)] = 200


class Fared(BaseModel):
    """How a series fared."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    description: str
    instances: int
    matched: bool
    reason: str


@router.get("/peers", tags=["peers"])
def list_peers(_: Viewer, room: InRoom) -> list[PeerNow]:
    """The peers of the settings, and how they do."""
    with room.ledger.read() as work:
        states = {state.name: state for state in work.circuits.all()}
        transfers = work.figures.waiting_transfers()
    return [
        PeerNow(peer=peer, state=states.get(peer.name), transfers=transfers.get(peer.name, {}))
        for peer in room.settings.peers
    ]


@router.post("/peers/{name}/echo", tags=["peers"])
def echo(_: Operator, room: InRoom, name: Name) -> actions.Echoed:
    """Ask a peer whether it is there (C-ECHO)."""
    return actions.echo(room, name)


@router.put("/peers/{name}/paused", tags=["peers"])
def pause(who: Administrator, room: InRoom, name: Name, body: Pause) -> actions.Done:
    """Stop what goes to a destination, or let it go on; kept across restarts."""
    return actions.pause(room, who, name, paused=body.paused)


@router.get("/routes", tags=["routes"])
def list_routes(_: Viewer, room: InRoom) -> list[Route]:
    """The routes of the settings."""
    return list(room.settings.routes)


@router.post("/routes/try", tags=["routes"])
def try_route(who: Operator, room: InRoom, body: Trial) -> list[Fared]:
    """Hold a route against the newest whole series, before it goes into the settings."""
    faults = rule_faults(body.route.model_dump()["match"])
    if faults:
        raise BadRequestError("; ".join(faults))
    room.audit.queried(who.name, who.address, f"route tried: {body.route.name}")
    return [
        Fared(
            study_instance_uid=tried.series.study_instance_uid,
            series_instance_uid=tried.series.series_instance_uid,
            modality=tried.series.modality,
            description=tried.series.description,
            instances=tried.series.instances,
            matched=tried.decision.matched,
            reason=tried.decision.reason,
        )
        for tried in actions.try_route(room, body.route, body.limit)
    ]


@router.get("/models", tags=["models"])
def list_models(_: Viewer, room: InRoom) -> list[ModelNow]:
    """The models that are installed."""
    return [_model(room, spec) for spec in room.specs.values()]


@router.get("/models/{name}", tags=["models"])
def get_model(_: Viewer, room: InRoom, name: Name) -> ModelNow:
    """One model."""
    if name not in room.specs:
        raise NotFoundError(f"no model {name!r} is installed")
    return _model(room, room.specs[name])


@router.get("/queues", tags=["system"])
def list_queues(_: Viewer, room: InRoom) -> list[QueueFigures]:
    """What waits in each queue."""
    with room.ledger.read() as work:
        return work.figures.queues()


@router.get("/workers", tags=["system"])
def list_workers(_: Viewer, room: InRoom) -> list[WorkerFigures]:
    """What workers are doing now."""
    with room.ledger.read() as work:
        return work.figures.workers()


@router.get("/disks", tags=["system"])
def list_disks(_: Viewer, room: InRoom) -> list[DiskNow]:
    """Room on the disks of spool, store and ledger, as far as they are this machine's."""
    return [
        DiskNow(
            holds=list(disk.holds), free_mb=disk.free_mb, total_mb=disk.total_mb, level=disk.level
        )
        for disk in disks(room.settings)
    ]


def _model(room: Room, spec: ModelSpec) -> ModelNow:
    with room.ledger.read() as work:
        used = work.figures.model(spec.name)
    labels = [label.name for label in spec.output.labels]
    if spec.output.classes is not None:
        labels += [label.name for label in spec.output.classes.labels]
    return ModelNow(
        name=spec.name,
        version=spec.version,
        title=spec.title,
        intended_use=spec.intended_use,
        licence=spec.licence,
        trained_on=spec.training.data,
        labels=labels,
        used=used,
    )
