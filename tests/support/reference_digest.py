"""The content digest as the first versions computed it, from pydicom's data sets.

Slow, recursive and without bounds, so only the tests use it: `node.reading.digest` must give
the same.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from core.identifiers import UID

_UNREADABLE_VALUE = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, OSError)


def reference_digest(path: Path) -> str:
    """The digest of a spooled file."""
    dataset = pydicom.dcmread(path)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        UID(dataset[keyword].value)
    digest = hashlib.sha256()
    if dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian:
        digest.update(b"big endian")
    _update(digest, dataset)
    return digest.hexdigest()


def _update(digest: Any, dataset: Dataset) -> None:
    for tag in sorted(dataset.keys()):
        if tag.element == 0:
            continue
        element: Any = dataset.get_item(tag)
        digest.update(int(tag).to_bytes(4, "big"))
        if isinstance(element, RawDataElement) and not _is_sequence(element):
            value = element.value or b""
            digest.update(len(value).to_bytes(8, "big"))
            digest.update(value)
            continue
        try:
            converted = dataset[tag]
        except _UNREADABLE_VALUE:
            value = element.value or b""
            digest.update(len(value).to_bytes(8, "big") + value)
            continue
        if converted.VR == "SQ":
            digest.update(b"SQ" + len(converted.value).to_bytes(8, "big"))
            for item in converted.value:
                _update(digest, item)
        else:
            value = b"" if converted.is_empty else repr(converted.value).encode()
            digest.update(len(value).to_bytes(8, "big") + value)


def _is_sequence(element: RawDataElement) -> bool:
    if element.VR is not None:
        return element.VR == "SQ"
    try:
        return dictionary_VR(element.tag) == "SQ"
    except KeyError:
        return False
