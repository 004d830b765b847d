"""How well a SEG object lies on what was drawn into a phantom."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np

from support.phantoms import Phantom


def dice_of(path: Path, phantom: Phantom) -> float:
    """Dice of all segments together, image by image as the references say (PS3.3 C.8.20.2)."""
    segmentation = hd.seg.segread(path)
    sources = [str(dataset.SOPInstanceUID) for dataset in phantom.datasets]
    drawn = phantom.mask.astype(bool)
    found = np.zeros_like(drawn)
    frames = segmentation.pixel_array.reshape(-1, *drawn.shape[1:])
    for frame, groups in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        (derivation,) = groups.DerivationImageSequence
        (source,) = derivation.SourceImageSequence
        found[sources.index(str(source.ReferencedSOPInstanceUID))] |= frame > 0
    return float(2 * (found & drawn).sum() / (found.sum() + drawn.sum()))
