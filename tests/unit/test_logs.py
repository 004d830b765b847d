"""Logs: one line an event, identifiers bound, and never whose the images are."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from core import logs
from core.domain import IDENTITY_KEYWORDS
from core.settings import LogSettings

SECRET = "Mustermann^Erika"
# Whose the image is, as this project and the standard (PS3.3 C.7.1.1, C.2.2) call it.
KEYS = [
    *(keyword for keyword in IDENTITY_KEYWORDS if keyword != "StudyInstanceUID"),
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientBirthTime",
    "PatientAddress",
    "PatientMotherBirthName",
    "patient_id",
    "patient_name",
    "patient_birth_date",
    "birth_date",
    "accession_number",
    "issuer_of_patient_id",
    "patient",
    "PATIENT_NAME",
    "patientname",
]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Any:
    logs.configure(LogSettings(json_lines=True), "scp")

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    return read


def test_an_event_is_a_line_with_its_fields(lines: Any) -> None:
    structlog.get_logger().info("instance_spooled", sop_instance_uid="1.2.3", size=5)
    (line,) = lines()
    assert line["event"] == "instance_spooled"
    assert line["sop_instance_uid"] == "1.2.3"
    assert line["role"] == "scp"
    assert line["level"] == "info"
    assert line["timestamp"].endswith("Z")


def test_no_identity_passes_under_any_of_its_names(lines: Any) -> None:
    log = structlog.get_logger()
    for key in KEYS:
        log.warning("careless", **{key: SECRET})
        log.bind(**{key: SECRET}).warning("bound")
        log.warning("nested", study={"series": [{key: SECRET}]})
    with structlog.contextvars.bound_contextvars(**dict.fromkeys(KEYS, SECRET)):
        log.warning("in_context")
    told = lines()
    assert len(told) == 3 * len(KEYS) + 1
    assert SECRET not in json.dumps(told)


def test_a_data_set_is_never_printed(lines: Any) -> None:
    dataset = Dataset()
    dataset.PatientName = SECRET
    log = structlog.get_logger()
    log.warning("careless", dataset=dataset, element=dataset["PatientName"], items=[dataset])
    assert SECRET not in json.dumps(lines())


def test_a_peer_and_its_name_are_told(lines: Any) -> None:
    structlog.get_logger().info("object_sent", destination="pacs", peer="PACS@h:1", model="m")
    (line,) = lines()
    assert (line["destination"], line["peer"], line["model"]) == ("pacs", "PACS@h:1", "m")


@given(st.dictionaries(st.text("abcPatientNameID_", max_size=14), st.text(max_size=5), max_size=4))
def test_whatever_the_fields_are_called_the_line_is_one_of_json(fields: dict[str, str]) -> None:
    event = logs._no_identity(None, "info", {"event": "e", "level": "info", **fields})
    assert json.loads(json.dumps(event))["event"] is not None
    assert set(event) == {"event", "level", *fields}


def test_libraries_that_quote_attributes_are_silent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(LogSettings(level="debug"))
    for name in ("pynetdicom.acse", "pydicom", "highdicom.seg"):
        logging.getLogger(name).error("value %s", SECRET)
    assert SECRET not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("level", "told"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)]
)
def test_the_least_level_is_kept(capsys: pytest.CaptureFixture[str], level: Any, told: int) -> None:
    logs.configure(LogSettings(level=level, json_lines=True))
    log = structlog.get_logger()
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("e")
    assert len(capsys.readouterr().err.splitlines()) == told


def test_a_role_forgets_what_another_bound(lines: Any) -> None:
    structlog.contextvars.bind_contextvars(job="1")
    logs.configure(LogSettings(json_lines=True), "send")
    structlog.get_logger().info("e")
    (line,) = lines()
    assert line["role"] == "send"
    assert "job" not in line
