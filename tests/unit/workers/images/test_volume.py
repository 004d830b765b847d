"""A volume comes out the same however it was stored; what is none is refused with its reason."""

import random
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from core.errors import DecodeError, NotApplicableError, ResultError
from core.modelspec import InputSpec
from workers.images.axial import to_axial
from workers.images.build import build_stacks
from workers.images.stack import Basis


def build(make, datasets, **spec):
    (stack,) = build_stacks(datasets, InputSpec(modality=("MR",), **spec), max_voxels=make.room)
    return stack


def voxels(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 4000, shape).astype(np.uint16)


@st.composite
def scenes(draw):
    """An array, a rotation and spacings, and an order in which the slices arrive."""
    shape = tuple(draw(st.tuples(*[st.integers(2, 6)] * 3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    if draw(st.booleans()):
        rotation = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    spacing = tuple(draw(st.tuples(*[st.sampled_from([0.4, 1.0, 3.3])] * 3)))
    order = [int(index) for index in rng.permutation(shape[0])]
    return voxels(shape, rng), rotation, spacing, order


@settings(max_examples=60, deadline=None)
@given(scene=scenes())
def test_single_and_multi_frame_in_any_order_give_the_same_volume(make, scene):
    array, rotation, spacing, order = scene
    affine = make.affine(rotation, spacing)
    singles = make.slices(array, affine)
    one = build(make, [singles[index] for index in order])
    many = build(make, [make.enhanced(array, affine, order)])
    assert one.array.dtype == np.float32
    assert np.array_equal(one.array, array)
    assert np.array_equal(many.array, array)
    assert np.allclose(one.affine, affine, atol=1e-5)
    assert np.allclose(many.affine, affine, atol=1e-5)
    assert one.spacing_mm == pytest.approx(spacing, rel=1e-4)
    assert [frame.number for frame in many.frames] == [
        order.index(i) + 1 for i in range(len(array))
    ]
    assert all(frame.multi_frame for frame in many.frames)
    assert [frame.dataset.InstanceNumber for frame in one.frames] == [*range(1, len(array) + 1)]
    assert not any("PixelData" in ds for ds in (*one.datasets, *many.datasets))
    # Every frame lies where the affine says.
    for index, frame in enumerate(one.frames):
        assert np.allclose((one.affine @ [index, 0, 0, 1])[:3], frame.position, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(scene=scenes(), mirrored=st.sets(st.sampled_from(["rows", "columns", "slices"])))
def test_mirrored_storage_gives_the_same_anatomy(make, scene, mirrored):
    array, _, spacing, _ = scene
    affine = make.affine(None, spacing)
    other, stored = affine.copy(), array
    for name, axis in (("slices", 0), ("rows", 1), ("columns", 2)):
        if name in mirrored:
            stored = np.flip(stored, axis)
            other[:3, 3] += other[:3, axis] * (array.shape[axis] - 1)
            other[:3, axis] *= -1
    one = to_axial(build(make, make.slices(array, affine)))
    two = to_axial(build(make, make.slices(np.ascontiguousarray(stored), other)))
    assert np.array_equal(one.array, two.array)
    assert one.spacing_mm == pytest.approx(two.spacing_mm)


def test_a_volume_says_what_it_is(make):
    stack = build(make, make.slices(voxels((3, 4, 5)), make.affine(), Laterality="R"))
    assert stack.is_volume
    assert stack.frame_of_reference_uid == "2.25.4"
    assert stack.laterality == "R"
    assert (stack.calibrations[0].row_mm, stack.calibrations[0].column_mm) == (1.0, 0.5)
    assert stack.calibrations[0].basis is Basis.PATIENT
    assert (stack.quantity.meaning, stack.unit.value) == ("MR signal intensity", "1")
    assert stack.remarks == ()


@pytest.mark.parametrize("tilt", [12.0, 30.0])
def test_a_tilted_gantry_is_a_sheared_affine(make, tilt):
    affine = make.affine()
    affine[:3, 0] += affine[:3, 1] / np.linalg.norm(affine[:3, 1]) * 2 * np.tan(np.radians(tilt))
    stack = build(make, make.slices(voxels((5, 4, 4)), affine))
    assert np.allclose(stack.affine, affine, atol=1e-5)
    assert stack.spacing_mm == pytest.approx((2.0, 1.0, 0.5))
    assert stack.remarks == (f"The slices are tilted by {tilt:.1f}° against the stack.",)
    view = to_axial(stack)
    assert np.array_equal(view.array, stack.array)


def test_a_stack_that_leans_over_is_refused(make):
    affine = make.affine()
    affine[:3, 0] += affine[:3, 1] * 5
    with pytest.raises(NotApplicableError, match="shifted"):
        build(make, make.slices(voxels((5, 4, 4)), affine))


def test_slices_that_wander_are_refused(make):
    datasets = make.slices(voxels((5, 4, 4)), make.affine())
    datasets[2].ImagePositionPatient[1] += 3
    with pytest.raises(NotApplicableError, match="form no stack"):
        build(make, datasets)


@pytest.mark.parametrize("gone", [(3,), (2, 3), (1, 4)])
def test_missing_slices_are_refused_or_counted(make, gone):
    array = np.arange(9, dtype=np.uint16)[:, None, None] * np.ones((1, 4, 4), np.uint16) * 100
    datasets = [d for i, d in enumerate(make.slices(array, make.affine())) if i not in gone]
    with pytest.raises(NotApplicableError, match=r"slices are missing: [46]\.00 mm between slices"):
        build(make, deepcopy(datasets))
    random.Random(1).shuffle(datasets)
    stack = build(make, datasets, incomplete="analyse")
    assert stack.missing == gone
    assert np.allclose(stack.array, array)
    assert np.allclose(stack.affine, make.affine())
    assert stack.remarks == (f"{9 - len(gone)} of 9 images: {len(gone)} slice(s) missing.",)


def test_a_hole_larger_than_the_stack_is_no_missing_slice(make):
    datasets = make.slices(voxels((3, 4, 4)), make.affine())
    datasets[2].ImagePositionPatient[2] = "1000030"
    with pytest.raises(NotApplicableError, match="not evenly spaced"):
        build(make, datasets, incomplete="analyse")


def test_copies_are_dropped(make):
    datasets = make.slices(voxels((4, 4, 4)), make.affine())
    copy = deepcopy(datasets[1])
    copy.SOPInstanceUID, copy.InstanceNumber, copy.ContentTime = "2.25.99", 77, "101010"
    stack = build(make, [copy, *datasets])
    assert len(stack.frames) == 4
    assert stack.frames[1].dataset is datasets[1]
    assert stack.remarks == ("1 image(s) came twice; the copies were left out.",)
    assert "PixelData" not in copy


SEVERAL = {
    "EchoTime": (10, 80),
    "TemporalPositionIdentifier": (1, 2),
    "DiffusionBValue": (0.0, 1000.0),
    "AcquisitionNumber": (3, 4),
    "InversionTime": (100, 2500),
    "FlipAngle": (5, 25),
    "ImageType": (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]),
    "ContentTime": ("101000", "101100"),
    "TriggerTime": (0, 400),
    "FrameReferenceTime": (1000, 2000),
}


@pytest.mark.parametrize("keyword", SEVERAL)
def test_several_volumes_are_told_apart(make, keyword):
    arrays = [voxels((4, 4, 4), seed) for seed in (1, 2)]
    datasets = [
        dataset
        for number, (array, value) in enumerate(zip(arrays, SEVERAL[keyword], strict=True))
        for dataset in make.slices(array, make.affine(), first=100 * number, **{keyword: value})
    ]
    random.Random(2).shuffle(datasets)
    with pytest.raises(NotApplicableError, match=f"2 volumes that {keyword} tells apart"):
        build(make, deepcopy(datasets))
    for which, array in zip(("first", "last"), arrays, strict=True):
        stack = build(make, deepcopy(datasets), of_several=which)
        assert np.array_equal(stack.array, array)
        assert keyword in stack.remarks[0]


@pytest.mark.parametrize(
    ("group", "creator", "element", "values"),
    [
        (0x0019, "SIEMENS MR HEADER", 0x0C, ("0", "1000")),
        (0x2001, "Philips Imaging DD 001", 0x03, (0.0, 1000.0)),
        (0x0043, "GEMS_PARM_01", 0x39, (["0", "8", "0"], ["1000001000", "8", "0"])),
        (0x0019, "SIEMENS MR HEADER", 0x0C, (b"0 ", b"1000")),
    ],
)
def test_b_values_of_older_scanners(make, group, creator, element, values):
    datasets = []
    for number, value in enumerate(values):
        part = make.slices(voxels((3, 4, 4), number), make.affine(), first=10 * number)
        vr = "UN" if isinstance(value, bytes) else "FL" if isinstance(value, float) else "IS"
        for dataset in part:
            dataset.private_block(group, creator, create=True).add_new(element, vr, value)
        datasets += part
    with pytest.raises(NotApplicableError, match="DiffusionBValue tells apart: 0, 1000"):
        build(make, datasets)


def test_echoes_of_a_converted_enhanced_object(make):
    array = voxels((6, 4, 4))
    dataset = make.enhanced(array, make.affine())
    groups = dataset.PerFrameFunctionalGroupsSequence
    places = [deepcopy(group.PlanePositionSequence) for group in groups]
    for index, group in enumerate(groups):
        group.PlanePositionSequence = places[index // 2]
        group.UnassignedPerFrameConvertedAttributesSequence = [
            make.item(EchoTime=(80, 10)[index % 2])
        ]
    stack = build(make, [dataset], of_several="first")
    assert np.array_equal(stack.array, array[1::2])
    assert "EchoTime tells apart: 10, 80" in stack.remarks[0]


def test_a_cine_with_other_times_at_each_slice(make):
    datasets = []
    for phase in range(3):
        part = make.slices(voxels((4, 4, 4), phase), make.affine(), first=10 * phase)
        for index, dataset in enumerate(part):
            dataset.TriggerTime = phase * 100 + index * 3
            dataset.ContentTime = f"1010{10 + phase + index:02d}"
        datasets += part
    stack = build(make, datasets, of_several="last")
    assert np.array_equal(stack.array, voxels((4, 4, 4), 2))


def test_diffusion_directions_need_two_attributes(make):
    datasets = []
    for number, (b, way) in enumerate([(0, None), (900, [1, 0, 0]), (900, [0, 1, 0])]):
        attributes = {"DiffusionBValue": float(b)}
        if way:
            attributes["DiffusionGradientOrientation"] = way
        datasets += make.slices(
            voxels((3, 4, 4), number), make.affine(), first=10 * number, **attributes
        )
    with pytest.raises(NotApplicableError, match="3 volumes that DiffusionGradientOrientation"):
        build(make, deepcopy(datasets))
    # Without the directions, nothing says which of the two is which.
    for dataset in datasets:
        if "DiffusionGradientOrientation" in dataset:
            del dataset.DiffusionGradientOrientation
    with pytest.raises(NotApplicableError, match="no attribute tells them apart"):
        build(make, datasets)


def test_time_points_of_an_enhanced_object(make):
    array = voxels((6, 4, 4))
    dataset = make.enhanced(array, make.affine())
    for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.FrameContentSequence[0].TemporalPositionIndex = 1 + index // 3
        group.PlanePositionSequence = deepcopy(
            dataset.PerFrameFunctionalGroupsSequence[index % 3].PlanePositionSequence
        )
    with pytest.raises(NotApplicableError, match="2 volumes that TemporalPositionIndex"):
        build(make, [deepcopy(dataset)])
    stack = build(make, [dataset], of_several="last")
    assert np.array_equal(stack.array, array[3:])
    assert [frame.number for frame in stack.frames] == [4, 5, 6]


def test_stacks_of_an_enhanced_object(make):
    dataset = make.enhanced(voxels((6, 4, 4)), make.affine())
    for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.FrameContentSequence[0].StackID = "1" if index < 4 else "2"
    with pytest.raises(NotApplicableError, match="2 volumes that StackID tells apart: 1, 2"):
        build(make, [deepcopy(dataset)])
    assert len(build(make, [dataset], of_several="first").frames) == 4


def test_localizers_are_left_out_or_refused(make):
    datasets = make.slices(voxels((4, 4, 4)), make.affine())
    scout = make.image(voxels((9, 9)), number=50, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    with pytest.raises(NotApplicableError, match="localizers"):
        build(make, [deepcopy(scout)])
    stack = build(make, [scout, *datasets])
    assert len(stack.frames) == 4
    assert stack.remarks == ("1 localizer image(s) were left out.",)


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("ImageOrientationPatient", [0, 1, 0, 0, 0, 1], "several orientations"),
        ("ImageOrientationPatient", None, "without ImageOrientationPatient"),
        ("ImagePositionPatient", None, "without ImagePositionPatient"),
        ("PixelSpacing", None, "without PixelSpacing"),
        ("PixelSpacing", [0, 0], "without PixelSpacing"),
        ("PixelSpacing", [1, 1], "different pixel spacings"),
        ("FrameOfReferenceUID", "1.2.3", "different frames of reference"),
        ("FrameOfReferenceUID", None, "different frames of reference"),
        ("Rows", 3, "different sizes"),
        ("RescaleType", "HU", "different units"),
        ("PhotometricInterpretation", "PALETTE COLOR", "colour"),
        ("PhotometricInterpretation", "HSV", "HSV"),
        ("ImagePositionPatient", [-20, 10, 33], "not evenly spaced"),
    ],
)
def test_one_odd_image_is_named_as_the_reason(make, keyword, value, reason):
    datasets = make.slices(voxels((4, 4, 4)), make.affine(), RescaleSlope=1, RescaleIntercept=0)
    setattr(datasets[2], keyword, value)
    with pytest.raises(NotApplicableError, match=reason):
        build(make, datasets)


def test_values_that_are_no_numbers_are_a_decode_error(make):
    datasets = make.slices(voxels((4, 4, 4)), make.affine())
    datasets[1].ImagePositionPatient = [0, 0]
    with pytest.raises(DecodeError, match="ImagePositionPatient has 2 values"):
        build(make, datasets)


def test_without_a_frame_of_reference_a_volume_says_so(make):
    datasets = make.slices(voxels((4, 4, 4)), make.affine(), FrameOfReferenceUID="")
    stack = build(make, datasets)
    assert stack.frame_of_reference_uid == ""
    assert "no Frame of Reference" in stack.remarks[0]


@pytest.mark.parametrize("keyword", ["PatientID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_images_of_two_patients_or_series_never_become_one_volume(make, keyword):
    datasets = make.slices(voxels((4, 4, 4)), make.affine())
    setattr(datasets[1], keyword, "1.2.3")
    with pytest.raises(ResultError, match=keyword):
        build(make, datasets)


def test_no_images_and_one_image(make):
    with pytest.raises(NotApplicableError, match="no images"):
        build(make, [])
    datasets = make.slices(voxels((2, 4, 4)), make.affine())
    assert build(make, datasets[:1]).spacing_mm[0] == 2.0
    del datasets[1].SliceThickness
    with pytest.raises(NotApplicableError, match="slice thickness"):
        build(make, datasets[1:])


def test_pixels_that_end_early_are_a_decode_error(make):
    datasets = make.slices(voxels((4, 4, 4)), make.affine())
    datasets[2].PixelData = datasets[2].PixelData[:-10]
    with pytest.raises(DecodeError, match="image 3"):
        build(make, datasets)


def test_two_thousand_slices(make):
    array = np.arange(2000, dtype=np.uint16)[:, None, None] * np.ones((1, 2, 2), np.uint16)
    datasets = make.slices(array, make.affine(spacing=(0.5, 1, 1)))
    random.Random(5).shuffle(datasets)
    stack = build(make, datasets)
    assert np.array_equal(stack.array[:, 0, 0], np.arange(2000))


@pytest.mark.parametrize("stray", [1, 3])
def test_a_stray_part_is_not_taken_for_a_volume(make, stray):
    whole = make.slices(voxels((6, 4, 4)), make.affine(), EchoTime=20)
    part = make.slices(voxels((stray, 4, 4), 1), make.affine(), first=50, EchoTime=10)
    with pytest.raises(NotApplicableError, match=f"10 covers {stray} of the 6 slices"):
        build(make, deepcopy([*whole, *part]), of_several="first")
    assert len(build(make, [*whole, *part], of_several="last").frames) == 6


def test_a_stray_stack_is_not_taken_for_a_volume(make):
    dataset = make.enhanced(voxels((6, 4, 4)), make.affine())
    for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.FrameContentSequence[0].StackID = "1" if index < 1 else "2"
    with pytest.raises(NotApplicableError, match="covers 1 of the 5"):
        build(make, [deepcopy(dataset)], of_several="first")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("number", ["abc", "1.5"])
def test_an_instance_number_that_cannot_be_read_is_no_matter(make, number):
    array = voxels((3, 4, 4))
    datasets = make.slices(array, make.affine())
    datasets[1]._dict[Tag("InstanceNumber")] = RawDataElement(
        Tag("InstanceNumber"), "IS", len(number), number.encode(), 0, False, True
    )
    assert np.array_equal(build(make, datasets).array, array)


@pytest.mark.parametrize(("thickness", "remarked"), [(0.5, True), (1.0, False), (None, False)])
def test_slices_far_apart_are_remarked_upon(make, thickness, remarked):
    datasets = make.slices(voxels((2, 4, 4)), make.affine(), SliceThickness=thickness)
    stack = build(make, datasets)
    assert any("2.00 mm apart and 0.50 mm thick" in remark for remark in stack.remarks) == remarked


def test_an_orientation_of_zeros_is_none(make):
    datasets = make.slices(
        voxels((2, 4, 4)), make.affine(), ImageOrientationPatient=["0"] * 6, Modality="CR"
    )
    with pytest.raises(NotApplicableError, match="without ImageOrientationPatient"):
        build(make, deepcopy(datasets))
    (stack,) = build_stacks(datasets, make.images, max_voxels=make.room)
    assert {(frame.position, frame.orientation) for frame in stack.frames} == {(None, None)}
    assert stack.frame_of_reference_uid == ""
    assert stack.calibrations[0].basis is Basis.DETECTOR
