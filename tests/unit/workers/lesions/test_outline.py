import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import perimeter_crofton

from workers.lesions.boundary import IRREGULAR_FROM, margin_irregularity
from workers.lesions.outline import outlines_of


def ellipse(angle, long, short, spacing=(1.0, 1.0), size=160):
    y, x = np.mgrid[:size, :size] - np.array([size / 2, size / 2])[:, None, None]
    y, x = y * spacing[0], x * spacing[1]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (along / long) ** 2 + (across / short) ** 2 <= 1


def star(radius, spikes, depth, size=140):
    y, x = np.mgrid[:size, :size] - size / 2
    turn = np.arctan2(y, x)
    return np.hypot(x, y) <= radius * (1 + depth * np.cos(spikes * turn)) / (1 + depth)


def irregularity(plane, spacing=(1.0, 1.0)):
    return margin_irregularity(outlines_of(plane[None], *spacing))


@given(st.integers(0, 2**32 - 1))
def test_the_perimeter_is_crofton_s(seed):
    field = np.random.default_rng(seed).normal(size=(24, 30))
    mask = ndimage.gaussian_filter(field, 1.5) > 0.05
    assert outlines_of(mask[None], 1.0, 1.0).perimeter.sum() == pytest.approx(
        perimeter_crofton(mask, directions=4)
    )


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 1.0), (1.2, 0.8)])
def test_a_circle_has_its_perimeter_also_with_pixels_that_are_not_square(spacing):
    disc = ellipse(0.0, 30, 30, spacing)
    (perimeter,) = outlines_of(disc[None], *spacing).perimeter
    assert perimeter == pytest.approx(2 * np.pi * 30, rel=0.03)


def test_each_piece_of_each_plane_is_measured_for_itself():
    mask = np.zeros((2, 20, 40), dtype=bool)
    mask[0, 2:12, 2:12] = mask[0, 2:12, 25:35] = mask[1, 4:14, 4:20] = True
    found = outlines_of(mask, 1.0, 1.0)
    assert sorted(found.pixels) == [100, 100, 160]
    assert found.convex == pytest.approx(found.perimeter)


@given(
    st.floats(0, np.pi),
    st.floats(8, 60),
    st.floats(0.3, 1),
    st.sampled_from([(1.0, 1.0), (0.7, 1.1)]),
)
def test_every_ellipse_is_smooth(angle, long, ratio, spacing):
    plane = ellipse(angle, long, long * ratio, spacing)
    assert irregularity(plane, spacing) < 0.02


def test_spikes_are_irregular_the_more_the_deeper():
    found = [irregularity(star(50, 9, depth)) for depth in (0.05, 0.15, 0.4)]
    assert found == sorted(found)
    assert found[0] < IRREGULAR_FROM < found[1]


def test_a_shallow_lobe_is_smooth():
    assert irregularity(star(50, 3, 0.1)) < IRREGULAR_FROM


def test_jitter_of_a_pixel_is_smooth_and_of_many_is_not():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:140, :140] - 70
    noise = ndimage.gaussian_filter(rng.normal(size=y.shape), 2)
    rough = [
        ndimage.binary_opening(np.hypot(x, y) + size * noise / noise.std() <= 45)
        for size in (0.4, 5.0)
    ]
    assert irregularity(rough[0]) < IRREGULAR_FROM < irregularity(rough[1])


def test_a_few_pixels_have_no_margin_to_read():
    assert irregularity(np.ones((5, 5), dtype=bool)) is None
