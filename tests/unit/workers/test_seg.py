"""Segmentations: what they say, and that they read back as what they were made from."""

import copy
import io
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian
from scipy.spatial.transform import Rotation
from support import stacks
from support.stacks import PROVENANCE, analysis, clip, images, labelled, volume

from core.errors import ResultError
from workers.images.stack import Basis, Calibration
from workers.results.encode import to_bytes
from workers.results.read_seg import read_seg
from workers.results.seg import build_segs


def made(stack, label_map, kind="binary", **changes):
    """The SEG of one part, read again from its bytes."""
    (seg,) = build_segs(analysis((stack, label_map), **changes), PROVENANCE, kind=kind)
    return pydicom.dcmread(io.BytesIO(to_bytes(seg)))


def with_probabilities(one):
    part = one.parts[0]
    rng = np.random.default_rng(3)
    likely = rng.random((2, *part.label_map.shape)).astype(np.float16)
    return replace(one, parts=(replace(part, probabilities=likely),))


@st.composite
def any_stack(draw):
    """Images of every sort, and a label map of them."""
    shape = tuple(draw(st.integers(1, most)) for most in (6, 9, 11))
    kind = draw(st.sampled_from(("volume", "clip", "images", "loose")))
    if kind in ("volume", "loose"):
        angles = [draw(st.floats(-180, 180)) for _ in range(3)]
        stack = volume(
            shape,
            spacing=tuple(draw(st.floats(0.05, 20)) for _ in range(3)),
            rotation=Rotation.from_euler("xyz", angles, degrees=True).as_matrix(),
            origin=[draw(st.floats(-3000, 3000)) for _ in range(3)],
            shear=draw(st.floats(-2, 2)),
            multi_frame=draw(st.booleans()),
            missing=(1,) if kind == "volume" and shape[0] > 2 and draw(st.booleans()) else (),
        )
        if kind == "loose":
            order = draw(st.permutations(range(shape[0])))
            frames = tuple(stack.frames[index] for index in order)
            stack = replace(stack, affine=None, frames=frames)
    else:
        stack = clip(shape) if kind == "clip" else images(shape)
    count = draw(st.integers(1, min(5, int(np.prod(shape)))))
    return stack, labelled(shape, count, draw(st.integers(0, 99)))


@settings(max_examples=60, deadline=None)
@given(case=any_stack(), kind=st.sampled_from(("binary", "labelmap", "fractional")))
def test_what_is_written_reads_back(case, kind):
    stack, label_map = case
    one = with_probabilities(analysis((stack, label_map)))
    (seg,) = build_segs(one, PROVENANCE, kind=kind)
    values = read_seg(pydicom.dcmread(io.BytesIO(to_bytes(seg))), stack)
    if kind == "fractional":
        likely = np.where(label_map, one.parts[0].probabilities[0].astype(np.float32), 0)
        assert np.abs(values - likely).max() <= 0.5 / 255 + 1e-6
    else:
        assert values.dtype == np.uint16
        assert np.array_equal(values, label_map)


def test_frames_are_found_by_their_place_and_not_by_their_order():
    stack = volume()
    label_map = labelled((5, 12, 8 + 8), 2)
    stack = volume((5, 12, 16))
    seg = made(stack, label_map)
    groups = list(seg.PerFrameFunctionalGroupsSequence)
    pixels = np.frombuffer(seg.PixelData, np.uint8).reshape(len(groups), -1)
    order = np.random.default_rng(1).permutation(len(groups))
    seg.PerFrameFunctionalGroupsSequence = [groups[i] for i in order]
    seg.PixelData = pixels[order].tobytes()
    assert np.array_equal(read_seg(seg, stack), label_map)


def test_segments_say_what_the_findings_say():
    stack = volume()
    seg = made(
        stack, labelled((5, 12, 10), 3), site=stacks.BREAST, laterality=stacks.LEFT,
        color=(255, 0, 0),
    )  # fmt: skip
    assert [item.SegmentNumber for item in seg.SegmentSequence] == [1, 2, 3]
    for number, item in enumerate(seg.SegmentSequence, 1):
        assert item.SegmentLabel == item.TrackingID == f"Lesion {number}"
        assert item.TrackingUID == f"2.25.500.{number}"
        assert item.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
        assert item.SegmentedPropertyTypeCodeSequence[0].CodeValue == "52988006"
        (region,) = item.AnatomicRegionSequence
        assert region.CodeValue == stacks.BREAST.value
        assert region.AnatomicRegionModifierSequence[0].CodeMeaning == "Left"
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        (algorithm,) = item.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmVersion == "1.2.3"
        # PS3.3 C.10.7.1.1: L* of red is 53.24 of 100, in 16 bits
        assert item.RecommendedDisplayCIELabValue[0] == pytest.approx(0.5324 * 65535, abs=20)
    assert seg.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == (
        "109102"
    )
    unsided = made(stack, labelled((5, 12, 10), 1)).SegmentSequence[0]
    assert "AnatomicRegionSequence" not in unsided


