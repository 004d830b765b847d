"""From a spooled file to an `IncomingInstance`: content digest, identity, attributes."""

from __future__ import annotations

import json
import math
import os
import struct
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import lru_cache
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import UID as PydicomUID
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from core.domain import IDENTITY_KEYWORDS, Association, IncomingInstance
from core.equipment import MODEL_NAME, PROCESSING_EQUIPMENT
from core.errors import UnreadableError
from core.identifiers import UID
from core.ledger.queries.folding import plain_number
from core.store import instance_key
from node.reading.digest import content_digest
from node.reading.elements import Element, Reader
from node.reading.window import Inflating, Readable, Window
from node.spool.heads import PRIVATE_INFORMATION_CREATOR, association_from_json

_WINDOW_BYTES = 1 << 20
_GROUP_OF_META = 2
_TRANSFER_SYNTAX = 0x00020010
_PRIVATE_CREATOR = 0x00020100
_PRIVATE_INFORMATION = 0x00020102
_LONGEST_META = 1 << 16
_SOP_CLASS = 0x00080016
_CHARACTER_SET = 0x00080005
_UIDS = (0x00080018, 0x0020000D, 0x0020000E)  # SOP Instance, Study Instance, Series Instance
_CONTRIBUTIONS = 0x0018A001
_LONGEST_CONTRIBUTIONS = 1 << 16
# Specific Character Set and what `identity_of` reads.
_IDENTITY = frozenset(
    [_CHARACTER_SET, 0x00080050, 0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x0020000D]
)
_NUMBER = 0x00200013  # Instance Number
_WANTED = frozenset({_SOP_CLASS, _NUMBER, *_UIDS, *_IDENTITY})
_MOST_IDENTITIES = 1000
_HEADER_BYTES = 8
# Value representations that routing and people can use; binary values and sequences are not kept.
_TEXT = frozenset(["AE", "AS", "CS", "DA", "DT", "LO", "PN", "SH", "TM", "UI", "UC"])
_NUMBERS = frozenset(["DS", "IS", "FL", "FD", "SL", "SS", "UL", "US"])
_LONGEST_VALUE = 1024
_LONGEST_ATTRIBUTE = _LONGEST_VALUE + 12  # with its header
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
    RecursionError,
    BytesLengthException,
    struct.error,
)
_LONGEST_IDENTITY = 330  # a person name of five components in three groups


class IncomingReader:
    """Reads spooled files, each of them once; its memory is used again for the next."""

    def __init__(self) -> None:
        self._window = Window(_WINDOW_BYTES)
        self._identities: dict[tuple[tuple[bytes, bytes], ...], dict[str, str]] = {}

    def read(self, path: Path, known: Container[str] = ()) -> IncomingInstance:
        """Read a spooled file.

        The attributes of an instance whose series is in `known` are left out: the ledger keeps
        those of the first.

        Raises:
            FileNotFoundError: it is gone.
            OSError: it cannot be read.
            SentinodeError, ValueError: no receiver of ours wrote it, or it cannot be filed.
        """
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            self._window.open(file)
            meta, begin = _file_meta(self._window, size)
            syntax = PydicomUID(_text(meta, _TRANSFER_SYNTAX))
            with _not_deflated(file, path.parent, begin, size, syntax) as (stream, begin, end):
                self._window.open(stream)
                reader = Reader(self._window, syntax)
                elements, values = reader.scan(end, _WANTED, begin)
                return self._instance(reader, elements, values, known, meta, size)

    def _instance(
        self,
        reader: Reader,
        elements: list[Element],
        values: dict[int, bytes],
        known: Container[str],
        meta: dict[int, bytes],
        size: int,
    ) -> IncomingInstance:
        texts = {tag: _text(values, tag) for tag in _UIDS}
        sop_instance, study, series = (UID(text) for text in texts.values())
        # these were always hashed as they are shown; so what is in a ledger stays comparable
        shown = {tag: repr(text).encode() for tag, text in texts.items()}
        if _CHARACTER_SET in values:
            shown[_CHARACTER_SET] = _shown_character_set(values[_CHARACTER_SET])
        digest = content_digest(reader, elements, shown)
        association, received_at = _sender(meta)
        return IncomingInstance(
            sop_instance_uid=sop_instance,
            sop_class_uid=UID(_text(values, _SOP_CLASS)),
            study_instance_uid=study,
            series_instance_uid=series,
            transfer_syntax_uid=_text(meta, _TRANSFER_SYNTAX),
            digest=digest,
            store_key=instance_key(study, series, sop_instance, digest),
            size=size,
            received_at=received_at,
            association=association,
            attributes={} if series in known else _attributes(reader, elements),
            identity=self._identity(reader, elements, values),
            own_result=_made_by_us(reader, elements),
            number=plain_number(_clean(values.get(_NUMBER, b"").decode("latin-1"))),
        )

    def _identity(
        self, reader: Reader, elements: list[Element], values: dict[int, bytes]
    ) -> dict[str, str]:
        """Whose it is. The images of a study say so in the same bytes, which are read once."""
        asked = [element for element in elements if element.tag in _IDENTITY]
        if any(element.tag not in values for element in asked):  # too long for an identity
            return _identity(reader, asked)
        # with their headers: the same bytes under another tag are another patient
        key = tuple(
            (reader.window.value(element.begin, _HEADER_BYTES), values[element.tag])
            for element in asked
        )
        found = self._identities.get(key)
        if found is None:
            found = _identity(reader, asked)
            if len(self._identities) >= _MOST_IDENTITIES:
                self._identities.clear()
            self._identities[key] = found
        return found


