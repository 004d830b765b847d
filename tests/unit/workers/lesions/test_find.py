import time

import numpy as np
import pytest
from unit.workers.lesions.build import (
    MASS,
    answer_of,
    concepts_of,
    ellipsoid,
    find,
    make_images,
    make_spec,
    make_volume,
    value_of,
)

from core.domain import FindingKind
from core.modelspec import Code
from workers.images.stack import Basis, Calibration
from workers.lesions import concepts as c
from workers.lesions.find import AT_DETECTOR, IN_PIXELS, PARTLY_IN_PIXELS, find_lesions


def three_lesions():
    mask = np.zeros((6, 20, 20), dtype=bool)
    mask[0, 0, 0:3] = True
    mask[3:5, 10:15, 10:15] = True
    mask[1, 18, 2:12] = True
    return mask


def test_lesions_are_numbered_by_volume_and_the_map_bears_their_segments():
    mask = three_lesions()
    found = find(make_volume(np.zeros(mask.shape)), mask)
    assert [value_of(f, c.VOLUME) for f in found.findings] == pytest.approx([0.05, 0.01, 0.003])
    (part,) = found.parts
    assert part.label_map.dtype == np.uint16
    assert [part.label_map[place] for place in ((3, 12, 12), (1, 18, 5), (0, 0, 0))] == [1, 2, 3]
    assert np.array_equal(part.label_map > 0, mask)
    assert part.findings == found.findings == found.lesions
    assert [(f.number, f.segment, f.part) for f in found.findings] == [(n, n, 0) for n in (1, 2, 3)]
    assert len({f.tracking_uid for f in found.findings}) == 3
    assert part.probabilities is None


def test_a_finding_says_what_the_label_says():
    site = Code(value="12738006", scheme="SCT", meaning="Brain")
    spec = make_spec(({"name": "spot", "site": site, "color": (1, 2, 3)},))
    mask = three_lesions()
    first = find(make_volume(np.zeros(mask.shape)), mask, spec).findings[0]
    assert (first.label, first.type, first.site, first.color) == ("spot 1", MASS, site, (1, 2, 3))
    assert (first.kind, first.present, first.channel) == (FindingKind.LESION, True, 0)
    assert first.probability == pytest.approx(0.9, abs=1e-3)
    assert first.slices == (3, 4)
    assert (first.key_image.sop_instance_uid, first.key_image.frame) == ("1.2.3.4", None)
    assert first.laterality is None


