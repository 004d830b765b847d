import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from unit.workers.lesions.build import (
    ATTENUATION,
    HU,
    concepts_of,
    find,
    make_images,
    make_volume,
    value_of,
)

from workers.images.stack import Basis, Calibration
from workers.lesions import concepts as c
from workers.lesions.density import rim_values
from workers.lesions.region import Region

BOX = (slice(1, 4), slice(12, 20), slice(10, 22))


def boxed(shape=(5, 34, 36)):
    mask = np.zeros(shape, dtype=bool)
    mask[BOX] = True
    return mask


def test_statistics_are_those_of_the_voxels_inside():
    mask = boxed()
    values = np.random.default_rng(5).normal(40, 12, mask.shape).astype(np.float32)
    (finding,) = find(make_volume(values), mask).findings
    inside = values[mask].astype(np.float64)
    for derivation, expected in (
        (c.MEAN, inside.mean()),
        (c.STANDARD_DEVIATION, inside.std()),
        (c.MEDIAN, np.median(inside)),
        (c.MINIMUM, inside.min()),
        (c.MAXIMUM, inside.max()),
        (c.PERCENTILE_10, np.percentile(inside, 10)),
        (c.PERCENTILE_90, np.percentile(inside, 90)),
    ):
        assert value_of(finding, ATTENUATION, derivation) == pytest.approx(expected, rel=1e-5)
    assert {m.unit for m in finding.measurements if m.concept == ATTENUATION} == {HU}


def test_contrast_is_to_what_lies_within_3_mm_other_lesions_left_out():
    mask = boxed()
    values = np.full(mask.shape, -500.0)
    near = ndimage.distance_transform_edt(~mask, sampling=(1e6, 0.9, 0.9)) <= 3.0
    values[near] = 30.0
    values[mask] = 55.0
    other = np.zeros_like(mask)
    other[1:4, 12:20, 24:27] = True  # within the rim, and very bright
    values[other] = 3000.0
    stack = make_volume(values, (4.0, 0.9, 0.9))
    first, _ = find(stack, mask | other).findings
    assert value_of(first, c.CONTRAST) == pytest.approx(25.0)


def test_without_calibration_the_rim_is_3_pixels():
    mask = boxed()[1:2]
    values = np.zeros(mask.shape)
    stack = make_images(values)
    region = Region(stack, (slice(0, 1), slice(12, 20), slice(10, 22)), mask[:, 12:20, 10:22], mask)
    expected = (ndimage.distance_transform_edt(~mask[0]) <= 3) & ~mask[0]
    assert len(rim_values(region)) == np.count_nonzero(expected)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1.0, 1.0), (0.7, 1.3), (4.0, 4.0), (0.45, 0.45), (0.15, 0.2)]),
)
def test_the_rim_is_what_a_distance_transform_gives(seed, spacing):
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.normal(size=(26, 30)), 2) > 0.15
    mask[13, 15] = True
    values = np.arange(mask.size, dtype=np.float32).reshape(1, 26, 30)
    stack = make_images(values, calibrations=(Calibration(*spacing, Basis.PATIENT),))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (slice(0, 1), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    region = Region(stack, box, mask[None][box], mask[None])
    away = ndimage.distance_transform_edt(~mask, sampling=spacing)
    expected = values[0][(away <= max(3.0, *spacing) + 1e-9) & ~mask]
    assert np.array_equal(np.sort(rim_values(region)), np.sort(expected))


def test_what_is_no_number_does_not_count():
    mask = boxed()
    values = np.full(mask.shape, 7.0)
    values[2, 14] = np.nan
    (finding,) = find(make_volume(values), mask).findings
    assert value_of(finding, ATTENUATION, c.MEAN) == 7.0
    (finding,) = find(make_volume(np.full(mask.shape, np.nan)), mask).findings
    assert not concepts_of(finding) & {ATTENUATION, c.CONTRAST, c.MARGIN_SHARPNESS}


def test_a_lesion_that_fills_the_image_has_no_contrast():
    (finding,) = find(make_volume(np.zeros((2, 8, 8))), np.ones((2, 8, 8), dtype=bool)).findings
    assert c.CONTRAST not in concepts_of(finding)


def test_where_the_source_has_no_data_nothing_is_measured():
    mask = boxed()
    values = np.where(mask, 55.0, 30.0)
    padding = np.zeros_like(mask)
    padding[:, :, :14] = True  # part of the lesion, and its rim on one side
    values[padding] = -2000.0
    (finding,) = find(make_volume(values, padding=padding), mask).findings
    assert value_of(finding, ATTENUATION, c.MINIMUM) == 55.0
    assert value_of(finding, c.CONTRAST) == pytest.approx(25.0)
    (finding,) = find(make_volume(values, padding=np.ones_like(mask)), mask).findings
    assert not concepts_of(finding) & {ATTENUATION, c.CONTRAST, c.MARGIN_SHARPNESS}
