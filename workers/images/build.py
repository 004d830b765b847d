"""The instances of one series as what the model reads: one volume, or stacks of images."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from pydicom.dataset import Dataset

from core.modelspec import InputSpec
from workers.images.calibration import calibrations_of
from workers.images.fill import fill
from workers.images.frames import Frame, frames_of
from workers.images.kinds import check_identity, check_images
from workers.images.pixels import is_color
from workers.images.read import check_size, drop_pixels
from workers.images.stack import Calibration, ImageStack
from workers.images.values import Scale, scales_of
from workers.images.volume import volume_of


def build_stacks(
    datasets: Sequence[Dataset], spec: InputSpec, *, max_voxels: int
) -> tuple[ImageStack, ...]:
    """Make the instances of one series into stacks.

    For a model of volumes: one stack with an affine. For a model of images: one stack for each
    group of frames of the same size, calibration, laterality and kind of values, in the order
    of their first frames; frames keep the order of Instance Number, then SOP Instance UID.

    Pixel data are decoded frame by frame and taken out of `datasets`, so that no more than the
    stored series and its arrays are held.

    Raises:
        NotApplicableError: not what the model is for, larger than `max_voxels` (rows ×
            columns × frames × samples), or of too many frames; the message says why.
        ResultError: the instances do not all belong to one patient, study and series.
        DecodeError: attributes or pixel data that cannot be read.
    """
    check_identity(datasets)
    check_images(datasets)
    check_size(datasets, max_voxels)
    frames = frames_of(datasets)
    if spec.kind == "volume":
        stacks: tuple[ImageStack, ...] = (volume_of(frames, spec, max_voxels=max_voxels),)
    else:
        stacks = _images(frames)
    for dataset in datasets:
        drop_pixels(dataset)
    return stacks


def _images(frames: Sequence[Frame]) -> tuple[ImageStack, ...]:
    groups: dict[Hashable, list[tuple[Frame, Scale]]] = {}
    sizes: dict[Hashable, tuple[Calibration, ...]] = {}
    for frame, scale in zip(frames, scales_of(frames), strict=True):
        known = calibrations_of(frame)
        color = is_color(frame.dataset)
        key = (frame.size, known, frame.laterality, color, scale.quantity, scale.unit)
        groups.setdefault(key, []).append((frame, scale))
        sizes[key] = known
    return tuple(_stack(members, sizes[key]) for key, members in groups.items())


def _stack(
    members: Sequence[tuple[Frame, Scale]], calibrations: tuple[Calibration, ...]
) -> ImageStack:
    frames, scales = [frame for frame, _ in members], [scale for _, scale in members]
    first = frames[0]
    array = np.empty((len(frames), *first.size), dtype=np.float32)
    color = np.empty((*array.shape, 3), dtype=np.uint8) if is_color(first.dataset) else None
    padding = fill(frames, scales, range(len(frames)), array, color)
    references = {
        frame.text("FrameOfReferenceUID")
        if frame.position is not None and frame.orientation is not None
        else ""
        for frame in frames
    }
    return ImageStack(
        array=array,
        frames=tuple(frame.finished() for frame in frames),
        quantity=scales[0].quantity,
        unit=scales[0].unit,
        calibrations=calibrations,
        frame_of_reference_uid=references.pop() if len(references) == 1 else "",
        laterality=first.laterality,
        color=color,
        remarks=tuple(dict.fromkeys(scale.remark for scale in scales if scale.remark)),
        padding=padding,
    )
