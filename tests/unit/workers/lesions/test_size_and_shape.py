import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.workers.lesions.build import (
    concepts_of,
    ellipsoid,
    find,
    make_images,
    make_volume,
    rotation,
    value_of,
)

from workers.images.stack import Basis, Calibration
from workers.lesions import concepts as c
from workers.lesions.mesh import mesh_of
from workers.lesions.shape import principal_variances


def one(mask, spacing=(1.0, 1.0, 1.0), **more):
    (finding,) = find(make_volume(np.zeros(mask.shape), spacing, **more), mask).findings
    return finding


def test_a_box_has_its_sizes():
    mask = np.zeros((10, 30, 40), dtype=bool)
    mask[2:5, 4:10, 10:18] = True  # 3 × 6 × 8 voxels
    finding = one(mask, (5.0, 0.5, 0.5))
    assert value_of(finding, c.VOLUME) == pytest.approx(3 * 6 * 8 * 5 * 0.25 / 1000)
    assert value_of(finding, c.LONG_AXIS) == pytest.approx(np.hypot(3.0, 4.0))
    assert value_of(finding, c.SHORT_AXIS) == pytest.approx(3.75)
    assert finding.axes.index == 2
    assert sorted(finding.axes.long) in ([(10, 4), (18, 10)], [(10, 10), (18, 4)])
    (method,) = {m.method for m in finding.measurements if m.concept == c.VOLUME}
    assert method == c.VOXEL_COUNT


@pytest.mark.parametrize("radius", [8.0, 14.0])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.5, 0.6, 0.6)])
def test_a_sphere_has_the_sizes_and_the_shape_of_one(radius, spacing):
    radii = radius / np.array(spacing)
    shape = tuple(int(2 * r) + 6 for r in radii)
    finding = one(ellipsoid(shape, np.array(shape) / 2, radii), spacing)
    assert value_of(finding, c.VOLUME) == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.04)
    assert value_of(finding, c.LONG_AXIS) == pytest.approx(
        2 * radius + spacing[1] / 2, abs=spacing[1]
    )
    assert value_of(finding, c.MAXIMUM_3D_DIAMETER) == pytest.approx(2 * radius + 0.5, abs=1.0)
    # the steps of the voxels make the mesh larger
    assert 1 <= value_of(finding, c.SURFACE_AREA) / (4 * np.pi * radius**2) <= 1.16
    assert 0.86 <= value_of(finding, c.SPHERICITY) <= 1
    assert 0.91 <= value_of(finding, c.SOLIDITY) <= 1
    assert value_of(finding, c.ELONGATION) == pytest.approx(1, abs=0.03)
    assert value_of(finding, c.FLATNESS) == pytest.approx(1, abs=0.03)
    sphericity = value_of(finding, c.SPHERICITY)
    assert value_of(finding, c.COMPACTNESS_2) == pytest.approx(sphericity**3)


def test_an_ellipsoid_has_the_ratios_of_its_axes():
    finding = one(ellipsoid((30, 50, 70), (15, 25, 35), (8, 16, 32)))
    assert value_of(finding, c.ELONGATION) == pytest.approx(16 / 32, abs=0.01)
    assert value_of(finding, c.FLATNESS) == pytest.approx(8 / 32, abs=0.01)


@given(st.integers(0, 2**32 - 1))
def test_turning_the_patient_changes_no_size(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((5, 8, 7)) < 0.5
    mask[2, 3:5, 3:5] = True
    spacing = np.diag(rng.uniform(0.4, 5, 3))
    plain, turned = mesh_of(mask, spacing), mesh_of(mask, rotation(seed) @ spacing)
    for name in ("area", "volume", "diameter", "hull_area", "hull_volume"):
        assert getattr(turned, name) == pytest.approx(getattr(plain, name))
    assert principal_variances(mask, rotation(seed) @ spacing) == pytest.approx(
        principal_variances(mask, spacing)
    )


@given(st.integers(0, 2**32 - 1))
def test_the_quick_hull_is_that_of_all_corners_of_the_mesh(seed):
    from scipy.spatial import ConvexHull
    from skimage.measure import marching_cubes

    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 9), 12, 13)) < rng.choice([0.05, 0.5, 0.9])
    mask[0, 5, 5] = True
    matrix = rng.normal(size=(3, 3)) + 3 * np.eye(3)
    found = mesh_of(mask, matrix)
    corners = marching_cubes(np.pad(mask, 1), 0.5)[0].astype(float) @ matrix.T
    hull = ConvexHull(corners)
    assert found.hull_volume == pytest.approx(hull.volume, rel=1e-6)
    assert found.hull_area == pytest.approx(hull.area, rel=1e-6)
    far = max(np.linalg.norm(corners - corner, axis=1).max() for corner in corners[hull.vertices])
    assert found.diameter == pytest.approx(far, rel=1e-6)


