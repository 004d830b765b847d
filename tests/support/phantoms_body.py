"""A body with air around it, for whatever looks for the body's middle."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np

from support.phantoms_base import Lesion, Phantom

_AIR_HU = -1000
# Half axes in mm; less than the field of view, so that air is on all sides.
_RADII_MM = (30.0, 24.0)


def in_air(ct: Phantom) -> Phantom:
    """A single-frame CT phantom cut to an elliptic cylinder in the middle of its grid."""
    assert ct.grid is not None
    middle = ct.grid.affine @ (*((np.array(ct.grid.shape) - 1) / 2), 1.0)
    height = 1e6  # it goes on from foot to head
    body = ct.grid.inside(Lesion(tuple(middle[:3]), (*_RADII_MM, height)))
    datasets = []
    for original in ct.datasets:
        made = deepcopy(original)
        position = np.array([*(float(value) for value in made.ImagePositionPatient), 1.0])
        index = round(float((np.linalg.inv(ct.grid.affine) @ position)[0]))
        air = _AIR_HU - int(made.RescaleIntercept)
        stored = np.where(body[index], original.pixel_array, air)
        made.PixelData = stored.astype(original.pixel_array.dtype).tobytes()
        datasets.append(made)
    return replace(ct, kind=f"{ct.kind} in air", datasets=datasets)
