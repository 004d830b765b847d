"""What the source's character set can write (PS3.3 C.12.1.1.2, PS3.5 Section 6.1).

A result keeps the source's Specific Character Set, or the patient's name would change; so our own
words must be such that it can hold them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from pydicom.charset import convert_encodings, encode_string
from pydicom.dataset import Dataset

from core.domain import Finding
from workers.analysis import Analysis

# One byte is not one character in these (PS3.3 Tables C.12-4 and C.12-5).
_WIDE = frozenset(
    {"ISO_IR 192", "GB18030", "GBK", "ISO 2022 IR 58", "ISO 2022 IR 87"}
    | {"ISO 2022 IR 149", "ISO 2022 IR 159"}
)


class CharacterSet:
    """One value, or several with code extensions, of Specific Character Set (0008,0005)."""

    def __init__(self, values: str | Sequence[str] | None) -> None:
        given = [values] if isinstance(values, str) else list(values or ())
        self._values = [str(value) for value in given]
        self._encodings = convert_encodings(self._values or None)
        # pydicom takes Latin-1 for the default repertoire, which has ASCII only
        self._ascii_first = not self._values or self._values[0] in (
            "",
            "ISO_IR 6",
            "ISO 2022 IR 6",
        )

    @classmethod
    def of(cls, dataset: Dataset) -> CharacterSet:
        """That of `dataset`."""
        return cls(dataset.get("SpecificCharacterSet"))

    @property
    def is_wide(self) -> bool:
        """Whether a character may take several bytes."""
        return any(value in _WIDE for value in self._values)

    def has(self, text: str) -> bool:
        """Whether all of `text` can be written."""
        return text.isascii() or all(map(self._has, set(text)))

    def fold(self, text: str) -> str:
        """`text`, without accents where they cannot be written; "?" where nothing is left."""
        if self.has(text):
            return text
        return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode() or "?"

    def encode(self, text: str) -> bytes:
        """`text`, folded, as bytes."""
        text = self.fold(text)
        return text.encode() if text.isascii() else encode_string(text, self._encodings)

    def _has(self, char: str) -> bool:
        if self._ascii_first and "\x7f" < char <= "\xff":
            return False
        for encoding in self._encodings:
            try:
                # ISO-IR 13 is JIS X 0201, whose letters have one byte in Shift JIS
                if len(char.encode(encoding)) == 1 or encoding != "shift_jis":
                    return True
            except UnicodeEncodeError:
                continue
        return False


def legible(analysis: Analysis) -> Analysis:
    """The same analysis with labels that its source's character set can write.

    Where folding would take letters away, a label becomes the meaning of its code, so that SEG,
    report and picture say the same and two labels stay apart.
    """
    known = CharacterSet.of(analysis.source)

    def spelled(finding: Finding) -> Finding:
        folded = known.fold(finding.label)
        if sum(map(str.isalpha, folded)) == sum(map(str.isalpha, finding.label)):
            return finding
        number = f" {finding.number}" if finding.number else ""
        return replace(finding, label=finding.type.meaning[:58] + number)

    return replace(
        analysis,
        findings=tuple(map(spelled, analysis.findings)),
        parts=tuple(
            replace(
                part,
                findings=tuple(map(spelled, part.findings)),
                structures=tuple(map(spelled, part.structures)),
            )
            for part in analysis.parts
        ),
    )
