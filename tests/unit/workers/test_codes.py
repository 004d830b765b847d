"""Codes that the source brings."""

import pytest
from pydicom.dataset import Dataset

from workers.results.codes import procedure_codes, procedure_reported


def item(**changes):
    made = Dataset()
    made.CodeValue = "P1"
    made.CodingSchemeDesignator = "99HOSPITAL"
    made.CodeMeaning = "MR Kopf"
    for keyword, value in changes.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


@pytest.mark.filterwarnings("ignore:.*exceeds the maximum length")
@pytest.mark.parametrize(
    "changes",
    [
        {"CodeMeaning": None},
        {"CodingSchemeDesignator": None},
        {"CodeValue": "1" * 17},
        {"CodeMeaning": "x" * 65},
        {"CodeMeaning": "a\nb"},
    ],
)
def test_a_code_that_is_not_whole_is_left_out(changes):
    source = Dataset()
    source.Modality = "MR"
    source.ProcedureCodeSequence = [item(**changes), item(), Dataset()]
    assert [code.CodeMeaning for code in procedure_codes(source)] == ["MR Kopf"]
    assert procedure_reported(source).meaning == "MR Kopf"
