"""Storage and Verification SCU: one association, objects as they are stored.

Statuses are returned as numbers; what they mean for a delivery is decided by `node.sender`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID as PydicomUID
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from core.equipment import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from core.errors import PeerError
from core.identifiers import DicomAddress
from core.sopclasses import name_of
from node.contexts import UNCOMPRESSED, VERIFICATION, proposed
from node.sockets import no_delay

# PS3.8 Table 9-18, Result/Reason of a presentation context
_ANSWERS = {
    1: "user rejection",
    2: "no reason given",
    3: "abstract syntax not supported",
    4: "transfer syntaxes not supported",
}


class ObjectUnreadableError(PeerError):
    """What should be sent is no Part 10 file; trying again will not help."""

    retry = False


class NoContextError(PeerError):
    """The peer took the association, and no presentation context for an object's SOP class.

    Attributes:
        answers: what it said to the contexts of each SOP class.
    """

    retry = False

    def __init__(self, message: str, answers: dict[str, str]) -> None:
        super().__init__(message)
        self.answers = answers


@contextmanager
def associate(
    calling_ae: str, peer: DicomAddress, contexts: list[PresentationContext], timeout: float
) -> Iterator[Association]:
    """Open an association and release it at the end.

    Raises:
        PeerError: the peer is away, rejects, or aborts while associating.
        NoContextError: it accepts none of the contexts.
    """
    ae = AE(ae_title=calling_ae)
    ae.implementation_class_uid = PydicomUID(IMPLEMENTATION_CLASS_UID)
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.connection_timeout = min(timeout, 15)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout
    handlers: list[Any] = [(evt.EVT_CONN_OPEN, no_delay)]
    association = ae.associate(
        peer.host,
        peer.port,
        contexts=contexts,
        ae_title=peer.ae_title,
        max_pdu=131072,
        evt_handlers=handlers,
    )
    if association.rejected_contexts and not association.accepted_contexts:
        # pynetdicom aborts such an association by itself
        names = {name_of(str(item.abstract_syntax)) for item in contexts}
        raise NoContextError(
            f"{peer} accepts none of: {', '.join(sorted(names))}", _answers(association)
        )
    if not association.is_established:
        raise PeerError(f"{peer}: {_why(association)}")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def echo(calling_ae: str, peer: DicomAddress, timeout: float = 10.0) -> None:
    """C-ECHO (PS3.4 Annex A).

    Raises:
        PeerError: the peer is away, rejects, or answers something other than success.
    """
    context = build_context(VERIFICATION, list(UNCOMPRESSED))
    with associate(calling_ae, peer, [context], timeout) as association:
        answer = association.send_c_echo()
        if "Status" not in answer:
            raise PeerError(f"{peer}: no answer to C-ECHO")
        if answer.Status != 0x0000:
            raise PeerError(f"{peer}: C-ECHO answered 0x{answer.Status:04X}")


def store(association: Association, dataset: Dataset) -> tuple[int, str]:
    """C-STORE one object; returns the status and the peer's comment.

    The bytes go out in the transfer syntax in which they are stored; only if the peer took
    nothing but Implicit VR Little Endian is an uncompressed object encoded anew.

    Raises:
        NoContextError: the peer accepted no context for the object.
        PeerError: the association broke.
    """
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    mine = [
        context
        for context in association.accepted_contexts
        if context.abstract_syntax == dataset.SOPClassUID
    ]
    taken = {str(context.transfer_syntax[0]) for context in mine}
    if syntax not in taken and not (syntax in UNCOMPRESSED and taken & set(UNCOMPRESSED)):
        sop_class = str(dataset.SOPClassUID)
        answers = _answers(association)
        said = answers.get(sop_class, "not in the object's transfer syntax")
        raise NoContextError(
            f"the destination does not accept {name_of(sop_class)} ({said})", answers
        )
    try:
        answer = association.send_c_store(dataset)
    except (RuntimeError, ValueError) as error:
        raise PeerError(f"the association broke: {error}") from error
    if "Status" not in answer:
        raise PeerError("the association broke, or the destination did not answer in time")
    return int(answer.Status), str(answer.get("ErrorComment", ""))


def read_object(data: bytes) -> Dataset:
    """A stored object, ready to be sent.

    Raises:
        ObjectUnreadableError: the bytes are no Part 10 file.
    """
    try:
        return dcmread(BytesIO(data))
    except Exception as error:  # pydicom raises nearly anything on bytes that are none
        raise ObjectUnreadableError(f"not a DICOM file: {error}") from error


def contexts_for(datasets: list[Dataset]) -> list[PresentationContext]:
    """The contexts that sending these objects needs."""
    return proposed(
        {(str(item.SOPClassUID), str(item.file_meta.TransferSyntaxUID)) for item in datasets}
    )


def _answers(association: Association) -> dict[str, str]:
    """What the peer said to rejected contexts, by SOP class (PS3.8 Table 9-18)."""
    answers: dict[str, list[str]] = {}
    for context in association.rejected_contexts:
        said = _ANSWERS.get(context.result or 0, "rejected")
        answers.setdefault(str(context.abstract_syntax), []).append(said)
    return {uid: ", ".join(sorted(set(said))) for uid, said in answers.items()}


def _why(association: Association) -> str:
    if association.is_rejected:
        primitive: Any = association.acceptor.primitive
        result = getattr(primitive, "result_str", "rejected")
        reason = getattr(primitive, "reason_str", "")
        return f"it rejected the association ({result}: {reason})"
    if association.is_aborted:
        return "no connection, or it aborted the association"
    return "no connection"
