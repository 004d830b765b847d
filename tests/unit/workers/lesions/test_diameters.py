import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.lesions.diameters import diameters_of


def corners_of(plane, row, column):
    return [
        ((x + dx) * column, (y + dy) * row)
        for y, x in zip(*np.nonzero(plane), strict=True)
        for dy in (0, 1)
        for dx in (0, 1)
    ]


def test_one_pixel_has_its_diagonals():
    found = diameters_of(np.ones((1, 1, 1), dtype=bool), 3.0, 4.0)
    assert found.long == pytest.approx(5.0)
    assert found.short == pytest.approx(3.75)


def test_a_line_of_pixels_has_its_length():
    found = diameters_of(np.eye(5, dtype=bool)[None], 1.0, 1.0)
    assert found.long == pytest.approx(5 * np.sqrt(2))
    assert found.short == pytest.approx(np.sqrt(2))


def test_an_empty_mask_has_none():
    with pytest.raises(ValueError, match="empty"):
        diameters_of(np.zeros((2, 3, 3), dtype=bool), 1.0, 1.0)


@pytest.mark.parametrize("angle", [0, 20, 45, 77, 120])
def test_an_ellipse_has_its_axes_at_any_angle(angle):
    y, x = np.mgrid[:90, :120] - np.array([45, 60])[:, None, None]
    y, x = y * 0.8, x * 0.6
    turn = np.radians(angle)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    mask = (along / 24) ** 2 + (across / 12) ** 2 <= 1
    found = diameters_of(mask[None], 0.8, 0.6)
    assert found.long == pytest.approx(48, abs=1.0)
    assert found.short == pytest.approx(24, abs=1.0)


def test_the_slice_with_the_longest_is_taken_the_first_of_equal_ones():
    mask = np.zeros((6, 9, 9), dtype=bool)
    mask[0, 4, 4] = mask[2, 2:5, 2:5] = mask[3, 4:7, 3:6] = mask[5, 1, 1:3] = True
    assert diameters_of(mask, 1.0, 1.0).index == 2


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(0.7, 1.1), (1.0, 1.0), (2.0, 0.5)]),
    st.sampled_from([0.05, 0.3, 0.8]),
)
def test_long_and_short_are_what_a_search_over_all_corners_finds(seed, spacing, density):
    row, column = spacing
    mask = np.random.default_rng(seed).random((2, 5, 6)) < density
    mask[0, 2, 2] = True
    longest = 0.0
    for plane in mask:
        corners = np.array(corners_of(plane, row, column)).reshape(-1, 2)
        if len(corners):
            apart = np.linalg.norm(corners[:, None] - corners[None], axis=2)
            longest = max(longest, float(apart.max()))
    found = diameters_of(mask, row, column)
    assert found.long == pytest.approx(longest)

    scale = np.array([column, row])
    long, short = (np.array(ends) * scale for ends in (found.long_ends, found.short_ends))
    assert np.linalg.norm(long[1] - long[0]) == pytest.approx(found.long)
    assert np.linalg.norm(short[1] - short[0]) == pytest.approx(found.short)
    assert (long[1] - long[0]) @ (short[1] - short[0]) == pytest.approx(0, abs=1e-6)
    # no line across is longer: shift a perpendicular line through the hull in small steps
    from scipy.spatial import ConvexHull

    corners = np.array(corners_of(mask[found.index], row, column))
    planes = ConvexHull(corners).equations
    along = (long[1] - long[0]) / found.long
    normal = np.array([-along[1], along[0]])
    best = 0.0
    for share in np.linspace(0, 1, 60):
        point = long[0] + share * (long[1] - long[0])
        slope, gap = planes[:, :2] @ normal, -(planes[:, :2] @ point + planes[:, 2])
        upper = (gap[slope > 1e-12] / slope[slope > 1e-12]).min()
        lower = (gap[slope < -1e-12] / slope[slope < -1e-12]).max()
        best = max(best, upper - lower)
    assert best <= found.short + 1e-6
    assert found.short <= found.long + 1e-9
