"""Who made a result, when, and from whose images: the attributes that every object shares.

Nothing here asks for the time or for a new UID: the same job makes the same bytes again.
"""

from __future__ import annotations

import contextlib
import re
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from highdicom import AlgorithmIdentificationSequence, ContributingEquipment
from highdicom.sr import (
    AlgorithmIdentification,
    DeviceObserverIdentifyingAttributes,
    ObserverContext,
)
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from core.domain import Result
from core.equipment import MANUFACTURER, MODEL_NAME
from core.identifiers import UID, derived_uid
from core.modelspec import ModelSpec
from workers.results.charset import CharacterSet
from workers.results.codes import DEVICE, PROCESSING_EQUIPMENT, concept

NOTICE = "AI result. Not for clinical use without validation and review."
SEG_SERIES_NUMBER = 1001
SR_SERIES_NUMBER = 1002

_MOST_OFFSET = timedelta(hours=14)  # PS3.3 C.12.1.1.8
_LONG_STRING = 64  # PS3.5 Table 6.2-1, VR LO

# Type 2 attributes of Patient and General Study: present, if empty (PS3.3 C.7.1.1, C.7.2.1).
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
# What else says whose study it is; copied when the source has it.
COPIED = (
    *_TYPE_2,
    "StudyInstanceUID",
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    "StudyDescription",
    "ProcedureCodeSequence",
    "ConsultingPhysicianName",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "IssuerOfAccessionNumberSequence",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientComments",
    "EthnicGroup",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ReferencedRequestSequence",
    "RequestAttributesSequence",
)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything that a job's objects say about their maker.

    Attributes:
        created_at: from the job's row; every date and time in the objects that is not the
            source's comes from it. Written in its own time zone, or in the source's where the
            source names one (0008,0201).
        device_serial_number: names this installation.
        device_uid: the device observer's UID; derived from the maker and serial number if empty.
        uid_root: the site's own UID root; UUID-derived UIDs ("2.25.") without.
        revision: 1 for the first analysis of these images by this route; counts up.
        earlier: the objects of the analysis before, which this one's succeed.
        void: the objects of all analyses before, for a rejection; those of `earlier` if empty.
    """

    job_id: str
    created_at: datetime
    spec: ModelSpec
    software_version: str
    manufacturer: str = MANUFACTURER
    manufacturer_model_name: str = MODEL_NAME
    device_serial_number: str = "1"
    device_uid: str = ""
    institution_name: str = ""
    uid_root: str = ""
    revision: int = 1
    earlier: tuple[Result, ...] = ()
    void: tuple[Result, ...] = ()

    def uid(self, *parts: str) -> UID:
        """A UID that follows from the job and `parts`."""
        return derived_uid(self.job_id, *parts, root=self.uid_root)

    @property
    def device(self) -> UID:
        """The device observer's UID, the same for every object of this installation."""
        if self.device_uid:
            return UID(self.device_uid)
        name = (self.manufacturer, self.manufacturer_model_name, self.device_serial_number)
        return derived_uid("device", *name, root=self.uid_root)

    @property
    def software_versions(self) -> tuple[str, str]:
        """Software Versions (0018,1020): ours, and the model's."""
        return self.software_version, f"{self.spec.name} {self.spec.version}"

    @property
    def description(self) -> str:
        """Series Description of what the job makes; a later analysis says which it is."""
        revision = f" (revision {self.revision})" if self.revision > 1 else ""
        return f"AI: {self.spec.title}"[: _LONG_STRING - len(revision)] + revision

    def algorithm(self) -> AlgorithmIdentificationSequence:
        """Algorithm identification of a segment (PS3.3 Table 10-19)."""
        return AlgorithmIdentificationSequence(
            name=self.spec.title[:_LONG_STRING],
            family=concept(self.spec.family),
            version=self.spec.version,
            source=self.manufacturer,
        )

    def algorithm_template(self) -> AlgorithmIdentification:
        """Algorithm identification of measurements (PS3.16 TID 4019)."""
        return AlgorithmIdentification(
            name=self.spec.title[:_LONG_STRING],
            version=self.spec.version,
            family=concept(self.spec.family),
            manufacturer=self.manufacturer,
        )


