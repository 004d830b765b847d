"""A volume asked window by window: no seam, no shift, no slice left out, in bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ModelSpecError
from core.modelspec import StepSpec, WindowSpec
from models.preprocessing import prepare_volume
from models.windows import ask_in_windows, starts_of


def asked(volume, window, *, steps=(), spacing=None, ask=lambda seen: seen):
    plan = prepare_volume([StepSpec(**step) for step in steps], volume, spacing)
    return ask_in_windows(
        ask, lambda logits: plan.restore(logits).sigmoid(), plan, volume, window, 1
    )


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1, shape).astype(np.float32)


@given(st.integers(1, 300), st.integers(1, 100), st.floats(0, 0.95))
def test_windows_cover_everything(length: int, window: int, overlap: float) -> None:
    starts = starts_of(length, window, overlap)
    covered = {place for start in starts for place in range(start, start + window)}
    assert set(range(length)) <= covered
    assert starts == sorted(set(starts))
    assert length < window or max(covered) == length - 1


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 13), st.integers(5, 23), st.integers(5, 23)),
    st.sampled_from([(4, 8, 8), (3, 16, 8), (8, 8), (1, 32, 32), (16, 5, 7)]),
    st.sampled_from([0.0, 0.25, 0.6]),
    st.sampled_from(["gaussian", "constant"]),
    st.integers(1, 5),
)
def test_a_network_that_passes_its_input_on_gives_the_volume(
    shape: tuple[int, int, int], size: tuple[int, ...], overlap: float, blend: str, batch: int
) -> None:
    volume = noise(*shape)
    window = WindowSpec(size=size, overlap=overlap, blend=blend, batch=batch)
    found = asked(volume, window)[0].astype(np.float32)
    assert np.abs(found - 1 / (1 + np.exp(-volume))).max() < 2e-3


def test_resampled_across_slices_it_comes_back_unshifted() -> None:
    rows = np.linspace(-3, 3, 20, dtype=np.float32)
    volume = np.broadcast_to(rows[:, None, None], (20, 12, 12)).copy()
    steps = ({"name": "resample", "params": {"spacing": [1.0, 1.5, 1.5]}},)
    shapes = []

    def ask(seen: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(seen.shape[2:]))
        return seen

    found = asked(volume, WindowSpec(size=(8, 8, 8)), steps=steps, spacing=(2.5, 1.0, 1.0), ask=ask)
    assert len(shapes) > 6 * 1  # 50 slices instead of 20
    inner = slice(2, -2)
    expected = 1 / (1 + np.exp(-volume))
    assert np.abs(found[0, inner].astype(np.float32) - expected[inner]).max() < 0.02


def test_sums_are_kept_for_one_window_only() -> None:
    volume = noise(300, 64, 64).astype(np.int16)
    peaks = []
    for count in (60, 300):
        tracemalloc.start()  # NumPy tells it, torch does not: the sums are torch's
        asked(volume[:count], WindowSpec(size=(8, 64, 64), overlap=0.5))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    answer = 2 * 64 * 64
    assert peaks[1] - peaks[0] < (300 - 60) * answer * 1.3


def test_an_answer_of_another_size_is_told() -> None:
    with pytest.raises(ModelSpecError, match=r"8 × 8 × 8 with 4 × 4 × 4"):
        asked(noise(9, 9, 9), WindowSpec(size=(8, 8, 8)), ask=lambda seen: seen[..., ::2, ::2, ::2])


def test_slices_cannot_be_resampled_for_a_network_in_2d() -> None:
    steps = ({"name": "resample", "params": {"spacing": [1.0, 1.0, 1.0]}},)
    with pytest.raises(ModelSpecError, match="three sides"):
        asked(noise(4, 9, 9), WindowSpec(size=(8, 8)), steps=steps, spacing=(2, 1, 1))
