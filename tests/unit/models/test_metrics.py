"""Scores against definitions written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.training.metrics import bootstrap, dice, roc_auc

MASKS = st.integers(1, 6).flatmap(
    lambda size: st.tuples(
        arrays(np.bool_, (size, size)),
        arrays(np.bool_, (size, size)),
    )
)
PAIRS = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), max_size=25)


@given(MASKS)
def test_dice_is_twice_the_overlap_over_the_sum(masks: tuple[np.ndarray, np.ndarray]) -> None:
    found, truth = masks
    both = sum(bool(a and b) for a, b in zip(found.flat, truth.flat, strict=True))
    total = sum(map(bool, found.flat)) + sum(map(bool, truth.flat))
    assert dice(found, truth) == (2 * both / total if total else 1.0)
    assert dice(found, truth) == dice(truth, found)
    assert 0 <= dice(found, truth) <= 1
    assert dice(truth, truth) == 1


def test_dice_knows_empty_masks() -> None:
    empty, full = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    assert dice(empty, empty) == 1
    assert dice(empty, full) == 0


@given(PAIRS)
def test_auc_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[int, bool]]) -> None:
    positive = [score for score, is_positive in pairs if is_positive]
    negative = [score for score, is_positive in pairs if not is_positive]
    found = roc_auc([float(score) for score, _ in pairs], [label for _, label in pairs])
    if not positive or not negative:
        assert found is None
        return
    right = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    assert found == pytest.approx(right / (len(positive) * len(negative)), abs=1e-12)


@given(PAIRS)
def test_auc_sees_only_the_order(pairs: list[tuple[int, bool]]) -> None:
    labels = [label for _, label in pairs]
    plain = roc_auc([float(score) for score, _ in pairs], labels)
    assert roc_auc([score**3 * 7 - 100 for score, _ in pairs], labels) == plain
    turned = roc_auc([-float(score) for score, _ in pairs], labels)
    assert plain is None or turned == pytest.approx(1 - plain)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 10))
def test_the_interval_contains_the_mean(values: list[float], seed: int) -> None:
    numbers = np.array(values)
    interval = bootstrap(lambda i: float(numbers[i].mean()), len(numbers), rounds=400, seed=seed)
    assert interval is not None
    low, high = interval
    assert numbers.min() - 1e-9 <= low <= high <= numbers.max() + 1e-9
    # an interval of few values that are almost all alike may end at the values themselves
    spread = numbers.std() / np.sqrt(len(numbers))
    assert low - spread <= numbers.mean() <= high + spread


def test_the_interval_of_normal_values_is_as_wide_as_theory_says() -> None:
    numbers = np.random.default_rng(1).normal(5, 2, 400)
    interval = bootstrap(lambda i: float(numbers[i].mean()), len(numbers))
    assert interval is not None
    assert interval[0] < numbers.mean() < interval[1]
    assert interval[1] - interval[0] == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)


def test_the_interval_is_the_same_each_time_and_none_where_nothing_is_defined() -> None:
    numbers = np.arange(20.0)

    def mean(chosen: np.ndarray) -> float:
        return float(numbers[chosen].mean())

    assert bootstrap(mean, 20, rounds=50) == bootstrap(mean, 20, rounds=50)
    assert bootstrap(mean, 20, rounds=50) != bootstrap(mean, 20, rounds=50, seed=1)
    assert bootstrap(lambda _: None, 20, rounds=50) is None
