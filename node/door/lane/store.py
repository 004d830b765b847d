"""A C-STORE on its way through: the fragments of its data set in, its response out."""

from __future__ import annotations

from typing import Protocol

from node.dimse.pdu import COMMAND, LAST, P_DATA, PDU_HEADER, PDV_HEADER
from node.door.lane.buffer import Buffer
from node.door.lane.wire import StoreCommand


class ProtocolError(Exception):
    """The peer broke the rules of PS3.8; the association cannot go on."""


class Instance(Protocol):
    """Where the bytes go: `node.door.reception.Incoming`."""

    @property
    def absurd(self) -> bool:
        """Whether so much came that nobody should go on listening."""

    def write(self, parts: list[memoryview]) -> None:
        """Take bytes."""

    def finish(self) -> tuple[int, str]:
        """Keep or refuse: status and comment."""

    def discard(self) -> None:
        """Forget it."""


class StoreMessage:
    """The data set of one C-STORE, read from a buffer as it fills.

    Args:
        command: the command, already read.
        instance: what takes the bytes.
        pdu_left: bytes of the PDU with the command that follow it.
        most_pdu: longest PDU that is taken.
    """

    __slots__ = (
        "_instance",
        "_most_pdu",
        "_pdu_left",
        "_pdv_last",
        "_pdv_left",
        "command",
        "done",
    )

    def __init__(
        self, command: StoreCommand, instance: Instance, pdu_left: int, most_pdu: int
    ) -> None:
        self.command = command
        self._instance, self._pdu_left, self._most_pdu = instance, pdu_left, most_pdu
        self._pdv_left, self._pdv_last = 0, False
        self.done = False

    @property
    def pdu_left(self) -> int:
        """How many bytes of a PDU are still to be used."""
        return self._pdu_left

    def feed(self, buffer: Buffer) -> bool:
        """Take what the buffer has. Returns False when another kind of PDU came in between.

        Raises:
            ProtocolError: what came is no data set of this message.
        """
        parts: list[memoryview] = []
        view, start, end = buffer.view, buffer.start, buffer.end
        ours = True
        while not self.done:
            if self._pdv_left:
                count = min(self._pdv_left, end - start)
                parts.append(view[start : start + count])
                start += count
                self._pdv_left -= count
                self._pdu_left -= count
                self.done = self._pdv_last and not self._pdv_left
            header = PDV_HEADER.size if self._pdu_left else PDU_HEADER.size
            if self._pdv_left or self.done or end - start < header:
                break
            if self._pdu_left:
                self._begin_pdv(*PDV_HEADER.unpack_from(view, start))
            else:
                ours = self._begin_pdu(*PDU_HEADER.unpack_from(view, start))
                if not ours:
                    break
            start += header
        buffer.start = start
        if parts:
            self._instance.write(parts)
            if self._instance.absurd:
                raise ProtocolError("an instance of more than twice the allowed size")
        if self.done and self._pdu_left:
            raise ProtocolError("bytes behind the last fragment of a data set")
        return ours

    def _begin_pdu(self, kind: int, length: int) -> bool:
        if kind == P_DATA and length > self._most_pdu:
            raise ProtocolError(f"a PDU of {length} bytes")
        if kind == P_DATA:
            self._pdu_left = length
        return kind == P_DATA

    def _begin_pdv(self, length: int, context_id: int, control: int) -> None:
        if length + 4 > self._pdu_left or length < 2:
            raise ProtocolError(f"a fragment of {length} bytes in {self._pdu_left} of a PDU")
        if context_id != self.command.context_id or control & COMMAND:
            raise ProtocolError("another message within a data set")
        self._pdu_left -= PDV_HEADER.size
        self._pdv_left = length - 2
        self._pdv_last = bool(control & LAST)
        # a last fragment may be empty
        self.done = self._pdv_last and not self._pdv_left

    def finish(self) -> tuple[int, str]:
        """The status and comment to answer with."""
        return self._instance.finish()

    def discard(self) -> None:
        """Forget what came so far."""
        self._instance.discard()
