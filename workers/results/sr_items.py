"""Content items of a structured report, encoded as they stand in the file.

A report on 50 lesions has some 1,500 items of 40,000 elements, most of them codes that repeat. As
data sets they take seconds to build, to copy and to write. So an item is bytes here, Explicit VR
Little Endian, and each code is encoded once. dciodvfy checks what is written; pydicom, highdicom,
DCMTK and dcmqi read it again in the tests.

Source: PS3.3 C.17.3 (SR Document Content Module) and C.18 (value types); PS3.5 Section 7.5
(nesting of data sets) and Table 6.2-1 (value representations).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from highdicom.sr import CodedConcept
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as PydicomCode
from pydicom.tag import BaseTag

from core.errors import ResultError
from core.modelspec import Code
from workers.results.charset import CharacterSet

AnyCode = Code | PydicomCode | CodedConcept
Point2D = tuple[float, float]
Point3D = tuple[float, float, float]

# The most figures of a measured value: DS holds 16 characters, and more would be pretence.
_FIGURES = 6
_LONG_LENGTH = frozenset({"SQ", "UT"})  # VRs with a length of 32 bits (PS3.5 Table 7.1-1)
_BY_NUL = frozenset({"UI"})  # VRs that are padded with NUL; the others here with a space
TEMPLATES = "1.2.840.10008.8.1.1"  # DICOM Content Mapping Resource (PS3.6 Table A-1)


class Relation(StrEnum):
    """Relationship Type (0040,A010)."""

    CONTAINS = "CONTAINS"
    OBSERVATION = "HAS OBS CONTEXT"
    ACQUISITION = "HAS ACQ CONTEXT"
    MODIFIER = "HAS CONCEPT MOD"
    INFERRED = "INFERRED FROM"
    SELECTED = "SELECTED FROM"


@dataclass(frozen=True, slots=True)
class Reference:
    """What an IMAGE item refers to (PS3.3 Table 10-3).

    Attributes:
        frames: Referenced Frame Numbers, from 1; empty where it is all of the instance.
        segment: Referenced Segment Number; 0 where it is no segment.
    """

    sop_class_uid: str
    sop_instance_uid: str
    frames: tuple[int, ...] = ()
    segment: int = 0


class Items:
    """Encodes content items for a document with a given Specific Character Set.

    Every method gives one item of a Content Sequence, with its item tag. `children` are the items
    of its own Content Sequence.
    """

    def __init__(self, character_set: str | Sequence[str] | None) -> None:
        """Prepare for a document whose Specific Character Set (0008,0005) is `character_set`."""
        self._characters = CharacterSet(character_set)
        self._codes: dict[tuple[str, str, str], bytes] = {}
        self.schemes: set[str] = set()  # Coding Scheme Designators that were used

    def code(
        self, relation: Relation, name: AnyCode, value: AnyCode, children: Sequence[bytes] = ()
    ) -> bytes:
        """A CODE item."""
        concept = _element(0x0040A168, "SQ", self._code(value))
        return self._item(relation, "CODE", name, concept, children)

    def text(
        self, relation: Relation, name: AnyCode, value: str, children: Sequence[bytes] = ()
    ) -> bytes:
        """A TEXT item."""
        words = _element(0x0040A160, "UT", self.encode(value))
        return self._item(relation, "TEXT", name, words, children)

    def uid(self, relation: Relation, name: AnyCode, value: str) -> bytes:
        """A UIDREF item."""
        return self._item(relation, "UIDREF", name, _element(0x0040A124, "UI", value.encode()))

    def number(
        self,
        relation: Relation,
        name: AnyCode,
        value: float,
        unit: AnyCode,
        children: Sequence[bytes] = (),
    ) -> bytes:
        """A NUM item with at most six figures.

        Raises:
            ResultError: `value` is not finite; a report cannot say it.
        """
        if not math.isfinite(value):
            raise ResultError(f"a measurement is {value}, which no report can hold")
        figures = f"{value:.{_FIGURES}g}".encode()
        measured = _element(0x004008EA, "SQ", self._code(unit)) + _element(
            0x0040A30A, "DS", figures
        )
        value_of = _element(0x0040A300, "SQ", _wrapped(measured))
        return self._item(relation, "NUM", name, value_of, children)

    def image(
        self,
        relation: Relation,
        name: AnyCode | None,
        reference: Reference,
        children: Sequence[bytes] = (),
    ) -> bytes:
        """An IMAGE item; `name` may be left out (PS3.3 Table C.17-5)."""
        content = _element(0x00081150, "UI", reference.sop_class_uid.encode())
        content += _element(0x00081155, "UI", reference.sop_instance_uid.encode())
        if reference.frames:
            numbers = "\\".join(map(str, reference.frames)).encode()
            content += _element(0x00081160, "IS", numbers)
        if reference.segment:
            content += _element(0x0062000B, "US", struct.pack("<H", reference.segment))
        before = _element(0x00081199, "SQ", _wrapped(content))
        return self._item(relation, "IMAGE", name, b"", children, before=before)

    def points_in_image(
        self, relation: Relation, name: AnyCode, points: Sequence[Point2D], image: Reference
    ) -> bytes:
        """A SCOORD item in one image: (column, row), in pixels (PS3.3 C.18.6)."""
        selected = self.image(Relation.SELECTED, None, image)
        graphic = _graphic(points, "POINT" if len(points) == 1 else "POLYLINE")
        return self._item(relation, "SCOORD", name, b"", [selected], after=graphic)

    def point_in_space(
        self, relation: Relation, name: AnyCode, point: Point3D, frame_of_reference_uid: str
    ) -> bytes:
        """A SCOORD3D item: (x, y, z), LPS, mm (PS3.3 C.18.9)."""
        place = _element(0x30060024, "UI", frame_of_reference_uid.encode())
        graphic = _graphic([point], "POINT") + place
        return self._item(relation, "SCOORD3D", name, b"", after=graphic)

    def container(
        self,
        relation: Relation,
        name: AnyCode,
        children: Sequence[bytes],
        template: str | None = None,
    ) -> bytes:
        """A CONTAINER item, of PS3.16's `template` if one is named."""
        content = _element(0x0040A050, "CS", b"SEPARATE")
        if template is not None:
            named = _element(0x00080105, "CS", b"DCMR")
            named += _element(0x00080118, "UI", TEMPLATES.encode())
            named += _element(0x0040DB00, "CS", template.encode())
            content += _element(0x0040A504, "SQ", _wrapped(named))
        return self._item(relation, "CONTAINER", name, content, children)

    def same(self, item: Dataset) -> bytes:
        """A TEXT, CODE or UIDREF item that a template of highdicom made.

        Raises:
            ValueError: it is of another value type.
        """
        relation, name = Relation(item.RelationshipType), item.ConceptNameCodeSequence[0]
        match item.ValueType:
            case "TEXT":
                return self.text(relation, name, item.TextValue)
            case "CODE":
                return self.code(relation, name, item.ConceptCodeSequence[0])
            case "UIDREF":
                return self.uid(relation, name, item.UID)
        raise ValueError(f"no item of value type {item.ValueType} is expected here")

    def encode(self, text: str) -> bytes:
        """`text` in the document's character set; what that does not have loses its accents."""
        return self._characters.encode(text)

    def _code(self, code: AnyCode) -> bytes:
        """The item of a code sequence (PS3.3 Table 8.8-1)."""
        key = _parts(code)
        if key not in self._codes:
            value, scheme, meaning = key
            self.schemes.add(scheme)
            self._codes[key] = _wrapped(
                _element(0x00080100, "SH", self.encode(value))
                + _element(0x00080102, "SH", self.encode(scheme))
                + _element(0x00080104, "LO", self.encode(meaning))
            )
        return self._codes[key]

    def _item(
        self,
        relation: Relation,
        value_type: str,
        name: AnyCode | None,
        content: bytes,
        children: Sequence[bytes] = (),
        *,
        before: bytes = b"",
        after: bytes = b"",
    ) -> bytes:
        """One item; elements stand in the order of their tags, `content` between A043 and A730."""
        parts = [before, _element(0x0040A010, "CS", relation.encode())]
        parts.append(_element(0x0040A040, "CS", value_type.encode()))
        if name is not None:
            parts.append(_element(0x0040A043, "SQ", self._code(name)))
        parts.append(content)
        if children:
            parts.append(_element(0x0040A730, "SQ", b"".join(children)))
        return _wrapped(b"".join([*parts, after]))


