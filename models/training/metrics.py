"""Scores, with their definitions said: Dice, area under the ROC curve, bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Numbers = npt.NDArray[np.float64]


def dice(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Dice coefficient of two masks of the same shape; 1 when both are empty."""
    both = int(np.count_nonzero(found)) + int(np.count_nonzero(truth))
    if both == 0:
        return 1.0
    return 2.0 * int(np.count_nonzero(found & truth)) / both


def roc_auc(scores: Sequence[float], positive: Sequence[bool]) -> float | None:
    """Area under the ROC curve (Mann-Whitney; ties count half). None with one class only."""
    labels = np.asarray(positive, dtype=bool)
    n_positive, n_negative = int(labels.sum()), int((~labels).sum())
    if not n_positive or not n_negative:
        return None
    ranks = rankdata(np.asarray(scores, dtype=np.float64))
    total = float(ranks[labels].sum()) - n_positive * (n_positive + 1) / 2
    return total / (n_positive * n_negative)


def calibration_error(
    confidence: Sequence[float], correct: Sequence[bool], bins: int = 10
) -> float | None:
    """Expected calibration error (Naeini et al. 2015): how far confidence is from accuracy.

    Mean distance between the two in bins of equal width, each weighed by its images. None
    without images.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    if not sure.size:
        return None
    place = np.clip((sure * bins).astype(int), 0, bins - 1)
    gaps = [
        abs(float(sure[place == index].mean()) - float(right[place == index].mean()))
        * int((place == index).sum())
        for index in np.unique(place)
    ]
    return sum(gaps) / sure.size


def bootstrap(
    statistic: Callable[[npt.NDArray[np.intp]], float | None],
    groups: int,
    *,
    rounds: int = 1000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """95 % percentile interval of a statistic over groups (patients) drawn with replacement.

    `statistic` gets the indices of the groups drawn. None when it is never defined.
    """
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(0, groups, groups)) for _ in range(rounds)]
    defined = [value for value in values if value is not None]
    if not defined:
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)
