"""The axial view is a permutation with flips, and its way back is exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.images.axial import axial_axes, to_axial
from workers.images.concepts import MR_SIGNAL, NO_UNITS
from workers.images.stack import ImageStack


def stack_of(array, affine):
    return ImageStack(array, (None,) * len(array), MR_SIGNAL, NO_UNITS, affine)


@st.composite
def volumes(draw):
    """A volume of random shape, spacing and rotation, some of them upright to the degree."""
    shape = tuple(draw(st.tuples(*[st.integers(1, 5)] * 3)))
    spacing = tuple(draw(st.tuples(*[st.sampled_from([0.5, 1.0, 3.3])] * 3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    if draw(st.booleans()):
        rotation = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return stack_of(rng.random(shape, dtype=np.float32), affine)


@given(volumes())
def test_axial_and_back_gives_every_voxel_back(volume):
    view = to_axial(volume)
    assert np.array_equal(view.to_source(view.array), volume.array)
    channels = np.stack([view.array, 1 - view.array])
    assert np.array_equal(view.to_source(channels)[1], 1 - volume.array)


@given(volumes())
def test_axial_axes_run_the_way_they_are_named(volume):
    order, flips = axial_axes(volume.affine)
    assert sorted(order) == [0, 1, 2]
    signs = [-1 if axis in flips else 1 for axis in range(3)]
    directions = volume.affine[:3, list(order)] * signs
    # Rows of the reversed matrix are z (head), y (posterior), x (left).
    assert (np.diag(directions[::-1]) > 0).all()
    view = to_axial(volume)
    assert view.spacing_mm == tuple(volume.spacing_mm[axis] for axis in order)
    assert view.array.shape == tuple(volume.array.shape[axis] for axis in order)


def test_a_sagittal_series_comes_out_head_up():
    # Slices right to left, rows head to foot, columns anterior to posterior.
    affine = np.array([[4.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    array = np.zeros((3, 5, 7), dtype=np.float32)
    array[2, 0, 6] = 1  # left, head, posterior
    view = to_axial(stack_of(array, affine))
    assert view.array.shape == (5, 7, 3)
    assert view.spacing_mm == pytest.approx((1.0, 1.0, 4.0))
    assert view.array[4, 6, 2] == 1


def test_a_steep_tilt_does_not_swap_axes():
    # Slices run head to foot by their normal, though they lean more to the back than up.
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1.0], [1.0, 1, 0], [0.9, 0, 0]])
    assert axial_axes(affine) == ((0, 1, 2), ())


def test_images_that_are_no_volume_have_no_axial_view():
    with pytest.raises(ValueError, match="no volume"):
        to_axial(stack_of(np.zeros((1, 2, 2), np.float32), None))
