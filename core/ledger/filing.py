"""Filing what arrived: associations, studies, series, instances and their versions.

Promise 3 begins here: an instance whose identity attributes differ from its earlier version or
from its study puts the study into conflict.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.domain import IDENTITY_KEYWORDS, Association, IncomingInstance
from core.ledger.queries.columns import study_columns
from core.lifecycle import SERIES_MOVES, SeriesState
from core.schema import (
    AssociationRow,
    Base,
    ConflictRow,
    InstanceRow,
    RemovalRow,
    ResultRow,
    SeriesAssociationRow,
    SeriesRow,
    StudyRow,
)


class Outcome(StrEnum):
    """What filing an instance came to."""

    NEW = "new"
    DUPLICATE = "duplicate"
    NEW_VERSION = "new version"


@dataclass(frozen=True, slots=True)
class Filed:
    """What filing came to, and the keywords whose values disagree.

    `bytes_wanted`: retention had removed the bytes of this duplicate. They are to be put into the
    store once more before the commit: what lies there may have been on its way out.
    """

    outcome: Outcome
    conflicts: tuple[str, ...] = ()
    studies_in_conflict: tuple[str, ...] = ()
    bytes_wanted: bool = False


@dataclass(slots=True)
class _Version:
    """One version of an instance while a batch is filed.

    `id` is None for one that the batch brings, and `row` its values; `was` is what the ledger
    says of `current`; `gone`, that its bytes were removed; `study`, where its series is filed.
    """

    digest: str
    current: bool
    identity: dict[str, Any]
    study: str
    id: int | None = None
    was: bool = False
    gone: bool = False
    row: dict[str, Any] = field(default_factory=dict)


class Filing:
    """Writes what intake read from the spool."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def file(self, incoming: IncomingInstance, now: datetime) -> Filed:
        """File one instance: new, a duplicate (nothing changes) or a new version."""
        return self.file_many([incoming], now)[0]

    def file_many(self, batch: Sequence[IncomingInstance], now: datetime) -> list[Filed]:
        """File instances one after the other, with a few statements for all of them.

        The first of each series brings the attributes that the ledger keeps of the series; those
        of the others may be empty.
        """
        if not batch:
            return []
        self._one_after_the_other({item.sop_instance_uid for item in batch})
        self._associations(batch)
        studies, series = self._lock(batch, now)
        self._insert(
            SeriesAssociationRow,
            [
                {"series_instance_uid": series_uid, "association_id": association}
                for series_uid, association in sorted(
                    {(item.series_instance_uid, item.association.id) for item in batch}
                )
            ],
        )
        versions = self._versions(batch)
        filed = [
            self._file(
                item,
                studies[item.study_instance_uid],
                series[item.series_instance_uid],
                versions[item.sop_instance_uid],
                now,
            )
            for item in batch
        ]
        self._write_versions([version for known in versions.values() for version in known])
        self._session.flush()
        return filed

    def _file(
        self,
        incoming: IncomingInstance,
        study: StudyRow,
        series: SeriesRow,
        versions: list[_Version],
        now: datetime,
    ) -> Filed:
        same = next((item for item in versions if item.digest == incoming.digest), None)
        back = same is not None and self._back(same, series, incoming)
        if same is not None and same.current:
            return Filed(Outcome.DUPLICATE, bytes_wanted=back)
        for version in versions:
            version.current = False
        self._reopen(series, incoming, now)
        if same is not None:  # an earlier version again: it is what the sender means now
            same.current = True
            return Filed(Outcome.DUPLICATE, bytes_wanted=back)
        earlier = versions[-1] if versions else None
        versions.append(
            _Version(
                incoming.digest,
                True,
                incoming.identity,
                series.study_instance_uid,
                row={
                    "sop_instance_uid": incoming.sop_instance_uid,
                    "sop_class_uid": incoming.sop_class_uid,
                    "series_instance_uid": series.series_instance_uid,
                    "transfer_syntax_uid": incoming.transfer_syntax_uid,
                    "digest": incoming.digest,
                    "version": len(versions) + 1,
                    "identity": incoming.identity,
                    "number": incoming.number[:16],
                    "store_key": incoming.store_key,
                    "size": incoming.size,
                    "received_at": incoming.received_at,
                    "association_id": incoming.association.id,
                },
            )
        )
        conflicts = self._conflicts(incoming, study, series, earlier)
        studies = {incoming.study_instance_uid, series.study_instance_uid} if conflicts else set()
        if conflicts and earlier is not None:
            # that study has lost an image to this one
            studies.add(earlier.study)
        for study_uid in sorted(studies):
            self._note_conflicts(study_uid, incoming, conflicts, now)
        return Filed(
            Outcome.NEW_VERSION if earlier else Outcome.NEW,
            tuple(keyword for keyword, _, _ in conflicts),
            tuple(sorted(studies)),
        )

    def _back(self, version: _Version, series: SeriesRow, incoming: IncomingInstance) -> bool:
        """Whether a version that retention removed came again: it is as if it came now."""
        if not version.gone:
            return False
        version.gone = False
        self._session.execute(
            update(InstanceRow)
            .where(InstanceRow.id == version.id)
            .values(gone_at=None, received_at=incoming.received_at)
        )
        # waits for who is just deleting the bytes; from here on nobody does
        self._session.execute(delete(RemovalRow).where(RemovalRow.store_key == incoming.store_key))
        series.last_received_at = max(series.last_received_at, incoming.received_at)
        return True

    def _note_conflicts(
        self,
        study_uid: str,
        incoming: IncomingInstance,
        conflicts: list[tuple[str, str, str]],
        now: datetime,
    ) -> None:
        for keyword, earlier, later in conflicts:
            self._session.add(
                ConflictRow(
                    study_instance_uid=study_uid,
                    series_instance_uid=incoming.series_instance_uid,
                    sop_instance_uid=incoming.sop_instance_uid,
                    keyword=keyword,
                    earlier=earlier,
                    later=later,
                    found_at=now,
                )
            )
        self._session.execute(
            update(StudyRow).where(StudyRow.study_instance_uid == study_uid).values(conflict=True)
        )

    def _versions(self, batch: Sequence[IncomingInstance]) -> dict[str, list[_Version]]:
        """The versions of each instance of the batch that the ledger has, the first one first."""
        found: dict[str, list[_Version]] = {item.sop_instance_uid: [] for item in batch}
        rows = self._session.execute(
            select(
                InstanceRow.sop_instance_uid,
                InstanceRow.digest,
                InstanceRow.current,
                InstanceRow.identity,
                SeriesRow.study_instance_uid,
                InstanceRow.id,
                InstanceRow.gone_at.is_not(None),
            )
            .join(SeriesRow, SeriesRow.series_instance_uid == InstanceRow.series_instance_uid)
            .where(InstanceRow.sop_instance_uid.in_(found))
            .order_by(InstanceRow.version)
        )
        for uid, digest, current, identity, study, row_id, gone in rows:
            found[uid].append(_Version(digest, current, identity, study, row_id, current, gone))
        return found

    def _write_versions(self, versions: list[_Version]) -> None:
        for current in (False, True):
            changed = [
                item.id
                for item in versions
                if item.id is not None and item.current == current and item.was != current
            ]
            if changed:
                self._session.execute(
                    update(InstanceRow).where(InstanceRow.id.in_(changed)).values(current=current)
                )
        new = [{**item.row, "current": item.current} for item in versions if item.id is None]
        if new:
            # series and associations first: what was only added to the session is not there yet
            self._session.flush()
            table: Any = InstanceRow.__table__
            self._session.execute(insert(table), new)

    def _insert(self, table: type[Base], rows: list[dict[str, Any]]) -> None:
        """Insert the rows that are not there. Two nodes may do this at the same moment."""
        target: Any = table.__table__
        postgres = self._session.get_bind().dialect.name == "postgresql"
        statement: Any = postgresql.insert(target) if postgres else sqlite.insert(target)
        self._session.execute(statement.on_conflict_do_nothing(), rows)

    def own_results(self, sop_instance_uids: Iterable[str]) -> set[str]:
        """Which of the instances a job of this ledger made."""
        rows = self._session.scalars(
            select(ResultRow.sop_instance_uid).where(
                ResultRow.sop_instance_uid.in_(list(sop_instance_uids))
            )
        )
        return set(rows)

    def _associations(self, batch: Sequence[IncomingInstance]) -> None:
        associations = {item.association.id: item.association for item in batch}
        self._insert(
            AssociationRow,
            [
                {
                    "id": item.id,
                    "calling_ae": item.calling_ae,
                    "called_ae": item.called_ae,
                    "peer_address": item.peer_address,
                    "began_at": item.began_at,
                }
                for _, item in sorted(associations.items())
            ],
        )

    def _one_after_the_other(self, sop_instance_uids: Collection[str]) -> None:
        """Who files one of these instances waits until the commit of who does so already.

        They may name different studies, whose rows do not keep them apart. Before every other
        lock and in one order, so that nobody waits in a circle. SQLite has one writer anyway.
        """
        if self._session.get_bind().dialect.name != "postgresql":
            return
        keys = sorted(_number(uid) for uid in sop_instance_uids)
        self._session.execute(
            text("SELECT pg_advisory_xact_lock(k) FROM unnest(CAST(:keys AS bigint[])) AS k"),
            {"keys": keys},
        ).all()

    def _lock(
        self, batch: Sequence[IncomingInstance], now: datetime
    ) -> tuple[dict[str, StudyRow], dict[str, SeriesRow]]:
        """The rows of the studies, then of the series, locked until the commit.

        So two nodes compare one after the other; both lock in the same order.
        """
        session = self._session
        of_study: dict[str, IncomingInstance] = {}
        of_series: dict[str, IncomingInstance] = {}
        for item in batch:
            of_study.setdefault(item.study_instance_uid, item)
            of_series.setdefault(item.series_instance_uid, item)
        locked: dict[str, StudyRow] = {}
        while not of_study.keys() <= locked.keys():  # or retention was faster by a moment
            self._insert(StudyRow, [_study(item, now) for _, item in sorted(of_study.items())])
            # a series or an instance may be known in another study: that one is in conflict then,
            # and locked too
            others = session.scalars(
                select(SeriesRow.study_instance_uid)
                .where(SeriesRow.series_instance_uid.in_(of_series))
                .union(
                    select(SeriesRow.study_instance_uid)
                    .join(
                        InstanceRow,
                        InstanceRow.series_instance_uid == SeriesRow.series_instance_uid,
                    )
                    .where(
                        InstanceRow.sop_instance_uid.in_({item.sop_instance_uid for item in batch})
                    )
                )
            )
            studies = session.scalars(
                select(StudyRow)
                .where(StudyRow.study_instance_uid.in_({*of_study, *others}))
                .order_by(StudyRow.study_instance_uid)
                .with_for_update(key_share=True)
            )
            locked = {row.study_instance_uid: row for row in studies}
        self._insert(SeriesRow, [_series(item, now) for _, item in sorted(of_series.items())])
        series = session.scalars(
            select(SeriesRow)
            .where(SeriesRow.series_instance_uid.in_(of_series))
            .order_by(SeriesRow.series_instance_uid)
            .with_for_update()
        )
        return locked, {row.series_instance_uid: row for row in series}

    def end_association(self, association: Association) -> None:
        """Note that an association ended; one that filed nothing leaves no row."""
        self._session.execute(
            update(AssociationRow)
            .where(AssociationRow.id == association.id, AssociationRow.ended_at.is_(None))
            .values(ended_at=association.ended_at, end=association.end)
        )

    def _reopen(self, series: SeriesRow, incoming: IncomingInstance, now: datetime) -> None:
        """A further instance: the series is looked at again."""
        series.revision += 1
        series.last_filed_at = now
        series.last_received_at = max(series.last_received_at, incoming.received_at)
        if SeriesState.RECEIVING in SERIES_MOVES[SeriesState(series.state)]:
            series.state = SeriesState.RECEIVING

    def _conflicts(
        self,
        incoming: IncomingInstance,
        study: StudyRow,
        series: SeriesRow,
        earlier: _Version | None,
    ) -> list[tuple[str, str, str]]:
        """Each differing keyword once, with the earlier and the later value."""
        of_study = {
            "PatientID": study.patient_id,
            "IssuerOfPatientID": study.issuer_of_patient_id,
            "PatientName": study.patient_name,
            "PatientBirthDate": study.patient_birth_date,
            "AccessionNumber": study.accession_number,
            "StudyInstanceUID": series.study_instance_uid,
        }
        references = [of_study, *([earlier.identity] if earlier else [])]
        found: dict[str, tuple[str, str, str]] = {}
        for reference in references:
            for keyword in IDENTITY_KEYWORDS:
                was, later = str(reference.get(keyword, "")), incoming.identity[keyword]
                if was != later and keyword not in found:
                    found[keyword] = (keyword, was, later)
        released = self._released(incoming.study_instance_uid) if found else set()
        return [item for item in found.values() if item not in released]

    def _released(self, study_instance_uid: str) -> set[tuple[str, str, str]]:
        """What an administrator has looked at and let pass is no conflict again."""
        rows = self._session.execute(
            select(ConflictRow.keyword, ConflictRow.earlier, ConflictRow.later).where(
                ConflictRow.study_instance_uid == study_instance_uid,
                ConflictRow.decision == "release",
            )
        )
        return {(keyword, earlier, later) for keyword, earlier, later in rows}


