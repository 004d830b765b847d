"""Lines of an answer to a query, in the DICOM JSON Model (PS3.18 Annex F, 10.6.3.3)."""

from __future__ import annotations

import math
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

from core.domain import Study
from core.ledger.holdings import Holding, SeriesHeld, StudyHeld
from node.web.dicomweb.media import PREFIX

_PERSON = ("Alphabetic", "Ideographic", "Phonetic")
# PS3.18 Tables 10.6.3-3 to 10.6.3-5: what is always in an answer; the rest where it is asked for.
_ALWAYS = {
    "study": (
        "SpecificCharacterSet",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "InstanceAvailability",
        "ModalitiesInStudy",
        "ReferringPhysicianName",
        "TimezoneOffsetFromUTC",
        "RetrieveURL",
        "StudyDescription",
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyID",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
    ),
    "series": (
        "Modality",
        "TimezoneOffsetFromUTC",
        "SeriesDescription",
        "RetrieveURL",
        "SeriesInstanceUID",
        "SeriesNumber",
        "SeriesDate",
        "SeriesTime",
        "NumberOfSeriesRelatedInstances",
        "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime",
    ),
    "instance": (
        "SOPClassUID",
        "SOPInstanceUID",
        "InstanceAvailability",
        "TimezoneOffsetFromUTC",
        "RetrieveURL",
        "InstanceNumber",
        "Rows",
        "Columns",
        "BitsAllocated",
        "NumberOfFrames",
    ),
}
# Of a study's first image these speak of the study (PS3.3 C.7.1.1, C.7.2.1).
_OF_STUDY = ("StudyTime", "StudyID", "ReferringPhysicianName", "PatientSex", "PatientAge")


def of_study(held: StudyHeld, base: str) -> dict[str, Any]:
    """A study."""
    study = held.study
    modalities = {item.modality for item in held.series if item.modality}
    first = held.series[0].attributes if held.series else {}
    ours = {item.series_instance_uid for item in held.results}
    known = {item.series_instance_uid for item in held.series}
    values = {keyword: first.get(keyword, "") for keyword in _OF_STUDY}
    values |= {
        "StudyInstanceUID": study.study_instance_uid,
        "StudyDate": study.study_date,
        "AccessionNumber": study.accession_number,
        "StudyDescription": study.description,
        "PatientName": study.patient_name,
        "PatientID": study.patient_id,
        "PatientBirthDate": held.birth_date,
        "IssuerOfPatientID": held.issuer,
        "InstanceAvailability": "ONLINE",
        "ModalitiesInStudy": sorted(modalities | _modalities_of(held.results)),
        "NumberOfStudyRelatedSeries": len(known | ours),
        "NumberOfStudyRelatedInstances": sum(item.instances for item in held.series)
        + len(held.results),
        "RetrieveURL": f"{base}{PREFIX}/studies/{study.study_instance_uid}",
    }
    return to_json(values)


def of_series(study: Study, series: SeriesHeld, base: str) -> dict[str, Any]:
    """A series."""
    values = dict(series.attributes) | {
        "Modality": series.modality,
        "SeriesDescription": series.description,
        "SeriesNumber": series.number,
        "SeriesInstanceUID": series.series_instance_uid,
        "StudyInstanceUID": study.study_instance_uid,
        "NumberOfSeriesRelatedInstances": series.instances,
        "RetrieveURL": f"{base}{PREFIX}/studies/{study.study_instance_uid}/series/"
        f"{series.series_instance_uid}",
    }
    return to_json(values)


def of_instance(holding: Holding, header: dict[str, Any], base: str) -> dict[str, Any]:
    """An instance, with what its header says."""
    values = header | {
        "SOPClassUID": holding.sop_class_uid,
        "SOPInstanceUID": holding.sop_instance_uid,
        "SeriesInstanceUID": holding.series_instance_uid,
        "StudyInstanceUID": holding.study_instance_uid,
        "InstanceAvailability": "ONLINE",
        "RetrieveURL": f"{base}{PREFIX}/studies/{holding.study_instance_uid}/series/"
        f"{holding.series_instance_uid}/instances/{holding.sop_instance_uid}",
    }
    return to_json(values)


def only(
    line: dict[str, Any], fields: set[str], levels: tuple[str, ...], *, everything: bool
) -> dict[str, Any]:
    """A line with what is always in an answer of these levels, and with `fields`."""
    if everything:
        return line
    wanted = {name for level in levels for name in _ALWAYS[level]}
    wanted |= fields | {"StudyInstanceUID", "SeriesInstanceUID"}
    tags = {f"{tag:08X}" for name in wanted if (tag := tag_for_keyword(name)) is not None}
    return {key: value for key, value in line.items() if key in tags}


def to_json(values: dict[str, Any]) -> dict[str, Any]:
    """Values by keyword in the DICOM JSON Model, in the order of their tags."""
    made: dict[str, Any] = {}
    for keyword, value in values.items():
        tag = tag_for_keyword(keyword)
        if tag is None:
            continue
        vr = dictionary_VR(tag).partition(" ")[0]
        items = value if isinstance(value, list) else [value]
        shown = [
            item
            for item in (_value(vr, one) for one in items if one is not None and one != "")
            if item is not None
        ]
        made[f"{tag:08X}"] = {"vr": vr, "Value": shown} if shown else {"vr": vr}
    return dict(sorted(made.items()))


def _value(vr: str, value: Any) -> Any:
    if vr == "PN":
        groups = str(value).split("=")
        return {name: group for name, group in zip(_PERSON, groups, strict=False) if group}
    if vr in {"IS", "US", "UL", "SS", "SL", "UV", "SV"}:
        try:
            return int(value)
        except (ValueError, TypeError, OverflowError):
            return None
    if vr in {"DS", "FL", "FD"}:
        try:
            number = float(value)
        except (ValueError, TypeError):
            return None
        return number if math.isfinite(number) else None
    return str(value)


def _modalities_of(results: tuple[Holding, ...]) -> set[str]:
    found = set()
    for item in results:
        uid = item.sop_class_uid
        if uid.startswith("1.2.840.10008.5.1.4.1.1.66"):
            found.add("SEG")
        elif uid == "1.2.840.10008.5.1.4.1.1.88.59":
            found.add("KO")
        elif uid.startswith("1.2.840.10008.5.1.4.1.1.88"):
            found.add("SR")
        else:
            found.add("OT")
    return found
