import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.modelspec import Code, ModelSpec
from workers.findings import LONG_AXIS, VOLUME, find_lesions, longest_diameter_mm
from workers.volume import SeriesVolume


def code(value, meaning, scheme="SCT"):
    return Code(value=value, scheme=scheme, meaning=meaning)


def make_spec(labels=("lesion",), least=0.0):
    return ModelSpec(
        schema_version=1,
        name="test",
        version="1.2.3",
        title="Test model",
        intended_use="tests",
        licence="none",
        family=code("123110", "Artificial Intelligence", "DCM"),
        input={"modality": ("MR",)},
        network={"architecture": "none"},
        weights={"file": "w", "sha256": "0" * 64},
        output={
            "labels": [
                {
                    "channel": channel,
                    "name": name,
                    "category": code("49755003", "Morphologically Abnormal Structure"),
                    "type": code("4147007", "Mass"),
                }
                for channel, name in enumerate(labels)
            ]
        },
        postprocessing={"min_volume_ml": least},
        training={"data": "none", "licence": "none", "config": "none"},
    )


def make_volume(shape, spacing=(1.0, 1.0, 1.0), affine=None):
    affine = np.diag([*spacing, 1.0])[[2, 1, 0, 3]] if affine is None else affine
    return SeriesVolume(np.zeros(shape, np.float32), affine, spacing, (), "1.2.3")


def find(mask, spacing=(1.0, 1.0, 1.0), **settings):
    probabilities = np.where(mask, 0.9, 0.1).astype(np.float32)[None]
    return find_lesions(
        probabilities, make_volume(mask.shape, spacing), make_spec(), job_id="job", **settings
    )


def values(finding):
    return {measured.concept: measured.value for measured in finding.measurements}


def test_a_box_has_its_volume_diameter_centre_and_box():
    mask = np.zeros((10, 30, 40), dtype=bool)
    mask[2:5, 4:10, 10:18] = True  # 3 × 6 × 8 voxels
    (finding,) = find(mask, spacing=(5.0, 0.5, 0.5)).findings
    assert values(finding)[VOLUME] == pytest.approx(3 * 6 * 8 * 5 * 0.25 / 1000)
    assert values(finding)[LONG_AXIS] == pytest.approx(np.hypot(3.0, 4.0))
    assert finding.centre == pytest.approx((13.5 * 0.5, 6.5 * 0.5, 15.0))
    assert finding.box == pytest.approx((5.0, 2.0, 10.0, 8.5, 4.5, 20.0))
    assert finding.slices == (2, 4)
    assert finding.probability == pytest.approx(0.9)
    assert (finding.number, finding.label, finding.present) == (1, "lesion 1", True)


@pytest.mark.parametrize("radius", [5.0, 9.5, 14.0])
def test_a_sphere_has_its_volume_and_a_diameter_within_one_pixel_diagonal(radius):
    z, y, x = np.ogrid[:20, :70, :70]
    mask = ((z - 10) * 2) ** 2 + (y * 0.6 - 20) ** 2 + (x * 0.6 - 20) ** 2 <= radius**2
    (finding,) = find(mask, spacing=(2.0, 0.6, 0.6)).findings
    assert values(finding)[VOLUME] == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.04)
    assert 2 * radius - 0.6 <= values(finding)[LONG_AXIS] <= 2 * radius + 0.6 * np.sqrt(2)
    assert finding.centre == pytest.approx((20, 20, 20), abs=0.05)


def test_one_voxel_has_its_diagonal_and_a_line_its_length():
    one = np.ones((1, 1, 1), dtype=bool)
    assert longest_diameter_mm(one, 3.0, 4.0) == pytest.approx(5.0)
    line = np.eye(5, dtype=bool)[None]
    assert longest_diameter_mm(line, 1.0, 1.0) == pytest.approx(5 * np.sqrt(2))
    assert longest_diameter_mm(np.zeros((2, 3, 3), dtype=bool), 1.0, 1.0) == 0


@given(st.integers(0, 2**32 - 1))
def test_the_diameter_is_that_of_the_two_farthest_corners(seed):
    mask = np.random.default_rng(seed).random((2, 5, 6)) < 0.3
    expected = 0.0
    for plane in mask:
        corners = [
            ((y + dy) * 0.7, (x + dx) * 1.1)
            for y, x in zip(*np.nonzero(plane), strict=True)
            for dy in (0, 1)
            for dx in (0, 1)
        ]
        for first in corners:
            for second in corners:
                expected = max(expected, np.hypot(*np.subtract(first, second)))
    assert longest_diameter_mm(mask, 0.7, 1.1) == pytest.approx(expected)


def test_lesions_are_numbered_by_volume_and_the_map_bears_their_numbers():
    mask = np.zeros((6, 20, 20), dtype=bool)
    mask[0, 0, 0:3] = True
    mask[3:5, 10:15, 10:15] = True
    mask[1, 18, 2:12] = True
    found = find(mask)
    assert [values(f)[VOLUME] for f in found.findings] == pytest.approx([0.05, 0.01, 0.003])
    assert found.label_map.dtype == np.uint16
    assert (found.label_map[3, 12, 12], found.label_map[1, 18, 5], found.label_map[0, 0, 0]) == (
        1,
        2,
        3,
    )
    assert np.array_equal(found.label_map > 0, mask)
    assert len({f.tracking_uid for f in found.findings}) == 3


