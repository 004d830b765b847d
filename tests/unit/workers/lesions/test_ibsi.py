"""The digital phantom of the IBSI, and a well-kept implementation of the same features.

Phantom and reference values: IBSI reference manual (arXiv:1612.07003), Sections 5.1 and 3,
licensed CC BY 4.0. The manual gives three digits and a tolerance; so does the test.
"""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage
from support import mirp_peer
from unit.workers.lesions.build import find, make_volume, value_of

from workers.lesions import concepts as c

# 4 slices of 4 rows and 5 columns, 2 mm each way; 0 stands for "not in the region".
PHANTOM = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [0, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ]
)


@pytest.fixture(scope="module")
def phantom():
    (finding,) = find(make_volume(PHANTOM, (2.0, 2.0, 2.0)), PHANTOM > 0).findings
    return finding


@pytest.mark.parametrize(
    ("concept", "expected", "tolerance"),
    [
        (c.VOLUME, 0.592, 0.0004),
        (c.SURFACE_AREA, 388, 3),
        (c.MAXIMUM_3D_DIAMETER, 13.1, 0.1),
        (c.SPHERICITY, 0.843, 0.005),
        (c.COMPACTNESS_2, 0.599, 0.01),
        (c.ELONGATION, 0.816, 0.001),
        (c.FLATNESS, 0.749, 0.001),
        (c.SOLIDITY, 0.961, 0.003),
    ],
)
def test_the_phantom_has_the_reference_shape(phantom, concept, expected, tolerance):
    assert value_of(phantom, concept) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    ("derivation", "expected"),
    [
        (c.MEAN, 2.15),
        (c.STANDARD_DEVIATION, np.sqrt(3.05)),
        (c.MEDIAN, 1),
        (c.MINIMUM, 1),
        (c.MAXIMUM, 6),
        (c.PERCENTILE_10, 1),
        (c.PERCENTILE_90, 4),
    ],
)
def test_the_phantom_has_the_reference_statistics(phantom, derivation, expected):
    quantity = make_volume(PHANTOM).quantity
    assert value_of(phantom, quantity, derivation) == pytest.approx(expected, abs=0.005)


def blob(seed, shape=(9, 15, 14)):
    """A random connected region, its surface rough."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    grid = np.ogrid[tuple(slice(-1, 1, size * 1j) for size in shape)]
    field = noise / noise.std() - 3.5 * sum(g**2 for g in grid)
    numbered, _ = ndimage.label(field > -1.2, structure=np.ones((3, 3, 3)))
    return numbered == np.bincount(numbered[numbered > 0]).argmax()


def mirp_features(folder, values, mask, spacing):
    """What mirp finds, asked in a process of its own."""
    if importlib.util.find_spec("mirp") is None:
        reason = "mirp is not installed: pip install -e '.[ibsi]'"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    np.save(folder / "image.npy", values)
    np.save(folder / "mask.npy", mask.astype(np.uint8))
    (folder / "spacing.json").write_text(json.dumps(spacing))
    done = subprocess.run(
        [sys.executable, mirp_peer.__file__, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert lines, done.stderr[-2000:]
    return json.loads(lines[-1])


@pytest.mark.parametrize(
    ("seed", "spacing"), [(1, (1.0, 1.0, 1.0)), (2, (3.0, 0.7, 0.9)), (3, (5.0, 1.1, 0.8))]
)
def test_random_regions_have_the_features_that_mirp_finds(tmp_path, seed, spacing):
    mask = blob(seed)
    values = np.random.default_rng(seed).normal(100, 30, mask.shape)
    values = values.round().astype(np.float32)
    theirs = mirp_features(tmp_path, values, mask, spacing)
    stack = make_volume(values, spacing)
    (finding,) = find(stack, mask).findings
    for concept, name in (
        (c.SURFACE_AREA, "morph_area_mesh"),
        (c.MAXIMUM_3D_DIAMETER, "morph_diam"),
        (c.SPHERICITY, "morph_sphericity"),
        (c.COMPACTNESS_2, "morph_comp_2"),
        (c.ELONGATION, "morph_pca_elongation"),
        (c.FLATNESS, "morph_pca_flatness"),
        (c.SOLIDITY, "morph_vol_dens_conv_hull"),
    ):
        assert value_of(finding, concept) == pytest.approx(theirs[name], rel=1e-4), name
    for derivation, name in (
        (c.MEAN, "stat_mean"),
        (c.MEDIAN, "stat_median"),
        (c.MINIMUM, "stat_min"),
        (c.MAXIMUM, "stat_max"),
        (c.PERCENTILE_10, "stat_p10"),
        (c.PERCENTILE_90, "stat_p90"),
    ):
        found = value_of(finding, stack.quantity, derivation)
        assert found == pytest.approx(theirs[name], rel=1e-5), name
    deviation = value_of(finding, stack.quantity, c.STANDARD_DEVIATION)
    assert deviation**2 == pytest.approx(theirs["stat_var"], rel=1e-4)
    volume = value_of(finding, c.VOLUME) * 1000
    assert volume == pytest.approx(theirs["morph_vol_approx"])
