"""Figures of tracer uptake that other images do not have: SUVpeak and total lesion glycolysis."""

from __future__ import annotations

import math

import numpy as np
from pydicom.dataset import Dataset
from scipy import ndimage

from core.domain import Measurement
from core.errors import DecodeError
from workers.images.attributes import items, text
from workers.images.concepts import G_ML_BW
from workers.lesions.concepts import (
    GRAM,
    IBSI_PEAK,
    MILLILITRE,
    PEAK,
    TOTAL_LESION_GLYCOLYSIS,
)
from workers.lesions.region import Region

# A sphere of 1 mL (Wahl et al. 2009, PERCIST; IBSI reference manual, Section 3.2).
PEAK_RADIUS_MM = (3 * 1000 / (4 * math.pi)) ** (1 / 3)
_FDG_CODES = frozenset({"35321007", "C-B1031"})  # SCT, SRT (PS3.16 CID 4021)
_FDG_NAMES = ("fdg", "fluorodeoxyglucose", "fludeoxyglucose")


def uptake_of(region: Region) -> list[Measurement]:
    """SUVpeak and TLG of a region whose values are SUV by body weight; else nothing.

    SUVpeak is the highest mean in a sphere of 1 mL whose centre is a voxel of the region (IBSI
    0F91, global intensity peak): of the voxels whose centres lie in the sphere, those outside
    the region included, those without data left out. TLG is SUVmean times volume, g; not stated
    where the images name a tracer other than FDG.
    """
    stack = region.stack
    if not stack.is_volume or stack.unit.value != G_ML_BW.value or not len(region.values):
        return []
    found = [Measurement(stack.quantity, _peak(region), stack.unit, IBSI_PEAK, PEAK)]
    if not _other_tracer(stack.source):
        mean = float(region.values.mean(dtype=np.float64))
        volume = region.voxels * stack.voxel_ml
        assert MILLILITRE.value == "mL"
        found.append(Measurement(TOTAL_LESION_GLYCOLYSIS, mean * volume, GRAM))
    return found


def _peak(region: Region) -> float:
    stack = region.stack
    assert stack.affine is not None
    reach = [
        int(PEAK_RADIUS_MM / step) + 1 for step in np.abs(np.linalg.norm(region.matrix, axis=0))
    ]
    offsets = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1)
    away = np.linalg.norm(offsets @ region.matrix.T, axis=-1)
    sphere = (away <= PEAK_RADIUS_MM * (1 + 1e-9)).astype(np.float64)
    box = tuple(
        slice(max(side.start - n, 0), min(side.stop + n, size))
        for side, n, size in zip(region.box, reach, stack.array.shape, strict=True)
    )
    values = stack.array[box].astype(np.float64)
    known = np.isfinite(values)
    if stack.padding is not None:
        known &= ~stack.padding[box]
    for index in stack.missing:
        if box[0].start <= index < box[0].stop:
            known[index - box[0].start] = False
    sums = ndimage.convolve(np.where(known, values, 0.0), sphere, mode="constant")
    counts = ndimage.convolve(known.astype(np.float64), sphere, mode="constant")
    inner = tuple(
        slice(side.start - outer.start, side.stop - outer.start)
        for side, outer in zip(region.box, box, strict=True)
    )
    means = sums[inner] / np.maximum(counts[inner], 1.0)
    return float(means[region.mask & known[inner]].max())


def _other_tracer(source: Dataset) -> bool:
    """Whether the images name a tracer, and it is not FDG."""
    try:
        for tracer in items(source, "RadiopharmaceuticalInformationSequence"):
            coded = items(tracer, "RadiopharmaceuticalCodeSequence")
            if coded:
                return not any(text(code, "CodeValue") in _FDG_CODES for code in coded)
            named = text(tracer, "Radiopharmaceutical").lower()
            if named:
                return not any(name in named for name in _FDG_NAMES)
    except DecodeError:  # a name that cannot be read names none
        return False
    return False
