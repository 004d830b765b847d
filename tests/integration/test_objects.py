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
from typing import NamedTuple

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cli.phantom import write_phantom_study
from core.domain import IDENTITY_KEYWORDS, Result
from core.errors import ResultError
from core.modelspec import ModelSpec
from core.settings import ResultSettings
from workers.analysis import Analysis
from workers.images.axial import to_axial
from workers.images.build import build_stacks
from workers.images.read import read_series
from workers.lesions.find import find_lesions
from workers.results.encode import to_bytes
from workers.results.gate import check_objects
from workers.results.make import Made, make_objects
from workers.results.provenance import NOTICE, Provenance

WHEN = datetime(2025, 3, 4, 23, 6, 7, tzinfo=UTC)
SMALL = {"slices": 10, "shape": (96, 80), "series": ("FLAIR",), "lesions": 2}
SPEC = ModelSpec(
    schema_version=1,
    name="brain-flair-lesion",
    version="2.25.77",
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


class Outcome(NamedTuple):
    """What was found in a phantom study, and the objects made of it."""

    analysis: Analysis
    made: list[Made]
    provenance: Provenance

    @property
    def stack(self):
        return self.analysis.parts[0].stack

    @property
    def label_map(self):
        return self.analysis.parts[0].label_map

    def bytes_of(self, kind):
        """The bytes of the first object of a kind, or None."""
        return next((item.data for item in self.made if item.kind == kind), None)

    @property
    def seg(self):
        return self.bytes_of("SEG")

    @property
    def sr(self):
        return self.bytes_of("SR")

    def check(self, **replaced):
        """Ask the gate, with other bytes in the place of some objects."""
        made = [
            replace(item, data=replaced[item.kind]) if item.kind in replaced else item
            for item in self.made
        ]
        check_objects(made, self.analysis, self.provenance)


def make(study, probabilities=None, provenance=PROVENANCE, change=None, **settings):
    """Analyse a phantom study, with its truth in the place of a network's answer."""
    datasets = read_series(study.files("FLAIR"))
    for dataset in datasets:
        if change:
            change(dataset)
    (stack,) = build_stacks(datasets, SPEC.input, max_voxels=10**9)
    if probabilities is None:
        probabilities = study.truth * np.float32(0.875)
    analysis = find_lesions(
        [(stack, probabilities[None].astype(np.float16))],
        provenance.spec,
        job_id=provenance.job_id,
        min_volume_ml=0.2,
        keep_probabilities=True,
    )
    return Outcome(
        analysis, make_objects(analysis, provenance, ResultSettings(**settings)), provenance
    )


@pytest.fixture(scope="module", params=["axial", "oblique"])
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    study = write_phantom_study(folder / "source", **SMALL, oblique=request.param == "oblique")
    outcome = make(study, key_object=True)
    absent = make(study, study.truth * 0.0, replace(PROVENANCE, job_id="job-2"))
    for item in outcome.made:
        (folder / item.name.replace("-1.dcm", ".dcm")).write_bytes(item.data)
    (folder / "absent.dcm").write_bytes(absent.sr)
    return folder, study, outcome


def test_dciodvfy_finds_no_error(made):
    folder, study, _ = made
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
    outcome = make(study, truth)
    assert len(outcome.analysis.lesions) == 1
    outcome.check()


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

    make(study, change=change).check()


def test_another_reader_gets_the_same_mask_in_the_same_place(made, tmp_path):
    folder, _, outcome = made
    run(
        "segimage2itkimage", "--inputDICOM", folder / "seg.dcm", "--outputDirectory", tmp_path,
        "-t", "nrrd",
    )  # fmt: skip
    for finding in outcome.analysis.lesions:
        array, affine = read_nrrd(tmp_path / f"{finding.number}.nrrd")
        expected = outcome.label_map == finding.segment
        assert np.count_nonzero(array) == np.count_nonzero(expected)
        theirs = np.argwhere(array) @ affine[:3, :3].T + affine[:3, 3]
        ours = np.linalg.inv(outcome.stack.affine) @ np.c_[theirs, np.ones(len(theirs))].T
        places = np.rint(ours[:3]).astype(int)
        assert np.abs(ours[:3] - places).max() < 1e-3
        assert expected[tuple(places)].all()


def test_tid1500reader_reads_the_measurements(made, tmp_path):
    folder, _, outcome = made
    lesions = outcome.analysis.lesions
    run("tid1500reader", "--inputDICOM", folder / "sr.dcm", "--outputMetadata", tmp_path / "m.json")
    groups = json.loads((tmp_path / "m.json").read_text())["Measurements"]
    assert len(groups) == len(lesions) == 2
    seg = pydicom.dcmread(folder / "seg.dcm")
    for group, finding in zip(groups, lesions, strict=True):
        assert group["TrackingUniqueIdentifier"] == finding.tracking_uid
        assert group["ReferencedSegment"] == finding.segment
        assert group["segmentationSOPInstanceUID"] == seg.SOPInstanceUID
        read = {
            (
                item["quantity"]["CodeValue"],
                item.get("derivationModifier", {}).get("CodeValue"),
            ): (float(item["value"]), item["units"]["CodeValue"])
            for item in group["measurementItems"]
        }
        for measured in finding.measurements:
            modifier = measured.derivation.value if measured.derivation else None
            value, unit = read[measured.concept.value, modifier]
            assert value == pytest.approx(measured.value, rel=1e-5)
            assert unit == measured.unit.value
        assert read["111012", "373098007"] == (pytest.approx(87.5, abs=0.05), "%")


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
        '"Algorithm Version")="2.25.77"',
    ):
        assert text in present
    absent = run("dsrdump", folder / "absent.dcm")
    assert '"Lesion")=(272519000,SCT,"Absent")' in absent
    assert "<contains NUM:" not in absent
    for text in (present, absent):
        assert "error" not in text.lower()


