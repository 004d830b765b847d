"""Images for themselves: grouping, order, what each frame keeps."""

import numpy as np
import pytest

from core.errors import NotApplicableError
from workers.images.build import build_stacks


def grey(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 4000, shape).astype(np.uint16)


def test_frames_keep_the_order_of_their_instances(make):
    first = make.image(grey((2, 4, 5), 1), number=3, modality="US")
    second = make.image(grey((4, 5), 2), number=1, modality="US")
    (stack,) = build_stacks([first, second], make.images, max_voxels=make.room)
    assert [frame.dataset.InstanceNumber for frame in stack.frames] == [1, 3, 3]
    assert [frame.number for frame in stack.frames] == [1, 1, 2]
    assert [frame.multi_frame for frame in stack.frames] == [False, True, True]
    assert np.array_equal(stack.array[1:], grey((2, 4, 5), 1))
    assert stack.affine is None
    assert stack.calibrations == ()
    assert stack.frame_of_reference_uid == ""
    assert not any("PixelData" in ds for ds in stack.datasets)


def test_sizes_sides_and_calibrations_part_the_stacks(make):
    images = [
        make.image(grey((4, 5)), number=1, modality="MG", ImageLaterality="L"),
        make.image(grey((4, 5)), number=2, modality="MG", ImageLaterality="R"),
        make.image(grey((5, 5)), number=3, modality="MG", ImageLaterality="R"),
        make.image(grey((4, 5)), number=4, modality="MG", ImageLaterality="L"),
        make.image(
            grey((4, 5)), number=5, modality="MG", Laterality="L", ImagerPixelSpacing=[0.1, 0.1]
        ),
    ]
    stacks = build_stacks(images, make.images, max_voxels=make.room)
    assert [[f.dataset.InstanceNumber for f in s.frames] for s in stacks] == [[1, 4], [2], [3], [5]]
    assert [stack.laterality for stack in stacks] == ["L", "R", "R", "L"]


@pytest.mark.parametrize("side", ["B", "U", ""])
def test_a_side_that_is_none_stays_unstated(make, side):
    image = make.image(grey((4, 5)), modality="MG", ImageLaterality=side)
    assert build_stacks([image], make.images, max_voxels=make.room)[0].laterality == ""


def test_a_side_of_each_frame(make):
    dataset = make.enhanced(grey((4, 4, 4)), make.affine())
    for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.FrameAnatomySequence = [make.item(FrameLaterality="LR"[index % 2])]
    stacks = build_stacks([dataset], make.images, max_voxels=make.room)
    assert [[f.number for f in s.frames] for s in stacks] == [[1, 3], [2, 4]]
    assert np.array_equal(stacks[1].array, grey((4, 4, 4))[1::2])
    assert "PixelData" not in dataset


def test_slices_for_themselves_keep_their_place(make):
    datasets = make.slices(grey((3, 4, 4)), make.affine())
    (stack,) = build_stacks(datasets, make.images, max_voxels=make.room)
    assert stack.affine is None
    assert stack.frame_of_reference_uid == "2.25.4"
    assert stack.frames[1].position == (-20.0, 10.0, 32.0)
    assert stack.frames[1].orientation == (1, 0, 0, 0, 1, 0)
    datasets = make.slices(grey((3, 4, 4)), make.affine())
    del datasets[2].ImagePositionPatient
    (stack,) = build_stacks(datasets, make.images, max_voxels=make.room)
    assert stack.frame_of_reference_uid == ""


@pytest.mark.parametrize(
    ("sop_class", "reason"),
    [
        ("1.2.840.10008.5.1.4.1.1.66.4", "made from images"),
        ("1.2.840.10008.5.1.4.1.1.30", "made from images"),
        ("1.2.840.10008.5.1.4.1.1.88.33", "a report"),
        ("1.2.840.10008.5.1.4.1.1.88.59", "a list of images"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "a document"),
        ("1.2.840.10008.5.1.4.1.1.9.1.1", "a waveform"),
        ("1.2.840.10008.5.1.4.1.1.481.2", "a dose"),
        ("1.2.840.10008.5.1.4.1.1.481.3", "made from images"),
        ("1.2.840.10008.5.1.4.1.1.481.5", "a treatment plan"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "a way to show images"),
        ("1.2.840.10008.5.1.4.1.1.77.1.6", "tiles"),
    ],
)
def test_what_is_no_image_is_not_applicable(make, sop_class, reason):
    image = make.image(grey((4, 4)), sop_class=sop_class)
    for spec in (make.images, make.volume):
        with pytest.raises(NotApplicableError, match=reason):
            build_stacks([image], spec, max_voxels=make.room)


def test_an_image_without_pixels_is_not_applicable(make):
    image = make.image(grey((4, 4)))
    del image.PixelData
    with pytest.raises(NotApplicableError, match="without pixel data"):
        build_stacks([image], make.images, max_voxels=make.room)
