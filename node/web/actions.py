"""What people decide, the same from a page and from a program: done in the ledger, and audited.

Each is written to the audit trail before it is done: what cannot be told is not done.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime

from core.accounts import Account, ApiToken, Role
from core.domain import RouteDecision, Series
from core.errors import AccountError, NotFoundError, PeerError
from core.lifecycle import JobState
from core.settings import Peer, Route
from node.deciding.routing import evaluate
from node.dimse.scu import echo as dicom_echo
from node.web.access import Who
from node.web.audit import Happening
from node.web.audit.messages import Study
from node.web.passwords import TOKEN_PREFIX, account_name, digest_of, hash_password, new_secret
from node.web.room import Room

_ECHO_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Done:
    """What came of an action.

    Attributes:
        message: for a person.
        job_id: of the job that was made, if any.
        count: how many things it touched.
    """

    message: str
    job_id: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class Echoed:
    """How a peer answered C-ECHO.

    Attributes:
        milliseconds: from connecting to the release.
        message: what went wrong, or empty.
        remedy: what to do about it, or empty.
    """

    peer: str
    well: bool
    milliseconds: float
    message: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Tried:
    """How a series fared when a route was tried."""

    series: Series
    decision: RouteDecision


def retry(room: Room, who: Who, job_id: str, *, again: bool = False) -> Done:
    """Run a job again, or send its refused objects again where it is done.

    Args:
        again: analyse once more even if it is done.

    Raises:
        NotFoundError: no such job.
        IllegalMoveError: it cannot be run again now; the message says why.
    """
    with room.ledger.read() as work:
        job = work.views.job(job_id)
    _decided(room, who, f"job:{job.id}", "run again" if again else "retried", _study(room, job_id))
    if job.state == JobState.DONE and not again:
        with room.ledger.write() as work:
            sent = work.transfers.send_again(job.same_as or job.id)
        if not sent:
            return Done("nothing of it was refused; to analyse it once more, run it again", count=0)
        return Done(f"{sent} object(s) are due again", count=sent)
    spec = room.specs.get(job.model)
    with room.ledger.write() as work:
        made = work.jobs.rerun(
            job.id, who.actor, room.now(), model_version=spec.version if spec else None
        )
    return Done("a new job was made from the same input", made)


def cancel(room: Room, who: Who, job_id: str) -> Done:
    """End a job that is not finished.

    Raises:
        NotFoundError: no such job.
        IllegalMoveError: it is finished already.
    """
    with room.ledger.read() as work:
        job = work.views.job(job_id)
    _decided(room, who, f"job:{job.id}", "cancelled", _study(room, job_id))
    with room.ledger.write() as work:
        work.jobs.cancel(job.id, who.actor, room.now())
    return Done("cancelled")


def cancel_study(room: Room, who: Who, study_uid: str) -> Done:
    """End every job of a study that is not finished.

    Raises:
        NotFoundError: no such study.
    """
    _decided(room, who, "", "jobs cancelled", Study(study_uid))
    with room.ledger.write() as work:
        ended = work.jobs.cancel_study(study_uid, who.actor, room.now())
    return Done(f"cancelled: {len(ended)} job(s)", count=len(ended))


def resend(room: Room, who: Who, study_uid: str, destination: str = "") -> Done:
    """Send what was refused or failed of a study again, to one destination or to all.

    Raises:
        NotFoundError: no such study, or no such peer.
        IllegalMoveError: an identity conflict holds it.
    """
    if destination:
        _peer(room, destination)
    detail = f"sent again to {destination or 'all destinations'}"
    _decided(room, who, "", detail, Study(study_uid))
    with room.ledger.write() as work:
        count = work.transfers.send_study_again(study_uid, destination)
    return Done(f"{count} object(s) are due again", count=count)


def resolve(room: Room, who: Who, study_uid: str, *, release: bool) -> Done:
    """Decide an identity conflict: let the study's work go on, or end it.

    Raises:
        NotFoundError: the study has no undecided conflict.
    """
    word = "released" if release else "cancelled"
    _decided(room, who, "", f"identity conflict: {word}", Study(study_uid))
    with room.ledger.write() as work:
        count = work.conflicts.decide(study_uid, release, who.actor, room.now())
    return Done(f"{word}: {count} job(s)", count=count)


def pause(room: Room, who: Who, destination: str, *, paused: bool) -> Done:
    """Stop what goes to a destination, or let it go on. It is kept across restarts.

    Raises:
        NotFoundError: no such peer.
    """
    peer = _peer(room, destination)
    word = "paused" if paused else "goes on"
    room.audit.note(
        Happening.NETWORK,
        who.name,
        address=who.address,
        subject=f"destination:{peer.name}",
        detail=word,
    )
    with room.ledger.write() as work:
        work.circuits.pause(peer.name, paused)
    return Done(f"{peer.name} {'is paused' if paused else word}")


def echo(room: Room, name: str) -> Echoed:
    """Ask a peer whether it is there (C-ECHO).

    Raises:
        NotFoundError: no such peer.
    """
    peer = _peer(room, name)
    if peer.address is None:
        return Echoed(name, False, 0.0, "it has no host and port in the settings")
    began = time.monotonic()
    try:
        dicom_echo(room.settings.node.ae_title, peer.address, _ECHO_SECONDS)
    except PeerError as error:
        taken = (time.monotonic() - began) * 1000
        return Echoed(name, False, round(taken, 1), str(error), error.remedy)
    return Echoed(name, True, round((time.monotonic() - began) * 1000, 1))


def try_route(room: Room, route: Route, limit: int = 200) -> list[Tried]:
    """Hold a route against the newest stored series; nothing is made of it."""
    with room.ledger.read() as work:
        found = work.study_page.recent_series(limit)
    return [Tried(series, evaluate([route], series)[0]) for series in found]


def add_user(room: Room, who: Who, name: str, role: Role, password: str) -> Account:
    """Make an account.

    Raises:
        AccountError: the name is taken or none, or the password too short.
    """
    account = account_name(name)
    hashed = hash_password(password, room.settings.web.password_length)
    _users(room, who, account, f"account made, {role}")
    with room.ledger.write() as work:
        return work.accounts.add(account, role, hashed, room.now())


def change_user(
    room: Room,
    who: Who,
    name: str,
    *,
    role: Role | None = None,
    password: str | None = None,
    disabled: bool | None = None,
) -> Account:
    """Change what an account may do, its password, or whether it is let in.

    Raises:
        NotFoundError: nobody is called so.
        AccountError: it is the last administrator, or the password is too short.
    """
    hashed = None
    if password is not None:
        hashed = hash_password(password, room.settings.web.password_length)
    with room.ledger.read() as work:
        account = work.accounts.get(name)
    changes = [f"is {role} now"] if role else []
    changes += ["password changed"] if hashed else []
    changes += [] if disabled is None else ["disabled" if disabled else "enabled"]
    _users(room, who, account.name, ", ".join(changes))
    with room.ledger.write() as work:
        if role is not None:
            work.accounts.set_role(account.name, role)
        if hashed is not None:
            work.accounts.set_password(account.name, hashed)
        if disabled is not None:
            work.accounts.disable(account.name, disabled)
        return work.accounts.get(account.name)


def add_token(
    room: Room, who: Who, account: str, label: str, role: Role, ends: datetime | None = None
) -> tuple[ApiToken, str]:
    """Make a token; also its secret, which is kept nowhere.

    Raises:
        NotFoundError: nobody is called so.
        AccountError: the account may not do what the token should, or the end is past.
    """
    if ends is not None and ends <= room.now():
        raise AccountError("a token ends in the future")
    secret = TOKEN_PREFIX + new_secret()
    _users(room, who, account, f"token made, {role}")
    with room.ledger.write() as work:
        made = work.accounts.add_token(
            account, label, role, digest_of(secret), room.now(), expires_at=ends
        )
    return made, secret


def revoke_token(room: Room, who: Who, token_id: int) -> ApiToken:
    """End a token.

    Raises:
        NotFoundError: there is no such token.
    """
    _users(room, who, f"token {token_id}", "revoked")
    with room.ledger.write() as work:
        return work.accounts.revoke(token_id, room.now())


def _peer(room: Room, name: str) -> Peer:
    peer = room.settings.peer(name)
    if peer is None:
        raise NotFoundError(f"no peer is called {name!r}")
    return peer


def _study(room: Room, job_id: str) -> Study:
    with room.ledger.read() as work:
        job = work.views.job(job_id)
        study = work.views.study(job.study_instance_uid)
    return Study(study.study_instance_uid, study.patient_id)


def _decided(room: Room, who: Who, subject: str, detail: str, study: Study) -> None:
    room.audit.note(
        Happening.DECIDED,
        who.name,
        address=who.address,
        subject=subject,
        detail=detail,
        study=study,
    )


def _users(room: Room, who: Who, account: str, detail: str) -> None:
    room.audit.note(
        Happening.USERS, who.name, address=who.address, subject=f"user:{account}", detail=detail
    )
