"""Alternatives: what is tried next, and that a lesser object says the same."""

import io
import tracemalloc
from copy import deepcopy

import numpy as np
import pydicom
import pytest
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.sr.codedict import codes

from core.alternatives import (
    ALTERNATIVES,
    BASIC_TEXT_SR,
    COMPREHENSIVE_3D_SR,
    COMPREHENSIVE_SR,
    ENHANCED_SR,
    LABEL_MAP_SEGMENTATION,
    SEGMENTATION,
    next_alternative,
)
from core.domain import IDENTITY_KEYWORDS
from core.errors import ResultError
from core.identifiers import derived_uid
from tests.support.reports import (
    PROVENANCE,
    absent,
    analysed,
    in_image,
    lesion,
    loop,
    segmentations,
    volume,
)
from workers.results.encode import to_bytes
from workers.results.lesser import labelmap_to_binary, lesser_sr
from workers.results.sr import build_sr

LESSER = ALTERNATIVES[COMPREHENSIVE_3D_SR]


def read(dataset):
    return pydicom.dcmread(io.BytesIO(to_bytes(dataset)))


def stored(stacks=None, findings=None):
    analysis = analysed(stacks or [volume()], findings or [lesion(1), lesion(2)])
    return read(build_sr(analysis, segmentations(analysis), PROVENANCE))


def content(item):
    for child in item.get("ContentSequence") or ():
        yield child
        yield from content(child)


def name(item):
    return item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""


def test_the_chain_of_reports_goes_from_the_fullest_to_the_plainest():
    refused = [COMPREHENSIVE_3D_SR]
    tried = []
    while (uid := next_alternative(COMPREHENSIVE_3D_SR, refused)) is not None:
        tried.append(uid)
        refused.append(uid)
    assert tried == [COMPREHENSIVE_SR, ENHANCED_SR, BASIC_TEXT_SR]


def test_classes_known_to_be_refused_are_skipped():
    refused = {COMPREHENSIVE_SR, ENHANCED_SR}
    assert next_alternative(COMPREHENSIVE_3D_SR, refused) == BASIC_TEXT_SR
    assert next_alternative(LABEL_MAP_SEGMENTATION, ()) == SEGMENTATION
    assert next_alternative(SEGMENTATION, ()) is None
    assert next_alternative("1.2.3", ()) is None


@given(st.sets(st.sampled_from(sorted({uid for row in ALTERNATIVES.values() for uid in row}))))
def test_what_is_refused_is_never_offered(refused):
    for uid in ALTERNATIVES:
        assert next_alternative(uid, refused) not in refused


@pytest.mark.parametrize("uid", LESSER)
def test_a_lesser_report_is_an_object_of_its_own_about_the_same_patient(uid):
    report = stored()
    made = read(lesser_sr(report, uid))
    assert uid == made.SOPClassUID == made.file_meta.MediaStorageSOPClassUID
    assert made.SOPInstanceUID != report.SOPInstanceUID
    assert made.SeriesInstanceUID != report.SeriesInstanceUID
    for keyword in (*IDENTITY_KEYWORDS, "ContentDate", "ContentTime", "VerificationFlag"):
        assert made.get(keyword) == report.get(keyword)
    evidence = "CurrentRequestedProcedureEvidenceSequence"
    assert made[evidence] == report[evidence]


def test_the_same_report_gives_the_same_alternative_and_stays_as_it_is():
    report = stored()
    before = to_bytes(deepcopy(report))
    made = [{uid: to_bytes(lesser_sr(report, uid)) for uid in LESSER} for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0].values())) == len(LESSER)
    assert to_bytes(report) == before


@pytest.mark.parametrize("root", ["", "1.2.826.0.1.3680043.10.1"])
def test_new_uids_are_under_the_root_of_the_original(root):
    report = stored()
    report.SOPInstanceUID = derived_uid("a", root=root)
    made = lesser_sr(report, ENHANCED_SR)
    assert made.SOPInstanceUID.startswith(f"{root or '2.25'}.")
    assert made.SOPInstanceUID != report.SOPInstanceUID


ALLOWED = {
    "TEXT", "CODE", "UIDREF", "IMAGE", "CONTAINER", "DATETIME", "DATE", "TIME", "PNAME",
    "COMPOSITE", "WAVEFORM",
}  # fmt: skip


@pytest.mark.parametrize("uid", LESSER)
def test_no_figure_is_lost(uid):
    report = stored([volume(), loop()], [lesion(1), in_image(2, 1, part=1, segment=1)])
    made = read(lesser_sr(report, uid))
    allowed = ALLOWED if uid == BASIC_TEXT_SR else ALLOWED | {"NUM", "SCOORD"}
    before, after = list(content(report)), list(content(made))
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert new.ValueType in allowed
        assert name(old) == name(new)
        if new.ValueType == old.ValueType:
            continue
        assert new.ValueType == "TEXT"
        if old.ValueType == "NUM":
            figure = old.MeasuredValueSequence[0].NumericValue
            assert new.TextValue.split()[0] == figure.original_string
        else:
            for coordinate in old.GraphicData:
                assert str(np.float32(coordinate)) in new.TextValue


def test_text_has_readable_units():
    made = read(lesser_sr(stored(), BASIC_TEXT_SR))
    said = {name(item): item.TextValue for item in content(made) if item.ValueType == "TEXT"}
    assert said["Volume"] == "1.23457 mL"
    assert said["Attenuation Coefficient"] == "-12.5 Hounsfield unit"
    assert said["Sphericity"] == "0.91"
    assert said["Certainty of Finding"] == "87.6543 %"
    assert said["Pixel Data Rows"] == "24 pixels"
    assert said["Center of Mass"].startswith("point (-14.25, -26.0, 2.0) mm")


