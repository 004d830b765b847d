"""Preprocessing, one definition for training and inference, chosen by name in `model.toml`.

A `Preparation` is made once per volume: it takes the statistics that a step needs from all
slices, then prepares batches of slices and brings the network's answer back to the input's
grid. Geometry uses the half-pixel convention throughout (`align_corners=False`): resampling
keeps the image's outer edges where they are, so what comes back is not shifted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.errors import ModelSpecError
from core.modelspec import StepSpec
from models.preprocessing import geometry, intensity
from models.preprocessing.plan import Preparation, Spacing, Volume

__all__ = ["STEPS", "Preparation", "Spacing", "Volume", "prepare_volume"]

STEPS: dict[str, Callable[..., None]] = {
    "resample_in_plane": geometry.resample_in_plane,
    "resample": geometry.resample,
    "pad": geometry.pad,
    "resize": geometry.resize,
    "neighbours": geometry.neighbours,
    "standardise_foreground": intensity.standardise_foreground,
    "standardise_image": intensity.standardise_image,
    "standardise_volume": intensity.standardise_volume,
    "standardise_percentile": intensity.standardise_percentile,
    "standardise_suv": intensity.standardise_suv,
    "window": intensity.window,
    "denoise": intensity.denoise,
    "enhance": intensity.enhance,
}


def prepare_volume(
    steps: Sequence[StepSpec], volume: Volume, spacing_mm: Spacing | None
) -> Preparation:
    """Plan the preprocessing of `volume`, (slices, rows, columns).

    `spacing_mm` is (slice, row, column), or None where it is unknown.

    Raises:
        ModelSpecError: a step that is not known, or parameters that it does not take.
    """
    rows, columns = volume.shape[1:]
    plan = Preparation((rows, columns), (rows, columns))
    for step in steps:
        apply = STEPS.get(step.name)
        if apply is None:
            known = ", ".join(sorted(STEPS))
            raise ModelSpecError(f"preprocessing: there is no {step.name!r} (there is: {known})")
        try:
            apply(plan, volume, spacing_mm, **step.params)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise ModelSpecError(f"preprocessing.{step.name}: {error}") from error
    return plan
