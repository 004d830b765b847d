"""SEG and SR as other people's programs see them: validators and readers that we did not write."""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cli.phantom import write_phantom_study
from core.domain import IDENTITY_KEYWORDS
from core.errors import ResultError
from core.modelspec import ModelSpec
from workers.findings import find_lesions
from workers.results.encode import to_bytes
from workers.results.picture import build_picture
from workers.results.provenance import NOTICE, Provenance
from workers.results.seg import build_seg
from workers.results.sr import build_sr
from workers.results.verify import read_label_map, verify_results
from workers.volume import build_volume, read_series, to_axial

WHEN = datetime(2025, 3, 4, 23, 6, 7, tzinfo=UTC)
SMALL = {"slices": 10, "shape": (96, 80), "series": ("FLAIR",), "lesions": 2}
SPEC = ModelSpec(
    schema_version=1,
    name="brain-flair-lesion",
    version="1.2.3",
    title="FLAIR lesion – Läsion",
    intended_use="tests",
    licence="none",
    family={"value": "123110", "scheme": "DCM", "meaning": "Artificial Intelligence"},
    input={"modality": ("MR",)},
    network={"architecture": "none"},
    weights={"file": "w", "sha256": "0" * 64},
    output={
        "labels": [
            {
                "channel": 0,
                "name": "FLAIR abnormality",
                "category": {
                    "value": "49755003",
                    "scheme": "SCT",
                    "meaning": "Morphologically Abnormal Structure",
                },
                "type": {"value": "52988006", "scheme": "SCT", "meaning": "Lesion"},
                "site": {"value": "12738006", "scheme": "SCT", "meaning": "Brain"},
            }
        ]
    },
    training={"data": "none", "licence": "none", "config": "none"},
)
PROVENANCE = Provenance("job-1", WHEN, SPEC, "0.1.0", institution_name="Krankenhaus Süd")


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
    """Standard output and error together."""
    done = subprocess.run(
        [program(name), *map(str, args)], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


def make(study, probabilities=None, provenance=PROVENANCE, change=None):
    """Volume, findings, SEG bytes (or None) and SR bytes of a phantom study."""
    datasets = read_series(study.files("FLAIR"))
    for dataset in datasets:
        if change:
            change(dataset)
    volume = build_volume(datasets)
    if probabilities is None:
        probabilities = study.truth * np.float32(0.875)
    findings = find_lesions(
        probabilities[None], volume, provenance.spec, job_id=provenance.job_id, min_volume_ml=0.2
    )
    seg = build_seg(volume, findings, provenance) if findings.present else None
    sr = build_sr(volume, findings, seg, provenance)
    return volume, findings, None if seg is None else to_bytes(seg), to_bytes(sr)


@pytest.fixture(scope="module", params=["axial", "oblique"])
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    study = write_phantom_study(folder / "source", **SMALL, oblique=request.param == "oblique")
    volume, findings, seg, sr = make(study)
    *_, absent = make(study, study.truth * 0.0, replace(PROVENANCE, job_id="job-2"))
    (folder / "seg.dcm").write_bytes(seg)
    (folder / "sr.dcm").write_bytes(sr)
    (folder / "absent.dcm").write_bytes(absent)
    return folder, study, volume, findings


def test_dciodvfy_finds_no_error(made):
    folder, study, *_ = made
    for path in (*folder.glob("*.dcm"), study.files("FLAIR")[0]):
        said = run("dciodvfy", path)
        assert "Error" not in said, f"{path.name}: {said}"


def test_every_series_of_the_phantom_is_valid(tmp_path):
    study = write_phantom_study(tmp_path, slices=2, shape=(32, 32))
    for path in study.paths:
        assert "Error" not in run("dciodvfy", path)
    assert "Error" not in run("dcentvfy", *study.paths)


def test_dcentvfy_finds_one_patient_and_study(made):
    folder, study, *_ = made
    said = run("dcentvfy", *folder.glob("*.dcm"), *study.files("FLAIR"))
    assert "Error" not in said, said


@pytest.mark.parametrize("frames", ["one slice", "several slices"])
def test_one_lesion_alone_is_checked_and_sent(tmp_path, frames):
    """With one segment highdicom shares the segment's group between the frames."""
    study = write_phantom_study(tmp_path / "source", **{**SMALL, "lesions": 1})
    truth = study.truth.astype(np.float32)
    if frames == "one slice":
        largest = int(truth.sum(axis=(1, 2)).argmax())
        truth[np.arange(len(truth)) != largest] = 0
    volume, findings, seg, sr = make(study, truth)
    assert len(findings.present) == 1
    verify_results(volume, findings, seg, sr)


@pytest.mark.parametrize("noise", ["between slices", "few decimals"])
def test_orientations_as_scanners_write_them(tmp_path, noise):
    study = write_phantom_study(tmp_path / "source", **SMALL, oblique=True)

    def change(dataset):
        values = [float(value) for value in dataset.ImageOrientationPatient]
        if noise == "few decimals":
            values = [round(value, 3) for value in values]
        elif int(dataset.InstanceNumber) % 2:
            values[1] += 2e-6
        dataset.ImageOrientationPatient = values

    volume, findings, seg, sr = make(study, change=change)
    verify_results(volume, findings, seg, sr)


def test_another_reader_gets_the_same_mask_in_the_same_place(made, tmp_path):
    folder, _, volume, findings = made
    run(
        "segimage2itkimage", "--inputDICOM", folder / "seg.dcm", "--outputDirectory", tmp_path,
        "-t", "nrrd",
    )  # fmt: skip
    for finding in findings.present:
        array, affine = read_nrrd(tmp_path / f"{finding.number}.nrrd")
        expected = findings.label_map == finding.number
        assert np.count_nonzero(array) == np.count_nonzero(expected)
        theirs = np.argwhere(array) @ affine[:3, :3].T + affine[:3, 3]
        ours = np.linalg.inv(volume.affine) @ np.c_[theirs, np.ones(len(theirs))].T
        places = np.rint(ours[:3]).astype(int)
        assert np.abs(ours[:3] - places).max() < 1e-3
        assert expected[tuple(places)].all()


def test_tid1500reader_reads_the_measurements(made, tmp_path):
    folder, _, _, findings = made
    run("tid1500reader", "--inputDICOM", folder / "sr.dcm", "--outputMetadata", tmp_path / "m.json")
    groups = json.loads((tmp_path / "m.json").read_text())["Measurements"]
    assert len(groups) == len(findings.present) == 2
    seg = pydicom.dcmread(folder / "seg.dcm")
    for group, finding in zip(groups, findings.present, strict=True):
        assert group["TrackingUniqueIdentifier"] == finding.tracking_uid
        assert group["ReferencedSegment"] == finding.number
        assert group["segmentationSOPInstanceUID"] == seg.SOPInstanceUID
        read = {
            item["quantity"]["CodeValue"]: (float(item["value"]), item["units"]["CodeValue"])
            for item in group["measurementItems"]
        }
        for measured in finding.measurements:
            value, unit = read[measured.concept.value]
            assert value == pytest.approx(measured.value, rel=1e-5)
            assert unit == measured.unit.value
        assert read["111012"] == (pytest.approx(87.5), "%")


def test_dsrdump_reads_present_and_absent(made):
    folder, *_ = made
    present = run("dsrdump", folder / "sr.dcm")
    for text in (
        "Comprehensive 3D SR Document",
        "UNVERIFIED",
        '"Volume")=',
        '(24590-2,LN,"Brain MRI")',
        '"Lesion")=(52101004,SCT,"Present")',
        '"Referenced Segment")=(SG image,,2)',
        '"Algorithm Version")="1.2.3"',
    ):
        assert text in present
    absent = run("dsrdump", folder / "absent.dcm")
    assert '"Lesion")=(272519000,SCT,"Absent")' in absent
    assert "NUM:" not in absent
    for text in (present, absent):
        assert "error" not in text.lower()


def test_the_same_job_makes_the_same_bytes_at_any_time(tmp_path):
    study = write_phantom_study(tmp_path, **SMALL)
    *_, seg, sr = make(study)

    time.sleep(1.1)  # the library writes the present second where it is let
    *_, seg_again, sr_again = make(study)
    assert seg_again == seg
    assert sr_again == sr
    today = f"{datetime.now(UTC):%Y%m%d}".encode()
    assert today not in seg + sr
    *_, other, _ = make(study, provenance=replace(PROVENANCE, job_id="job-3"))
    assert pydicom.dcmread(io.BytesIO(other)).SOPInstanceUID != (
        pydicom.dcmread(io.BytesIO(seg)).SOPInstanceUID
    )


def test_the_seg_says_who_made_it_and_what_it_shows(made):
    folder, _, volume, findings = made
    seg = pydicom.dcmread(folder / "seg.dcm")
    assert seg.SegmentationType == "BINARY"
    assert seg.NumberOfFrames == sum(
        int((findings.label_map == f.number).any(axis=(1, 2)).sum()) for f in findings.present
    )
    assert seg.FrameOfReferenceUID == volume.frame_of_reference_uid
    assert seg.SeriesNumber > 1000
    assert seg.SeriesDescription.startswith("AI: FLAIR lesion")
    (equipment,) = seg.ContributingEquipmentSequence
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert equipment.ContributionDescription == NOTICE
    assert equipment.DeviceUID == PROVENANCE.device
    for segment, finding in zip(seg.SegmentSequence, findings.present, strict=True):
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.TrackingUID == finding.tracking_uid
        assert segment.AnatomicRegionSequence[0].CodeValue == "12738006"
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert algorithm.AlgorithmVersion == "1.2.3"
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
        assert len(segment.RecommendedDisplayCIELabValue) == 3


def _odd_patient(dataset):
    dataset.IssuerOfPatientID = "HOSPITAL"
    dataset.PatientSex = "unknown"
    dataset.PatientBirthDate = ""
    del dataset.StudyID, dataset.StudyTime, dataset.SliceThickness
    dataset.TimezoneOffsetFromUTC = "+0200"
    order = Dataset()
    order.RequestedProcedureID = "RP-1"
    order.RequestedProcedureDescription = "MR Kopf"
    order.ScheduledProcedureStepID = "SPS-1"
    dataset.RequestAttributesSequence = Sequence([order])


def test_patient_study_and_order_are_the_sources(tmp_path):
    study = write_phantom_study(tmp_path, **SMALL)
    volume, findings, seg, sr = make(study, change=_odd_patient)
    source = volume.datasets[0]
    for content in (seg, sr):
        made = pydicom.dcmread(io.BytesIO(content))
        for keyword in (*IDENTITY_KEYWORDS, "PatientSex", "ReferringPhysicianName", "StudyDate"):
            assert made.get(keyword) == source.get(keyword), keyword
        assert made.StudyTime in ("", None)
        # 23:06 UTC on the 4th is 01:06 on the 5th where the scanner stands.
        assert (made.ContentDate, made.ContentTime) == ("20250305", "010607.000000")
    order = pydicom.dcmread(io.BytesIO(seg)).RequestAttributesSequence[0]
    assert order.RequestedProcedureID == "RP-1"
    request = pydicom.dcmread(io.BytesIO(sr)).ReferencedRequestSequence[0]
    assert (request.RequestedProcedureID, request.AccessionNumber) == ("RP-1", "A0001")
    verify_results(volume, findings, seg, sr)
    path = tmp_path / "sr.dcm"
    path.write_bytes(sr)
    # The scanner's own bad value is passed on as it is; nothing else may be wrong.
    known = ("Patient's Sex", "Dicom dataset contains invalid data values")
    said = [line for line in run("dciodvfy", path).splitlines() if "Error" in line]
    assert not [line for line in said if not any(words in line for words in known)]


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (None, "Mueller^Hans"),
        ("ISO_IR 100", "Müller^Hans"),
        ("ISO_IR 192", "Łukasz^山田"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
    ],
)
def test_a_name_keeps_its_bytes_in_the_sources_character_set(tmp_path, charset, name):
    study = write_phantom_study(tmp_path / "study", **SMALL)
    for path in study.files("FLAIR"):
        dataset = pydicom.dcmread(path)
        if charset is None:
            del dataset.SpecificCharacterSet
        else:
            dataset.SpecificCharacterSet = charset
        dataset.PatientName = name
        dataset.save_as(path)
    volume, findings, seg, sr = make(study)
    raw = pydicom.dcmread(study.files("FLAIR")[0]).get_item("PatientName").value
    for content in (seg, sr):
        made = pydicom.dcmread(io.BytesIO(content))
        assert made.get_item("PatientName").value == raw
        assert made.get("SpecificCharacterSet") == charset
        assert made.SeriesDescription.startswith("AI: FLAIR lesion")
        assert made.PatientName == name
    verify_results(volume, findings, seg, sr)