def templates(report):
    return [
        item.ContentTemplateSequence[0].TemplateIdentifier
        for item in (report, *content(report))
        if "ContentTemplateSequence" in item
    ]


def test_templates_stay_as_long_as_their_measurements_do():
    report = stored()
    assert templates(lesser_sr(report, COMPREHENSIVE_SR)) == ["1500", "1411", "1411"]
    assert templates(lesser_sr(report, ENHANCED_SR)) == ["1500", "1411", "1411"]
    assert templates(lesser_sr(report, BASIC_TEXT_SR)) == []


def test_the_original_is_its_predecessor_beside_earlier_ones():
    report = stored(findings=[absent()])
    first = lesser_sr(report, ENHANCED_SR).PredecessorDocumentsSequence
    assert len(first) == 1
    (series,) = first[0].ReferencedSeriesSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == report.SOPInstanceUID
    # a report that has predecessors itself
    report.PredecessorDocumentsSequence = deepcopy(first)
    (study,) = lesser_sr(report, ENHANCED_SR).PredecessorDocumentsSequence
    assert len(study.ReferencedSeriesSequence) == 2


def test_names_survive_in_a_lesser_report():
    person = "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"
    charset = ["ISO 2022 IR 13", "ISO 2022 IR 87"]
    stack = volume(2, PatientName=person, SpecificCharacterSet=charset)
    made = read(lesser_sr(stored([stack], [absent()]), BASIC_TEXT_SR))
    assert str(made.PatientName) == person
    assert made.SpecificCharacterSet == charset


@pytest.mark.parametrize("uid", [COMPREHENSIVE_3D_SR, SEGMENTATION, "1.2.3"])
def test_what_is_no_alternative_is_refused(uid):
    with pytest.raises(ResultError, match="cannot be made"):
        lesser_sr(stored(findings=[absent()]), uid)


def label_map_segmentation(labels, segments):
    algorithm = AlgorithmIdentificationSequence(
        name="tests", family=codes.cid7162.ArtificialIntelligence, version="1"
    )
    return read(
        Segmentation(
            source_images=list(volume(len(labels)).datasets),
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
                for number in range(1, segments + 1)
            ],
            series_instance_uid=derived_uid("SEG", "series"),
            series_number=1001,
            sop_instance_uid=derived_uid("SEG", "labels"),
            instance_number=1,
            manufacturer="tests",
            manufacturer_model_name="tests",
            software_versions="1",
            device_serial_number="1",
            omit_empty_frames=True,
        )
    )


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_a_label_map_keeps_every_voxel_as_bits(data):
    slices, segments = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, segments + 1, (slices, 24, 32)).astype(np.uint8)
    labels[0, 0, :segments] = range(1, segments + 1)  # each is somewhere
    seg = label_map_segmentation(labels, segments)
    made = read(labelmap_to_binary(seg))
    assert made.SOPClassUID == SEGMENTATION
    assert made.SOPInstanceUID != seg.SOPInstanceUID
    places = {float(d.ImagePositionPatient[2]): i for i, d in enumerate(volume(slices).datasets)}
    bits = made.pixel_array.reshape(-1, 24, 32)
    again = np.zeros_like(labels)
    for group, frame in zip(made.PerFrameFunctionalGroupsSequence, bits, strict=True):
        index = places[float(group.PlanePositionSequence[0].ImagePositionPatient[2])]
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert group.FrameContentSequence[0].DimensionIndexValues[0] == number
        assert frame.any()
        again[index][frame > 0] = number
    assert np.array_equal(again, labels)
    tracked = {item.SegmentNumber: item.TrackingUID for item in made.SegmentSequence}
    assert tracked == {n: derived_uid("lesion", str(n)) for n in range(1, segments + 1)}


def test_a_label_map_gives_the_same_bits_twice_and_stays_as_it_is():
    labels = np.zeros((2, 24, 32), np.uint8)
    labels[1, 3:6, 3:6] = 1
    seg = label_map_segmentation(labels, 1)
    before = to_bytes(deepcopy(seg))
    assert to_bytes(labelmap_to_binary(seg)) == to_bytes(labelmap_to_binary(seg))
    assert to_bytes(seg) == before


def test_many_segments_as_bits_take_little_memory():
    small = np.zeros((4, 24, 32), np.uint8)
    small[:, 0, :20] = np.arange(1, 21)
    seg = label_map_segmentation(small, 20)
    labels = np.zeros((4, 512, 512), np.uint8)
    labels[:, :24, :32] = small
    seg.Rows = seg.Columns = 512
    seg.PixelData = labels.tobytes()
    tracemalloc.start()
    try:
        made = labelmap_to_binary(seg)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made.NumberOfFrames == 4 * 20
    assert len(made.PixelData) == 4 * 20 * 512 * 512 // 8
    # a byte for each pixel of each frame would be eight times the bits, and more
    assert peak < 2 * len(made.PixelData) + 8 * 512 * 512 + 4_000_000


def test_segments_on_one_image_have_their_own_index():
    labels = np.zeros((2, 24, 32), np.uint8)
    labels[:, 0, :3] = 1, 2, 3
    made = labelmap_to_binary(label_map_segmentation(labels, 3))
    values = [
        list(group.FrameContentSequence[0].DimensionIndexValues)
        for group in made.PerFrameFunctionalGroupsSequence
    ]
    assert [value[0] for value in values] == [1, 1, 2, 2, 3, 3]
    assert {len(value) for value in values} == {len(made.DimensionIndexSequence)}


def test_only_label_maps_are_made_into_bits():
    with pytest.raises(ResultError):
        labelmap_to_binary(stored(findings=[absent()]))
