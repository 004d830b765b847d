"""Media types: what a client accepts (PS3.18 8.7), and multipart answers (RFC 2387)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    MPEG2MPHL,
    MPEG2MPML,
    MPEG4HP41,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from starlette.responses import StreamingResponse

from core.errors import NotAcceptableError

PREFIX = "/dicom-web"
DICOM = "application/dicom"
JSON = "application/dicom+json"
OCTETS = "application/octet-stream"
ANY_SYNTAX = "*"
# PS3.18 Table 8.7.3-5 and its neighbours.
OF_SYNTAX: dict[str, str] = {
    **dict.fromkeys(
        (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1), "image/jpeg"
    ),
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), "image/jls"),
    **dict.fromkeys((JPEG2000Lossless, JPEG2000), "image/jp2"),
    **dict.fromkeys((HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K), "image/jphc"),
    RLELossless: "image/dicom-rle",
    MPEG2MPML: "video/mpeg2",
    MPEG2MPHL: "video/mpeg2",
    MPEG4HP41: "video/mp4",
}
_PARAMETER = re.compile(r""";\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;,"]*)""")
_MOST_ACCEPTED = 32


@dataclass(frozen=True, slots=True)
class Accepted:
    """One media range of an Accept header.

    Attributes:
        kind: the type, of the parts where it is multipart.
        multipart: multipart/related around it.
        syntax: transfer syntax UID, "*" for any, or empty for the default.
    """

    kind: str
    multipart: bool
    syntax: str
    quality: float = field(default=1.0)

    def takes(self, kind: str) -> bool:
        """Whether `kind` is in the range."""
        if self.kind in {"*/*", kind}:
            return True
        return self.kind.endswith("/*") and kind.startswith(self.kind[:-1])


def accepted(header: str) -> list[Accepted]:
    """The media ranges of an Accept header, the most wanted first; of none, anything."""
    found = [item for part in _split(header) if (item := _range(part)) is not None]
    return sorted(found, key=lambda item: -item.quality) or [Accepted("*/*", False, "")]


def check_json(header: str) -> str:
    """The media type of a JSON answer.

    Raises:
        NotAcceptableError: the client takes no JSON.
    """
    for item in accepted(header):
        if item.multipart:
            continue
        for kind in (JSON, "application/json"):
            if item.takes(kind):
                return kind
    raise NotAcceptableError(f"this is to be had as {JSON}")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart answer."""

    content_type: str
    pieces: Iterable[bytes]
    location: str = ""


def multipart(kind: str, parts: Iterator[Part]) -> StreamingResponse:
    """An answer of many parts, made while it is sent.

    The first is begun before the answer is, so that what is not there is told by a status.
    """
    boundary = f"sentinode-{secrets.token_hex(12)}"
    first = next(parts, None)

    def content() -> Iterator[bytes]:
        part = first
        while part is not None:
            head = f"--{boundary}\r\nContent-Type: {part.content_type}\r\n"
            if part.location:
                head += f"Content-Location: {part.location}\r\n"
            yield f"{head}\r\n".encode("latin-1")
            yield from part.pieces
            yield b"\r\n"
            part = next(parts, None)
        yield f"--{boundary}--\r\n".encode("ascii")

    media_type = f'multipart/related; type="{kind}"; boundary={boundary}'
    return StreamingResponse(content(), media_type=media_type)


def _split(header: str) -> list[str]:
    parts, quoted, begin = [], False, 0
    for at, character in enumerate(header):
        if character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            parts.append(header[begin:at])
            begin = at + 1
    parts.append(header[begin:])
    return [part.strip() for part in parts[:_MOST_ACCEPTED] if part.strip()]


def _range(text: str) -> Accepted | None:
    kind = text.partition(";")[0].strip().lower()
    parameters = {
        name.lower(): value.strip().strip('"') for name, value in _PARAMETER.findall(text)
    }
    try:
        quality = float(parameters.get("q", "1"))
    except ValueError:
        quality = 0.0
    if not 0.0 < quality <= 1.0 or "/" not in kind:
        return None
    together = kind == "multipart/related"
    if together:
        kind = parameters.get("type", DICOM).lower()
    return Accepted(kind, together, parameters.get("transfer-syntax", ""), quality)