def test_a_mask_found_on_the_axial_grid_lands_in_the_source(made):
    _, study, volume, findings = made
    view = to_axial(volume)
    assert np.array_equal(view.to_source(view.array), volume.array)
    assert np.array_equal(findings.label_map > 0, study.truth)


def test_own_times_without_a_zone_are_written_as_they_are(tmp_path):
    study = write_phantom_study(tmp_path, **SMALL)
    naive = replace(PROVENANCE, created_at=WHEN.replace(tzinfo=None))
    west = replace(PROVENANCE, created_at=WHEN.astimezone(timezone(timedelta(hours=-5))))
    for provenance, written in ((naive, "230607.000000"), (west, "180607.000000")):
        *_, sr = make(study, provenance=provenance)
        assert pydicom.dcmread(io.BytesIO(sr)).ContentTime == written


def test_verification_names_what_differs(made):
    folder, study, volume, findings = made
    seg, sr = (folder / "seg.dcm").read_bytes(), (folder / "sr.dcm").read_bytes()
    verify_results(volume, findings, seg, sr)
    verify_results(*make(study, study.truth * 0.0))

    def broken(change):
        dataset = pydicom.dcmread(io.BytesIO(seg))
        change(dataset)
        return to_bytes(dataset)

    def shift(dataset):
        for group in dataset.PerFrameFunctionalGroupsSequence:
            x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
            group.PlanePositionSequence[0].ImagePositionPatient = [x + 1, y, z]

    def mirror(dataset):
        shared = dataset.SharedFunctionalGroupsSequence[0]
        cosines = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        shared.PlaneOrientationSequence[0].ImageOrientationPatient = [-c for c in cosines]

    def erase(dataset):
        dataset.PixelData = bytes(len(dataset.PixelData))

    for change, words in (
        (shift, "off the source's slices"),
        (mirror, "orientation"),
        (erase, "differs from what was found"),
        (lambda ds: setattr(ds, "PatientID", "ANOTHER"), "PatientID"),
        (lambda ds: setattr(ds, "FrameOfReferenceUID", "1.2"), "frame of reference"),
        (lambda ds: setattr(ds.SegmentSequence[0], "TrackingUID", "1.2"), "segments"),
        (lambda ds: setattr(ds, "SOPInstanceUID", "1.2"), "evidence"),
    ):
        with pytest.raises(ResultError, match=words):
            verify_results(volume, findings, broken(change), sr)
    with pytest.raises(ResultError, match="exactly when"):
        verify_results(volume, findings, None, sr)
    assert np.array_equal(
        read_label_map(pydicom.dcmread(io.BytesIO(seg)), volume), findings.label_map
    )


