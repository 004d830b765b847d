import numpy as np
import pytest
from scipy import ndimage
from unit.workers.lesions.build import (
    concepts_of,
    ellipsoid,
    find,
    make_images,
    make_volume,
    value_of,
)

from core.modelspec import Code
from workers.images.stack import Basis, Calibration
from workers.lesions import concepts as c

SHAPE = (9, 70, 80)
CENTRE = (4, 35, 40)


def ramp(slope, radius=20.0, spacing=(0.8, 0.8)):
    """A cone about the middle: the values fall by `slope` per mm from the middle outwards."""
    y, x = np.mgrid[:70, :80]
    distance = np.hypot((y - 35) * spacing[0], (x - 40) * spacing[1])
    values = np.broadcast_to(100 - slope * distance, SHAPE)
    return values, np.broadcast_to(distance <= radius, SHAPE)


@pytest.mark.parametrize("slope", [0.0, 2.5, -4.0])
def test_on_a_slope_the_sharpness_is_the_slope(slope):
    values, mask = ramp(slope)
    (finding,) = find(make_volume(values, (3.0, 0.8, 0.8)), mask).findings
    assert value_of(finding, c.MARGIN_SHARPNESS) == pytest.approx(abs(slope), rel=0.02, abs=1e-9)


def test_pixels_that_are_not_square_keep_the_slope():
    values, mask = ramp(3.0, radius=14.0, spacing=(0.6, 1.1))
    (finding,) = find(make_volume(values, (3.0, 0.6, 1.1)), mask).findings
    assert value_of(finding, c.MARGIN_SHARPNESS) == pytest.approx(3.0, rel=0.03)


def test_a_step_is_sharper_than_the_same_step_blurred():
    mask = ellipsoid(SHAPE, CENTRE, (4, 20, 20))
    found = [
        value_of(find(make_volume(values), mask).findings[0], c.MARGIN_SHARPNESS)
        for values in (
            100.0 * mask,
            ndimage.gaussian_filter(100.0 * mask, (0, 1, 1)),
            ndimage.gaussian_filter(100.0 * mask, (0, 3, 3)),
        )
    ]
    assert found[0] > 1.5 * found[1] > 2 * found[2] > 0
    assert 70 <= found[0] <= 100


def test_where_another_lesion_touches_there_is_no_margin():
    from unit.workers.lesions.build import make_spec

    from workers.lesions.find import find_lesions

    probabilities = np.zeros((2, 1, 40, 60), np.float16)
    probabilities[0, :, 10:30, 10:30] = probabilities[1, :, 10:30, 30:50] = 0.9
    values = np.zeros((1, 40, 60))
    values[:, :, 30:] = 1000  # a step only between the two
    analysis = find_lesions(
        [(make_volume(values), probabilities)], make_spec(("a", "b")), job_id="j"
    )
    assert [value_of(f, c.MARGIN_SHARPNESS) for f in analysis.findings] == [0, 0]


def test_the_unit_is_the_stack_s_per_mm_or_per_pixel():
    mask = np.zeros((1, 40, 40), dtype=bool)
    mask[0, 10:30, 10:30] = True
    calibration = Calibration(0.5, 0.5, Basis.PATIENT)

    def unit(stack):
        (finding,) = find(stack, mask).findings
        (found,) = (m.unit for m in finding.measurements if m.concept == c.MARGIN_SHARPNESS)
        return found.value

    values = np.zeros(mask.shape)
    none = Code(value="1", scheme="UCUM", meaning="no units")
    assert unit(make_volume(values)) == "[hnsf'U]/mm"
    assert unit(make_images(values)) == "[hnsf'U]/{pixel}"
    assert unit(make_images(values, unit=none)) == "/{pixel}"
    assert unit(make_images(values, unit=none, calibrations=(calibration,))) == "/mm"


def test_a_unit_too_long_to_be_coded_is_not_cut():
    long = Code(value="g/ml{SUVibw}", scheme="UCUM", meaning="SUV")
    assert c.per_length(long, c.MILLIMETRE).value == "g/ml{SUVibw}/mm"
    assert c.per_length(long, c.PIXELS) is None


def test_the_reading_is_coded():
    mask = ellipsoid(SHAPE, CENTRE, (3, 20, 25))
    (finding,) = find(make_volume(np.zeros(SHAPE)), mask).findings
    assert [(e.concept, e.value) for e in finding.evaluations] == [(c.MARGINS, c.SMOOTH)]
    comb = np.zeros(SHAPE, dtype=bool)
    comb[:, 10:60, 10:70] = True
    comb[:, 12:, 12::4] = False
    comb[:, 10:12, 10:70] = True
    (finding,) = find(make_volume(np.zeros(SHAPE)), comb).findings
    assert [(e.concept, e.value) for e in finding.evaluations] == [(c.MARGINS, c.IRREGULAR)]


def test_one_voxel_has_neither_shape_nor_margin():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[4, 30, 30] = True
    (finding,) = find(make_volume(np.zeros(SHAPE)), mask).findings
    assert finding.evaluations == ()
    assert not concepts_of(finding) & {c.SPHERICITY, c.MARGIN_IRREGULARITY, c.MARGIN_SHARPNESS}
    assert {c.VOLUME, c.LONG_AXIS, c.SHORT_AXIS, c.SURFACE_AREA} <= concepts_of(finding)


def test_a_step_to_where_the_source_has_no_data_is_no_margin():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[2:7, 20:40, 20:40] = True
    values = np.where(mask, 60.0, 50.0)
    padding = np.zeros(SHAPE, dtype=bool)
    padding[:, :, 40:] = padding[:, 40:] = padding[:, :20] = True  # three of four sides
    padding[3] = False
    values[padding] = -2000.0
    (finding,) = find(make_volume(values, padding=padding), mask).findings
    (clean,) = find(make_volume(np.where(mask, 60.0, 50.0)), mask).findings
    assert value_of(finding, c.MARGIN_SHARPNESS) == pytest.approx(
        value_of(clean, c.MARGIN_SHARPNESS)
    )
