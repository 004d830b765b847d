"""UIDs, AE titles and addresses: parse or refuse, once, at the edge."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Self

from core.errors import InvalidValueError

# PS3.5 Section 9.1. Leading zeros in a component are forbidden there but common in the field;
# they do no harm here, so only what could not be a UID at all is refused.
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UID_LENGTH = 64
# PS3.5 Table 6.2-1, VR AE: 16 bytes of the default repertoire, no backslash, no control characters.
_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")

# The name space of every UID that we derive; fixed for ever, or a retry would make a second object.
_NAMESPACE = uuid.UUID("5f0e4c1e-3c3e-5d0b-9a6e-6c0f2a7d9b11")


class UID(str):
    """A DICOM unique identifier.

    Only digits and dots pass, so a UID is always safe as a file name.

    Raises:
        InvalidValueError: when the text is none.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Parse `text`; padding by NUL or space (PS3.5 Section 6.2) is dropped."""
        stripped = text.strip("\0 ")
        if len(stripped) > _UID_LENGTH or not _UID.fullmatch(stripped):
            raise InvalidValueError(f"{text[:80]!r} is not a UID: digits and dots, at most 64")
        return super().__new__(cls, stripped)


def derived_uid(*parts: str, root: str = "") -> UID:
    """Derive a UID from `parts`: the same parts give the same UID, on any machine, for ever.

    Without `root` it is a UUID-derived UID (PS3.5 Section B.2: "2.25." and the UUID as an
    integer). With the site's own `root` the same number, shortened to fit 64 characters,
    follows the root.
    """
    number = uuid.uuid5(_NAMESPACE, "\x1f".join(parts)).int
    if not root:
        return UID(f"2.25.{number}")
    prefix = root.rstrip(".") + "."
    return UID(prefix + str(number)[: _UID_LENGTH - len(prefix)])


class AETitle(str):
    """An application entity title (PS3.8 Section 9.3.2): 1 to 16 characters, no backslash.

    Raises:
        InvalidValueError: when the text is none.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Parse `text`; leading and trailing spaces are not significant (PS3.5 Table 6.2-1)."""
        stripped = text.strip(" ")
        if not _AE_TITLE.fullmatch(stripped):
            raise InvalidValueError(
                f"{text[:40]!r} is not an AE title: 1 to 16 printable characters, no backslash"
            )
        return super().__new__(cls, stripped)


@dataclass(frozen=True, slots=True)
class DicomAddress:
    """Where a peer listens: `AE@host:port`."""

    ae_title: AETitle
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `AE@host:port`; the host may be an IPv6 address in brackets.

        Raises:
            InvalidValueError: when the text is none.
        """
        match = re.fullmatch(r"([^@]+)@(\[[^\]]+\]|[^:@]+):(\d+)", text)
        if match is None or not 0 < int(match[3]) < 65536:
            raise InvalidValueError(f"{text!r} is not an address: write AE@host:port")
        return cls(AETitle(match[1]), match[2].strip("[]"), int(match[3]))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.ae_title}@{host}:{self.port}"
