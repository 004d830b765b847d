import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.workers.lesions.build import (
    ellipsoid,
    find,
    make_affine,
    make_images,
    make_spec,
    make_volume,
    rotation,
)

from core.domain import KeyImage, Space
from core.modelspec import Code
from workers.images.stack import Basis, Calibration
from workers.lesions import concepts as c
from workers.lesions.midline import Body

BRAIN = {"value": "12738006", "scheme": "SCT", "meaning": "Brain"}
SIDED = make_spec(({"name": "lesion", "sided": True, "site": BRAIN},))
SIGNAL = Code(value="1", scheme="UCUM", meaning="no units")
SHAPE = (20, 60, 80)


@given(st.integers(0, 2**32 - 1))
def test_centre_and_box_are_those_of_the_voxel_centres_in_any_orientation(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((6, 8, 9), dtype=bool)
    mask[tuple(slice(start, stop) for start, stop in ((1, 4), (2, 7), (1, 6)))] = True
    mask &= rng.random(mask.shape) < 0.9
    shear = np.eye(3)
    shear[:, 0] += rng.uniform(-0.5, 0.5, 3)
    affine = np.eye(4)
    affine[:3, :3] = rotation(seed) @ np.diag(rng.uniform(0.5, 4, 3)) @ shear
    affine[:3, 3] = rng.uniform(-200, 200, 3)
    (finding, *_) = find(make_volume(np.zeros(mask.shape), affine=affine), mask).findings
    label = np.zeros_like(mask)
    analysis = find(make_volume(np.zeros(mask.shape), affine=affine), mask)
    label = analysis.parts[0].label_map == 1
    points = np.argwhere(label) @ affine[:3, :3].T + affine[:3, 3]
    assert finding.space is Space.PATIENT
    assert finding.centre == pytest.approx(points.mean(axis=0))
    assert finding.box == pytest.approx([*points.min(axis=0), *points.max(axis=0)])


def test_in_images_places_count_in_pixels_of_a_frame():
    mask = np.zeros((3, 20, 30), dtype=bool)
    mask[1, 4:10, 10:18] = True
    (finding,) = find(make_images(np.zeros(mask.shape), multi=True), mask).findings
    assert finding.space is Space.IMAGE
    assert finding.centre == pytest.approx((14.0, 7.0, 1.0))
    assert finding.box == (10.5, 4.5, 1, 17.5, 9.5, 1)
    assert finding.slices == (1, 1)
    assert finding.key_image == KeyImage("1.2.3", 2, 1)
    assert finding.axes.index == 1
    assert sorted(finding.axes.long) in ([(10, 4), (18, 10)], [(10, 10), (18, 4)])


def body(unit=SIGNAL, air=0.0, tissue=100.0, shape=SHAPE, centre=(10, 30, 40), across=30):
    """A body about column 40 of 80, 2 mm each way, and a lesion at column 55: its left."""
    values = np.full(shape, air)
    values[ellipsoid(shape, centre, (60, 20, across))] = tissue
    mask = ellipsoid(shape, (10, 30, 55), (3, 4, 4))
    return values, mask, unit


@pytest.mark.parametrize(
    ("unit", "air", "tissue"),
    [
        (SIGNAL, 0.0, 100.0),
        (SIGNAL, 3.0, 900.0),
        (Code(value="[hnsf'U]", scheme="UCUM", meaning="HU"), -1000.0, 40.0),
        (Code(value="g/ml{SUVbw}", scheme="UCUM", meaning="SUVbw"), 0.0, 1.1),
    ],
)
def test_the_side_is_told_by_the_body_s_midline(unit, air, tissue):
    values, mask, unit = body(unit, air, tissue)
    stack = make_volume(values, (5.0, 2.0, 2.0), unit=unit)
    assert Body(stack).midline_mm(50.0) == pytest.approx(80.0, abs=2.0)
    (finding,) = find(stack, mask, SIDED).findings
    assert finding.laterality == c.LEFT


def test_a_mirrored_phantom_has_the_same_side_and_one_without_new_orientation_the_other():
    values, mask, unit = body()
    affine = make_affine((5.0, 2.0, 2.0), (-70, -60, 0))
    columns = mask.shape[2]
    mirrored = affine.copy()
    mirrored[:3, 3] += affine[:3, 2] * (columns - 1)
    mirrored[:3, 2] *= -1

    def side(values, mask, affine):
        (finding,) = find(make_volume(values, affine=affine, unit=unit), mask, SIDED).findings
        return finding.laterality, np.round(finding.centre, 6).tolist()

    plain = side(values, mask, affine)
    assert plain[0] == c.LEFT
    assert side(values[:, :, ::-1], mask[:, :, ::-1], mirrored) == plain
    assert side(values[:, :, ::-1], mask[:, :, ::-1], affine)[0] == c.RIGHT


@given(st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3))
def test_the_side_does_not_depend_on_how_the_volume_is_stored(order, flips):
    values, mask, unit = body()
    affine = make_affine((5.0, 2.0, 2.0), (-70, -60, 0))
    stored, drawn, placed = values.transpose(order), mask.transpose(order), affine.copy()
    placed[:3, :3] = affine[:3, :3][:, order]
    for axis, flip in enumerate(flips):
        if flip:
            stored, drawn = np.flip(stored, axis), np.flip(drawn, axis)
            placed[:3, 3] += placed[:3, axis] * (stored.shape[axis] - 1)
            placed[:3, axis] *= -1
    stack = make_volume(np.ascontiguousarray(stored), affine=placed, unit=unit)
    (finding,) = find(stack, np.ascontiguousarray(drawn), SIDED).findings
    assert finding.laterality == c.LEFT


