"""The node itself: queues, workers, devices, disks, rates."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from core.errors import StoreError
from node.keeping.disk import disks
from node.web.access import Viewer
from node.web.pages.rendering import render
from node.web.room import InRoom

router = APIRouter()


@router.get("/system")
def system(request: Request, room: InRoom, who: Viewer) -> Response:
    """Figures of the whole node; those of the disks are this machine's."""
    now = room.now()
    with room.ledger.read() as work:
        queues = work.figures.queues()
        workers = work.figures.workers()
        devices = work.figures.devices()
        rates = work.figures.rates(now)
        transfers = work.figures.waiting_transfers()
        counts = work.browse.counts()
        revision = room.ledger.revision()
    disk_fault = ""
    try:
        found = disks(room.settings)
    except StoreError as error:
        found, disk_fault = [], str(error)
    return render(
        request,
        who,
        "system.html",
        queues=queues,
        workers=workers,
        devices=devices,
        rates=rates,
        transfers=transfers,
        counts=counts,
        disks=found,
        disk_fault=disk_fault,
        retention=room.settings.retention,
        ledger_kind=room.ledger.engine.dialect.name,
        revision=revision,
        remote_store=room.store.folder is None,
    )
