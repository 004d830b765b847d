"""The attributes that queries know, level by level: one table.

The conformance statement is printed from here. Levels and usage are those of PS3.4 Section C.6
(Query/Retrieve) and Table K.6-1 (Modality Worklist).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """Query/Retrieve Level (0008,0052), the upper ones first."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"


class Usage(StrEnum):
    """What the standard says of a key: unique (U), required (R) or optional (O)."""

    UNIQUE = "U"
    REQUIRED = "R"
    OPTIONAL = "O"


@dataclass(frozen=True, slots=True)
class Attribute:
    """A key.

    Attributes:
        vr: its value representation.
        matched: whether a value in the request is matched; if not, one is only returned.
        step: whether it stands in the Scheduled Procedure Step Sequence.
    """

    keyword: str
    vr: str
    usage: Usage = Usage.OPTIONAL
    matched: bool = True
    step: bool = False


_U, _R, _O = Usage.UNIQUE, Usage.REQUIRED, Usage.OPTIONAL

QUERY_RETRIEVE: dict[Level, tuple[Attribute, ...]] = {
    Level.PATIENT: (
        Attribute("PatientName", "PN", _R),
        Attribute("PatientID", "LO", _U),
        Attribute("IssuerOfPatientID", "LO"),
        Attribute("PatientBirthDate", "DA"),
        Attribute("PatientSex", "CS"),
        Attribute("NumberOfPatientRelatedStudies", "IS", matched=False),
        Attribute("NumberOfPatientRelatedSeries", "IS", matched=False),
        Attribute("NumberOfPatientRelatedInstances", "IS", matched=False),
    ),
    Level.STUDY: (
        Attribute("StudyDate", "DA", _R),
        Attribute("StudyTime", "TM", _R),
        Attribute("AccessionNumber", "SH", _R),
        Attribute("StudyID", "SH", _R),
        Attribute("StudyInstanceUID", "UI", _U),
        Attribute("ModalitiesInStudy", "CS"),
        Attribute("StudyDescription", "LO"),
        Attribute("ReferringPhysicianName", "PN"),
        Attribute("NumberOfStudyRelatedSeries", "IS", matched=False),
        Attribute("NumberOfStudyRelatedInstances", "IS", matched=False),
    ),
    Level.SERIES: (
        Attribute("Modality", "CS", _R),
        Attribute("SeriesNumber", "IS", _R),
        Attribute("SeriesInstanceUID", "UI", _U),
        Attribute("SeriesDescription", "LO"),
        Attribute("SeriesDate", "DA"),
        Attribute("SeriesTime", "TM"),
        Attribute("BodyPartExamined", "CS"),
        Attribute("Laterality", "CS"),
        Attribute("ProtocolName", "LO"),
        Attribute("Manufacturer", "LO"),
        Attribute("ManufacturerModelName", "LO"),
        Attribute("StationName", "SH"),
        Attribute("InstitutionName", "LO"),
        Attribute("PerformedProcedureStepID", "SH"),
        Attribute("PerformedProcedureStepStartDate", "DA"),
        Attribute("PerformedProcedureStepStartTime", "TM"),
        Attribute("PerformingPhysicianName", "PN"),
        Attribute("OperatorsName", "PN"),
        Attribute("NumberOfSeriesRelatedInstances", "IS", matched=False),
    ),
    Level.IMAGE: (
        Attribute("InstanceNumber", "IS", _R),
        Attribute("SOPInstanceUID", "UI", _U),
        Attribute("SOPClassUID", "UI"),
    ),
}
# Told at every level from STUDY on.
ANY_LEVEL = (
    Attribute("RetrieveAETitle", "AE", matched=False),
    Attribute("InstanceAvailability", "CS", matched=False),
)
# What only series of images have, in the attributes that the ledger keeps of them as they came.
KEPT_OF_SERIES = frozenset(
    attribute.keyword
    for attribute in QUERY_RETRIEVE[Level.SERIES]
    if attribute.matched
    and attribute.keyword
    not in {"Modality", "SeriesNumber", "SeriesInstanceUID", "SeriesDescription"}
)

WORKLIST: tuple[Attribute, ...] = (
    Attribute("PatientName", "PN", _R),
    Attribute("PatientID", "LO", _R),
    Attribute("IssuerOfPatientID", "LO"),
    Attribute("PatientBirthDate", "DA"),
    Attribute("PatientSex", "CS"),
    Attribute("AccessionNumber", "SH"),
    Attribute("ReferringPhysicianName", "PN"),
    Attribute("StudyInstanceUID", "UI"),
    Attribute("StudyDate", "DA"),
    Attribute("StudyTime", "TM"),
    Attribute("StudyDescription", "LO"),
    Attribute("RequestedProcedureID", "SH"),
    Attribute("RequestedProcedureDescription", "LO"),
    Attribute("RequestedProcedurePriority", "SH", matched=False),
    Attribute("ScheduledStationAETitle", "AE", _R, step=True),
    Attribute("ScheduledProcedureStepStartDate", "DA", _R, step=True),
    Attribute("ScheduledProcedureStepStartTime", "TM", _R, step=True),
    Attribute("Modality", "CS", _R, step=True),
    Attribute("ScheduledPerformingPhysicianName", "PN", _R, matched=False, step=True),
    Attribute("ScheduledProcedureStepDescription", "LO", step=True),
    Attribute("ScheduledStationName", "SH", matched=False, step=True),
    Attribute("ScheduledProcedureStepLocation", "SH", matched=False, step=True),
    Attribute("ScheduledProcedureStepID", "SH", step=True),
    Attribute("ScheduledProcedureStepStatus", "CS", step=True),
    # Return keys of type 2 that a step of ours has no value for.
    *(
        Attribute(keyword, vr, matched=False)
        for keyword, vr in (
            ("ReferencedStudySequence", "SQ"),
            ("ReferencedPatientSequence", "SQ"),
            ("RequestedProcedureCodeSequence", "SQ"),
            ("RequestingPhysician", "PN"),
            ("AdmissionID", "LO"),
            ("CurrentPatientLocation", "LO"),
            ("PatientWeight", "DS"),
            ("ConfidentialityConstraintOnPatientDataDescription", "LO"),
            ("PatientState", "LO"),
            ("PregnancyStatus", "US"),
            ("MedicalAlerts", "LO"),
            ("Allergies", "LO"),
            ("SpecialNeeds", "LO"),
            ("PatientTransportArrangements", "LO"),
        )
    ),
    Attribute("PreMedication", "LO", matched=False, step=True),
    Attribute("ScheduledProtocolCodeSequence", "SQ", matched=False, step=True),
)


def known_at(level: Level) -> dict[str, Attribute]:
    """The keys that are known at a level, those of the levels above included."""
    levels = tuple(Level)
    upper = levels[: levels.index(level) + 1]
    counts = {f"NumberOf{name}Related{what}" for name in ("Patient", "Study") for what in _COUNTED}
    known = {
        attribute.keyword: attribute
        for one in upper
        for attribute in QUERY_RETRIEVE[one]
        if one is level or attribute.keyword not in counts
    }
    if level is not Level.PATIENT:
        known |= {attribute.keyword: attribute for attribute in ANY_LEVEL}
    return known


_COUNTED = ("Studies", "Series", "Instances")

UNIQUE_KEYS: dict[Level, str] = {
    level: next(item.keyword for item in attributes if item.usage is Usage.UNIQUE)
    for level, attributes in QUERY_RETRIEVE.items()
}
