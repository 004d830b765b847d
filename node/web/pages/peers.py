"""Peers: whether they answer, what goes there and comes from there, and a pause."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from core.ledger.browse_figures import PeerFigures
from core.ledger.circuits import DestinationState
from core.lifecycle import TransferState
from core.settings import Peer
from node.web import actions
from node.web.access import Administrator, Operator, Viewer
from node.web.pages.rendering import back, render
from node.web.room import InRoom

router = APIRouter()

_WINDOW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class PeerLine:
    """One peer.

    Attributes:
        state: None where nothing is ever sent to it.
        condition: "well", "down", "paused", or "none" where nothing is sent to it.
        transfers: what is not there yet, and what was given up.
    """

    peer: Peer
    state: DestinationState | None
    condition: str
    sent: PeerFigures | None
    received: PeerFigures | None
    transfers: dict[TransferState, int]


@router.get("/peers")
def peers(request: Request, room: InRoom, who: Viewer) -> Response:
    """All peers of the settings."""
    now = room.now()
    since = now - _WINDOW
    with room.ledger.read() as work:
        states = {item.name: item for item in work.circuits.all()}
        waiting = work.figures.waiting_transfers()
        received = work.figures.received(since, now)
        sent = {
            peer.name: work.figures.sent(peer.name, since, now)
            for peer in room.settings.peers
            if peer.address is not None
        }
    lines = []
    for peer in room.settings.peers:
        state = states.get(peer.name, DestinationState(peer.name))
        sends = peer.address is not None
        lines.append(
            PeerLine(
                peer=peer,
                state=state if sends else None,
                condition=_condition(state, now) if sends else "none",
                sent=sent.get(peer.name),
                received=received.get(peer.ae_title),
                transfers=waiting.get(peer.name, {}),
            )
        )
    return render(request, who, "peers.html", lines=lines)


@router.post("/peers/{name}/echo")
def echo(room: InRoom, who: Operator, name: str) -> Response:
    """Ask a peer whether it is there, and say what it answered."""
    echoed = actions.echo(room, name)
    if echoed.well:
        return back("/peers", done="echo", n=round(echoed.milliseconds))
    text = f"{name}: {echoed.message}" + (f" → {echoed.remedy}" if echoed.remedy else "")
    return back("/peers", problem=text)


@router.post("/peers/{name}/pause")
def pause(
    room: InRoom, who: Administrator, name: str, paused: Annotated[str, Form()] = ""
) -> Response:
    """Stop what goes to a peer, or let it go on."""
    actions.pause(room, who, name, paused=paused == "yes")
    return back("/peers", done="paused" if paused == "yes" else "resumed")


def _condition(state: DestinationState, now: datetime) -> str:
    if state.paused:
        return "paused"
    return "down" if state.failures else "well"