def test_a_tilted_gantry_shears_the_lesion_and_is_measured_so():
    # A ball in the patient, sampled on slices 2 mm apart, each 1 mm further along y.
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 0.8], [1.0, 0.8, 0], [2.0, 0, 0]])
    affine[:3, 3] = (-40, -60, -40)
    index = np.moveaxis(np.indices((40, 120, 100)), 0, -1)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    mask = np.linalg.norm(points - [0, 0, 0], axis=-1) <= 18
    finding = one(mask, affine=affine)
    assert value_of(finding, c.VOLUME) == pytest.approx(4 / 3 * np.pi * 18**3 / 1000, rel=0.02)
    assert value_of(finding, c.MAXIMUM_3D_DIAMETER) == pytest.approx(37, abs=1.5)
    assert 1 <= value_of(finding, c.SURFACE_AREA) / (4 * np.pi * 18**2) <= 1.2
    assert value_of(finding, c.ELONGATION) == pytest.approx(1, abs=0.02)
    assert value_of(finding, c.FLATNESS) == pytest.approx(1, abs=0.02)
    assert finding.centre == pytest.approx((0, 0, 0), abs=0.2)


def test_across_a_missing_slice_only_what_was_seen_is_measured():
    mask = np.zeros((7, 20, 20), dtype=bool)
    mask[1:6, 5:15, 5:15] = True
    stack = make_volume(np.zeros(mask.shape), (2.0, 1.0, 1.0), missing=(3,))
    analysis = find(stack, mask)
    (finding,) = analysis.findings
    assert value_of(finding, c.VOLUME) == pytest.approx(4 * 100 * 2 / 1000)
    assert value_of(finding, c.LONG_AXIS) == pytest.approx(np.hypot(10, 10))
    assert not concepts_of(finding) & {c.SURFACE_AREA, c.SPHERICITY, c.ELONGATION}
    assert any("slice is missing" in remark for remark in analysis.remarks)
    assert not analysis.parts[0].label_map[3].any()


def disc(radius=20.0, spacing=(1.0, 1.0)):
    y, x = np.mgrid[:80, :90]
    return ((y - 40) * spacing[0]) ** 2 + ((x - 45) * spacing[1]) ** 2 <= radius**2


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.8, 1.2)])
def test_a_disc_in_an_image_has_its_sizes_and_the_shape_of_one(spacing):
    mask = disc(20.0, spacing)[None]
    stack = make_images(np.zeros(mask.shape), calibrations=(Calibration(*spacing, Basis.PATIENT),))
    (finding,) = find(stack, mask).findings
    assert value_of(finding, c.AREA) == pytest.approx(np.pi * 400, rel=0.01)
    assert value_of(finding, c.PERIMETER) == pytest.approx(40 * np.pi, rel=0.03)
    assert value_of(finding, c.LONG_AXIS) == pytest.approx(40, abs=1.5)
    assert value_of(finding, c.SHORT_AXIS) == pytest.approx(40, abs=1.5)
    assert value_of(finding, c.CIRCULARITY) == pytest.approx(1, abs=0.05)
    assert value_of(finding, c.SOLIDITY_2D) == pytest.approx(1, abs=0.03)
    assert value_of(finding, c.ELONGATION) == pytest.approx(1, abs=0.02)
    assert not concepts_of(finding) & {c.VOLUME, c.SURFACE_AREA, c.FLATNESS, c.SPHERICITY}
    units = {m.concept: m.unit.value for m in finding.measurements}
    assert (units[c.AREA], units[c.PERIMETER], units[c.LONG_AXIS]) == ("mm2", "mm", "mm")


def test_a_ring_and_a_bent_bar_are_not_solid():
    ring = disc(20.0) & ~disc(15.0)
    corner = np.zeros((80, 90), dtype=bool)
    corner[10:70, 10:20] = corner[60:70, 10:70] = True
    for mask in (ring, corner):
        (finding,) = find(make_images(np.zeros((1, 80, 90))), mask[None]).findings
        assert value_of(finding, c.SOLIDITY_2D) < 0.55


def test_without_a_pixel_size_sizes_are_in_pixels():
    mask = disc()[None]
    analysis = find(make_images(np.zeros(mask.shape)), mask)
    (finding,) = analysis.findings
    assert value_of(finding, c.AREA) == np.count_nonzero(mask)
    units = {m.concept: m.unit.value for m in finding.measurements}
    assert {units[concept] for concept in (c.AREA, c.PERIMETER, c.LONG_AXIS)} == {"{pixels}"}
    assert analysis.remarks == ("No pixel spacing is known: sizes are in pixels.",)
