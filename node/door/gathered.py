"""What pynetdicom's own path gathers in memory of a message, and when that is too much.

Images take the fast lane and never lie in memory. What is left is small by nature: commands,
the data sets of N-services, and a C-STORE that the lane leaves to pynetdicom because something
about it is odd.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.pdu import P_DATA_TF

from node.dimse.pdu import COMMAND
from node.door.lane.command import MOST_COMMAND_BYTES
from node.door.limits import MB

# A step or a commitment that lists ten thousand images has about 1.5 MB.
MOST_MESSAGE_BYTES = 8 * MB
# Without the lane every image lies in memory.
MOST_IMAGE_BYTES = 1024 * MB
# A data set may begin in the PDU that ends its command: what it belongs to is not known then.
_FIRST_DATA_BYTES = 128 * 1024 + 1024


@dataclass(slots=True)
class _Size:
    command: int = 0
    data: int = 0


class Gathered:
    """Counts the message that is under way on each association.

    Args:
        lane: whether images take the fast lane.
    """

    def __init__(self, *, lane: bool) -> None:
        self._most_of_image = MOST_MESSAGE_BYTES if lane else MOST_IMAGE_BYTES
        self._sizes: dict[Any, _Size] = {}

    def add(self, association: Any, pdu: P_DATA_TF, most_of_peer: int) -> str:
        """Count a PDU that is about to be gathered.

        Args:
            association: pynetdicom's.
            pdu: the next of it.
            most_of_peer: the largest instance of the peer, bytes.

        Returns:
            why the message must not go on, or nothing.
        """
        message: DIMSEMessage | None = association.dimse.message
        size = _Size() if message is None else self._sizes.get(association, _Size())
        self._sizes[association] = size
        for item in pdu.presentation_data_value_items:
            value = item.presentation_data_value or b"\0"
            # with the six bytes before it: fragments may be empty
            if value[0] & COMMAND:
                size.command += len(value) + 5
            else:
                size.data += len(value) + 5
        if size.command > MOST_COMMAND_BYTES:
            return f"a command set of more than {MOST_COMMAND_BYTES} bytes"
        if message is None or type(message) is DIMSEMessage:
            most = _FIRST_DATA_BYTES
        elif isinstance(message, C_STORE_RQ):
            most = min(2 * most_of_peer, self._most_of_image)
        else:
            most = MOST_MESSAGE_BYTES
        return f"a message of more than {most} bytes" if size.data > most else ""

    def drop(self, association: Any) -> None:
        """Let go of what was gathered. Only for the thread that gathers."""
        association.dimse.message = None
        self.forget(association)

    def forget(self, association: Any) -> None:
        """The association has ended."""
        self._sizes.pop(association, None)
