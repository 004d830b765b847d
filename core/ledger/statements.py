"""Evidence: what somebody said about which images belong to a study or a series.

Written by every door, read only by `node.deciding.completeness`. A statement takes the place of an
earlier one of the same source and key; one that came earlier, or that takes back an end that
was already told, changes nothing. So statements may come twice and in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, update
from sqlalchemy.orm import Session

from core.ledger.rows import insert_unless_there
from core.lifecycle import EvidenceSource
from core.schema import EvidenceRow


@dataclass(frozen=True, slots=True)
class Evidence:
    """One statement.

    Attributes:
        source: what kind of statement it is.
        key: tells statements of one source apart, e.g. the MPPS's or the transaction's UID.
        study_instance_uid: empty where it is not known (yet).
        series_instance_uid: empty where it speaks of the whole study.
        said_by: AE title of who said it, or empty.
        final: False where more is to come.
        uids: the SOP Instance UIDs that it lists; None where it lists none.
        count: how many there are, where only that is known.
        stat: who said it wants the analysis first.
        at: when it was said.
    """

    source: EvidenceSource
    key: str
    at: datetime
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    said_by: str = ""
    final: bool = True
    uids: frozenset[str] | None = None
    count: int | None = None
    stat: bool = False

    @property
    def speaks(self) -> bool:
        """Whether it says anything about how many images there are, or that more are to come."""
        return bool(self.uids) or self.count is not None or not self.final


class Statements:
    """Writes single statements."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def note(self, evidence: Evidence) -> bool:
        """Keep one statement; False when a later one, or an end, is there already."""
        values = {
            "said_by": evidence.said_by[:16],
            "final": evidence.final,
            "count": evidence.count,
            "uids": None if evidence.uids is None else sorted(evidence.uids),
            "stat": evidence.stat,
            "at": evidence.at,
        }
        where = {
            "source": evidence.source,
            "key": evidence.key,
            "series_instance_uid": evidence.series_instance_uid,
        }
        if insert_unless_there(
            self._session,
            EvidenceRow,
            study_instance_uid=evidence.study_instance_uid,
            **where,
            **values,
        ):
            return True
        same = and_(*(getattr(EvidenceRow, name) == value for name, value in where.items()))
        if evidence.study_instance_uid:
            self._session.execute(
                update(EvidenceRow)
                .where(same, EvidenceRow.study_instance_uid == "")
                .values(study_instance_uid=evidence.study_instance_uid)
            )
        newer = EvidenceRow.at <= evidence.at
        if not evidence.final:
            newer &= EvidenceRow.final.is_(False)
        changed = self._session.execute(
            update(EvidenceRow).where(same, newer).values(**values).returning(EvidenceRow.id)
        )
        return changed.first() is not None


def evidence_value(row: EvidenceRow) -> Evidence:
    """A row as a value."""
    # of a whole study an empty list is a note of our own: see `EvidenceBook.performed`
    listed = row.uids is not None and (row.uids or row.series_instance_uid)
    return Evidence(
        source=EvidenceSource(row.source),
        key=row.key,
        at=row.at,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        said_by=row.said_by,
        final=row.final,
        uids=frozenset(row.uids or ()) if listed else None,
        count=row.count,
        stat=row.stat,
    )