def test_what_cannot_be_told_stays_unstated():
    values, mask, unit = body()

    def side(values, mask, spec=SIDED, **more):
        stack = make_volume(values, (5.0, 2.0, 2.0), unit=unit, **more)
        (finding,) = find(stack, mask, spec).findings
        return finding.laterality

    assert side(values, mask, make_spec()) is None  # sides say nothing of this label
    near = ellipsoid(SHAPE, (10, 30, 41), (3, 4, 4))
    assert side(values, near) is None  # 2 mm from the midline
    assert side(values[:, :, 35:], mask[:, :, 35:]) is None  # the body goes on beyond the image
    assert side(np.zeros(SHAPE), mask) is None  # no body at all
    assert side(np.full(SHAPE, np.nan), mask) is None
    flow = Code(value="ml/100ml/s", scheme="UCUM", meaning="perfusion")
    map_of_flow = make_volume(values, (5.0, 2.0, 2.0), unit=flow)
    assert find(map_of_flow, mask, SIDED).findings[0].laterality is None
    assert side(values, mask, laterality="R") == c.RIGHT  # the attribute knows better


def test_a_table_beside_the_body_does_not_move_the_midline():
    values, _, _ = body()
    values[:, 56:58, 4:50] = 60.0
    stack = make_volume(values, (5.0, 2.0, 2.0), unit=SIGNAL)
    assert Body(stack).midline_mm(50.0) == pytest.approx(80.0, abs=2.0)


def test_images_have_a_side_by_their_attribute_only():
    values, mask, unit = body()
    calibration = (Calibration(1.0, 1.0, Basis.PATIENT),)
    for laterality, expected in (("L", c.LEFT), ("R", c.RIGHT), ("", None)):
        stack = make_images(values, unit=unit, laterality=laterality, calibrations=calibration)
        findings = find(stack, mask, SIDED).findings
        assert {finding.laterality for finding in findings} == {expected}


def test_a_volume_without_a_frame_of_reference_is_placed_in_its_images() -> None:
    mask = np.zeros((3, 8, 8), bool)
    mask[1, 2:4, 5:7] = True
    analysis = find(make_volume(np.zeros(mask.shape), frame_of_reference_uid=""), mask)
    (finding,) = analysis.findings
    assert finding.space == Space.IMAGE
    assert finding.centre == (6.0, 3.0, 1.0)