def sequence(tag: BaseTag, items: Sequence[bytes]) -> RawDataElement:
    """Encoded items as the sequence `tag` of a data set; pydicom writes it as it is."""
    value = b"".join(items)
    return RawDataElement(tag, "SQ", len(value), value, 0, False, True)


def _parts(code: AnyCode) -> tuple[str, str, str]:
    """Code Value, Coding Scheme Designator, Code Meaning."""
    if isinstance(code, Code):
        return code.value, code.scheme, code.meaning
    return code.value, code.scheme_designator, code.meaning


def _graphic(points: Sequence[Sequence[float]], kind: str) -> bytes:
    """Graphic Data (0070,0022) and Graphic Type (0070,0023)."""
    flat = [coordinate for point in points for coordinate in point]
    data = _element(0x00700022, "FL", struct.pack(f"<{len(flat)}f", *flat))
    return data + _element(0x00700023, "CS", kind.encode())


def _element(tag: int, vr: str, value: bytes) -> bytes:
    """A data element of explicit length, padded to an even one (PS3.5 7.1.1, 7.1.2)."""
    if len(value) % 2:
        value += b"\0" if vr in _BY_NUL else b" "
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in _LONG_LENGTH:
        return head + struct.pack("<HL", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def _wrapped(content: bytes) -> bytes:
    """`content` as an item of explicit length (PS3.5 Table 7.5-1)."""
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content
