"""The worklist: what the AI does, did and could not do; and the decisions about many jobs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import RedirectResponse, Response

from core.domain import Job
from core.errors import InvalidValueError, SentinodeError
from core.ledger.browse import MOST_COUNTED, Wanted
from core.lifecycle import JOB_OPEN, JobState
from node.web import actions
from node.web.access import Operator, Viewer
from node.web.audit import Happening
from node.web.pages.rendering import back, query_with, render
from node.web.pages.troubles import found_troubles
from node.web.room import InRoom
from node.web.signin import local

router = APIRouter()

_ON_A_PAGE = 50
_MOST_AT_ONCE = 200
PERIODS = {"today": 0, "2d": 1, "7d": 6, "30d": 29}
# The states in the order in which an administrator looks for them.
ORDER = (
    JobState.RUNNING,
    JobState.QUEUED,
    JobState.WAITING,
    JobState.HELD,
    JobState.FAILED,
    JobState.QUARANTINED,
    JobState.NOT_APPLICABLE,
    JobState.DONE,
    JobState.CANCELLED,
    JobState.SUPERSEDED,
)


@router.get("/")
def first_page() -> RedirectResponse:
    """The first page is the worklist."""
    return RedirectResponse("/worklist", status_code=303)


@router.get("/worklist")
def worklist(
    request: Request,
    room: InRoom,
    who: Viewer,
    state: Annotated[list[str] | None, Query()] = None,
    modality: str = "",
    model: str = "",
    sender: str = "",
    period: str = "",
    since: str = "",
    until: str = "",
    q: str = "",
    after: str = "",
) -> Response:
    """Jobs, the newest first."""
    begin, end = times(period, since, until, room.now())
    wanted = Wanted(
        states=_states(state or []),
        modality=modality[:16],
        model=model[:64],
        sender=sender[:16],
        since=begin,
        until=end,
        text=q[:200],
    )
    with room.ledger.read() as work:
        listed = work.browse.jobs(wanted, after, _ON_A_PAGE)
        counts = work.browse.counts()
        arriving = work.browse.arriving() if not after else []
        choices = work.browse.choices()
        troubles = found_troubles(room.settings, work.circuits.all(), work.browse.conflicts())
    if q.strip():
        room.audit.note(
            Happening.QUERIED, who.name, address=who.address, query=str(request.url.query)
        )
    narrowed = bool(modality or model or sender or period or since or until or q)
    return render(
        request,
        who,
        "worklist.html",
        listed=listed,
        troubles=troubles,
        counts=counts,
        most_counted=MOST_COUNTED,
        arriving=arriving,
        choices=choices,
        order=ORDER,
        open_states=JOB_OPEN,
        wanted=wanted,
        asked={
            "q": q,
            "modality": modality,
            "model": model,
            "sender": sender,
            "period": period,
            "since": since,
            "until": until,
        },
        narrowed=narrowed,
        periods=PERIODS,
        without_state=lambda item: _toggled(request, wanted.states, item),
        times_of=times_of,
    )


@router.post("/worklist/retry")
def retry_many(
    room: InRoom,
    who: Operator,
    job: Annotated[list[str] | None, Form()] = None,
    next: Annotated[str, Form()] = "/worklist",
    again: Annotated[str, Form()] = "",
) -> Response:
    """Run jobs again, or send their refused objects again; those that cannot be are told."""

    def one(job_id: str) -> actions.Done:
        return actions.retry(room, who, job_id, again=bool(again))

    return _each(job or [], one, "retried", next)


@router.post("/worklist/cancel")
def cancel_many(
    room: InRoom,
    who: Operator,
    job: Annotated[list[str] | None, Form()] = None,
    next: Annotated[str, Form()] = "/worklist",
) -> Response:
    """End jobs that are not finished; those that are already are told."""
    return _each(job or [], lambda job_id: actions.cancel(room, who, job_id), "cancelled", next)


def _each(
    jobs: list[str], action: Callable[[str], actions.Done], done: str, path: str
) -> RedirectResponse:
    """Do it to each; one that cannot be leaves the others alone."""
    troubles, count = [], 0
    for job_id in jobs[:_MOST_AT_ONCE]:
        try:
            made = action(job_id)
        except SentinodeError as error:
            if error.retry:
                raise  # the ledger is away: the others would fare no better
            troubles.append(str(error))
            continue
        if made.count:
            count += 1
        else:
            troubles.append(made.message)
    answer: dict[str, str | int] = {}
    if count:
        answer |= {"done": done, "n": count}
    if troubles:
        rest = f" (+{len(troubles) - 1})" if len(troubles) > 1 else ""
        answer["problem"] = troubles[0] + rest
    if not jobs:
        answer["done"] = "nothing"
    return back(local(path), **answer)


def times(
    period: str, since: str, until: str, now: datetime
) -> tuple[datetime | None, datetime | None]:
    """From when until when: a period before now, or days of the node's own time zone.

    Raises:
        InvalidValueError: a day that is none.
    """
    if period in PERIODS:
        today = now.astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        return today - timedelta(days=PERIODS[period]), None
    begin = _day(since) if since else None
    end = _day(until) + timedelta(days=1) if until else None
    return begin, end


def _day(text: str) -> datetime:
    try:
        return datetime.combine(date.fromisoformat(text), time.min).astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidValueError(f"{text!r} is no day (YYYY-MM-DD)") from error


def _states(names: list[str]) -> tuple[JobState, ...]:
    return tuple(state for state in JobState if state in names)


def _toggled(request: Request, chosen: tuple[JobState, ...], item: JobState) -> str:
    """The query of this page with one state more, or less."""
    states = [state for state in chosen if state != item]
    if item not in chosen:
        states.append(item)
    rest = query_with(request, state=None, after=None).lstrip("?")
    parts = [f"state={state}" for state in states] + ([rest] if rest else [])
    return "?" + "&".join(parts)


def times_of(job: Job, now: datetime) -> dict[str, timedelta | None]:
    """How old a job is, how long it waited and how long it ran, until now where it still does."""
    ended = job.finished_at or (job.updated_at if job.state not in JOB_OPEN else None)
    waited_until = job.started_at or ended or now
    running_until = job.finished_at or (now if job.state == JobState.RUNNING else None)
    running = None
    if job.started_at is not None and running_until is not None:
        running = running_until - job.started_at
    return {
        "age": now - job.created_at,
        "waiting": waited_until - job.created_at,
        "running": running,
    }
