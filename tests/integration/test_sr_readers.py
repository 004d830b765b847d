"""Reports as other people's programs read them: dciodvfy, dcmqi, DCMTK, highdicom."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import srread
from pydicom.sr.codedict import codes

from core.alternatives import ALTERNATIVES, COMPREHENSIVE_3D_SR
from core.domain import Result, ResultKind
from core.identifiers import derived_uid
from tests.support.reports import (
    PROVENANCE,
    absent,
    analysed,
    classified,
    enhanced,
    in_image,
    key_image,
    lesion,
    loop,
    segmentations,
    volume,
)
from workers.results.encode import to_bytes
from workers.results.lesser import labelmap_to_binary, lesser_sr
from workers.results.sr import build_sr

LOOP = loop(3, laterality="L")
EARLIER = Result(ResultKind.SR, "k", "d", 1, COMPREHENSIVE_3D_SR, "1.2.3.4", "1.2.3")
REMARK = "21 of 22 images were analysed."
CASES = {
    "volume": (analysed([volume()], [lesion(1), lesion(2)], remarks=(REMARK,)), PROVENANCE),
    "absent": (
        analysed([volume()], [absent()]),
        replace(PROVENANCE, revision=2, earlier=(EARLIER,)),
    ),
    "images": (analysed([LOOP], [in_image(1, 0), in_image(2, 2)]), PROVENANCE),
    "classes": (
        analysed(
            [LOOP],
            [classified(1, True, 0.93, key_image=key_image(LOOP, 1)), classified(2, False, 0.03)],
        ),
        PROVENANCE,
    ),
    "parts": (
        analysed([volume(), LOOP], [lesion(1), in_image(2, 1, part=1, segment=1)]),
        PROVENANCE,
    ),
    "enhanced": (analysed([enhanced(4, 9)], [absent()]), PROVENANCE),
    "korean": (
        analysed(
            [
                volume(
                    PatientName="Hong^Gildong=洪^吉洞=홍^길동",
                    SpecificCharacterSet=["", "ISO 2022 IR 149"],
                )
            ],
            [lesion(1, label="Läsion 1")],
        ),
        PROVENANCE,
    ),
}
NAMES = list(CASES)


def program(name):
    """The path of a program; a missing one skips here and fails in CI."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        reason = f"{name} is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def run(name, *args):
    """Exit status, standard output and error together."""
    done = subprocess.run(
        [program(name), *map(str, args)],
        capture_output=True,
        text=True,
        errors="replace",  # names are printed as they are encoded
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    for name, (analysis, provenance) in CASES.items():
        report = build_sr(analysis, segmentations(analysis), provenance)
        (folder / f"{name}.dcm").write_bytes(to_bytes(report))
    return folder


@pytest.fixture(scope="module")
def lesser(folder):
    """Each report in each lesser class."""
    made = folder / "lesser"
    made.mkdir()
    for name in NAMES:
        report = pydicom.dcmread(folder / f"{name}.dcm")
        for number, uid in enumerate(ALTERNATIVES[COMPREHENSIVE_3D_SR]):
            path = made / f"{name}-{number}.dcm"
            path.write_bytes(to_bytes(lesser_sr(report, uid)))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_dciodvfy_finds_no_error(folder, name):
    _, said = run("dciodvfy", "-new", folder / f"{name}.dcm")
    assert "Comprehensive3DSR" in said
    assert "Error" not in said


def test_dciodvfy_finds_no_error_in_lesser_reports(lesser):
    paths = sorted(lesser.glob("*.dcm"))
    assert len(paths) == 3 * len(NAMES)
    for path in paths:
        _, said = run("dciodvfy", "-new", path)
        assert "Error" not in said, f"{path.name}: {said}"


def test_dcmtk_reads_all_without_a_word_of_warning(folder, lesser):
    for path in (*folder.glob("*.dcm"), *lesser.glob("*.dcm")):
        status, said = run("dsrdump", path)
        assert status == 0, f"{path.name}: {said}"
        told = [line for line in said.splitlines() if line.startswith(("W:", "E:"))]
        # it can not read Korean, which is not the report's fault
        assert not [line for line in told if "Specific" not in line]
        assert "Imaging Measurement Report" in said


@pytest.mark.parametrize("name", NAMES)
def test_tid1500reader_reads_the_findings(folder, tmp_path, name):
    out = tmp_path / "m.json"
    status, said = run(
        "tid1500reader", "--inputDICOM", folder / f"{name}.dcm", "--outputMetadata", out
    )
    assert status == 0, said
    groups = json.loads(out.read_text())["Measurements"]
    findings = CASES[name][0].findings
    assert {group["TrackingUniqueIdentifier"] for group in groups} == {
        finding.tracking_uid for finding in findings
    }
    by_uid = {finding.tracking_uid: finding for finding in findings}
    for group in groups:
        finding = by_uid[group["TrackingUniqueIdentifier"]]
        if "ReferencedSegment" in group:
            assert group["ReferencedSegment"] == finding.segment
        items = group.get("measurementItems") or []
        read = {item["quantity"]["CodeValue"]: item for item in items}
        for measured in finding.measurements:
            item = read[measured.concept.value]
            assert float(item["value"]) == pytest.approx(measured.value, rel=1e-5)
            assert item["units"]["CodeValue"] == measured.unit.value


@pytest.mark.parametrize("name", NAMES)
def test_highdicom_reads_the_groups_by_their_templates(folder, name):
    content = srread(folder / f"{name}.dcm").content
    planar = content.get_planar_roi_measurement_groups()
    volumes = content.get_volumetric_roi_measurement_groups()
    others = content.get_image_measurement_groups()
    findings = CASES[name][0].findings
    assert {group.tracking_uid for group in (*planar, *volumes, *others)} == {
        finding.tracking_uid for finding in findings
    }
    in_space = [finding for finding in findings if finding.segment and finding.space == "patient"]
    assert len(volumes) == len(in_space)
    assert len(planar) + len(volumes) == len(CASES[name][0].lesions)
    for group in volumes:
        assert group.referenced_segment.referenced_segment_numbers
    for group in planar:
        assert group.referenced_segmentation_frame.source_image_for_segmentation


def test_a_label_map_as_bits_is_valid_and_readable(tmp_path):
    labels = np.zeros((4, 24, 32), np.uint8)
    labels[1:3, 3:9, 4:9] = 1
    labels[2:4, 12:19, 14:19] = 2
    algorithm = AlgorithmIdentificationSequence(
        name="tests", family=codes.cid7162.ArtificialIntelligence, version="1"
    )
    seg = Segmentation(
        source_images=list(volume().datasets),
        pixel_array=labels,
        segmentation_type="LABELMAP",
        segment_descriptions=[
            SegmentDescription(
                number,
                f"lesion {number}",
                codes.SCT.MorphologicallyAbnormalStructure,
                codes.SCT.Lesion,
                "AUTOMATIC",
                algorithm,
                tracking_uid=derived_uid("lesion", str(number)),
                tracking_id=f"lesion {number}",
            )
            for number in (1, 2)
        ],
        series_instance_uid=derived_uid("SEG", "series"),
        series_number=1001,
        sop_instance_uid=derived_uid("SEG", "labels"),
        instance_number=1,
        manufacturer="tests",
        manufacturer_model_name="tests",
        software_versions="1",
        device_serial_number="1",
    )
    path = tmp_path / "bits.dcm"
    path.write_bytes(to_bytes(labelmap_to_binary(seg)))
    _, said = run("dciodvfy", "-new", path)
    assert "Error" not in said
    status, said = run(
        "segimage2itkimage", "--inputDICOM", path, "--outputDirectory", tmp_path, "-t", "nrrd"
    )
    assert status == 0, said
    assert (tmp_path / "2.nrrd").exists()
    again = pydicom.dcmread(path)
    assert int(again.pixel_array.sum()) == np.count_nonzero(labels)