def test_only_frames_that_hold_something_are_written():
    label_map = np.zeros((5, 12, 10), np.uint16)
    label_map[1:3, 2:5, 2:5] = 1
    label_map[2:5, 7:9, 7:9] = 2
    seg = made(volume(), label_map)
    indices = [
        list(group.FrameContentSequence[0].DimensionIndexValues)
        for group in seg.PerFrameFunctionalGroupsSequence
    ]
    assert indices == [[1, 1], [1, 2], [2, 2], [2, 3], [2, 4]]
    assert seg.NumberOfFrames == 5
    whole = made(volume(), label_map, "labelmap")
    assert whole.NumberOfFrames == 4
    assert [item.SegmentNumber for item in whole.SegmentSequence] == [0, 1, 2]


def test_each_part_has_its_own_object_in_one_series():
    first, second, third = volume(number=1), volume(number=2), volume(number=3)
    label_map = labelled((5, 12, 10), 2)
    nothing = np.zeros_like(label_map)
    segs = build_segs(
        analysis((first, label_map), (second, nothing), (third, label_map)), PROVENANCE
    )
    assert segs[1] is None
    assert [seg.InstanceNumber for seg in segs if seg] == [1, 3]
    assert len({seg.SeriesInstanceUID for seg in segs if seg}) == 1
    assert len({seg.SOPInstanceUID for seg in segs if seg}) == 2
    for seg, stack in ((segs[0], first), (segs[2], third)):
        (series,) = seg.ReferencedSeriesSequence
        uids = [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence]
        assert uids == [dataset.SOPInstanceUID for dataset in stack.datasets]


@pytest.mark.parametrize("kind", ["binary", "labelmap", "fractional"])
def test_the_same_job_makes_the_same_bytes(kind):
    one = with_probabilities(analysis((clip(), labelled((4, 12, 10), 3))))
    (first,) = build_segs(one, PROVENANCE, kind=kind)
    (second,) = build_segs(one, PROVENANCE, kind=kind)
    assert to_bytes(first) == to_bytes(second)
    (other,) = build_segs(one, replace(PROVENANCE, job_id="job-2"), kind=kind)
    assert other.SOPInstanceUID != first.SOPInstanceUID


def test_functional_groups_may_be_looked_at_before_they_are_written():
    """They are kept encoded; reading them must not change a byte, in no encoding."""
    one = analysis((volume(), labelled((5, 12, 10), 3)))
    (seg,) = build_segs(one, PROVENANCE)
    looked = copy.deepcopy(seg)
    assert len(looked.PerFrameFunctionalGroupsSequence) == seg.NumberOfFrames
    assert to_bytes(looked) == to_bytes(seg)
    with io.BytesIO() as buffer:
        seg.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        seg.save_as(buffer, enforce_file_format=True)
        buffer.seek(0)
        implicit = pydicom.dcmread(buffer)
    assert (
        implicit.PerFrameFunctionalGroupsSequence[-1].to_json()
        == looked.PerFrameFunctionalGroupsSequence[-1].to_json()
    )


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 192", "Müller^山田"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 127", "قباني^لنزار"),
    ],
)
def test_the_name_survives_character_for_character(charset, name):
    stack = volume()
    for dataset in stack.datasets:
        dataset.SpecificCharacterSet = charset
        dataset.PatientName = name
    seg = made(stack, labelled((5, 12, 10), 2))
    assert str(seg.PatientName) == name
    assert seg.SegmentSequence[1].SegmentLabel == "Lesion 2"


def test_a_slice_that_did_not_come_has_a_place_and_no_source():
    stack = volume(missing=(2,))
    label_map = np.zeros((5, 12, 10), np.uint16)
    label_map[2, 3, 4] = 1
    seg = made(stack, label_map)
    (group,) = seg.PerFrameFunctionalGroupsSequence
    assert len(group.DerivationImageSequence) == 0
    assert list(group.PlanePositionSequence[0].ImagePositionPatient) == [-10, 20, -25]
    assert np.array_equal(read_seg(seg, stack), label_map)
    with pytest.raises(ResultError, match="did not come"):
        made(volume(missing=(2,), frame_of_reference_uid=""), label_map)