def _number(uid: str) -> int:
    """64 bits of a UID's hash, signed, as PostgreSQL's advisory locks want it."""
    return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8], "big", signed=True)


def _study(incoming: IncomingInstance, now: datetime) -> dict[str, Any]:
    identity, attributes = incoming.identity, incoming.attributes
    return {
        "study_instance_uid": incoming.study_instance_uid,
        "patient_id": identity["PatientID"],
        "issuer_of_patient_id": identity["IssuerOfPatientID"],
        "patient_name": identity["PatientName"],
        "patient_birth_date": identity["PatientBirthDate"],
        "accession_number": identity["AccessionNumber"],
        "description": str(attributes.get("StudyDescription", ""))[:64],
        **study_columns(identity["PatientName"], attributes),
        "conflict": False,
        "first_received_at": now,
    }


def _series(incoming: IncomingInstance, now: datetime) -> dict[str, Any]:
    attributes = incoming.attributes
    return {
        "series_instance_uid": incoming.series_instance_uid,
        "study_instance_uid": incoming.study_instance_uid,
        "modality": str(attributes.get("Modality", ""))[:16],
        "description": str(attributes.get("SeriesDescription", ""))[:64],
        "number": str(attributes.get("SeriesNumber", ""))[:16],
        "state": SeriesState.OWN if incoming.own_result else SeriesState.RECEIVING,
        "revision": 0,
        "last_received_at": incoming.received_at,
        "last_filed_at": now,
        "attributes": attributes,
        "decision": "",
    }
