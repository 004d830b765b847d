"""What the ledger keeps of a study for queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.ledger.queries.folding import name_groups, plain_date, plain_time

_NAME_LENGTH = 330


def study_columns(patient_name: str, attributes: Mapping[str, Any]) -> dict[str, str]:
    """Columns of a study, from the short attributes of one of its images by keyword."""
    alphabetic, ideographic, phonetic = name_groups(patient_name)
    referring = _text(attributes, "ReferringPhysicianName")
    return {
        "study_date": plain_date(_text(attributes, "StudyDate"))[:18],
        "study_time": plain_time(_text(attributes, "StudyTime"))[:16],
        "study_id": _text(attributes, "StudyID")[:64],
        "patient_sex": _text(attributes, "PatientSex")[:16],
        "referring_physician": referring[:_NAME_LENGTH],
        "referring_key": "=".join(name_groups(referring)).rstrip("=")[:_NAME_LENGTH],
        "procedure_id": _text(attributes, "RequestedProcedureID")[:64],
        "procedure": _text(attributes, "RequestedProcedureDescription")[:64],
        "name_alphabetic": alphabetic[:_NAME_LENGTH],
        "name_ideographic": ideographic[:_NAME_LENGTH],
        "name_phonetic": phonetic[:_NAME_LENGTH],
    }


def _text(attributes: Mapping[str, Any], keyword: str) -> str:
    value = attributes.get(keyword, "")
    return "\\".join(map(str, value)) if isinstance(value, list) else str(value)
