"""Studies: what came, why it was or was not analysed, what was found, where it went."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from core.domain import Series
from core.ledger.browse import StudyLine, Wanted
from core.ledger.browse_study import StudyPage
from core.ledger.conflicts import Conflict
from node.web import actions
from node.web.access import Operator, Viewer
from node.web.api.shapes import After, Limit, Moment, Page, StudyUID, Text
from node.web.audit.messages import Study as AuditStudy
from node.web.room import InRoom

router = APIRouter(tags=["studies"])


class Resolution(BaseModel):
    """How an identity conflict is decided."""

    release: bool


class Destination(BaseModel):
    """Where to; empty: to all destinations."""

    destination: Annotated[str, Query(max_length=63)] = ""


@router.get("/studies")
def list_studies(
    who: Viewer,
    room: InRoom,
    text: Text = "",
    modality: Text = "",
    since: Moment | None = None,
    until: Moment | None = None,
    after: After = "",
    limit: Limit = 50,
) -> Page[StudyLine]:
    """Studies, those that came last first."""
    wanted = Wanted(modality=modality, since=since, until=until, text=text)
    room.audit.queried(who.name, who.address, f"studies {text} {modality}".strip())
    with room.ledger.read() as work:
        found = work.browse.studies(wanted, after, limit)
    return Page(items=list(found.lines), after=found.after)


@router.get("/studies/{study}")
def get_study(who: Viewer, room: InRoom, study: StudyUID) -> StudyPage:
    """One study: series with what decided about them and each route's reason; jobs with events,
    findings, objects and transfers; what was delivered; evidence; conflicts."""
    with room.ledger.read() as work:
        page = work.study_page.page(study)
    room.audit.looked(who.name, who.address, AuditStudy(study, page.study.patient_id))
    return page


@router.get("/studies/{study}/series")
def list_series(who: Viewer, room: InRoom, study: StudyUID) -> list[Series]:
    """The series of a study with the attributes that routes look at."""
    with room.ledger.read() as work:
        found = work.views.study(study)
    room.audit.looked(who.name, who.address, AuditStudy(study, found.patient_id))
    return list(found.series)


@router.post("/studies/{study}/cancel")
def cancel_jobs(who: Operator, room: InRoom, study: StudyUID) -> actions.Done:
    """End every job of the study that is not finished."""
    return actions.cancel_study(room, who, study)


@router.post("/studies/{study}/resend")
def send_again(
    who: Operator, room: InRoom, study: StudyUID, body: Destination | None = None
) -> actions.Done:
    """Make refused and failed transfers of the study due again."""
    return actions.resend(room, who, study, body.destination if body else "")


@router.post("/studies/{study}/resolve")
def resolve(who: Operator, room: InRoom, study: StudyUID, body: Resolution) -> actions.Done:
    """Decide the study's identity conflict: release its work, or end it."""
    return actions.resolve(room, who, study, release=body.release)


@router.get("/conflicts")
def list_conflicts(who: Viewer, room: InRoom) -> list[Conflict]:
    """Identity conflicts that nobody has decided yet."""
    room.audit.queried(who.name, who.address, "conflicts")
    with room.ledger.read() as work:
        return list(work.conflicts.open())
