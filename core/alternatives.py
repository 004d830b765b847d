"""What is made for a destination that does not take a SOP class (docs/decisions/0011).

The node reads this table when a destination refuses; the workers make the object. Both sides need
it and neither imports the other, so it is here, with SOP classes as plain text.

Sources: PS3.6 Table A-1 (the UIDs); PS3.3 A.35.1, A.35.2, A.35.3, A.35.13 (what each report may
say: each class here says less than the one before it).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

COMPREHENSIVE_3D_SR: Final = "1.2.840.10008.5.1.4.1.1.88.34"
COMPREHENSIVE_SR: Final = "1.2.840.10008.5.1.4.1.1.88.33"
ENHANCED_SR: Final = "1.2.840.10008.5.1.4.1.1.88.22"
BASIC_TEXT_SR: Final = "1.2.840.10008.5.1.4.1.1.88.11"
SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.7"
MULTI_FRAME_TRUE_COLOR_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7.4"
SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"

# SOP class of a stored object → what can be made from it, the fullest first. A Segmentation has
# none: its outlines are in the picture, a Secondary Capture, which every analysis makes anyway.
ALTERNATIVES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        COMPREHENSIVE_3D_SR: (COMPREHENSIVE_SR, ENHANCED_SR, BASIC_TEXT_SR),
        LABEL_MAP_SEGMENTATION: (SEGMENTATION,),
        # one object for each page
        MULTI_FRAME_TRUE_COLOR_CAPTURE: (SECONDARY_CAPTURE,),
    }
)


def next_alternative(sop_class_uid: str, refused: Collection[str]) -> str | None:
    """The SOP class to try next for an object of `sop_class_uid`.

    Args:
        sop_class_uid: the class of the *original* object, from which each alternative is made;
            an alternative has no alternatives of its own.
        refused: the classes that the destination is known not to take.

    Returns:
        The fullest class that is not among `refused`, or None where nothing is left to try.
    """
    left = (uid for uid in ALTERNATIVES.get(sop_class_uid, ()) if uid not in refused)
    return next(left, None)
