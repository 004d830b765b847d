"""Names of SOP classes, for messages."""

from __future__ import annotations

# What the dictionary of pydicom 3.0 does not have yet.
_LATER = {"1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage"}


def name_of(sop_class_uid: str) -> str:
    """The name of a SOP class (PS3.6 Annex A), or its UID where nobody knows a name."""
    from pydicom.uid import UID  # noqa: PLC0415 - 0.1 s; only when something is refused

    return _LATER.get(sop_class_uid) or UID(sop_class_uid).name
