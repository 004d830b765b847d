"""Studies: the list of all, and the page that says everything about one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from core.domain import Finding, ResultKind
from core.identifiers import UID
from core.ledger.browse import Wanted
from core.ledger.browse_study import StudyJob, StudyPage
from core.lifecycle import JOB_OPEN, JobState, SeriesState
from core.sopclasses import name_of
from node.web import actions
from node.web.access import Operator, Viewer, Who
from node.web.audit import Happening
from node.web.audit.messages import Study as AuditStudy
from node.web.pages.formats import unit
from node.web.pages.imaging.stack import is_image
from node.web.pages.rendering import back, render
from node.web.pages.timeline import timeline
from node.web.pages.worklist import PERIODS, times, times_of
from node.web.room import InRoom, Room

router = APIRouter()

_ON_A_PAGE = 50
_IN_SHORT = ("Volume", "Area", "Long Axis", "Short Axis")


@router.get("/studies")
def studies(
    request: Request,
    room: InRoom,
    who: Viewer,
    modality: str = "",
    period: str = "",
    since: str = "",
    until: str = "",
    q: str = "",
    after: str = "",
) -> Response:
    """All studies, the newest first; also those that no route took."""
    begin, end = times(period, since, until, room.now())
    wanted = Wanted(modality=modality[:16], since=begin, until=end, text=q[:200])
    with room.ledger.read() as work:
        listed = work.browse.studies(wanted, after, _ON_A_PAGE)
        choices = work.browse.choices()
    if q.strip():
        query = str(request.url.query)
        room.audit.note(Happening.QUERIED, who.name, address=who.address, query=query)
    return render(
        request,
        who,
        "studies.html",
        listed=listed,
        choices=choices,
        asked={"q": q, "modality": modality, "period": period, "since": since, "until": until},
        narrowed=bool(modality or period or since or until or q),
        periods=PERIODS,
    )


@router.get("/studies/{study_uid}")
def study(request: Request, room: InRoom, who: Viewer, study_uid: str) -> Response:
    """One study."""
    uid = str(UID(study_uid))
    with room.ledger.read() as work:
        page = work.study_page.page(uid)
    looked(room, who, page)
    now = room.now()
    return render(
        request,
        who,
        "study.html",
        page=page,
        study=page.study,
        jobs=page.jobs,
        current=[job for job in page.jobs if job.job.state != JobState.SUPERSEDED],
        timelines={item.job.id: timeline(page.series, item, now) for item in page.jobs},
        views=views(page),
        times_of=times_of,
        is_image=is_image,
        class_name=lambda uid: name_of(uid).removesuffix(" Storage") if uid else "",
        in_short=in_short,
        open_states=JOB_OPEN,
        can_retry=_can_retry,
    )


@router.post("/studies/{study_uid}/resend")
def resend(room: InRoom, who: Operator, study_uid: str) -> Response:
    """Send again what destinations refused of it."""
    done = actions.resend(room, who, str(UID(study_uid)))
    return back(f"/studies/{UID(study_uid)}", done="resent", n=done.count)


@router.post("/studies/{study_uid}/resolve")
def resolve(
    room: InRoom, who: Operator, study_uid: str, decision: Annotated[str, Form()] = ""
) -> Response:
    """Decide an identity conflict."""
    path = f"/studies/{UID(study_uid)}"
    if decision not in {"release", "cancel"}:
        return back(path, done="nothing")
    done = actions.resolve(room, who, str(UID(study_uid)), release=decision == "release")
    return back(path, done=f"{decision}d" if decision == "release" else "cancelled", n=done.count)


def looked(room: Room, who: Who, page: StudyPage) -> None:
    """Tell the audit trail whose study was shown to whom."""
    study = page.study
    room.audit.looked(who.name, who.address, AuditStudy(study.study_instance_uid, study.patient_id))


def views(page: StudyPage) -> list[dict[str, Any]]:
    """What the viewer may show: each series of images, with the segmentations made of it."""
    found: list[dict[str, Any]] = []
    for item in page.series:
        series = item.series
        if series.state == SeriesState.OWN or not is_image(series.modality):
            continue
        jobs = [
            job
            for job in page.jobs
            if series.series_instance_uid in job.job.series_instance_uids
            and job.job.state in {JobState.DONE, JobState.SUPERSEDED}
        ]
        found.append(
            {
                "series": series.series_instance_uid,
                "name": f"{series.modality} {series.description}".strip() or series.number,
                "images": series.instances,
                "overlays": [overlay for job in jobs[:4] for overlay in _overlays(job)],
            }
        )
    # what was found is what a person came to see, then what was analysed
    found.sort(key=lambda view: (not _outlined(view["overlays"]), not view["overlays"]))
    return found


def _outlined(overlays: list[dict[str, Any]]) -> bool:
    return any(item["segmentations"] or item["findings"] for item in overlays)


def _overlays(item: StudyJob) -> list[dict[str, object]]:
    job = item.job
    results = [
        result
        for result in item.results
        if result.kind == ResultKind.SEG and result.alternative_to is None
    ]
    shown = {
        "job": job.id,
        "name": f"{job.model} {job.model_version}",
        "state": str(job.state),
        "findings": [_finding(finding) for finding in item.findings if finding.present],
    }
    return [
        {
            **shown,
            "segmentations": [{"id": r.id, "part": r.part} for r in results],
            "heat": next((r.id for r in item.results if r.kind == ResultKind.HEAT), None),
        },
    ]


def _finding(finding: Finding) -> dict[str, object]:
    """What the viewer draws of a finding: where it is, its name, its diameters."""
    key = finding.key_image
    axes = finding.axes
    return {
        "number": finding.number,
        "label": finding.label,
        "part": finding.part,
        "segment": finding.segment,
        "image": None
        if key is None
        else (key.sop_instance_uid if key.frame is None else f"{key.sop_instance_uid}:{key.frame}"),
        "axes": None if axes is None else [axes.long, axes.short],
        "colour": "rgb({}, {}, {})".format(*finding.color),
    }


def in_short(finding: Finding) -> list[tuple[str, str]]:
    """What a person asks for first: name and figure with its unit."""
    found = []
    for item in finding.measurements:
        name = item.concept.meaning
        if item.derivation is None and name in _IN_SHORT:
            found.append((name, f"{item.value:.4g} {unit(item.unit.value)}".strip()))
    return found


def _can_retry(state: JobState) -> bool:
    return state not in {JobState.WAITING, JobState.QUEUED, JobState.RUNNING, JobState.HELD}
