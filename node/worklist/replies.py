"""Responses of C-FIND, C-GET and C-MOVE on the wire (PS3.7 Sections 9.3.2 to 9.3.4).

Pending responses are gathered and written to the connection a few dozen at a time, straight from
the association's thread: pynetdicom would make several objects of each and hand them to another
thread. Nothing else is sent on the association meanwhile, except an abort.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import Any

from node.dimse.pdu import COMMAND, LAST, NO_DATA_SET, P_DATA, PDU_HEADER, PDV_HEADER
from node.worklist.encoding import Element, command, encode
from node.worklist.statuses import PENDING

C_FIND_RSP, C_GET_RSP, C_MOVE_RSP = 0x8020, 0x8010, 0x8021  # PS3.7 Table E.1-1
_DATA_SET = 0x0001
_US = struct.Struct("<H")
_COMMENT_LENGTH = 64  # VR LO of Error Comment (0000,0902)
_GATHERED = 48 * 1024
_PDV_OVERHEAD = 6
_LEAST_PDU, _MOST_PDU = 1024, 131072
_FAILED_LIST = 0x00080058
_ESTABLISHED = "Sta6"  # PS3.8 Table 9-10
_LOOK_SECONDS = 0.0005


@dataclass(slots=True)
class Counts:
    """Numbers of sub-operations (PS3.7 Section 9.1.3)."""

    remaining: int = 0
    completed: int = 0
    failed: int = 0
    warning: int = 0


class Replies:
    """Answers one request.

    Args:
        association: pynetdicom's, of which we are the acceptor.
        request: pynetdicom's primitive.
        context: the presentation context that it came in.
        field: Command Field of the response.
    """

    def __init__(self, association: Any, request: Any, context: Any, field: int) -> None:
        self._association = association
        self._message_id = int(request.MessageID)
        self._context_id = int(context.context_id)
        self._field = field
        self.implicit = bool(context.transfer_syntax[0].is_implicit_VR)
        uid = str(request.AffectedSOPClassUID).encode("ascii")
        self._sop_class = uid + b"\0" * (len(uid) % 2)
        most = int(association.requestor.maximum_length or _MOST_PDU)
        self._most = max(_LEAST_PDU, min(most, _MOST_PDU)) - _PDV_OVERHEAD
        self._gathered = bytearray()
        self._heads: dict[int, bytes] = {}

    @property
    def over(self) -> bool:
        """Whether nobody listens any more."""
        association = self._association
        return (
            not association.is_established
            or not association.dul.is_alive()
            or association.dul.state_machine.current_state != _ESTABLISHED
            or association.acse.is_aborted()
            or association.acse.is_release_requested()
        )

    @property
    def cancelled(self) -> bool:
        """Whether C-CANCEL came for this request (PS3.7 Section 9.3.2.3)."""
        return self._message_id in self._association.dimse.cancel_req

    def match(self, identifier: bytes, status: int = PENDING) -> None:
        """A pending response with a match."""
        head = self._heads.get(status)
        if head is None:
            head = self._heads[status] = self._command(status, _DATA_SET, [])
        self._add(head, COMMAND)
        self._add(identifier, 0)
        if len(self._gathered) > _GATHERED:
            self.flush()

    def progress(self, counts: Counts) -> None:
        """A pending response of a retrieval."""
        self._add(self._command(PENDING, NO_DATA_SET, _counted(counts, last=False)), COMMAND)
        self.flush()

    def last(
        self,
        status: int,
        comment: str = "",
        *,
        offending: int | None = None,
        counts: Counts | None = None,
        failed: list[str] | None = None,
    ) -> None:
        """The final response.

        Args:
            comment: Error Comment, without anything of a patient.
            offending: tag of Offending Element (0000,0901).
            counts: of a retrieval.
            failed: SOP Instance UIDs that were not sent.
        """
        values: list[tuple[int, bytes]] = []
        if offending is not None:
            values.append((0x0901, struct.pack("<HH", offending >> 16, offending & 0xFFFF)))
        if comment:
            text = comment.encode("ascii", "replace")[:_COMMENT_LENGTH]
            values.append((0x0902, text + b" " * (len(text) % 2)))
        if counts is not None:
            values += _counted(counts, last=counts.remaining == 0)
        identifier = b""
        if failed:
            identifier = _failed_list(failed, implicit=self.implicit)
        self._add(self._command(status, _DATA_SET if failed else NO_DATA_SET, values), COMMAND)
        if failed:
            self._add(identifier, 0)
        self.flush()

    def flush(self) -> None:
        """Write what was gathered. A connection that is gone ends the association, not us."""
        dul = self._association.dul
        while dul.to_provider_queue.qsize() and dul.is_alive():
            time.sleep(_LOOK_SECONDS)  # a C-STORE of ours is still on its way out
        if self._gathered and dul.socket is not None and not self.over:
            dul.socket.send(bytes(self._gathered))
        self._gathered.clear()

    def _command(self, status: int, data_set: int, values: list[tuple[int, bytes]]) -> bytes:
        return command(
            [
                (0x0002, self._sop_class),
                (0x0100, _US.pack(self._field)),
                (0x0120, _US.pack(self._message_id)),
                (0x0800, _US.pack(data_set)),
                (0x0900, _US.pack(status)),
                *values,
            ]
        )

    def _add(self, data: bytes, control: int) -> None:
        """P-DATA-TF PDUs with one fragment each (PS3.8 Section 9.3.5)."""
        for start in range(0, len(data) or 1, self._most):
            piece = data[start : start + self._most]
            last = LAST if start + self._most >= len(data) else 0
            header = PDV_HEADER.pack(len(piece) + 2, self._context_id, control | last)
            self._gathered += PDU_HEADER.pack(P_DATA, len(header) + len(piece)) + header + piece


def _counted(counts: Counts, *, last: bool) -> list[tuple[int, bytes]]:
    # the final response of one that was not cancelled says nothing of what remains
    remaining = [] if last else [(0x1020, _US.pack(counts.remaining))]
    return [
        *remaining,
        (0x1021, _US.pack(counts.completed)),
        (0x1022, _US.pack(counts.failed)),
        (0x1023, _US.pack(counts.warning)),
    ]


def _failed_list(uids: list[str], *, implicit: bool) -> bytes:
    """Failed SOP Instance UID List; in explicit VR a value ends at 64 kB (PS3.5 Section 7.1.2)."""
    kept, length = [], 0
    for uid in uids:
        length += len(uid) + 1
        if length > 0xFFF0:
            break
        kept.append(uid)
    return encode([Element(_FAILED_LIST, "UI", "\\".join(kept))], implicit=implicit)
