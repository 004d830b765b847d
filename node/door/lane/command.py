"""A command set while its fragments come (PS3.8 Annex E.2): whole, or too long."""

from __future__ import annotations

from node.dimse.pdu import COMMAND, LAST, PDU_HEADER, PDV_HEADER
from node.door.lane.store import ProtocolError

# A C-STORE-RQ has some 200 bytes; the longest command sets carry a list of attributes.
MOST_COMMAND_BYTES = 64 * 1024


class CommandSet:
    """One command set, and the PDUs that brought it.

    Attributes:
        data: the bytes of its fragments so far.
        context_id: the presentation context that it came over.
        pdus: the PDUs that hold nothing but fragments before the last: pynetdicom gets them
            when the command turns out to be none of ours.
    """

    __slots__ = ("_size", "context_id", "data", "pdus")

    def __init__(self) -> None:
        self.data = bytearray()
        self.context_id = 0
        self.pdus: list[bytearray] = []
        self._size = 0

    @property
    def begun(self) -> bool:
        """Whether fragments came, but not the last."""
        return bool(self.pdus)

    def take(self, pdu: memoryview) -> int:
        """Take the fragments of a P-DATA-TF PDU.

        Returns:
            where in the PDU the command's last fragment ends; 0: more is to come, and the PDU
            was kept.

        Raises:
            ProtocolError: what came is no fragment of a command, or there are too many.
        """
        at: int = PDU_HEADER.size
        while len(pdu) - at >= PDV_HEADER.size:
            length, context_id, control = PDV_HEADER.unpack_from(pdu, at)
            if length < 2 or at + 4 + length > len(pdu):
                raise ProtocolError(f"a fragment of {length} bytes in {len(pdu) - at} of a PDU")
            if not control & COMMAND:
                raise ProtocolError("a data set without its command")
            if self.begun and context_id != self.context_id:
                raise ProtocolError("another message within a command set")
            self.context_id = context_id
            self.data += pdu[at + PDV_HEADER.size : at + 4 + length]
            at += 4 + length
            # with their headers: fragments may be empty
            if self._size + at > MOST_COMMAND_BYTES:
                raise ProtocolError(f"a command set of more than {MOST_COMMAND_BYTES} bytes")
            if control & LAST:
                return at
        if at < len(pdu) or at == PDU_HEADER.size:
            raise ProtocolError(f"{len(pdu) - at} bytes that are no fragment")
        self._size += at
        self.pdus.append(bytearray(pdu))
        return 0