def observer_of(provenance: Provenance) -> ObserverContext:
    """Who observed: this device (PS3.16 TID 1004)."""
    return ObserverContext(
        observer_type=DEVICE,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=provenance.device,
            name=f"{provenance.manufacturer_model_name} {provenance.software_version}",
            manufacturer_name=provenance.manufacturer,
            model_name=provenance.manufacturer_model_name,
            serial_number=provenance.device_serial_number,
        ),
    )


def template_of(source: Dataset, step_mm: float) -> Dataset:
    """A shallow copy of `source` that highdicom accepts whatever the scanner left out or wrote.

    The real values are put in by `sign`; only image and series attributes are kept from here.
    """
    template = Dataset()
    for tag in source.keys():  # noqa: SIM118  iterating a data set would convert every element
        if tag.is_private or keyword_for_tag(tag) in COPIED:
            continue
        # A value that breaks its own representation must not cost the result.
        with contextlib.suppress(ValueError, TypeError, NotImplementedError):
            template[tag] = source[tag]
    for keyword in _TYPE_2:
        setattr(template, keyword, None)
    template.StudyInstanceUID = source.StudyInstanceUID
    if not template.get("SliceThickness"):
        template.SliceThickness = step_mm
    return template


def sign(made: Dataset, source: Dataset, provenance: Provenance) -> None:
    """Give `made` the source's patient and study unaltered, and our equipment and dates.

    Source: PS3.3 C.7.1 to C.7.3, C.7.5 (equipment), C.12.1.1.9 and IHE AIR (contributing
    equipment).
    """
    for keyword in COPIED:
        if keyword in source:
            made[keyword] = deepcopy(source[keyword])
        elif keyword in _TYPE_2:
            setattr(made, keyword, None)
        elif keyword in made:
            delattr(made, keyword)
    made.Manufacturer = provenance.manufacturer
    made.ManufacturerModelName = provenance.manufacturer_model_name
    made.DeviceSerialNumber = provenance.device_serial_number
    made.SoftwareVersions = list(provenance.software_versions)
    if provenance.institution_name:
        made.InstitutionName = provenance.institution_name
    made.SeriesDescription = provenance.description
    when = _local(provenance.created_at, source)
    for event in ("InstanceCreation", "Series", "Content"):
        setattr(made, f"{event}Date", f"{when:%Y%m%d}")
        setattr(made, f"{event}Time", f"{when:%H%M%S.%f}")
    made.ContributingEquipmentSequence = _equipment(source, provenance, when)
    _fold(made, source)


def _equipment(source: Dataset, provenance: Provenance, when: datetime) -> list[Dataset]:
    """The scanner, where it is named, and ourselves (PS3.3 Table C.12-1)."""
    ours = ContributingEquipment(
        manufacturer=provenance.manufacturer,
        purpose_of_reference=PROCESSING_EQUIPMENT,
        manufacturer_model_name=provenance.manufacturer_model_name,
        software_versions=provenance.software_versions,
        device_serial_number=provenance.device_serial_number,
        institution_name=provenance.institution_name or None,
        contribution_datetime=when,
        contribution_description=NOTICE,
    )
    ours.DeviceUID = provenance.device
    return [ours]


def _local(created_at: datetime, source: Dataset) -> datetime:
    """`created_at` in the time zone that the source's own dates and times are in, if named."""
    named = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", str(source.get("TimezoneOffsetFromUTC") or ""))
    if created_at.tzinfo is None or named is None:
        return created_at
    offset = timedelta(hours=int(named[2]), minutes=int(named[3]))
    if offset > _MOST_OFFSET:
        return created_at
    return created_at.astimezone(timezone(-offset if named[1] == "-" else offset))


def _fold(made: Dataset, source: Dataset) -> None:
    """Write our own words so that the source's character set can hold them.

    The object keeps the source's Specific Character Set, or the patient's name would change.
    """
    fold = CharacterSet.of(source).fold

    def visit(_: Dataset, element: Any) -> None:
        if element.keyword in COPIED or element.VR not in {"LO", "SH", "ST", "LT", "UT", "UC"}:
            return
        if isinstance(element.value, str):
            element.value = fold(element.value)
        elif element.VM > 1:
            element.value = [fold(str(value)) for value in element.value]

    for element in list(made):
        if element.keyword in COPIED:
            continue
        if element.VR == "SQ":
            for item in element.value:
                item.walk(visit)
        else:
            visit(made, element)
