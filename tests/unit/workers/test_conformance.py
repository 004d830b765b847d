"""Which of dciodvfy's errors count against us."""

import pytest

from core.errors import ResultError
from workers.results import conformance

LINE = "Error - </{}> - {}"


def said(*lines):
    return conformance._errors("SEG", "\n".join(("Segmentation", "Warning - x", *lines)))


def test_errors_count_and_warnings_do_not():
    assert said(LINE.format("Rows(0028,0010)", "Missing attribute")) == [
        "</Rows(0028,0010)> - Missing attribute"
    ]
    assert said() == []


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("PatientBirthDate(0010,0030)[1]", "Value invalid for this VR [DA] = <19990231>"),
        (
            "RequestAttributesSequence(0040,0275)[1]/ScheduledProcedureStepID(0040,0009)[1]",
            "Value invalid for this VR [SH] = <Miller>",
        ),
        (
            "A(5200,9230)[1]/ReferencedSOPInstanceUID(0008,1155)",
            "Illegal root for UID uses non-existent ISO arc = <999.1>",
        ),
        ("A(5200,9229)[1]/ImageOrientationPatient(0020,0037)", "Orientation vector is not unit"),
        (
            "S(0008,2112)[1]/ReferencedFrameNumber(0008,1160)",
            "Shall not be present for Referenced SOP Class that is not multi-frame",
        ),
    ],
)
def test_what_the_source_brought_does_not_count(path, fault):
    assert said(LINE.format(path, fault)) == []


def test_a_value_is_never_repeated():
    (fault,) = said(LINE.format("Rows(0028,0010)", "bad = <Miller^Anna> here"))
    assert "Miller" not in fault


def test_missing_references_are_ours():
    assert said(LINE.format("ReferencedSOPInstanceUID(0008,1155)", "Missing attribute"))


def test_without_the_program_nothing_is_said(monkeypatch):
    monkeypatch.setattr(conformance, "_program", lambda: None)
    assert conformance.errors_of({"SEG": b"x"}) == {}


def test_a_program_that_hangs_is_ended(monkeypatch, tmp_path):
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(conformance, "_program", lambda: str(slow))
    monkeypatch.setattr(conformance, "_PATIENCE_SECONDS", 0.2)
    with pytest.raises(ResultError, match="did not judge"):
        conformance.errors_of({"SEG": b"x", "SR": b"y"})
