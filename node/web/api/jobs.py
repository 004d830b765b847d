"""Jobs: the worklist, one job's whole life, what it found and made, deciding about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse

from core.domain import FOR_PAGES, Finding, Result, Transfer
from core.ledger.browse import JobLine, Wanted
from core.ledger.views import JobLife
from core.lifecycle import JobState, TransferState
from core.store import Store
from node.web import actions
from node.web.access import Operator, Viewer
from node.web.api.shapes import After, JobId, Limit, Moment, Page, Text, UIDText
from node.web.audit.messages import Study as AuditStudy
from node.web.room import InRoom, Room

router = APIRouter(tags=["jobs"])

_PIECE = 1 << 18
_BINARY: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Its bytes",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("application/dicom", "image/png")
        },
    }
}


@router.get("/jobs")
def list_jobs(
    who: Viewer,
    room: InRoom,
    state: Annotated[list[JobState] | None, Query()] = None,
    modality: Text = "",
    model: Text = "",
    sender: Text = "",
    text: Text = "",
    since: Moment | None = None,
    until: Moment | None = None,
    after: After = "",
    limit: Limit = 50,
) -> Page[JobLine]:
    """Jobs, the newest first."""
    wanted = Wanted(tuple(state or ()), modality, model, sender, since, until, text)
    room.audit.queried(who.name, who.address, f"jobs {text} {modality} {model} {sender}".strip())
    with room.ledger.read() as work:
        found = work.browse.jobs(wanted, after, limit)
    return Page(items=list(found.lines), after=found.after)


@router.get("/jobs/counts")
def count_jobs(_: Viewer, room: InRoom) -> dict[JobState, int]:
    """How many jobs are in each state; a count that reached 1000 may be greater."""
    with room.ledger.read() as work:
        return work.browse.counts()


@router.get("/jobs/{job}")
def get_job(who: Viewer, room: InRoom, job: JobId) -> JobLife:
    """One job: its study, events, findings with measurements, objects, transfers with attempts,
    what was made instead of refused objects, and which classes its destinations refuse."""
    return _life(room, who, job)


@router.get("/jobs/{job}/findings")
def list_findings(who: Viewer, room: InRoom, job: JobId) -> list[Finding]:
    """What a job found, in the order of its report."""
    return list(_life(room, who, job).findings)


@router.get("/jobs/{job}/results")
def list_results(who: Viewer, room: InRoom, job: JobId) -> list[Result]:
    """What a job made; the bytes are at /results/{id}."""
    return list(_life(room, who, job).results)


@router.post("/jobs/{job}/retry")
def retry(who: Operator, room: InRoom, job: JobId) -> actions.Done:
    """Run a failed job again, or send the refused objects of one that is done again."""
    return actions.retry(room, who, job)


@router.post("/jobs/{job}/rerun")
def rerun(who: Operator, room: InRoom, job: JobId) -> actions.Done:
    """Analyse the same input once more, also where it is done; a new job is made."""
    return actions.retry(room, who, job, again=True)


@router.post("/jobs/{job}/cancel")
def cancel(who: Operator, room: InRoom, job: JobId) -> actions.Done:
    """End a job that is not finished."""
    return actions.cancel(room, who, job)


@router.get("/results/{result}", response_class=StreamingResponse, responses=_BINARY)
def get_result(
    who: Viewer, room: InRoom, result: Annotated[int, Path(ge=1, lt=2**63)]
) -> StreamingResponse:
    """The bytes of a result: a DICOM object, or the picture as PNG."""
    with room.ledger.read() as work:
        found, study_uid, _ = work.study_page.result(result)
        study = work.views.study(study_uid)
    room.audit.looked(who.name, who.address, AuditStudy(study_uid, study.patient_id))
    picture = found.kind in FOR_PAGES
    name = f"{found.kind.lower()}-{found.id}.{'png' if picture else 'dcm'}"
    return StreamingResponse(
        pieces_of(room.store, found.store_key),
        media_type="image/png" if picture else "application/dicom",
        headers={
            "Content-Length": str(found.size),
            "Content-Disposition": f'{"inline" if picture else "attachment"}; filename="{name}"',
        },
    )


@router.get("/transfers", tags=["transfers"])
def list_transfers(
    _: Viewer,
    room: InRoom,
    state: Annotated[list[TransferState] | None, Query()] = None,
    destination: Text = "",
    study: UIDText = "",
    after: Annotated[str, Query(pattern=r"^[0-9]{0,18}$")] = "",
    limit: Limit = 50,
) -> Page[Transfer]:
    """What is, was or will be sent where, the newest first."""
    with room.ledger.read() as work:
        found = work.transfer_list.page(
            states=tuple(state or ()),
            destination=destination,
            study_instance_uid=study,
            before=int(after) if after else None,
            limit=limit,
        )
    return Page(items=found, after=str(found[-1].id) if len(found) == limit else "")


def pieces_of(store: Store, key: str) -> Iterator[bytes]:
    """The bytes under a key, in pieces. That they are there is seen before the first is asked for.

    Raises:
        StoreError: they are not.
    """
    stream = store.open(key)

    def pieces() -> Iterator[bytes]:
        with stream:
            while piece := stream.read(_PIECE):
                yield piece

    return pieces()


def _life(room: Room, who: Viewer, job: str) -> JobLife:
    with room.ledger.read() as work:
        life = work.views.job_life(job)
    study = AuditStudy(life.study.study_instance_uid, life.study.patient_id)
    room.audit.looked(who.name, who.address, study)
    return life
