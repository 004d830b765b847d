"""Key Objects: what is worth a look, and what is void."""

from __future__ import annotations

import io
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from support.analyses import PROVENANCE, analysed, classified, header, images, lesions, volume
from support.peers import require_program

from core.domain import FOR_PAGES, IDENTITY_KEYWORDS, KeyImage, Result, ResultKind
from core.errors import ResultError
from workers.results.encode import to_bytes
from workers.results.keyobject import build_key_object, build_rejection

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
SEG, REPORT = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"
CLASSES = {
    ResultKind.SEG: SEG,
    ResultKind.SR: REPORT,
    ResultKind.SC: "1.2.840.10008.5.1.4.1.1.7.4",
    ResultKind.KO: "1.2.840.10008.5.1.4.1.1.88.59",
    ResultKind.REJECTION: "1.2.840.10008.5.1.4.1.1.88.59",
    ResultKind.PICTURE: "",
    ResultKind.HEAT: "",
}


def two_lesions(**options: Any) -> Any:
    boxes = [(slice(z, z + 2), slice(20, 30), slice(20, 30)) for z in (6, 2)]
    return analysed(lesions(volume(**options), boxes))


def earlier(*kinds: ResultKind) -> tuple[Result, ...]:
    return tuple(
        Result(kind, "key", "digest", 1, CLASSES[kind], f"1.2.9.{number}", f"1.2.8.{number}")
        if kind not in FOR_PAGES
        else Result(kind, "key", "digest", 1)
        for number, kind in enumerate(kinds, start=1)
    )


def results() -> list[Dataset]:
    return [
        header(91, SOPClassUID=SEG, SeriesInstanceUID="1.2.8.1"),
        header(92, SOPClassUID=REPORT, SeriesInstanceUID="1.2.8.2"),
    ]


def content(made: Dataset) -> list[tuple[str, str, str, Any]]:
    """Value type, class, instance and frames of everything that is referred to."""
    return [
        (
            item.ValueType,
            item.ReferencedSOPSequence[0].ReferencedSOPClassUID,
            item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID,
            item.ReferencedSOPSequence[0].get("ReferencedFrameNumber"),
        )
        for item in made.ContentSequence
        if "ReferencedSOPSequence" in item
    ]


def evidence(made: Dataset) -> dict[str, str]:
    """Instance → series of the evidence, all in one study."""
    (study,) = made.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == made.StudyInstanceUID
    return {
        instance.ReferencedSOPInstanceUID: series.SeriesInstanceUID
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }


def description(made: Dataset) -> str:
    (text,) = (
        item.TextValue
        for item in made.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "113012"
    )
    return str(text)


