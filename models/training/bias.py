"""A set's own bias: how far what lies outside the masks tells the label, and weights against it.

In some sets each class came from another device or protocol: then exposure, sharpness and
collimation tell the class, and a network learns those instead of the disease. What lies outside
the masks (of the lungs, say) can hardly show the disease itself. A logistic regression from
simple figures of that part gives each image's chance of its own label; images are weighed by the
inverse (inverse propensity weighting, Rosenbaum and Rubin 1983), so that the outside tells less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import minimize
from scipy.special import expit

Figures = npt.NDArray[np.float64]

_PERCENTILES = (5, 15, 25, 35, 50, 65, 75, 85, 95)
_MARGIN = 6  # pixels around a mask that count as inside
_MOST = 5.0  # heavier weights would let single images lead
_RIDGE = 1.0


def figures_outside(image: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> Figures:
    """Percentiles of the grey values outside the mask, and how much fine and middle detail."""
    values = image.astype(np.float64)
    outside = ~ndimage.binary_dilation(mask, iterations=_MARGIN)
    if not outside.any():
        outside = np.ones_like(mask)
    smooth = ndimage.gaussian_filter(values, 1)
    fine, middle = values - smooth, smooth - ndimage.gaussian_filter(values, 3)
    levels = np.percentile(values[outside], _PERCENTILES)
    return np.array([*levels, fine[outside].std(), middle[outside].std()])


def chances(
    figures: Figures, positive: npt.NDArray[np.bool_], groups: Sequence[str], folds: int = 5
) -> Figures:
    """Chance of the positive label from the figures, each image's by the other groups' fit."""
    spread = figures.std(axis=0)
    scaled = (figures - figures.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    inputs = np.column_stack([scaled, scaled**2, np.ones(len(scaled))])
    names = sorted(set(groups))
    place = dict(zip(names, np.random.default_rng(0).permutation(len(names)), strict=True))
    part = np.array([place[name] % folds for name in groups])
    found = np.full(len(inputs), positive.mean())
    for fold in range(folds):
        held = part == fold
        if positive[~held].any() and not positive[~held].all():
            found[held] = expit(inputs[held] @ _fit(inputs[~held], positive[~held]))
    return found


def weights(figures: Figures, positive: npt.NDArray[np.bool_], groups: Sequence[str]) -> Figures:
    """Weights against the bias, their mean 1 in each class."""
    chance = chances(figures, positive, groups)
    raw = np.where(positive, positive.mean() / chance, (1 - positive.mean()) / (1 - chance))
    raw = np.clip(raw, 1 / _MOST, _MOST)
    for chosen in (positive, ~positive):
        if chosen.any():
            raw[chosen] /= raw[chosen].mean()
    return np.asarray(raw, dtype=np.float64)


def _fit(inputs: Figures, positive: npt.NDArray[np.bool_]) -> Figures:
    """Ridge logistic regression; the last column is the constant, which is not held back."""

    def objective(coefficients: Figures) -> tuple[float, Figures]:
        logits = inputs @ coefficients
        held = np.append(coefficients[:-1], 0.0) * _RIDGE
        value = np.logaddexp(0, logits).sum() - logits[positive].sum() + held @ coefficients / 2
        return float(value), inputs.T @ (expit(logits) - positive) + held

    return np.asarray(minimize(objective, np.zeros(inputs.shape[1]), jac=True).x)