def test_voxels_that_touch_by_a_corner_are_one_lesion_in_a_volume_not_in_images():
    mask = np.zeros((3, 4, 4), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[1, 2, 2] = mask[2, 3, 3] = True
    assert len(find(make_volume(np.zeros(mask.shape)), mask).findings) == 1
    assert len(find(make_images(np.zeros(mask.shape)), mask).findings) == 3


def test_small_components_and_those_over_the_limit_are_left_out_and_counted():
    mask = np.zeros((2, 10, 20), dtype=bool)
    mask[0, 0, 0] = mask[0, 9, 19] = True
    mask[0, 4, 0:10] = True
    mask[1, 8, 0:8] = True
    stack = make_volume(np.zeros(mask.shape))
    found = find(stack, mask, min_volume_ml=0.005, max_findings=1)
    assert (found.too_small, found.too_small_ml) == (2, pytest.approx(0.002))
    assert (found.left_out, found.left_out_ml) == (1, pytest.approx(0.008))
    assert [f.number for f in found.lesions] == [1]
    assert np.count_nonzero(found.parts[0].label_map) == 10


def test_a_lesion_of_exactly_the_least_size_is_kept():
    mask = np.zeros((1, 1, 10), dtype=bool)
    mask[0, 0, :7] = True
    assert find(make_volume(np.zeros(mask.shape)), mask, min_volume_ml=0.007).too_small == 0


def test_the_models_least_size_holds_unless_the_settings_say_otherwise():
    mask = np.zeros((1, 4, 4), dtype=bool)
    mask[0, 0, 0] = True
    stack, spec = make_volume(np.zeros(mask.shape)), make_spec(least={"min_volume_ml": 0.5})
    assert find(stack, mask, spec).too_small == 1
    assert find(stack, mask, spec, min_volume_ml=0).lesions


def test_in_images_the_least_size_is_an_area_where_it_is_known_and_pixels():
    mask = np.zeros((1, 30, 30), dtype=bool)
    mask[0, 2:5, 2:5] = True  # 9 pixels
    mask[0, 20:24, 20:24] = True  # 16 pixels
    plain = make_images(np.zeros(mask.shape))
    fine = make_images(np.zeros(mask.shape), calibrations=(Calibration(0.5, 0.5, Basis.PATIENT),))

    def kept(stack, **least):
        return len(find(stack, mask, make_spec(least=least), min_volume_ml=9e9).lesions)

    assert kept(plain, min_area_mm2=4.0) == 2  # no pixel size, so no area
    assert kept(fine, min_area_mm2=4.0) == 1
    assert kept(plain, min_pixels=10) == kept(fine, min_pixels=10) == 1
    assert kept(fine, min_area_mm2=4.1, min_pixels=1) == 0


def test_nothing_found_is_one_finding_that_says_so():
    found = find(make_volume(np.zeros((2, 4, 4))), np.zeros((2, 4, 4), dtype=bool))
    (finding,) = found.findings
    assert (finding.number, finding.present, finding.measurements) == (0, False, ())
    assert (finding.segment, found.lesions, found.parts[0].findings) == (0, (), ())
    assert not found.parts[0].label_map.any()


def test_over_several_stacks_the_largest_is_first_and_segments_count_in_each():
    small, large = np.zeros((1, 30, 30), dtype=bool), np.zeros((2, 40, 40), dtype=bool)
    small[0, 2:8, 2:8] = True
    large[1, 2:12, 2:12] = True
    large[0, 20:23, 20:23] = True
    stacks = [make_images(np.zeros(mask.shape)) for mask in (small, large)]
    answers = [(s, answer_of(m)) for s, m in zip(stacks, (small, large), strict=True)]
    found = find_lesions(answers, make_spec(), job_id="j", keep_probabilities=True)
    assert [(f.number, f.part, f.segment) for f in found.findings] == [
        (1, 1, 1),
        (2, 0, 1),
        (3, 1, 2),
    ]
    assert [f.segment for f in found.parts[1].findings] == [1, 2]
    assert found.parts[1].label_map[0, 21, 21] == 2
    assert found.parts[0].probabilities is answers[0][1]
    limited = find_lesions(answers, make_spec(), job_id="j", max_findings=1)
    assert (limited.left_out, limited.left_out_ml) == (2, 0.0)
    assert not limited.parts[0].label_map.any()


def test_remarks_are_the_stacks_own_each_once_and_what_sizes_rest_on():
    mask = np.zeros((1, 40, 40), dtype=bool)
    mask[0, 5:10, 5:10] = mask[0, 20:30, 20:30] = True
    zeros = np.zeros(mask.shape)
    inside = Calibration(0.2, 0.2, Basis.REGION, (0, 0, 15, 15))

    def remarks(*stacks):
        answers = [(stack, answer_of(mask)) for stack in stacks]
        return find_lesions(answers, make_spec(), job_id="j").remarks

    told = make_images(zeros, remarks=("Told.",))
    assert remarks(told, told) == ("Told.", IN_PIXELS)
    detector = Calibration(0.1, 0.1, Basis.DETECTOR)
    assert remarks(make_images(zeros, calibrations=(detector,))) == (AT_DETECTOR,)
    assert remarks(make_images(zeros, calibrations=(inside,))) == (PARTLY_IN_PIXELS,)
    assert remarks(make_volume(zeros)) == ()


def test_an_ultrasound_region_gives_sizes_only_inside_it():
    mask = np.zeros((1, 40, 40), dtype=bool)
    mask[0, 2:10, 2:12] = mask[0, 8:20, 20:36] = True
    region = Calibration(0.2, 0.1, Basis.REGION, (0, 0, 15, 15))
    outside, inside = find(make_images(np.zeros(mask.shape), calibrations=(region,)), mask).findings
    assert value_of(inside, c.AREA) == pytest.approx(80 * 0.02)
    assert value_of(outside, c.AREA) == 192
    units = {m.unit.value for m in outside.measurements if m.concept in (c.AREA, c.LONG_AXIS)}
    assert units == {"{pixels}"}


def test_the_same_job_gives_the_same_analysis():
    mask = three_lesions()
    stack = make_volume(np.random.default_rng(1).normal(size=mask.shape))
    first, second = find(stack, mask), find(stack, mask)
    assert first.findings == second.findings
    assert find(stack, mask, job_id="no").findings[0].tracking_uid != first.findings[0].tracking_uid
    rooted = find(stack, mask, uid_root="1.2.840.99999").findings[0].tracking_uid
    assert rooted.startswith("1.2.840.99999.")


def test_what_does_not_fit_is_refused():
    stack, spec = make_volume(np.zeros((2, 2, 3))), make_spec()
    with pytest.raises(ValueError, match="for a stack"):
        find_lesions([(stack, np.zeros((1, 2, 2, 2)))], spec, job_id="j")
    with pytest.raises(ValueError, match="channels"):
        find_lesions([(stack, np.zeros((1, 2, 2, 3)))], make_spec(("a", "b")), job_id="j")
    with pytest.raises(ValueError, match="no stack"):
        find_lesions([], spec, job_id="j")


def test_every_code_fits_its_attribute_and_every_measurement_is_a_number():
    mask = ellipsoid((20, 50, 50), (10, 25, 25), (6, 14, 10))
    values = np.random.default_rng(0).normal(size=mask.shape)
    for stack in (make_volume(values, (2.0, 0.7, 0.7)), make_images(values)):
        for finding in find(stack, mask).findings:
            keys = [(m.concept, m.derivation) for m in finding.measurements]
            assert len(set(keys)) == len(keys)
            assert all(np.isfinite(m.value) for m in finding.measurements)
    known = [
        code
        for value in vars(c).values()
        for code in (value if isinstance(value, tuple) else (value,))
    ]
    private = [code for code in known if getattr(code, "scheme", "") == c.PRIVATE_SCHEME]
    assert set(private) == set(c.PRIVATE_MEANINGS)


def test_a_large_volume_takes_a_moment_only():
    shape = (100, 200, 200)
    mask = np.zeros(shape, dtype=bool)
    for centre, radius in (((50, 95, 95), 30), ((18, 40, 40), 15), ((75, 160, 160), 20)):
        mask |= ellipsoid(shape, centre, (radius,) * 3)
    stack = make_volume(np.zeros(shape))
    answer = answer_of(mask)
    began = time.process_time()
    found = find_lesions([(stack, answer)], make_spec(), job_id="j")
    assert time.process_time() - began < 2
    assert len(found.lesions) == 3
    assert concepts_of(found.findings[0]) >= {c.SPHERICITY, c.MARGIN_SHARPNESS, c.CONTRAST}