def test_voxels_that_touch_by_a_corner_are_one_lesion():
    mask = np.zeros((3, 4, 4), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True
    assert len(find(mask).findings) == 1


def test_small_components_and_those_over_the_limit_are_dropped_and_counted():
    mask = np.zeros((2, 10, 20), dtype=bool)
    mask[0, 0, 0] = mask[0, 9, 19] = True
    mask[0, 4, 0:10] = True
    mask[1, 8, 0:8] = True
    found = find(mask, min_volume_ml=0.005, max_findings=1)
    assert (found.too_small, found.too_small_ml) == (2, pytest.approx(0.002))
    assert (found.left_out, found.left_out_ml) == (1, pytest.approx(0.008))
    assert [f.number for f in found.present] == [1]
    assert np.count_nonzero(found.label_map) == 10


def test_a_lesion_of_exactly_the_least_size_is_kept():
    mask = np.zeros((1, 1, 10), dtype=bool)
    mask[0, 0, :7] = True
    assert find(mask, min_volume_ml=0.007).too_small == 0


def test_the_models_least_size_holds_unless_the_settings_say_otherwise():
    probabilities = np.zeros((1, 1, 4, 4), np.float32)
    probabilities[0, 0, 0, 0] = 1
    volume, spec = make_volume((1, 4, 4)), make_spec(least=0.5)
    assert find_lesions(probabilities, volume, spec, job_id="j").too_small == 1
    assert find_lesions(probabilities, volume, spec, job_id="j", min_volume_ml=0).present


def test_nothing_found_is_one_finding_that_says_so():
    found = find(np.zeros((2, 4, 4), dtype=bool))
    (finding,) = found.findings
    assert (finding.number, finding.present, finding.measurements) == (0, False, ())
    assert found.present == ()
    assert not found.label_map.any()


def test_the_more_probable_of_two_labels_has_the_voxel():
    probabilities = np.zeros((2, 1, 1, 6), np.float32)
    probabilities[0, 0, 0, :4] = 0.7
    probabilities[1, 0, 0, 2:] = 0.9
    found = find_lesions(
        probabilities, make_volume((1, 1, 6)), make_spec(("core", "oedema")), job_id="j"
    )
    assert [f.label for f in found.findings] == ["oedema 1", "core 2"]
    assert found.label_map.ravel().tolist() == [2, 2, 1, 1, 1, 1]


def test_the_same_job_gives_the_same_tracking_uids():
    mask = np.ones((1, 2, 2), dtype=bool)
    assert find(mask).findings == find(mask).findings
    other = find_lesions(np.ones((1, 1, 2, 2)), make_volume((1, 2, 2)), make_spec(), job_id="no")
    assert other.findings[0].tracking_uid != find(mask).findings[0].tracking_uid
    rooted = find(mask, uid_root="1.2.840.99999").findings[0].tracking_uid
    assert rooted.startswith("1.2.840.99999.")


def test_places_follow_the_affine_of_an_oblique_volume():
    angle = np.radians(30)
    affine = np.array(
        [
            [0, 0, 2 * np.cos(angle), 10],
            [0, 2, 0, 20],
            [4, 0, 2 * np.sin(angle), 30],
            [0, 0, 0, 1],
        ]
    )
    probabilities = np.zeros((1, 4, 5, 6))
    probabilities[0, 1, 2, 3] = 1
    volume = make_volume((4, 5, 6), (4.0, 2.0, 2.0), affine)
    (finding,) = find_lesions(probabilities, volume, make_spec(), job_id="j").findings
    expected = (10 + 6 * np.cos(angle), 24, 34 + 6 * np.sin(angle))
    assert finding.centre == pytest.approx(expected)
    assert finding.box == pytest.approx(expected * 2)


def test_probabilities_of_another_grid_are_refused():
    with pytest.raises(ValueError, match="for a volume"):
        find_lesions(np.zeros((1, 2, 2, 2)), make_volume((2, 2, 3)), make_spec(), job_id="j")
    with pytest.raises(ValueError, match="channels"):
        find_lesions(
            np.zeros((1, 2, 2, 2)), make_volume((2, 2, 2)), make_spec(("a", "b")), job_id="j"
        )


def test_a_large_volume_takes_a_moment_only():
    shape = (150, 256, 256)
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    mask = np.zeros(shape, dtype=bool)
    for centre, radius in (((75, 125, 125), 30), ((20, 50, 50), 15), ((125, 200, 200), 20)):
        mask |= sum((g - c) ** 2 for g, c in zip((z, y, x), centre, strict=True)) <= radius**2
    began = time.process_time()
    assert len(find(mask).findings) == 3
    assert time.process_time() - began < 2
