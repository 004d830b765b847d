"""From a spooled file to an `IncomingInstance`: content digest, identity, attributes."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian

from core.domain import IDENTITY_KEYWORDS, IncomingInstance
from core.equipment import MODEL_NAME, PROCESSING_EQUIPMENT
from core.identifiers import UID
from core.store import instance_key
from node.spool import read_private_information

# Value representations that routing and people can use; binary values and sequences are not kept.
_TEXT = frozenset(["AE", "AS", "CS", "DA", "DT", "LO", "PN", "SH", "TM", "UI", "UC"])
_NUMBERS = frozenset(["DS", "IS", "FL", "FD", "SL", "SS", "UL", "US"])
_LONGEST_VALUE = 1024
_MOST_VALUES = 64
# What pydicom raises on a value that is not what its value representation says.
_UNREADABLE_VALUE = (
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    NotImplementedError,
    OSError,
)
_LONGEST_IDENTITY = 330  # a person name of five components in three groups


def read_incoming(path: Path) -> IncomingInstance:
    """Read a spooled file.

    Raises:
        Exception: whatever pydicom raises on a file that is none; the caller keeps the file.
    """
    dataset = pydicom.dcmread(path)
    association, received_at = read_private_information(dataset.file_meta)
    study, series = UID(dataset.StudyInstanceUID), UID(dataset.SeriesInstanceUID)
    sop_instance = UID(dataset.SOPInstanceUID)
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    digest = content_digest(dataset, syntax)
    return IncomingInstance(
        sop_instance_uid=sop_instance,
        sop_class_uid=UID(dataset.SOPClassUID),
        study_instance_uid=study,
        series_instance_uid=series,
        transfer_syntax_uid=syntax,
        digest=digest,
        store_key=instance_key(study, series, sop_instance, digest),
        size=path.stat().st_size,
        received_at=received_at,
        association=association,
        attributes=short_attributes(dataset),
        identity=identity_of(dataset),
        own_result=is_own_result(dataset),
    )


def content_digest(dataset: Dataset, transfer_syntax_uid: str) -> str:
    """SHA-256 of what the data set says, not of how a sender happened to encode it.

    Tags and values are hashed, sequences item by item, so that Implicit and Explicit VR Little
    Endian, deflated or not, defined and undefined lengths give the same digest. Group lengths
    (gggg,0000) are left out. Big endian and compressed pixels count as other content.
    """
    digest = hashlib.sha256()
    if transfer_syntax_uid == ExplicitVRBigEndian:
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
            # only an empty value is not raw here; pydicom reads it at once
            value = b"" if converted.is_empty else repr(converted.value).encode()
            digest.update(len(value).to_bytes(8, "big") + value)


def _is_sequence(element: RawDataElement) -> bool:
    if element.VR is not None:
        return element.VR == "SQ"
    try:
        return dictionary_VR(element.tag) == "SQ"
    except KeyError:
        return False


def short_attributes(dataset: Dataset) -> dict[str, Any]:
    """Standard attributes with short values, by keyword: text as str, numbers as int or float.

    More than one value gives a list. A value that cannot be read as its value representation
    is kept as text.
    """
    found: dict[str, Any] = {}
    for tag in sorted(dataset.keys()):
        if tag.is_private or tag.group >= 0x5000:
            continue
        element: Any = dataset.get_item(tag)
        if isinstance(element, RawDataElement) and (
            len(element.value or b"") > _LONGEST_VALUE or element.VR in {"SQ", "OB", "OW", "UN"}
        ):
            continue
        value = _short_value(dataset, tag)
        keyword = pydicom.datadict.keyword_for_tag(tag)
        if value is not None and keyword:
            found[keyword] = value
    return found


def _short_value(dataset: Dataset, tag: BaseTag) -> Any:
    try:
        element = dataset[tag]
        if element.VR not in _TEXT | _NUMBERS or element.is_empty:
            return None
        value = element.value
        if isinstance(value, MultiValue | list):
            return [_plain(item, element.VR) for item in value[:_MOST_VALUES]]
        return _plain(value, element.VR)
    except _UNREADABLE_VALUE:
        return _raw_text(dataset, tag)


def _raw_text(dataset: Dataset, tag: Any) -> str | None:
    """The bytes of a value that is not what its value representation says."""
    content = getattr(dataset.get_item(tag), "value", None)
    return _clean(content.decode("latin-1")) if isinstance(content, bytes) else None


def _plain(value: Any, vr: str) -> str | int | float:
    if vr not in _NUMBERS:
        return _clean(str(value))
    number = float(value)
    # SQL's JSON knows no NaN or infinity
    if not math.isfinite(number):
        return str(value)
    return int(number) if number.is_integer() and vr != "DS" else number


def _clean(text: str) -> str:
    """PostgreSQL takes no NUL in text."""
    return text.replace("\0", "").strip()


def identity_of(dataset: Dataset) -> dict[str, str]:
    """Whose the image is. Padding and empty name components are not significant."""
    identity = {}
    for keyword in IDENTITY_KEYWORDS:
        try:
            text = _clean(str(dataset.get(keyword) or ""))
        except _UNREADABLE_VALUE:
            text = _raw_text(dataset, keyword) or ""
        if keyword == "PatientName":
            text = "=".join(group.rstrip("^ ") for group in text.split("=")).rstrip("=")
        identity[keyword] = text[:_LONGEST_IDENTITY]
    return identity


def is_own_result(dataset: Dataset) -> bool:
    """Whether a Sentinode, this one or another, made the object from images.

    It says so in Contributing Equipment (0018,A001), PS3.3 Section C.12.1.
    """
    try:
        contributions = list(dataset.get("ContributingEquipmentSequence") or ())
    except _UNREADABLE_VALUE:
        return False
    for item in contributions:
        if item.get("ManufacturerModelName") != MODEL_NAME:
            continue
        for purpose in item.get("PurposeOfReferenceCodeSequence") or ():
            code = (purpose.get("CodeValue"), purpose.get("CodingSchemeDesignator"))
            if code == PROCESSING_EQUIPMENT[:2]:
                return True
    return False
