"""Preprocessing: the same answer at any scale, nothing shifted, nothing cut off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from core.errors import ModelSpecError
from core.modelspec import StepSpec
from models.preprocessing import Preparation, prepare_volume

SIZES = st.integers(24, 90)


def step(name: str, **params: Any) -> StepSpec:
    return StepSpec(name=name, params=params)


def head(shape: tuple[int, int, int] = (6, 40, 48), seed: int = 0) -> np.ndarray:
    """Air around something brighter, with a bright blob: float64, 0 to about 1000."""
    rng = np.random.default_rng(seed)
    volume = np.abs(rng.normal(0, 5, shape))
    _, rows, columns = shape
    volume[:, rows // 6 : -rows // 6, columns // 6 : -columns // 6] += rng.normal(
        300, 40, (shape[0], *volume[0, rows // 6 : -rows // 6, columns // 6 : -columns // 6].shape)
    )
    volume[:, rows // 3 : rows // 2, columns // 3 : columns // 2] += 500
    return volume


def blob(rows: int, columns: int, centre: tuple[float, float], width: float) -> torch.Tensor:
    """A smooth blob, (1, rows, columns), peak 1."""
    y, x = np.mgrid[:rows, :columns]
    squared = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    return np.exp(-squared / (2 * width**2))[None].astype(np.float32)


def centroid(image: np.ndarray) -> tuple[float, float]:
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    total = image.sum()
    return float((y * image).sum() / total), float((x * image).sum() / total)


@given(st.integers(-20, 20), st.integers(0, 5))
def test_a_power_of_two_changes_no_bit(power: int, seed: int) -> None:
    """Exact: a power of two only moves the exponent."""
    volume = head(seed=seed)
    steps = [step("standardise_foreground"), step("pad", least=64, multiple=32)]
    plain = prepare_volume(steps, volume, None).prepare(volume)
    scaled = volume * 2.0**power
    assert torch.equal(prepare_volume(steps, scaled, None).prepare(scaled), plain)


@given(st.floats(0.01, 1e4), st.floats(-1000, 1000))
def test_any_gain_and_offset_give_the_same_input(gain: float, offset: float) -> None:
    volume = head()
    plain = prepare_volume([step("standardise_foreground")], volume, None).prepare(volume)
    changed = volume * gain + offset
    assume(abs(offset) < 100 * gain * volume.std())  # or float32 itself loses the picture
    other = prepare_volume([step("standardise_foreground")], changed, None).prepare(changed)
    assert torch.allclose(other, plain, atol=5e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_any_real_dtype_is_taken(dtype: type) -> None:
    volume = (head() / 5).astype(dtype)
    plan = prepare_volume([step("standardise_foreground")], volume, None)
    prepared = plan.prepare(volume)
    assert prepared.dtype == torch.float32
    assert prepared.shape == (6, 1, 40, 48)
    reference = volume.astype(np.float32)
    expected = prepare_volume([step("standardise_foreground")], reference, None)
    assert torch.equal(prepared, expected.prepare(reference))


@pytest.mark.parametrize("value", [0, 1, 0.1, 1234.567, -7.25, 65535])
def test_a_volume_of_one_value_gives_numbers(value: float) -> None:
    volume = np.full((3, 20, 20), value, np.float32)
    steps = [step("standardise_foreground"), step("pad", least=32)]
    plan = prepare_volume(steps, volume, None)
    prepared = plan.prepare(volume)
    assert torch.isfinite(prepared).all()
    assert prepared.abs().max() <= 6


def test_one_voxel_alone_gives_numbers() -> None:
    volume = np.zeros((1, 1, 1), np.int16)
    plan = prepare_volume([step("standardise_foreground")], volume, None)
    assert torch.isfinite(plan.prepare(volume)).all()


def test_what_is_no_number_does_not_spoil_the_rest() -> None:
    volume = head().astype(np.float32)
    clean = prepare_volume([step("standardise_foreground")], volume, None)
    volume[0, 0, :3] = (np.nan, np.inf, -np.inf)
    plan = prepare_volume([step("standardise_foreground")], volume, None)
    prepared = plan.prepare(volume)
    assert torch.isfinite(prepared).all()
    assert plan.mean == pytest.approx(clean.mean, rel=0.01)
    nothing = np.full((2, 8, 8), np.nan)
    plan = prepare_volume([step("standardise_foreground")], nothing, None)
    assert torch.isfinite(plan.prepare(nothing)).all()


def test_the_brightest_are_clipped_and_the_limit_is_kept() -> None:
    volume = head()
    volume[2, 20, 20] = 1e6
    prepared = prepare_volume([step("standardise_foreground", limit=3.0)], volume, None).prepare(
        volume
    )
    assert prepared.abs().max() <= 3.0 + 1e-6


@settings(max_examples=60)
@given(
    rows=SIZES,
    columns=SIZES,
    spacing=st.tuples(st.floats(0.4, 2.0), st.floats(0.4, 2.0)),
    target=st.floats(0.5, 1.5),
    multiple=st.sampled_from([1, 8, 32]),
    place=st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)),
)
def test_a_blob_comes_back_where_it_was(
    rows: int,
    columns: int,
    spacing: tuple[float, float],
    target: float,
    multiple: int,
    place: tuple[float, float],
) -> None:
    """Odd and even sizes, up and down, not square: prepared and restored within 0.5 pixel."""
    # wide enough to be seen in the coarser grid, and away from the edge
    width = max(2.0, 1.5 * target / min(spacing))
    assume(min(rows, columns) * 0.3 > 3 * width)
    centre = (place[0] * (rows - 1), place[1] * (columns - 1))
    image = blob(rows, columns, centre, width)
    steps = [
        step("resample_in_plane", spacing=target),
        step("pad", least=32, multiple=multiple),
    ]
    plan = prepare_volume(steps, image, (5.0, *spacing))
    prepared = plan.prepare(image)
    assert prepared.shape[-2] % multiple == prepared.shape[-1] % multiple == 0
    restored = plan.restore(prepared)[0, 0].numpy()
    assert restored.shape == (rows, columns)
    found = centroid(restored.clip(0))
    expected = centroid(image[0])
    assert found == pytest.approx(expected, abs=0.5)


@settings(max_examples=60)
@given(SIZES, SIZES, st.floats(0.4, 2.0), st.floats(0.4, 2.0), st.floats(0.5, 1.5))
def test_the_same_place_in_millimetres_on_the_way_in(
    rows: int, columns: int, row_mm: float, column_mm: float, target: float
) -> None:
    """The half-pixel convention: pixel i of spacing s has its middle at (i + 0.5) s mm."""
    width = max(2.0, 1.5 * target / min(row_mm, column_mm))
    assume(min(rows, columns) * 0.4 > 3 * width)
    image = blob(rows, columns, (0.45 * rows, 0.55 * columns), width)
    plan = prepare_volume(
        [step("resample_in_plane", spacing=target)], image, (1, row_mm, column_mm)
    )
    prepared = plan.prepare(image)[0, 0].numpy()
    scale = (rows / prepared.shape[0], columns / prepared.shape[1])
    place = [(at + 0.5) * by - 0.5 for at, by in zip(centroid(prepared), scale, strict=True)]
    assert place == pytest.approx(list(centroid(image[0])), abs=0.5)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 320), st.integers(1, 64))
def test_padding_never_cuts_and_is_even(rows: int, columns: int, least: int, multiple: int) -> None:
    volume = np.zeros((1, rows, columns), np.uint8)
    plan = prepare_volume([step("pad", least=least, multiple=multiple)], volume, None)
    left, right, top, bottom = plan.padding
    assert min(plan.padding) >= 0
    assert 0 <= right - left <= 1
    assert 0 <= bottom - top <= 1
    for size, whole in ((rows, rows + top + bottom), (columns, columns + left + right)):
        assert whole >= max(size, least)
        assert whole % multiple == 0
        assert whole < max(size, least) + multiple


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 64), st.sampled_from([1, 2, 32]))
def test_padding_alone_gives_every_pixel_back(
    rows: int, columns: int, least: int, multiple: int
) -> None:
    volume = np.random.default_rng(rows).normal(size=(2, rows, columns)).astype(np.float32)
    plan = prepare_volume([step("pad", least=least, multiple=multiple)], volume, None)
    assert np.array_equal(plan.restore(plan.prepare(volume))[:, 0].numpy(), volume)


def test_what_is_padded_looks_like_air() -> None:
    volume = head()
    steps = [step("standardise_foreground"), step("pad", least=64)]
    plan = prepare_volume(steps, volume, None)
    prepared = plan.prepare(volume)
    assert prepared[0, 0, 0, 0] == pytest.approx(float(prepared.min()), abs=1e-5)


def test_without_spacing_nothing_is_resampled() -> None:
    volume = head()
    plan = prepare_volume([step("resample_in_plane", spacing=0.5)], volume, None)
    assert plan.resampled == plan.shape == (40, 48)


def test_slices_are_prepared_alike_alone_and_together() -> None:
    volume = head((5, 33, 47))
    steps = [
        step("standardise_foreground"),
        step("resample_in_plane", spacing=1.3),
        step("pad", least=32, multiple=16),
    ]
    plan = prepare_volume(steps, volume, (5, 1, 1))
    together = plan.prepare(volume)
    alone = torch.cat([plan.prepare(volume[index : index + 1]) for index in range(5)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (step("normalise"), r"no 'normalise' \(there is: .*pad"),
        (step("pad", colour="red"), r"preprocessing\.pad: .*colour"),
        (step("resample_in_plane"), r"preprocessing\.resample_in_plane: .*spacing"),
        (step("resample_in_plane", spacing=0), r"preprocessing\.resample_in_plane"),
        (step("resample_in_plane", spacing="wide"), r"preprocessing\.resample_in_plane"),
        (step("pad", multiple=0), r"preprocessing\.pad"),
    ],
)
def test_a_wrong_step_is_named(wrong: StepSpec, words: str) -> None:
    with pytest.raises(ModelSpecError, match=words):
        prepare_volume([wrong], head(), (1, 1, 1))


def test_a_plan_is_told_by_its_numbers() -> None:
    plan = Preparation((4, 4), (4, 4), mean=10, scale=2, low=0, high=20)
    prepared = plan.prepare(np.array([[[-5, 10, 14, 99]] * 4]))
    assert prepared[0, 0, 0].tolist() == [-5, 0, 2, 5]


# Neighbouring slices, and statistics of each image.


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (0, 2), (2, 4), (4, 5)])
def test_neighbours_are_the_same_however_a_volume_is_cut(start: int, stop: int) -> None:
    volume = np.random.default_rng(3).normal(0, 1, (5, 8, 8))
    plan = prepare_volume([step("neighbours", count=1)], volume, None)
    seen = plan.prepare_between(volume, start, stop)
    assert seen.shape == (stop - start, 3, 8, 8)
    for place, slice_ in enumerate(range(start, stop)):
        around = [max(0, slice_ - 1), slice_, min(4, slice_ + 1)]
        assert np.allclose(seen[place], volume[around])


def test_a_single_slice_is_its_own_neighbours() -> None:
    volume = np.random.default_rng(3).normal(0, 1, (1, 8, 8))
    plan = prepare_volume([step("neighbours", count=2)], volume, None)
    assert np.allclose(plan.prepare_between(volume, 0, 1)[0], np.repeat(volume, 5, axis=0))


def test_each_image_is_standardised_by_itself() -> None:
    volume = np.random.default_rng(3).normal(100, 20, (2, 32, 32))
    other = np.stack([volume[0], volume[1] * 40 + 3000])
    steps = [step("standardise_image")]
    plain = prepare_volume(steps, volume, None).prepare_between(volume, 0, 2)
    changed = prepare_volume(steps, other, None).prepare_between(other, 0, 2)
    assert torch.allclose(plain, changed, atol=1e-3)
    assert float(plain.mean()) == pytest.approx(0, abs=0.05)
    assert float(plain.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_an_image_of_one_value_is_no_fault(value: float) -> None:
    volume = np.full((1, 16, 16), value)
    seen = prepare_volume([step("standardise_image")], volume, None).prepare_between(volume, 0, 1)
    assert torch.isfinite(seen).all()


def test_a_black_border_does_not_move_the_statistics() -> None:
    inner = np.random.default_rng(3).normal(100, 20, (1, 32, 32)).clip(1)
    framed = np.zeros((1, 64, 64))
    framed[:, 16:48, 16:48] = inner
    steps = [step("standardise_image")]
    alone = prepare_volume(steps, inner, None).prepare_between(inner, 0, 1)
    within = prepare_volume(steps, framed, None).prepare_between(framed, 0, 1)
    assert torch.allclose(within[..., 16:48, 16:48], alone, atol=0.05)
