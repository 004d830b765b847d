"""Filing what arrived: associations, studies, series, instances and their versions.

Promise 3 begins here: an instance whose identity attributes differ from its earlier version or
from its study puts the study into conflict.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.domain import IDENTITY_KEYWORDS, Association, IncomingInstance
from core.ledger.rows import insert_unless_there
from core.lifecycle import SERIES_MOVES, SeriesState
from core.schema import (
    AssociationRow,
    ConflictRow,
    InstanceRow,
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
    """What filing came to, and the keywords whose values disagree."""

    outcome: Outcome
    conflicts: tuple[str, ...] = ()
    studies_in_conflict: tuple[str, ...] = ()


class Filing:
    """Writes what intake read from the spool."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def file(self, incoming: IncomingInstance, now: datetime) -> Filed:
        """File one instance: new, a duplicate (nothing changes) or a new version."""
        session = self._session
        self._association(incoming.association)
        study = self._study(incoming, now)
        series = self._series(incoming, now)
        insert_unless_there(
            session,
            SeriesAssociationRow,
            series_instance_uid=series.series_instance_uid,
            association_id=incoming.association.id,
        )
        versions = session.scalars(
            select(InstanceRow)
            .where(InstanceRow.sop_instance_uid == incoming.sop_instance_uid)
            .order_by(InstanceRow.version)
        ).all()
        same = next((item for item in versions if item.digest == incoming.digest), None)
        if same is not None and same.current:
            return Filed(Outcome.DUPLICATE)
        for version in versions:
            version.current = False
        if same is not None:  # an earlier version again: it is what the sender means now
            same.current = True
            self._reopen(series, incoming, now)
            return Filed(Outcome.DUPLICATE)
        session.add(
            InstanceRow(
                sop_instance_uid=incoming.sop_instance_uid,
                sop_class_uid=incoming.sop_class_uid,
                series_instance_uid=series.series_instance_uid,
                transfer_syntax_uid=incoming.transfer_syntax_uid,
                digest=incoming.digest,
                version=len(versions) + 1,
                current=True,
                identity=incoming.identity,
                store_key=incoming.store_key,
                size=incoming.size,
                received_at=incoming.received_at,
                association_id=incoming.association.id,
            )
        )
        self._reopen(series, incoming, now)
        conflicts = self._conflicts(incoming, study, series, versions[-1] if versions else None)
        studies = {incoming.study_instance_uid, series.study_instance_uid}
        for study_uid in studies if conflicts else ():
            for keyword, earlier, later in conflicts:
                session.add(
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
        if conflicts:
            session.execute(
                update(StudyRow)
                .where(StudyRow.study_instance_uid.in_(studies))
                .values(conflict=True)
            )
        session.flush()
        return Filed(
            Outcome.NEW_VERSION if versions else Outcome.NEW,
            tuple(keyword for keyword, _, _ in conflicts),
            tuple(sorted(studies)) if conflicts else (),
        )

    def end_association(self, association: Association) -> None:
        """Note that an association ended; one that filed nothing leaves no row."""
        self._session.execute(
            update(AssociationRow)
            .where(AssociationRow.id == association.id, AssociationRow.ended_at.is_(None))
            .values(ended_at=association.ended_at, end=association.end)
        )

    def is_own_result(self, sop_instance_uid: str) -> bool:
        """Whether a job of this ledger made the instance."""
        return (
            self._session.scalar(
                select(ResultRow.id).where(ResultRow.sop_instance_uid == sop_instance_uid).limit(1)
            )
            is not None
        )

    def _association(self, association: Association) -> None:
        insert_unless_there(
            self._session,
            AssociationRow,
            id=association.id,
            calling_ae=association.calling_ae,
            called_ae=association.called_ae,
            peer_address=association.peer_address,
            began_at=association.began_at,
        )

    def _study(self, incoming: IncomingInstance, now: datetime) -> StudyRow:
        identity, attributes = incoming.identity, incoming.attributes
        insert_unless_there(
            self._session,
            StudyRow,
            study_instance_uid=incoming.study_instance_uid,
            patient_id=identity["PatientID"],
            issuer_of_patient_id=identity["IssuerOfPatientID"],
            patient_name=identity["PatientName"],
            patient_birth_date=identity["PatientBirthDate"],
            accession_number=identity["AccessionNumber"],
            description=str(attributes.get("StudyDescription", ""))[:64],
            study_date=str(attributes.get("StudyDate", ""))[:18],
            conflict=False,
            first_received_at=now,
        )
        # locked until the commit, so that two nodes compare one after the other
        return self._session.scalars(
            select(StudyRow)
            .where(StudyRow.study_instance_uid == incoming.study_instance_uid)
            .with_for_update(key_share=True)
        ).one()

    def _series(self, incoming: IncomingInstance, now: datetime) -> SeriesRow:
        attributes = incoming.attributes
        insert_unless_there(
            self._session,
            SeriesRow,
            series_instance_uid=incoming.series_instance_uid,
            study_instance_uid=incoming.study_instance_uid,
            modality=str(attributes.get("Modality", ""))[:16],
            description=str(attributes.get("SeriesDescription", ""))[:64],
            number=str(attributes.get("SeriesNumber", ""))[:16],
            state=SeriesState.OWN if incoming.own_result else SeriesState.RECEIVING,
            revision=0,
            last_received_at=incoming.received_at,
            last_filed_at=now,
            attributes=attributes,
            decision="",
        )
        return self._session.scalars(
            select(SeriesRow)
            .where(SeriesRow.series_instance_uid == incoming.series_instance_uid)
            .with_for_update()
        ).one()

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
        earlier: InstanceRow | None,
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
