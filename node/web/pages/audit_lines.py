"""Audit messages as lines for a person."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError, fromstring


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One message.

    Attributes:
        what: names of its event and type.
        well: False where it was refused or went wrong.
        about: what it was done to: a study, a patient, a job, a user.
    """

    at: str
    what: str
    user: str
    address: str
    well: bool
    detail: str
    about: tuple[str, ...]


def read_audit(lines: Iterable[str]) -> list[AuditLine]:
    """Messages, the newest first; a line that was cut off is left out."""
    found = []
    for line in lines:
        try:
            # written by this node alone, into a file that only it may write
            root = fromstring(line)  # noqa: S314
        except ParseError:
            continue
        found.append(_line(root))
    return sorted(found, key=lambda item: item.at, reverse=True)


def _line(root: Element) -> AuditLine:
    event = root.find("EventIdentification")
    who = root.find("ActiveParticipant")
    event = event if event is not None else Element("none")
    who = who if who is not None else Element("none")
    names = [
        item.get("originalText") or item.get("displayName") or ""
        for item in (event.find("EventID"), event.find("EventTypeCode"))
        if item is not None
    ]
    return AuditLine(
        at=(event.get("EventDateTime") or "").replace("T", " "),
        what=", ".join(name for name in names if name),
        user=who.get("UserID") or "",
        address=who.get("NetworkAccessPointID") or "",
        well=event.get("EventOutcomeIndicator") == "0",
        detail=event.findtext("EventOutcomeDescription") or "",
        about=tuple(
            item.get("ParticipantObjectID") or ""
            for item in root.findall("ParticipantObjectIdentification")
        ),
    )