def test_frames_of_multi_frame_images_are_referred_to_by_number():
    stack = volume(multi_frame=True)
    label_map = labelled((5, 12, 10), 1)
    seg = made(stack, label_map)
    numbers = [
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for group in seg.PerFrameFunctionalGroupsSequence
    ]
    assert numbers == [5, 4, 3, 2, 1]
    (measures,) = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert list(measures.PixelSpacing) == [0.8, 0.7]
    assert measures.SpacingBetweenSlices == measures.SliceThickness == 2.5


def test_thickness_of_an_enhanced_image_is_in_its_groups():
    stack = volume(multi_frame=True)
    measures, shared = Dataset(), Dataset()
    measures.SliceThickness = 5
    shared.PixelMeasuresSequence = [measures]
    (dataset,) = stack.datasets
    del dataset.SliceThickness
    dataset.SharedFunctionalGroupsSequence = [shared]
    seg = made(stack, labelled((5, 12, 10), 1))
    assert seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 5


@pytest.mark.parametrize(
    "calibrations",
    [
        (),
        (Calibration(0.1, 0.1, Basis.DETECTOR),),
        (Calibration(0.1, 0.1, Basis.PATIENT, (0, 0, 5, 5)),),
    ],
)
def test_images_without_a_place_get_none(calibrations):
    stack = replace(images(), calibrations=calibrations, frame_of_reference_uid="2.25.400")
    label_map = labelled((2, 12, 10), 2)
    seg = made(stack, label_map)
    assert "FrameOfReferenceUID" not in seg
    assert "PixelMeasuresSequence" not in seg.SharedFunctionalGroupsSequence[0]
    assert "PlanePositionSequence" not in seg.PerFrameFunctionalGroupsSequence[0]
    assert seg.PatientOrientation == ""
    assert np.array_equal(read_seg(seg, stack), label_map)


@pytest.mark.parametrize("thickness", [None, 0, "thick"])
def test_images_of_unknown_thickness_are_referred_to_only(thickness):
    stack = replace(volume(), affine=None)
    for dataset in stack.datasets:
        with pydicom.config.disable_value_validation():
            dataset["SliceThickness"] = RawDataElement(
                Tag("SliceThickness"), "DS", 4, str(thickness or "").encode(), 0, False, True
            )
    label_map = labelled((5, 12, 10), 2)
    seg = made(stack, label_map)
    assert "FrameOfReferenceUID" not in seg
    assert np.array_equal(read_seg(seg, stack), label_map)


@pytest.mark.parametrize("said", [["L", "F"], ["LA", "FPR"]])
def test_patient_orientation_is_kept_where_all_agree(said):
    stack = images(PatientOrientation=said)
    assert made(stack, labelled((2, 12, 10), 1)).PatientOrientation == said
    stack.datasets[0].PatientOrientation = ["R", "F"]
    assert made(stack, labelled((2, 12, 10), 1)).PatientOrientation == ""


def _store(dataset, keyword, vr, value):
    """An element as it comes from a file, before anybody looks at its value."""
    raw = RawDataElement(Tag(keyword), vr, len(value), value, 0, False, True)
    dataset[raw.tag] = raw


@pytest.mark.parametrize(
    "said",
    [b"L", b"a\\f", b"XYZ", b"LA", b"LR\\F", b"L\\", b"L\\F\\A", b"ANTERIOR TO POSTERIOR\\F"],
)
def test_patient_orientation_that_is_not_legal_is_left_empty(said):
    stack = images()
    for dataset in stack.datasets:
        _store(dataset, "PatientOrientation", "CS", said)
    seg = made(stack, labelled((2, 12, 10), 1))
    assert "PatientOrientation" in seg
    assert seg.PatientOrientation == ""


def test_images_at_the_same_place_are_told_apart_by_their_source():
    stack = volume()
    (x, y, z) = stack.frames[0].position
    frames = tuple(replace(frame, position=(x, y, z)) for frame in stack.frames)
    stack = replace(stack, affine=None, frames=frames)
    label_map = labelled((5, 12, 10), 2)
    seg = made(stack, label_map)
    assert seg.FrameOfReferenceUID == "2.25.400"
    assert np.array_equal(read_seg(seg, stack), label_map)