def errors(made: Dataset, folder: Path) -> list[str]:
    path = folder / "ko.dcm"
    path.write_bytes(to_bytes(made))
    program = require_program("dciodvfy", str(Path(pydicom.__file__).parents[4] / "bin"))
    done = subprocess.run([program, "-new", path], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def order(item: Dataset) -> None:
    item.RequestAttributesSequence = Sequence([Dataset()])
    item.RequestAttributesSequence[0].RequestedProcedureID = "RP-1"
    item.RequestAttributesSequence[0].ScheduledProcedureStepID = "SPS-1"


@pytest.mark.parametrize("with_order", [True, False])
@pytest.mark.parametrize("multi_frame", [True, False])
def test_dciodvfy_finds_no_error(tmp_path: Path, multi_frame: bool, with_order: bool) -> None:
    analysis = two_lesions(multi_frame=multi_frame, AccessionNumber=None, PatientSex=None)
    if with_order:
        order(analysis.source)
    made = build_key_object(analysis, PROVENANCE, results())
    assert errors(made, tmp_path) == []
    assert ("ReferencedRequestSequence" in made) == with_order
    old = replace(PROVENANCE, revision=2, earlier=earlier(*ResultKind))
    rejection = build_rejection(old, analysis.source)
    assert rejection is not None
    assert errors(rejection, tmp_path) == []


def test_the_key_images_are_named_in_the_order_of_the_findings() -> None:
    made = build_key_object(two_lesions(), PROVENANCE, results())
    title = made.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("113000", "DCM")
    assert content(made) == [
        ("IMAGE", CT, "1.2.3.4.8", None),
        ("IMAGE", CT, "1.2.3.4.4", None),
        ("COMPOSITE", REPORT, "1.2.3.4.92", None),
    ]
    assert evidence(made) == {
        "1.2.3.4.8": "1.2.3.4",
        "1.2.3.4.4": "1.2.3.4",
        "1.2.3.4.92": "1.2.8.2",
    }
    assert "Lesion 1, Lesion 2" in description(made)
    assert made.SeriesNumber == 1004


def test_frames_of_one_instance_are_named_together() -> None:
    made = build_key_object(two_lesions(multi_frame=True), PROVENANCE, [])
    assert content(made) == [("IMAGE", ENHANCED_CT, "1.2.3.4.1", [4, 8])]


def test_only_classes_that_are_present_have_key_images() -> None:
    made = build_key_object(classified(images((3, 20, 20)), 1), PROVENANCE, [])
    assert [item[2] for item in content(made)] == ["1.2.3.4.2"]
    assert "Pneumonia" in description(made)
    assert "Effusion" not in description(made)


def test_without_a_key_image_there_is_none() -> None:
    with pytest.raises(ResultError, match="nothing was found"):
        build_key_object(classified(images(), present=False), PROVENANCE, [])
    analysis = two_lesions()
    strange = replace(analysis.findings[0], key_image=KeyImage("9.9", None, 0))
    with pytest.raises(ResultError, match="not analysed"):
        build_key_object(replace(analysis, findings=(strange,)), PROVENANCE, [])


def test_a_rejection_names_all_earlier_objects_but_pictures_and_rejections() -> None:
    provenance = replace(PROVENANCE, revision=2, earlier=earlier(*ResultKind))
    made = build_rejection(provenance, header())
    assert made is not None
    title = made.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("113001", "DCM")
    assert [(kind, instance) for kind, _, instance, _ in content(made)] == [
        ("IMAGE", "1.2.9.1"),
        ("COMPOSITE", "1.2.9.2"),
        ("IMAGE", "1.2.9.3"),
        ("COMPOSITE", "1.2.9.4"),
    ]
    assert evidence(made) == {f"1.2.9.{number}": f"1.2.8.{number}" for number in range(1, 5)}
    assert "revision 2" in description(made)
    assert made.SeriesNumber == 1005


@pytest.mark.parametrize(
    "kinds", [(), (ResultKind.PICTURE,), (ResultKind.PICTURE, ResultKind.REJECTION)]
)
def test_nothing_earlier_is_not_rejected(kinds: tuple[ResultKind, ...]) -> None:
    assert build_rejection(replace(PROVENANCE, earlier=earlier(*kinds)), header()) is None


def test_both_are_signed_and_the_same_on_a_retry() -> None:
    analysis = two_lesions()
    provenance = replace(PROVENANCE, revision=2, earlier=earlier(ResultKind.SEG))

    def both() -> list[Dataset]:
        rejection = build_rejection(provenance, analysis.source)
        assert rejection is not None
        return [build_key_object(analysis, provenance, results()), rejection]

    first, second = ([to_bytes(made) for made in both()] for _ in range(2))
    assert first == second
    read = [pydicom.dcmread(io.BytesIO(data)) for data in first]
    assert len({made.SOPInstanceUID for made in read}) == 2
    assert len({made.SeriesInstanceUID for made in read}) == 2
    for made in read:
        for keyword in IDENTITY_KEYWORDS:
            assert made.get(keyword) == analysis.source.get(keyword)
        assert made.Modality == "KO"
        assert made.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[
            0
        ].CodeValue == ("109102")
        assert made.ContentDate == "20250304"
