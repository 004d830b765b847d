"""DICOM audit messages (PS3.15 A.5) as XML on one line."""

from __future__ import annotations

import base64
import socket
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, IntEnum
from xml.etree.ElementTree import Element, SubElement, tostring


class Outcome(IntEnum):
    """EventOutcomeIndicator: success, refused, or an error of ours."""

    SUCCESS = 0
    REFUSED = 4
    TROUBLE = 8


class Happening(Enum):
    """What happened: EventID and EventTypeCode (PS3.16 CID 400, CID 401), EventActionCode."""

    STARTED = ("110100", "Application Activity", "110120", "Application Start", "E")
    STOPPED = ("110100", "Application Activity", "110121", "Application Stop", "E")
    SIGN_IN = ("110114", "User Authentication", "110122", "Login", "E")
    SIGN_OUT = ("110114", "User Authentication", "110123", "Logout", "E")
    LOOKED = ("110103", "DICOM Instances Accessed", "", "", "R")
    RETRIEVED = ("110104", "DICOM Instances Transferred", "", "", "R")
    QUERIED = ("110112", "Query", "", "", "E")
    DECIDED = ("110111", "Procedure Record", "", "", "U")
    READ_AUDIT = ("110101", "Audit Log Used", "", "", "R")
    USERS = ("110113", "Security Alert", "110137", "User security Attributes Changed", "E")
    NETWORK = ("110113", "Security Alert", "110128", "Network Configuration", "E")
    REFUSED = ("110113", "Security Alert", "110132", "Use of Restricted Function", "E")


@dataclass(frozen=True, slots=True)
class Study:
    """Which study a message speaks of."""

    study_instance_uid: str
    patient_id: str = ""


def message(
    happening: Happening,
    at: datetime,
    *,
    source: str,
    user: str,
    address: str = "",
    outcome: Outcome = Outcome.SUCCESS,
    study: Study | None = None,
    query: str = "",
    subject: str = "",
    detail: str = "",
) -> str:
    """One message.

    Args:
        source: AuditSourceID, which node says it.
        user: who did it; our own AE title where nobody did.
        query: what was asked for, where it was a query.
        subject: what it was done to, where that is no study: a job, a user, a destination.
        detail: what was done, in words.
    """
    event_id, event_name, type_id, type_name, action = happening.value
    root = Element("AuditMessage")
    event = SubElement(
        root,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=at.isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=str(int(outcome)),
    )
    _code(event, "EventID", event_id, "DCM", event_name)
    if type_id:
        _code(event, "EventTypeCode", type_id, "DCM", type_name)
    if detail:
        SubElement(event, "EventOutcomeDescription").text = _text(detail)
    person = SubElement(root, "ActiveParticipant", UserID=_text(user), UserIsRequestor="true")
    if address:
        person.set("NetworkAccessPointID", address)
        person.set("NetworkAccessPointTypeCode", "2")  # an IP address
    node = SubElement(
        root,
        "ActiveParticipant",
        UserID=source,
        UserIsRequestor="false",
        NetworkAccessPointID=socket.gethostname(),
        NetworkAccessPointTypeCode="1",  # a machine's name
    )
    _code(node, "RoleIDCode", "110150", "DCM", "Application")
    origin = SubElement(root, "AuditSourceIdentification", AuditSourceID=source)
    SubElement(origin, "AuditSourceTypeCode", {"csd-code": "4"})  # an application server
    if study is not None:
        _object(root, study.study_instance_uid, "2", "3", ("110180", "DCM", "Study Instance UID"))
        if study.patient_id:
            patient = ("2", "RFC-3881", "Patient Number")
            _object(root, study.patient_id, "1", "1", patient)
    if query:
        item = _object(root, "query", "2", "24", ("10", "RFC-3881", "Search Criteria"))
        coded = base64.b64encode(query.encode()).decode("ascii")
        SubElement(item, "ParticipantObjectQuery").text = coded
    if subject:
        _object(root, subject, "2", "13", ("12", "RFC-3881", "URI"))
    return tostring(root, encoding="unicode")


def _object(root: Element, name: str, kind: str, role: str, code: tuple[str, str, str]) -> Element:
    item = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_text(name),
        ParticipantObjectTypeCode=kind,
        ParticipantObjectTypeCodeRole=role,
    )
    _code(item, "ParticipantObjectIDTypeCode", *code)
    return item


def _code(parent: Element, tag: str, value: str, scheme: str, meaning: str) -> None:
    SubElement(parent, tag, {"csd-code": value, "codeSystemName": scheme, "originalText": meaning})


def _text(value: str) -> str:
    """Without what XML 1.0 cannot carry, and on one line."""
    return "".join(
        character if character >= " " and character not in "\x7f\ufffe\uffff" else " "
        for character in value
        if not "\ud800" <= character <= "\udfff"
    )
