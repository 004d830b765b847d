"""What we accept and propose: SOP class × transfer syntax × role, in one table.

The conformance statement is printed from here.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedSRStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AllStoragePresentationContexts, VerificationPresentationContexts
from pynetdicom.presentation import PresentationContext, build_context

from core.alternatives import LABEL_MAP_SEGMENTATION
from core.settings import Settings

# Uncompressed first: a sender that offers both should send what everybody can read.
TRANSFER_SYNTAXES: tuple[UID, ...] = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
    RLELossless,
)
UNCOMPRESSED: tuple[UID, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)

# Modality Performed Procedure Step, Instance Availability Notification, Storage Commitment Push
# Model and its well-known instance (PS3.4 Sections F.7, R.3 and J.3.5).
PERFORMED_STEP = UID("1.2.840.10008.3.1.2.3.3")
AVAILABILITY = UID("1.2.840.10008.5.1.4.33")
COMMITMENT = UID("1.2.840.10008.1.20.1")
COMMITMENT_INSTANCE = UID("1.2.840.10008.1.20.1.1")
# Query/Retrieve (PS3.4 Section C.4) and Modality Worklist (Section K.4).
PATIENT_ROOT_FIND = UID("1.2.840.10008.5.1.4.1.2.1.1")
PATIENT_ROOT_MOVE = UID("1.2.840.10008.5.1.4.1.2.1.2")
PATIENT_ROOT_GET = UID("1.2.840.10008.5.1.4.1.2.1.3")
STUDY_ROOT_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
STUDY_ROOT_MOVE = UID("1.2.840.10008.5.1.4.1.2.2.2")
STUDY_ROOT_GET = UID("1.2.840.10008.5.1.4.1.2.2.3")
WORKLIST_FIND = UID("1.2.840.10008.5.1.4.31")
# Unified Procedure Step (PS3.4 Section CC.3.1): instances are always of the Push class.
UPS_PUSH = UID("1.2.840.10008.5.1.4.34.6.1")
UPS_WATCH = UID("1.2.840.10008.5.1.4.34.6.2")
UPS_PULL = UID("1.2.840.10008.5.1.4.34.6.3")
UPS_EVENT = UID("1.2.840.10008.5.1.4.34.6.4")
UPS_QUERY = UID("1.2.840.10008.5.1.4.34.6.5")
UPS_CLASSES: tuple[UID, ...] = (UPS_PUSH, UPS_WATCH, UPS_PULL, UPS_EVENT, UPS_QUERY)
QUERY_CLASSES: tuple[UID, ...] = (
    PATIENT_ROOT_FIND,
    PATIENT_ROOT_MOVE,
    PATIENT_ROOT_GET,
    STUDY_ROOT_FIND,
    STUDY_ROOT_MOVE,
    STUDY_ROOT_GET,
)

VERIFICATION = UID(str(VerificationPresentationContexts[0].abstract_syntax))
# Retired by the standard, still made by machines that are not: Ultrasound, Ultrasound Multi-frame,
# Nuclear Medicine, X-Ray Angiographic Bi-Plane (PS3.6 Table A-1).
RETIRED_CLASSES: tuple[UID, ...] = (
    UID("1.2.840.10008.5.1.4.1.1.6"),
    UID("1.2.840.10008.5.1.4.1.1.3"),
    UID("1.2.840.10008.5.1.4.1.1.5"),
    UID("1.2.840.10008.5.1.4.1.1.12.3"),
)
STORAGE_CLASSES: tuple[UID, ...] = tuple(
    dict.fromkeys(
        (
            *(UID(str(context.abstract_syntax)) for context in AllStoragePresentationContexts),
            *RETIRED_CLASSES,
            UID(LABEL_MAP_SEGMENTATION),  # ours may come back; pynetdicom has it not yet
        )
    )
)


# The classes of the objects that we make, and of what is made of them for a destination that
# refuses one (`core.alternatives`).
RESULT_CLASSES: tuple[UID, ...] = (
    SegmentationStorage,
    UID(LABEL_MAP_SEGMENTATION),
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    BasicTextSRStorage,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)


@dataclass(frozen=True, slots=True)
class ContextRow:
    """One line of the table. `setting` names the setting without which it is not offered."""

    sop_class: UID
    transfer_syntaxes: tuple[UID, ...]
    role: str
    setting: str = ""


def table() -> tuple[ContextRow, ...]:
    """Everything that the node accepts, as the conformance statement lists it."""
    return (
        ContextRow(VERIFICATION, UNCOMPRESSED, "SCP"),
        *(ContextRow(uid, TRANSFER_SYNTAXES, "SCP") for uid in STORAGE_CLASSES),
        ContextRow(PERFORMED_STEP, UNCOMPRESSED, "SCP", "services.mpps"),
        ContextRow(AVAILABILITY, UNCOMPRESSED, "SCP", "services.availability"),
        ContextRow(COMMITMENT, UNCOMPRESSED, "SCP", "services.commitment"),
        # a destination reports on an association that it opens itself (PS3.4 Section J.3.3.1)
        ContextRow(COMMITMENT, UNCOMPRESSED, "SCU", "peers.commit"),
        ContextRow(WORKLIST_FIND, UNCOMPRESSED, "SCP", "peers.worklist"),
        *(ContextRow(uid, UNCOMPRESSED, "SCP", "peers.worklist") for uid in UPS_CLASSES),
        *(ContextRow(uid, UNCOMPRESSED, "SCP", "peers.query") for uid in QUERY_CLASSES),
    )


def accepted_queries(settings: Settings) -> list[PresentationContext]:
    """Query services, as far as some peer may use them."""
    wanted: list[UID] = []
    if any(peer.worklist for peer in settings.peers):
        wanted.append(WORKLIST_FIND)
    if any(peer.query for peer in settings.peers):
        wanted += QUERY_CLASSES
    return [build_context(uid, list(UNCOMPRESSED)) for uid in wanted]


def accepted_workitems(settings: Settings) -> list[PresentationContext]:
    """Unified Procedure Step, as far as some peer may use it."""
    if not any(peer.worklist for peer in settings.peers):
        return []
    return [build_context(uid, list(UNCOMPRESSED)) for uid in UPS_CLASSES]


def accepted() -> list[PresentationContext]:
    """What is always offered, as presentation contexts of an acceptor (PS3.8 Section 9.3.3)."""
    return [
        build_context(row.sop_class, list(row.transfer_syntaxes))
        for row in table()
        if not row.setting
    ]


def accepted_services(settings: Settings) -> list[PresentationContext]:
    """What is offered besides, as the settings want it.

    In a commitment context the peer may take either role (PS3.7 Annex D.3.3.4): SCU to ask us,
    SCP to report what we asked.
    """
    services = settings.services
    wanted = {
        PERFORMED_STEP: services.mpps,
        AVAILABILITY: services.availability,
        COMMITMENT: services.commitment or any(peer.commit for peer in settings.peers),
    }
    contexts = [build_context(uid, list(UNCOMPRESSED)) for uid, on in wanted.items() if on]
    for context in contexts:
        if context.abstract_syntax == COMMITMENT:
            context.scu_role = context.scp_role = True
    return contexts


# PS3.8 Section 9.3.2.2: context ids are odd numbers up to 255.
MOST_PROPOSED = 128


def proposed(objects: set[tuple[str, str]]) -> list[PresentationContext]:
    """Contexts to send `objects`, pairs of SOP class and the transfer syntax they are stored in.

    One context for each pair as it is stored, so that bytes go out unchanged, and for objects
    that are not compressed one more with Implicit VR Little Endian, which every DICOM system
    must accept (PS3.5 Section 10.1).

    Raises:
        ValueError: more contexts than an association can carry.
    """
    contexts = [build_context(cls, [syntax]) for cls, syntax in sorted(objects)]
    contexts += [
        build_context(cls, [ImplicitVRLittleEndian])
        for cls in sorted({cls for cls, syntax in objects if syntax in UNCOMPRESSED})
        if (cls, ImplicitVRLittleEndian) not in objects
    ]
    if len(contexts) > MOST_PROPOSED:
        raise ValueError(f"{len(contexts)} presentation contexts do not fit one association")
    return contexts
