"""Preprocessing steps for noise, contrast and standard units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from core.errors import ModelSpecError
from core.modelspec import StepSpec
from models.preprocessing import prepare_volume

RNG = np.random.default_rng(2)


def prepared(volume: np.ndarray, *steps: tuple[str, dict[str, Any]]) -> np.ndarray:
    specs = [StepSpec(name=name, params=params) for name, params in steps]
    return prepare_volume(specs, volume, None).prepare(volume)[:, 0].numpy()


def square() -> np.ndarray:
    volume = np.zeros((2, 40, 40), np.float32)
    volume[:, 10:30, 10:30] = 100
    return volume


@pytest.mark.parametrize(
    "params",
    [
        {"method": "median", "size": 3},
        {"method": "gaussian", "sigma": 0.8},
        {"method": "non_local_means"},
    ],
)
def test_denoising_comes_nearer_to_the_truth(params: dict[str, Any]) -> None:
    truth = square()
    noisy = truth + RNG.normal(0, 12, truth.shape).astype(np.float32)
    cleaned = prepared(noisy, ("denoise", params))
    assert np.abs(cleaned - truth).mean() < 0.75 * np.abs(noisy - truth).mean()


def test_a_median_takes_a_single_hot_pixel_away() -> None:
    volume = square()
    volume[0, 20, 20] = 5000
    assert prepared(volume, ("denoise", {"method": "median"}))[0, 20, 20] == 100


@pytest.mark.parametrize("method", ["equalise", "clahe"])
def test_enhancing_spreads_what_was_narrow(method: str) -> None:
    dull = (100 + RNG.normal(0, 1, (2, 64, 64)) + np.linspace(0, 3, 64)).astype(np.float32)
    dull[:, 0, 0] = 130  # one bright pixel leaves little room for the rest
    plain = (dull - dull.min()) / (dull.max() - dull.min())
    better = prepared(dull, ("enhance", {"method": method}))
    assert better.min() >= 0
    assert better.max() <= 1
    assert better.std() > 2 * plain.std()


@pytest.mark.parametrize("method", ["equalise", "clahe"])
def test_an_image_of_one_value_stays_one(method: str) -> None:
    flat = prepared(np.full((1, 32, 32), 7, np.int16), ("enhance", {"method": method}))
    assert np.isfinite(flat).all()
    assert np.ptp(flat) == 0


def test_a_window_in_hounsfield_units() -> None:
    volume = np.array([[[-2000, -160, 40, 240, 3000]]], np.int16)
    expected = [0, 0, 0.5, 1, 1]
    for params in ({"low": -160, "high": 240}, {"centre": 40, "width": 400}):
        assert prepared(volume, ("window", params))[0, 0] == pytest.approx(expected)


def test_suv_is_the_same_whatever_the_volume() -> None:
    volume = np.array([[[0, 5, 20, 80]]], np.float32)
    assert prepared(volume, ("standardise_suv", {}))[0, 0] == pytest.approx([0, 0.25, 1, 1])


def test_percentiles_and_z_score_are_of_the_whole_volume() -> None:
    volume = RNG.normal(50, 10, (4, 50, 50)).astype(np.float32)
    volume[0, 0, 0] = np.nan
    volume[0, 0, 1] = np.inf
    scored = prepared(volume, ("standardise_volume", {}))
    assert np.isfinite(scored).all()
    assert scored[1:].mean() == pytest.approx(0, abs=0.02)
    assert scored[1:].std() == pytest.approx(1, abs=0.02)
    shares = prepared(
        volume, ("standardise_percentile", {"low_percentile": 5, "high_percentile": 95})
    )
    assert (shares == 0).mean() == pytest.approx(0.05, abs=0.01)
    assert (shares == 1).mean() == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(
    ("name", "params", "match"),
    [
        ("denoise", {"method": "magic"}, "gaussian, median, non_local_means"),
        ("denoise", {"method": "median", "sigma": 2}, "sigma"),
        ("denoise", {"method": "gaussian", "sigma": 0}, "sigma is 0"),
        ("enhance", {"method": "clahe", "tiles": 0}, "tiles is 0"),
        ("window", {"low": 4, "high": 4}, "low < high"),
        ("window", {}, "low < high"),
        ("standardise_suv", {"highest": 0}, "highest is 0"),
        ("resample", {"spacing": [1, 1]}, "three lengths"),
    ],
)
def test_faults_are_told_by_the_step(name: str, params: dict[str, Any], match: str) -> None:
    with pytest.raises(ModelSpecError, match=match):
        prepare_volume([StepSpec(name=name, params=params)], square(), (1, 1, 1))


def test_steps_do_not_change_the_volume() -> None:
    volume = square()
    before = volume.copy()
    steps = ("denoise", {}), ("enhance", {}), ("standardise_volume", {})
    prepared(volume, *steps)
    assert np.array_equal(volume, before)
    assert torch.get_default_dtype() == torch.float32