def test_the_same_job_makes_the_same_bytes_at_any_time(tmp_path):
    study = write_phantom_study(tmp_path, **SMALL)
    first = make(study, key_object=True)
    time.sleep(1.1)  # the library writes the present second where it is let
    again = make(study, key_object=True)
    today = f"{datetime.now(UTC):%Y%m%d}".encode()
    for one, other in zip(first.made, again.made, strict=True):
        assert one.data == other.data, one.name
        assert today not in one.data
    other = make(study, provenance=replace(PROVENANCE, job_id="job-3"), key_object=True)
    uids = [
        {str(item.dataset.SOPInstanceUID) for item in outcome.made if item.dataset is not None}
        for outcome in (first, other)
    ]
    assert len(uids[0]) == 4
    assert not uids[0] & uids[1]


def test_the_seg_says_who_made_it_and_what_it_shows(made):
    folder, _, outcome = made
    lesions = outcome.analysis.lesions
    seg = pydicom.dcmread(folder / "seg.dcm")
    assert seg.SegmentationType == "BINARY"
    assert seg.NumberOfFrames == sum(
        int((outcome.label_map == f.segment).any(axis=(1, 2)).sum()) for f in lesions
    )
    assert seg.FrameOfReferenceUID == outcome.stack.frame_of_reference_uid
    assert seg.SeriesNumber > 1000
    assert seg.SeriesDescription.startswith("AI: FLAIR lesion")
    (equipment,) = seg.ContributingEquipmentSequence
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert equipment.ContributionDescription == NOTICE
    assert equipment.DeviceUID == PROVENANCE.device
    for segment, finding in zip(seg.SegmentSequence, lesions, strict=True):
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.TrackingUID == finding.tracking_uid
        assert segment.AnatomicRegionSequence[0].CodeValue == "12738006"
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert algorithm.AlgorithmVersion == "2.25.77"
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
    outcome = make(study, change=_odd_patient)
    seg, sr, source = outcome.seg, outcome.sr, outcome.analysis.source
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
    outcome.check()  # the scanner's own bad value does not count against us
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
    outcome = make(study)
    raw = pydicom.dcmread(study.files("FLAIR")[0]).get_item("PatientName").value
    for item in outcome.made:
        if item.dataset is None:
            continue
        made = pydicom.dcmread(io.BytesIO(item.data))
        assert made.get_item("PatientName").value == raw
        assert made.get("SpecificCharacterSet") == charset
        assert made.SeriesDescription.startswith("AI: FLAIR lesion")
        assert made.PatientName == name
    outcome.check()


def test_a_mask_found_on_the_axial_grid_lands_in_the_source(made):
    _, study, outcome = made
    view = to_axial(outcome.stack)
    assert np.array_equal(view.to_source(view.array), outcome.stack.array)
    assert np.array_equal(outcome.label_map > 0, study.truth)


def test_own_times_without_a_zone_are_written_as_they_are(tmp_path):
    study = write_phantom_study(tmp_path, **SMALL)
    naive = replace(PROVENANCE, created_at=WHEN.replace(tzinfo=None))
    west = replace(PROVENANCE, created_at=WHEN.astimezone(timezone(timedelta(hours=-5))))
    for provenance, written in ((naive, "230607.000000"), (west, "180607.000000")):
        sr = make(study, provenance=provenance).sr
        assert pydicom.dcmread(io.BytesIO(sr)).ContentTime == written


def _shift(dataset):
    for group in dataset.PerFrameFunctionalGroupsSequence:
        x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [x + 1, y, z]


