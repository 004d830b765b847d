"""Which studies a storage commitment request speaks of: it names neither study nor series.

They are learned from the instances that have arrived. Until all have, the request is kept
without a study as well and looked at again: an instance that comes may belong to another study
than the first ones, which then waits for it no longer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Select, delete, select

from core.identifiers import derived_uid
from core.ledger.statements import Evidence, Statements, evidence_value
from core.lifecycle import EvidenceSource
from core.schema import EvidenceRow, InstanceRow, SeriesRow

# A commitment whose images never came is not looked at for ever.
_PLACED_WITHIN = timedelta(days=1)
_UIDS_A_QUERY = 500  # PostgreSQL takes 65,535 parameters, SQLite 32,766
_NEWEST, _OLDER = 20, 80  # looked at in one go


class Placing(Statements):
    """Finds the studies of storage commitment requests."""

    def committing(
        self, transaction_uid: str, said_by: str, uids: Iterable[str], at: datetime
    ) -> None:
        """Keep the instances that a storage commitment request lists (PS3.4 Section J.3.2)."""
        said = Evidence(
            EvidenceSource.COMMITMENT, transaction_uid, at, said_by=said_by, uids=frozenset(uids)
        )
        if not self._place(said):
            self.note(said)

    def place(self, now: datetime, before: int | None = None) -> int | None:
        """Look again at commitments whose instances have not all arrived.

        The newest ones each time, and some of the older ones in turn.

        Args:
            before: what the last call returned: where the turn of the older ones stands.
        """
        newest = self._session.scalars(
            self._unplaced(now).order_by(EvidenceRow.id.desc()).limit(_NEWEST)
        ).all()
        if not newest:
            return None
        edge = min([item.id for item in newest] + ([] if before is None else [before]))
        older = self._session.scalars(
            self._unplaced(now)
            .where(EvidenceRow.id < edge)
            .order_by(EvidenceRow.id.desc())
            .limit(_OLDER)
        ).all()
        for row in (*newest, *older):
            if self._place(evidence_value(row)):
                self._session.execute(delete(EvidenceRow).where(EvidenceRow.id == row.id))
        return older[-1].id if len(older) == _OLDER else None

    def has_unplaced(self, now: datetime) -> bool:
        """Whether `place` has anything to look for; reads one index entry."""
        return self._session.scalar(self._unplaced(now).limit(1)) is not None

    def _unplaced(self, now: datetime) -> Select[EvidenceRow]:
        return select(EvidenceRow).where(
            EvidenceRow.study_instance_uid == "",
            EvidenceRow.source == EvidenceSource.COMMITMENT,
            EvidenceRow.at > now - _PLACED_WITHIN,
        )

    def _place(self, said: Evidence) -> bool:
        """One statement for each study that has some of the instances; whether all have come.

        What has not come may belong to any of them, so each waits for it.
        """
        listed = said.uids or frozenset[str]()
        studies = self._studies_of(listed)
        arrived = frozenset[str]().union(*studies.values())
        for study, here in studies.items():
            uids = listed - (arrived - here)
            self._note_unless_same(
                replace(
                    said,
                    key=derived_uid("evidence", said.key, study),
                    study_instance_uid=study,
                    uids=uids,
                    count=len(uids),  # tells its states apart for who watches
                )
            )
        return bool(listed) and arrived == listed

    def _note_unless_same(self, said: Evidence) -> None:
        row = self._session.scalars(
            select(EvidenceRow).where(
                EvidenceRow.source == said.source,
                EvidenceRow.key == said.key,
                EvidenceRow.series_instance_uid == said.series_instance_uid,
            )
        ).one_or_none()
        if row is None or frozenset(row.uids or ()) != said.uids:
            self.note(said)

    def _studies_of(self, uids: frozenset[str]) -> dict[str, frozenset[str]]:
        """The instances among `uids` that have arrived, by study."""
        ordered = sorted(uids)
        found: dict[str, set[str]] = {}
        for start in range(0, len(ordered), _UIDS_A_QUERY):
            for study, uid in self._session.execute(
                select(SeriesRow.study_instance_uid, InstanceRow.sop_instance_uid)
                .join(SeriesRow, SeriesRow.series_instance_uid == InstanceRow.series_instance_uid)
                .where(
                    InstanceRow.sop_instance_uid.in_(ordered[start : start + _UIDS_A_QUERY]),
                    InstanceRow.current.is_(True),
                )
            ):
                found.setdefault(study, set()).add(uid)
        return {study: frozenset(items) for study, items in found.items()}
