"""How large a pixel is, by the attribute that says it for each kind of image (PS3.3 10.7).

Where nothing says it, there is no calibration: a size is never assumed.
"""

from __future__ import annotations

from typing import NamedTuple

from pydicom.dataset import Dataset

from workers.images.attributes import numbers, text, whole
from workers.images.frames import Frame
from workers.images.stack import Basis, Calibration

# Images that project the patient onto a detector, which is farther from the source.
_PROJECTIONS = frozenset({"CR", "DX", "MG", "IO", "PX", "XA", "RF", "RG"})
# Physical Units X and Y Direction (0018,6024), (0018,6026): 3 is cm (PS3.3 C.8.5.5.1.15).
_CENTIMETRES = 3
_MM_PER_CM = 10.0
_EQUAL = 1e-3
# First column, first row, last column, last row.
_Box = tuple[int, int, int, int]


def calibrations_of(frame: Frame) -> tuple[Calibration, ...]:
    """The pixel sizes of a frame, and where they hold; empty where nothing says them.

    Raises:
        DecodeError: an attribute that cannot be read.
    """
    regions = frame.group("SequenceOfUltrasoundRegions")
    if regions:
        return _regions(frame)
    spacing = _pair(frame, "PixelSpacing")
    placed = frame.position is not None and frame.orientation is not None
    if frame.modality in _PROJECTIONS and not placed:
        return _projection(frame, spacing)
    if spacing is not None:
        return (Calibration(*spacing, Basis.PATIENT),)
    # A digitised film: millimetres on the film (PS3.3 C.8.6.2), so as at a detector.
    film = _pair(frame, "NominalScannedPixelSpacing")
    imager = _pair(frame, "ImagerPixelSpacing")
    found = imager or film
    return () if found is None else (Calibration(*found, Basis.DETECTOR),)


def patient_spacing(frame: Frame) -> tuple[float, float] | None:
    """Pixel Spacing of a slice, mm: between rows, between columns; None if it is not usable."""
    return _pair(frame, "PixelSpacing")


def _projection(frame: Frame, spacing: tuple[float, float] | None) -> tuple[Calibration, ...]:
    """A projection (PS3.3 10.7.1.3).

    Pixel Spacing is calibrated where it says how, or where it differs from Imager Pixel Spacing.
    Alone and without a word it may be either: it is taken as at the detector.
    """
    imager = _pair(frame, "ImagerPixelSpacing")
    if spacing is not None:
        said = text(frame.holder("PixelSpacing"), "PixelSpacingCalibrationType") or text(
            frame.dataset, "PixelSpacingCalibrationType"
        )
        differs = imager is not None and any(
            abs(one - other) > _EQUAL * other for one, other in zip(spacing, imager, strict=True)
        )
        if said or differs:
            return (Calibration(*spacing, Basis.PATIENT),)
    at_detector = imager or spacing or _pair(frame, "NominalScannedPixelSpacing")
    if at_detector is None:
        return ()
    factor = frame.number("EstimatedRadiographicMagnificationFactor")
    if imager is not None and factor is not None and factor > 0:
        return (Calibration(imager[0] / factor, imager[1] / factor, Basis.MAGNIFIED),)
    return (Calibration(*at_detector, Basis.DETECTOR),)


def _regions(frame: Frame) -> tuple[Calibration, ...]:
    """Ultrasound regions (PS3.3 C.8.5.5) that are measured in centimetres both ways.

    Where regions of different scales overlap, none of them holds: Region Flags may say which
    one lies above (C.8.5.5.1.3), but too often do not, and a wrong size is worse than none.
    """
    found = [
        scaled
        for region in frame.group("SequenceOfUltrasoundRegions")
        if (scaled := _scaled(region, frame.size)) is not None
    ]
    kept = []
    for one in found:
        if one.units != (_CENTIMETRES, _CENTIMETRES):
            continue
        others = tuple(
            other.box for other in found if not one.agrees(other) and _overlap(one.box, other.box)
        )
        if not any(_within(one.box, other) for other in others):
            kept.append(Calibration(one.down, one.across, Basis.REGION, one.box, others))
    return tuple(kept)


class _Scaled(NamedTuple):
    """A region with its units, what they are a pixel (mm where they are cm), and its box."""

    units: tuple[int, int]
    across: float
    down: float
    box: _Box

    def agrees(self, other: _Scaled) -> bool:
        pairs = ((self.across, other.across), (self.down, other.down))
        return self.units == other.units and all(abs(a - b) <= _EQUAL * b for a, b in pairs)


def _scaled(region: Dataset, size: tuple[int, int]) -> _Scaled | None:
    """A region that has a scale both ways, in whatever units, and pixels; else None."""
    units = [whole(region, f"PhysicalUnits{axis}Direction") for axis in "XY"]
    deltas = [numbers(region, f"PhysicalDelta{axis}", 1) for axis in "XY"]
    edges = [
        numbers(region, f"RegionLocation{edge}", 1) for edge in ("MinX0", "MinY0", "MaxX1", "MaxY1")
    ]
    if 0 in units or None in deltas or None in edges:
        return None
    # A delta is negative where the physical axis runs the other way.
    across, down = (abs(delta[0]) * _MM_PER_CM for delta in deltas if delta)
    left, top, right, bottom = (int(edge[0]) for edge in edges if edge)
    rows, columns = size
    box = (max(left, 0), max(top, 0), min(right, columns - 1), min(bottom, rows - 1))
    if across <= 0 or down <= 0 or box[0] > box[2] or box[1] > box[3]:
        return None
    return _Scaled((units[0], units[1]), across, down, box)


def _overlap(one: _Box, other: _Box) -> bool:
    across = one[0] <= other[2] and other[0] <= one[2]
    return across and one[1] <= other[3] and other[1] <= one[3]


def _within(one: _Box, other: _Box) -> bool:
    """Whether all of `one` lies in `other`."""
    first = other[0] <= one[0] and other[1] <= one[1]
    return first and one[2] <= other[2] and one[3] <= other[3]


def _pair(frame: Frame, keyword: str) -> tuple[float, float] | None:
    """Two positive numbers; None where they are missing, or zero as a placeholder."""
    found = frame.numbers(keyword, 2)
    return None if found is None or min(found) <= 0 else (found[0], found[1])
