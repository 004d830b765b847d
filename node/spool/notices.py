"""Notices: what peers tell us beside images, from the door into the ledger.

The door needs no SQL. What it is told by MPPS, Instance Availability Notification or storage
commitment it writes as a small file into the association's folder in the spool, durably, and
answers; intake files it from there. Filing twice changes nothing.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from core.domain import Association
from core.errors import LedgerValueError
from core.identifiers import UID
from core.store import fsync_folder
from node.spool.heads import association_from_json, association_to_json
from node.spool.receiver import UNREADABLE, ReceiverSpool

if TYPE_CHECKING:  # the door writes notices too, and needs no SQL
    from core.ledger import Ledger, Work

log = structlog.get_logger()

PATTERN = "notice-*.json"
_numbers = itertools.count(1)
_numbering = threading.Lock()


class NoticeKind(StrEnum):
    """What a notice says.

    mpps: a Modality Performed Procedure Step was created or set.
    availability: an Instance Availability Notification.
    commit-request: a peer asks us for storage commitment.
    commit-report: a destination answers what we asked.
    """

    MPPS = "mpps"
    AVAILABILITY = "availability"
    COMMIT_REQUEST = "commit-request"
    COMMIT_REPORT = "commit-report"


@dataclass(frozen=True, slots=True)
class Notice:
    """One message of a peer. `content` holds UIDs and states only, nothing about a patient."""

    kind: NoticeKind
    association: Association
    received_at: datetime
    content: Mapping[str, Any]


def write_notice(spool: ReceiverSpool, notice: Notice) -> Path:
    """Write a notice so that it survives a power cut; only then may it be answered.

    Raises:
        OSError: the disk does not take it.
    """
    # a name is never used twice: intake may just be removing the earlier one
    with _numbering:
        number = next(_numbers)
    folder = spool.association_folder(notice.association)
    content = {
        "kind": str(notice.kind),
        "association": association_to_json(notice.association),
        "received_at": notice.received_at.isoformat(),
        "content": dict(notice.content),
    }
    return spool.write_json(folder, f"notice-{number:06d}.json", content)


def read_notice(path: Path) -> Notice:
    """Read a notice from the spool.

    Raises:
        OSError: the file is away.
        ValueError, LookupError, TypeError: it is no notice.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    return Notice(
        NoticeKind(content["kind"]),
        association_from_json(content["association"]),
        datetime.fromisoformat(content["received_at"]),
        dict(content["content"]),
    )


class NoticeDesk:
    """Files the notices that lie in the spool."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def file(self, folder: Path) -> int:
        """File the notices of one association's folder, in order; returns how many.

        What cannot be read or does not fit the ledger goes to the shelf of unreadable files.

        Raises:
            LedgerError: SQL is away; what was not filed stays.
        """
        count = 0
        for path in sorted(folder.glob(PATTERN)):
            try:
                notice = read_notice(path)
                with self._ledger.write() as work:
                    _apply(work, notice)
            except FileNotFoundError:
                continue  # another intake was faster
            except (ValueError, LookupError, TypeError, LedgerValueError) as error:
                kept_as = _shelve(path)
                log.warning("notice_unreadable", kept_as=str(kept_as), reason=str(error)[:200])
                continue
            path.unlink(missing_ok=True)
            count += 1
            log.info(
                "notice_filed",
                kind=str(notice.kind),
                calling_ae=notice.association.calling_ae,
                association=notice.association.id,
            )
        return count


def _apply(work: Work, notice: Notice) -> None:
    content, at = notice.content, notice.received_at
    said_by = notice.association.calling_ae
    if notice.kind is NoticeKind.MPPS:
        work.evidence.performed(
            UID(content["uid"]),
            said_by,
            UID(content["study"]) if content["study"] else "",
            None if content["series"] is None else _series(content["series"]),
            bool(content["final"]),
            at,
        )
    elif notice.kind is NoticeKind.AVAILABILITY:
        work.evidence.available(
            UID(content["uid"]), said_by, UID(content["study"]), _series(content["series"]), at
        )
    elif notice.kind is NoticeKind.COMMIT_REQUEST:
        transaction = UID(content["transaction"])
        instances = [(UID(sop_class), UID(uid)) for sop_class, uid in content["instances"]]
        work.evidence.committing(transaction, said_by, [uid for _, uid in instances], at)
        work.commit_requests.note(transaction, said_by, instances, at)
    else:  # the answer to what we asked
        committed = [UID(uid) for uid in content["committed"]]
        failed: dict[str, int] = {
            UID(uid): int(reason) for uid, reason in content["failed"].items()
        }
        if not work.commitments.report(UID(content["transaction"]), committed, failed, at):
            log.warning(
                "commitment_unknown",
                transaction=content["transaction"],
                calling_ae=said_by,
                committed=len(committed),
                failed=len(failed),
            )


def _series(content: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {UID(series): [UID(uid) for uid in uids] for series, uids in content.items()}


def _shelve(path: Path) -> Path:
    """Nothing that was answered with success is thrown away."""
    shelf = path.parent.parent.parent / UNREADABLE
    shelf.mkdir(exist_ok=True)
    target = shelf / f"{path.parent.name}-{path.name}"
    path.rename(target)
    fsync_folder(shelf)
    return target