def _mirror(dataset):
    shared = dataset.SharedFunctionalGroupsSequence[0]
    cosines = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [-c for c in cosines]


def _erase(dataset):
    dataset.PixelData = bytes(len(dataset.PixelData))


def _strange_source(dataset):
    group = dataset.PerFrameFunctionalGroupsSequence[0]
    image = group.DerivationImageSequence[0].SourceImageSequence[0]
    image.ReferencedSOPInstanceUID = "2.25.77"


def _set(**values):
    def change(dataset):
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return change


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("SEG", _shift, "off the|lies"),
        ("SEG", _mirror, "orientation"),
        ("SEG", _erase, "differs from what was found"),
        ("SEG", _strange_source, "not its input"),
        ("SEG", _set(PatientID="ANOTHER"), "PatientID"),
        ("SEG", _set(FrameOfReferenceUID="2.25.77"), "frame of reference"),
        ("SEG", lambda ds: setattr(ds.SegmentSequence[0], "TrackingUID", "2.25.77"), "segments"),
        ("SEG", _set(SOPInstanceUID="2.25.77"), "not its input|evidence"),
        ("SEG", lambda ds: delattr(ds, "SegmentationType"), "Segmentation|conform"),
        ("SR", _set(AccessionNumber="ANOTHER"), "AccessionNumber"),
        ("SR", lambda ds: delattr(ds, "CompletionFlag"), "conform.*CompletionFlag"),
        ("SR", lambda ds: ds.ContentSequence.pop(), "tracking UIDs|conform"),
        ("SC", _set(StudyInstanceUID="2.25.77"), "StudyInstanceUID"),
        ("SC", lambda ds: delattr(ds, "ConversionType"), "conform.*ConversionType"),
    ],
)
def test_the_gate_lets_nothing_wrong_through(made, kind, change, words):
    *_, outcome = made
    dataset = pydicom.dcmread(io.BytesIO(outcome.bytes_of(kind)))
    change(dataset)
    with pytest.raises(ResultError, match=words):
        outcome.check(**{kind: to_bytes(dataset)})


def test_the_gate_lets_what_is_right_through(made):
    _, study, outcome = made
    outcome.check()
    make(study, study.truth * 0.0).check()
    with pytest.raises(ResultError, match="exactly where"):
        kept = [item for item in outcome.made if item.kind != "SEG"]
        check_objects(kept, outcome.analysis, outcome.provenance)


@pytest.mark.parametrize("kind", ["labelmap", "fractional"])
def test_other_kinds_of_seg_pass_the_gate(made, kind):
    _, study, _ = made
    outcome = make(study, segmentation=kind)
    outcome.check()
    dataset = pydicom.dcmread(io.BytesIO(outcome.seg))
    assert dataset.SegmentationType == kind.upper()


def test_a_later_analysis_names_and_rejects_the_earlier(made):
    _, study, first = made
    earlier = tuple(
        Result(
            kind=item.kind,
            store_key="",
            digest="",
            size=0,
            sop_class_uid=str(item.dataset.SOPClassUID),
            sop_instance_uid=str(item.dataset.SOPInstanceUID),
            series_instance_uid=str(item.dataset.SeriesInstanceUID),
        )
        for item in first.made
        if item.dataset is not None
    )
    later = replace(PROVENANCE, job_id="job-4", revision=2, earlier=earlier)
    outcome = make(study, provenance=later, iocm=True)
    outcome.check()
    report = pydicom.dcmread(io.BytesIO(outcome.sr))
    named = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert named.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == (
        pydicom.dcmread(io.BytesIO(first.sr)).SOPInstanceUID
    )
    assert report.SeriesDescription.endswith("(revision 2)")
    rejection = pydicom.dcmread(io.BytesIO(outcome.bytes_of("REJECTION")))
    assert rejection.ConceptNameCodeSequence[0].CodeValue == "113001"
    rejected = {
        reference.ReferencedSOPInstanceUID
        for study_item in rejection.CurrentRequestedProcedureEvidenceSequence
        for series in study_item.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }
    assert rejected == {result.sop_instance_uid for result in earlier}


def test_what_was_left_out_is_said(tmp_path):
    study = write_phantom_study(tmp_path, **SMALL)
    (stack,) = build_stacks(read_series(study.files("FLAIR")), SPEC.input, max_voxels=10**9)
    analysis = find_lesions(
        [(stack, study.truth[None].astype(np.float16))], SPEC, job_id="j", max_findings=1
    )
    made = make_objects(analysis, PROVENANCE, ResultSettings())
    report = next(item.data for item in made if item.kind == "SR")
    assert b"1 smaller finding(s) are not listed" in report


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
