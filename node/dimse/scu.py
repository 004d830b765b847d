"""Storage and Verification SCU: one association, objects as they are stored.

An object is read from its file piece by piece while it is sent, so that its size costs no memory.
Statuses are returned as numbers; what they mean for a delivery is decided by `node.sending.judge`.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import UID as PydicomUID
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import MaximumLengthNotification
from pynetdicom.presentation import PresentationContext, build_context

from core.equipment import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from core.errors import PeerError
from core.identifiers import DicomAddress
from core.sopclasses import name_of
from node.dimse.checkpoint import exact_pauses
from node.dimse.contexts import UNCOMPRESSED, VERIFICATION, proposed
from node.dimse.sockets import no_delay

# `Association.send_c_store` of a path: the data set's bytes as they are, in pieces
_config.STORE_SEND_CHUNKED_DATASET = True
# queries and their answers hold patients' names: not even made into text for a log
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False

_MAX_PDU = 131072
_MOST_PDUS_WAITING = 16
_POLL_SECONDS = 0.0005
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


@dataclass(frozen=True, slots=True)
class Head:
    """What an object is, as far as negotiation must know."""

    sop_class_uid: str
    transfer_syntax_uid: str


@contextmanager
def associate(
    calling_ae: str,
    peer: DicomAddress,
    contexts: list[PresentationContext],
    timeout: float,
    handlers: Sequence[Any] = (),
    roles: Sequence[Any] = (),
) -> Iterator[Association]:
    """Open an association and release it at the end.

    Args:
        timeout: for each answer, and for the peer to take what is sent, seconds.
        handlers: pynetdicom's (event, function) pairs, for what the peer may ask in return.
        roles: pynetdicom's `build_role` of SOP classes in which we are not the SCU.

    Raises:
        PeerError: the peer is away, rejects, or aborts while associating.
        NoContextError: it accepts none of the contexts.
    """
    ae = AE(ae_title=calling_ae)
    ae.implementation_class_uid = PydicomUID(IMPLEMENTATION_CLASS_UID)
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.connection_timeout = min(timeout, 15)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout

    def on_open(event: evt.Event) -> None:
        no_delay(event)
        exact_pauses(event)
        _lose_patience(event, timeout)

    association = ae.associate(
        peer.host,
        peer.port,
        contexts=contexts,
        ae_title=peer.ae_title,
        max_pdu=_MAX_PDU,
        ext_neg=list(roles),
        evt_handlers=[(evt.EVT_CONN_OPEN, on_open), *handlers],
    )
    if association.rejected_contexts and not association.accepted_contexts:
        # pynetdicom aborts such an association by itself
        names = {name_of(str(item.abstract_syntax)) for item in contexts}
        raise NoContextError(
            f"{peer} accepts none of: {', '.join(sorted(names))}", _answers(association)
        )
    if not association.is_established:
        raise PeerError(f"{peer}: {_why(association)}")
    send_in_pieces(association)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _lose_patience(event: evt.Event, timeout: float) -> None:
    """Break off when the peer reads nothing for so long; pynetdicom would wait for ever."""
    wrapped = event.assoc.dul.socket
    if wrapped is not None and wrapped.socket is not None:
        seconds = int(timeout)
        limit = struct.pack("ll", seconds, int((timeout - seconds) * 1_000_000))
        wrapped.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def send_in_pieces(association: Association) -> None:
    """Let what is sent wait for the network, or the whole object would stand in the queue."""
    dul = association.dul
    if "send_pdu" in vars(dul):
        return  # it does already
    put = dul.send_pdu

    def send_pdu(primitive: Any) -> None:
        while dul.to_provider_queue.qsize() >= _MOST_PDUS_WAITING:
            if not dul.is_alive():
                return  # the connection is gone; who waits for the answer is told so
            time.sleep(_POLL_SECONDS)
        put(primitive)

    dul.send_pdu = send_pdu  # type: ignore[method-assign]
    other = association.acceptor if association.is_requestor else association.requestor
    for item in other.user_information:
        # 0 is "no limit" (PS3.8 Section D.1): one PDU for the whole object
        if isinstance(item, MaximumLengthNotification) and item.maximum_length_received == 0:
            item.maximum_length_received = _MAX_PDU


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


def store_file(
    association: Association,
    path: Path,
    head: Head,
    *,
    unchanged: bool = False,
    message_id: int = 1,
    originator: tuple[str, int] | None = None,
) -> tuple[int, str]:
    """C-STORE one Part 10 file; returns the status and the peer's comment.

    The bytes of its data set go out as they are; its File Meta Information stays here. Only if
    the peer took nothing but the other uncompressed transfer syntax, and it need not be
    `unchanged`, is an uncompressed object encoded anew.

    Args:
        message_id: of the request.
        originator: AE title and message id of the C-MOVE that it is part of (PS3.7 Section
            9.1.1.1).

    Raises:
        NoContextError: the peer accepted no context for the object.
        ObjectUnreadableError: it would have to be encoded anew and cannot be read.
        PeerError: the association broke.
    """
    taken = {
        str(context.transfer_syntax[0])
        for context in association.accepted_contexts
        if context.abstract_syntax == head.sop_class_uid and context.as_scu
    }
    content: Path | Dataset = path
    if head.transfer_syntax_uid not in taken:
        plain = {str(uid) for uid in UNCOMPRESSED}
        if unchanged or head.transfer_syntax_uid not in plain or not taken & plain:
            raise _no_context(association, head)
        content = _read(path)
    try:
        title, number = originator or (None, None)
        answer = association.send_c_store(
            content, msg_id=message_id, originator_aet=title, originator_id=number
        )
    except (RuntimeError, ValueError) as error:
        raise PeerError(f"the association broke: {error}") from error
    if "Status" not in answer:
        raise PeerError("the association broke, or the destination did not answer in time")
    return int(answer.Status), str(answer.get("ErrorComment", ""))


def head_of(stream: IO[bytes]) -> Head:
    """What a Part 10 file says that it holds (PS3.10 Section 7.1).

    Raises:
        ObjectUnreadableError: the bytes are no Part 10 file.
    """
    try:
        read_preamble(stream, force=False)  # type: ignore[arg-type]
        meta = read_dataset(
            stream,  # type: ignore[arg-type]
            is_implicit_VR=False,
            is_little_endian=True,
            stop_when=_after_the_meta,
        )
        return Head(str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID))
    except Exception as error:  # pydicom raises nearly anything on bytes that are none
        raise ObjectUnreadableError(f"not a DICOM file: {error}") from error


def contexts_for(heads: Iterable[Head]) -> list[PresentationContext]:
    """The contexts that sending these objects needs."""
    return proposed({(item.sop_class_uid, item.transfer_syntax_uid) for item in heads})


def _after_the_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2


def _read(path: Path) -> Dataset:
    try:
        return dcmread(path)
    except Exception as error:  # as above
        raise ObjectUnreadableError(f"not a DICOM file: {error}") from error


def _no_context(association: Association, head: Head) -> NoContextError:
    answers = _answers(association)
    syntax = PydicomUID(head.transfer_syntax_uid).name
    said = answers.get(head.sop_class_uid, f"not in {syntax}, in which it is stored")
    if said == _ANSWERS[4]:
        said += f": {syntax}, in which it is stored"
    return NoContextError(
        f"the destination does not accept {name_of(head.sop_class_uid)} ({said})", answers
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
