import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from unit.workers.lesions.build import make_images, make_spec, make_volume

from core.errors import ResultError
from workers.lesions import components
from workers.lesions.components import components_of, masks_of


def drawn(found, shape):
    """The components as a set of sets of voxels."""
    result = set()
    for component in found:
        whole = np.zeros(shape, dtype=bool)
        whole[component.box] = component.mask
        assert np.count_nonzero(whole) == component.voxels
        result.add(tuple(np.flatnonzero(whole)))
    return result


def expected(mask, structure):
    numbered, count = ndimage.label(mask, structure=structure)
    return {tuple(np.flatnonzero(numbered == number)) for number in range(1, count + 1)}


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 35), st.integers(1, 35)),
    density=st.sampled_from([0.01, 0.05, 0.2, 0.6]),
    is_volume=st.booleans(),
    many=st.sampled_from([0, 3000]),
)
def test_blocks_find_what_numbering_everything_finds(seed, shape, density, is_volume, many):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < density
    probability = rng.random(shape).astype(np.float16)
    structure = np.ones((3, 3, 3))
    if not is_volume:
        structure[[0, 2]] = 0
    stack = (make_volume if is_volume else make_images)(np.zeros(shape))
    label = make_spec().output.labels[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "_MANY_GROUPS", many)
        found = components_of(mask, probability, label, stack)
    assert drawn(found, shape) == expected(mask, structure)
    for component in found:
        inside = probability[component.box][component.mask].astype(np.float64)
        assert component.probability == pytest.approx(inside.mean())


def test_a_lesion_stays_one_across_a_missing_slice_but_has_no_voxels_there():
    mask = np.zeros((5, 6, 6), dtype=bool)
    mask[1:4, 2:4, 2:4] = True
    mask[2, 5, 5] = True  # only in the slice that did not come
    stack = make_volume(np.zeros(mask.shape), missing=(2,))
    (found,) = components_of(mask, mask.astype(np.float16), make_spec().output.labels[0], stack)
    assert found.voxels == 8
    assert not found.mask[1].any()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7])
def test_the_threshold_itself_belongs_to_the_lesion(dtype, threshold):
    values = np.array([0.0, 0.19, threshold, 0.71, 1.0], dtype=dtype).reshape(1, 1, 1, 5)
    (mask,) = masks_of(values, make_spec(threshold=threshold))
    assert np.array_equal(mask[0, 0], values[0, 0, 0] >= dtype(threshold))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -0.5, 1.5])
def test_what_is_no_probability_is_not_made_into_a_lesion(dtype, wrong):
    values = np.full((1, 2, 3, 3), 0.4, dtype=dtype)
    values[0, 1, 1, 1] = wrong
    with pytest.raises(ResultError, match="not all numbers"):
        masks_of(values, make_spec())


def test_rounding_beyond_one_and_below_zero_is_taken_as_one_and_zero():
    values = np.array([-0.001, -0.0, 0.5, 1.001], dtype=np.float16).reshape(1, 1, 1, 4)
    (mask,) = masks_of(values, make_spec())
    assert mask.ravel().tolist() == [False, False, True, True]


def test_of_labels_that_pass_the_most_probable_has_the_voxel():
    values = np.zeros((2, 1, 1, 6), np.float16)
    values[0, 0, 0, :4] = 0.7
    values[1, 0, 0, 2:] = 0.9
    first, second = masks_of(values, make_spec(("core", "oedema")))
    assert first.ravel().tolist() == [1, 1, 0, 0, 0, 0]
    assert second.ravel().tolist() == [0, 0, 1, 1, 1, 1]


def test_with_softmax_the_background_may_win_too():
    values = np.array([[0.5, 0.3], [0.4, 0.6], [0.1, 0.1]], np.float16).reshape(3, 1, 1, 2)
    spec = make_spec(({"name": "lesion", "channel": 1},), activation="softmax", threshold=0.35)
    (mask,) = masks_of(values, spec)
    assert mask.ravel().tolist() == [False, True]