def test_lossy_once_is_lossy_for_ever():
    stack = images(LossyImageCompression="00")
    last = stack.datasets[-1]
    last.LossyImageCompression = "01"
    last.LossyImageCompressionRatio = [10, 5]
    last.LossyImageCompressionMethod = ["ISO_10918_1", "ISO_15444_1"]
    seg = made(stack, labelled((2, 12, 10), 1))
    assert seg.LossyImageCompression == "01"
    assert list(seg.LossyImageCompressionRatio) == [10, 5]


@pytest.mark.parametrize("ratio", [b"10,5", b"10:1", b"0"])
@pytest.mark.parametrize("method", [b"ISO 10918-1", b"jpeg baseline lossy method", b""])
def test_faulty_values_of_lossy_images_are_left_out(ratio, method):
    stack = images(LossyImageCompression="01")
    for dataset in stack.datasets:
        _store(dataset, "LossyImageCompressionRatio", "DS", ratio)
        _store(dataset, "LossyImageCompressionMethod", "CS", method)
    seg = made(stack, labelled((2, 12, 10), 1))
    assert set(seg.dir("LossyImageCompression")) == {"LossyImageCompression"}
    assert seg.LossyImageCompression == "01"
    # an image that says it well is believed instead
    _store(stack.datasets[1], "LossyImageCompressionRatio", "DS", b"8 ")
    assert made(stack, labelled((2, 12, 10), 1)).LossyImageCompressionRatio == 8


def test_many_segments_need_sixteen_bits():
    stack = volume((2, 20, 20))
    label_map = np.arange(800, dtype=np.uint16).reshape(2, 20, 20)
    seg = made(stack, label_map, "labelmap")
    assert seg.BitsAllocated == 16
    assert np.array_equal(read_seg(seg, stack), label_map)
    small = np.minimum(label_map, 255)
    assert made(stack, small, "labelmap").BitsAllocated == 8
    assert np.array_equal(read_seg(made(stack, small, "labelmap"), stack), small)


def test_what_contradicts_itself_is_not_written():
    label_map = labelled((5, 12, 10), 2)
    one = analysis((volume(), label_map))
    with pytest.raises(ResultError, match="were not kept"):
        build_segs(one, PROVENANCE, kind="fractional")
    part = one.parts[0]
    for wrong, words in (
        (np.where(label_map == 2, 0, label_map), "segment 2 has no pixel"),
        (label_map + (label_map > 1), "segment 3 that is no finding"),
    ):
        other = replace(one, parts=(replace(part, label_map=wrong.astype(np.uint16)),))
        with pytest.raises(ResultError, match=words):
            build_segs(other, PROVENANCE)


def _shift(seg):
    for group in seg.PerFrameFunctionalGroupsSequence:
        x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [x + 1, y, z]


def _move_up(seg):
    for group in seg.PerFrameFunctionalGroupsSequence:
        x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [x, y, z + 2.5]


def _mirror(seg):
    (plane,) = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    plane.ImageOrientationPatient = [-c for c in plane.ImageOrientationPatient]


def _measure(keyword, value):
    def change(seg):
        measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        setattr(measures, keyword, value)

    return change


def _refer(value):
    def change(seg):
        (derivation,) = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence
        derivation.SourceImageSequence[0].ReferencedSOPInstanceUID = value

    return change


def _forget(seg):
    del seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence


def _overlap(seg):
    seg.PixelData = b"\xff" * len(seg.PixelData)


def _set(keyword, value):
    return lambda seg: setattr(seg, keyword, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_shift, "1.000 mm off"),
        (_move_up, "lies elsewhere|mm off"),
        (_mirror, "orientation"),
        (_measure("PixelSpacing", [0.7, 0.8]), "pixel spacing"),
        (_measure("SpacingBetweenSlices", 5), "between slices"),
        (_refer("1.2.3"), "not its input"),
        (_refer("2.25.100.1004"), "lies elsewhere"),
        (_forget, "does not say which image"),
        (_overlap, "overlap"),
        (_set("FrameOfReferenceUID", "1.2.3"), "frame of reference"),
        (_set("Rows", 10), "size"),
        (_set("NumberOfFrames", 3), "3 frames"),
        (_set("PixelData", b"\0\0"), "end before"),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    stack = volume()
    seg = made(stack, labelled((5, 12, 10), 2))
    change(seg)
    with pytest.raises(ResultError, match=words):
        read_seg(seg, stack)


def test_without_a_place_the_source_is_needed():
    stack = clip()
    seg = made(stack, labelled((4, 12, 10), 1))
    del seg.PerFrameFunctionalGroupsSequence[2].DerivationImageSequence
    with pytest.raises(ResultError, match="neither a place nor a source"):
        read_seg(seg, stack)