@lru_cache(maxsize=1000)
def _shown_character_set(value: bytes) -> bytes:
    """Specific Character Set as pydicom shows it: a text, or a list of texts."""
    converted = convert_raw_data_element(
        RawDataElement(BaseTag(_CHARACTER_SET), "CS", len(value), value, 0, False, True)
    )
    return b"" if converted.is_empty else repr(converted.value).encode()


def _file_meta(window: Window, size: int) -> tuple[dict[int, bytes], int]:
    """The values of the File Meta Information (PS3.10 Section 7.1), and where it ends."""
    if window.value(128, 4) != b"DICM":
        raise ValueError("no Part 10 file")
    reader = Reader(window, ExplicitVRLittleEndian)
    meta: dict[int, bytes] = {}
    at = 132
    while at < size:
        tag, _, start, length = reader.header(at, implicit=False)
        if tag >> 16 != _GROUP_OF_META:
            break
        meta[tag] = window.value(start, min(length, _LONGEST_META))
        at = start + length
    return meta, at


def _sender(meta: dict[int, bytes]) -> tuple[Association, datetime]:
    """Who sent a spooled file, and when."""
    if _text(meta, _PRIVATE_CREATOR) != PRIVATE_INFORMATION_CREATOR:
        raise ValueError("not a file of this spool: no private information of ours")
    content = json.loads(meta[_PRIVATE_INFORMATION].decode("utf-8"))
    return association_from_json(content), datetime.fromisoformat(content["received_at"])


@contextmanager
def _not_deflated(
    file: FileIO, folder: Path, begin: int, size: int, syntax: PydicomUID
) -> Iterator[tuple[Readable, int, int]]:
    """The stream that holds the data set as it is, and where in it the data set lies."""
    if syntax != DeflatedExplicitVRLittleEndian:
        yield file, begin, size
        return
    # a file without a name, on the spool's disk: it may be much larger than memory should hold
    with tempfile.TemporaryFile(dir=folder, buffering=0) as plain:
        file.seek(begin)
        length = Inflating(file).copy_to(plain)
        yield plain, 0, length


def _text(values: dict[int, bytes], tag: int) -> str:
    if tag not in values:
        raise UnreadableError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is missing or too long")
    return values[tag].decode("latin-1").rstrip("\0 ")


def _dataset(reader: Reader, elements: list[Element]) -> Dataset:
    """Some short elements of a data set, as pydicom knows them."""
    content = b"".join(
        reader.window.value(element.begin, element.end - element.begin) for element in elements
    )
    try:
        # as in a sequence: there pydicom does not warn when it finds implicit VR
        return read_dataset(
            BytesIO(content), reader.implicit, reader.little_endian, at_top_level=False
        )
    except _UNREADABLE_VALUE:
        rest = [element for element in elements if element.tag != _CHARACTER_SET]
        if len(rest) == len(elements):
            raise
        # a character set that nobody knows: texts are read as if there were none
        return _dataset(reader, rest)


def _identity(reader: Reader, asked: list[Element]) -> dict[str, str]:
    """The identity, whatever the bytes are: an image that was acknowledged must be filed.

    Of a value that is longer than any identity its beginning counts; one that cannot be decoded
    is taken as it is.
    """
    short = [element for element in asked if element.length <= _LONGEST_VALUE]
    try:
        found = identity_of(_dataset(reader, short))
        raw = [element for element in asked if element.length > _LONGEST_VALUE]
    except _UNREADABLE_VALUE:
        found, raw = dict.fromkeys(IDENTITY_KEYWORDS, ""), asked
    for element in raw:
        keyword = keyword_for_tag(element.tag)
        if keyword in found:
            length = min(element.length, _LONGEST_IDENTITY)
            found[keyword] = _clean(reader.window.value(element.start, length).decode("latin-1"))
    return found


def _attributes(reader: Reader, elements: list[Element]) -> dict[str, Any]:
    short = [
        element
        for element in elements
        if not element.sequence and element.end - element.begin <= _LONGEST_ATTRIBUTE
    ]
    try:
        return short_attributes(_dataset(reader, short))
    except _UNREADABLE_VALUE:
        pass
    # one of them cannot even be taken apart: the others count all the same
    found: dict[str, Any] = {}
    for element in short:
        with suppress(*_UNREADABLE_VALUE):
            found |= short_attributes(_dataset(reader, [element]))
    return found


def _made_by_us(reader: Reader, elements: list[Element]) -> bool:
    for element in elements:
        if element.tag != _CONTRIBUTIONS or element.end - element.begin > _LONGEST_CONTRIBUTIONS:
            continue
        with suppress(*_UNREADABLE_VALUE):  # ours can be read
            if is_own_result(_dataset(reader, [element])):
                return True
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
        try:
            element: Any = dataset.get_item(tag)
            if isinstance(element, RawDataElement) and (
                len(element.value or b"") > _LONGEST_VALUE or element.VR in {"SQ", "OB", "OW", "UN"}
            ):
                continue
            value = _short_value(dataset, tag)
        except _UNREADABLE_VALUE:
            continue
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
    for item in dataset.get("ContributingEquipmentSequence") or ():
        if item.get("ManufacturerModelName") != MODEL_NAME:
            continue
        for purpose in item.get("PurposeOfReferenceCodeSequence") or ():
            code = (purpose.get("CodeValue"), purpose.get("CodingSchemeDesignator"))
            if code == PROCESSING_EQUIPMENT[:2]:
                return True
    return False
