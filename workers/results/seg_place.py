"""Where the frames of a segmentation lie, and how large their pixels are."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from core.errors import DecodeError
from workers.images.attributes import number
from workers.images.stack import Basis, Calibration, ImageFrame, ImageStack, Point


def is_placed(stack: ImageStack, indices: Iterable[int]) -> bool:
    """Whether the frames at `indices` can be given a place in the patient.

    A volume with a Frame of Reference always can. Other images can where each has a position and
    an orientation, their pixel size is one in the patient and their thickness is known (Pixel
    Measures need it, C.7.6.16.2.1). Else the segmentation has no Frame of Reference: its pixels
    are those of the images that it refers to (A.51.5.1).
    """
    if not stack.frame_of_reference_uid:
        return False
    if stack.is_volume:
        return True
    frames = [stack.frames[index] for index in indices]
    if pixel_size(stack) is None or slice_thickness(stack) is None:
        return False
    return all(
        frame is not None and frame.position is not None and frame.orientation is not None
        for frame in frames
    )


def position_of(stack: ImageStack, index: int) -> Point | None:
    """Centre of the first pixel at `index`, LPS, mm: as the image says, else by the affine."""
    frame = stack.frames[index]
    if frame is not None and frame.position is not None:
        return frame.position
    if stack.affine is None:
        return None
    x, y, z = (float(value) for value in (stack.affine @ (index, 0, 0, 1))[:3])
    return x, y, z


def are_turned(stack: ImageStack, indices: Iterable[int]) -> bool:
    """Whether the images have different orientations, so that each frame must say its own."""
    if stack.is_volume:
        return False
    sources = [stack.frames[index] for index in indices]
    return len({source.orientation for source in sources if source is not None}) > 1


def pixel_size(stack: ImageStack) -> Calibration | None:
    """The size of a pixel in the patient that holds in the whole image, if there is one."""
    for size in stack.calibrations:
        if size.basis == Basis.PATIENT and size.region is None:
            return size
    if stack.spacing_mm is None:
        return None
    return Calibration(stack.spacing_mm[1], stack.spacing_mm[2], Basis.PATIENT)


def slice_thickness(stack: ImageStack) -> float | None:
    """Slice Thickness (0018,0050) of the first image; multi-frame images keep it in a group."""
    source: ImageFrame = stack.present[0]
    items = [source.dataset]
    for keyword, index in (
        ("SharedFunctionalGroupsSequence", 0),
        ("PerFrameFunctionalGroupsSequence", source.number - 1),
    ):
        groups = source.dataset.get(keyword) or ()
        if len(groups) > index:
            items += groups[index].get("PixelMeasuresSequence") or ()
    for item in items:
        with suppress(DecodeError):  # one that cannot be read must not cost the result
            thickness = number(item, "SliceThickness")
            if thickness and thickness > 0:
                return thickness
    return None
