"""Pixels that a source filled in where it had no data are known as such."""

import numpy as np
import pytest

from core.modelspec import InputSpec
from workers.images.build import build_stacks


def padding(make, stored, **attributes):
    image = make.image(np.array([stored]), **attributes)
    (stack,) = build_stacks([image], make.images, max_voxels=make.room)
    return stack, None if stack.padding is None else stack.padding[0, 0].tolist()


@pytest.mark.parametrize(
    ("stored", "attributes", "expected"),
    [
        (np.array([-2000, 0, 5], np.int16), {"PixelPaddingValue": -2000}, [True, False, False]),
        (np.array([0, 3, 5], np.uint16), {"PixelPaddingValue": 0}, [True, False, False]),
        (
            np.array([0, 3, 5], np.uint16),
            {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 3},
            [True, True, False],
        ),
        (
            np.array([0, 3, 5], np.uint16),
            {"PixelPaddingValue": 5, "PixelPaddingRangeLimit": 3},
            [False, True, True],
        ),
        (np.array([0, 3, 5], np.uint16), {"PixelPaddingValue": 9}, None),
        (np.array([0, 3, 5], np.uint16), {}, None),
        (np.array([0, 3, 5], np.uint16), {"PixelPaddingRangeLimit": 3}, None),
    ],
)
def test_by_value_and_range(make, stored, attributes, expected):
    assert padding(make, stored, **attributes)[1] == expected


def test_a_value_written_without_its_sign(make):
    image = make.image(np.array([[-2000, 0]], np.int16))
    image.add_new("PixelPaddingValue", "US", 65536 - 2000)
    (stack,) = build_stacks([image], make.images, max_voxels=make.room)
    assert stack.padding.tolist() == [[[True, False]]]


def test_stored_values_count_not_rescaled_or_turned_ones(make):
    stack, found = padding(
        make,
        np.array([0, 4095, 7], np.uint16),
        bits=12,
        modality="DX",
        PhotometricInterpretation="MONOCHROME1",
        PixelPaddingValue=4095,
        RescaleSlope=2,
        RescaleIntercept=1,
    )
    assert found == [False, True, False]
    assert stack.array[0, 0, 0] > stack.array[0, 0, 1]


def test_a_volume_has_none_between_slices_of_which_one_has_none(make):
    array = np.ones((5, 3, 3), np.uint16)
    array[0, 0, 0] = array[4, 2, 2] = array[1, 1, 1] = 0
    datasets = make.slices(array, make.affine(), PixelPaddingValue=0)
    del datasets[2]
    spec = InputSpec(modality=("MR",), incomplete="analyse")
    (stack,) = build_stacks(datasets, spec, max_voxels=make.room)
    assert np.argwhere(stack.padding).tolist() == [[0, 0, 0], [1, 1, 1], [2, 1, 1], [4, 2, 2]]