def test_nothing_found_makes_no_seg_and_lesions_need_one(made):
    _, study, volume, findings = made
    _, none, seg, _ = make(study, study.truth * 0.0)
    assert seg is None
    with pytest.raises(ResultError, match="nothing to segment"):
        build_seg(volume, none, PROVENANCE)
    with pytest.raises(ResultError, match="needs the segmentation"):
        build_sr(volume, findings, None, PROVENANCE)


def test_what_was_left_out_is_said(tmp_path):
    study = write_phantom_study(tmp_path, **SMALL)
    volume = build_volume(read_series(study.files("FLAIR")))
    findings = find_lesions(
        study.truth[None].astype(float), volume, SPEC, job_id="j", max_findings=1
    )
    sr = to_bytes(build_sr(volume, findings, build_seg(volume, findings, PROVENANCE), PROVENANCE))
    assert b"1 smaller finding(s) are not listed" in sr


def test_the_picture_outlines_the_lesion_where_it_is(made):
    _, study, volume, findings = made
    picture = Image.open(io.BytesIO(build_picture(volume, findings, PROVENANCE, max_slices=1)))
    pixels = np.asarray(picture).astype(int)
    colored = (pixels[..., 0] > 200) & (pixels[..., 1] < 110) & (pixels[..., 2] < 110)
    rows, columns = np.nonzero(colored)
    # 96 rows in 480 pixels: one voxel is five pixels.
    areas = [(findings.label_map == 1)[i].sum() for i in range(len(volume.array))]
    lesion_rows, lesion_columns = np.nonzero(findings.label_map[int(np.argmax(areas))])
    assert rows.min() / 5 == pytest.approx(lesion_rows.min(), abs=0.6)
    assert columns.min() / 5 == pytest.approx(lesion_columns.min(), abs=0.6)
    assert rows.max() / 5 == pytest.approx(lesion_rows.max() + 1, abs=0.6)
    assert columns.max() / 5 == pytest.approx(lesion_columns.max() + 1, abs=0.6)
    _, none, *_ = make(study, study.truth * 0.0)
    build_picture(volume, none, PROVENANCE)


def read_nrrd(path):
    """Array indexed (x, y, z) and its affine in LPS, mm, of a gzip-encoded NRRD file."""
    head, _, body = path.read_bytes().partition(b"\n\n")
    fields = dict(
        line.split(": ", 1)
        for line in head.decode().splitlines()
        if ": " in line and line[0] != "#"
    )
    assert fields["space"] == "left-posterior-superior"
    sizes = [int(size) for size in fields["sizes"].split()]
    vector = [
        [float(part) for part in text.strip("()").split(",")]
        for text in (*fields["space directions"].split(" "), fields["space origin"])
    ]
    affine = np.eye(4)
    affine[:3, :3] = np.array(vector[:3]).T
    affine[:3, 3] = vector[3]
    kinds = {"short": "<i2", "unsigned short": "<u2", "unsigned char": "u1"}
    raw = gzip.decompress(body) if fields["encoding"] == "gzip" else body
    return np.frombuffer(raw, kinds[fields["type"]]).reshape(sizes, order="F"), affine
