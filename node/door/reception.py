"""What happens to an instance that comes in: taken onto the disk, or refused with a reason.

Both ways into the house, our fast lane and pynetdicom's own path, hand the bytes to this room,
so both take and refuse the same.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import structlog
from pydicom.uid import UID as PydicomUID
from pydicom.uid import ImplicitVRLittleEndian

from core import clock
from core.counters import count
from core.domain import Association
from core.errors import NotAuthorisedError, RefusedError, UnreadableError
from core.settings import Settings
from node.door.glance import WINDOW, glance
from node.door.limits import MB, Limits
from node.reading.examine import DatasetIdentity, check_announced, examine
from node.spool.file import SpoolFile
from node.spool.heads import Heads, ReceivedInstance
from node.spool.receiver import ReceiverSpool, out_of_space

log = structlog.get_logger()

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110  # PS3.7 Annex C
COMMENT_LENGTH = 64  # VR LO of Error Comment (0000,0902)
# While a large instance comes in, the disk is looked at again after so many bytes.
_LOOK_AGAIN_BYTES = 64 * MB
# Not every encapsulated syntax is named here: all of them are Explicit VR Little Endian but for
# the two that `glance` cannot read (PS3.5 Annex A).
_BIG_ENDIAN, _DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"


@dataclass(slots=True)
class Sender:
    """An association that is open now, and what came over it."""

    association: Association
    count: int = 0
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    heads: Heads = field(init=False)

    def __post_init__(self) -> None:
        self.heads = Heads(self.association)


class Reception:
    """Takes instances for one receiver process.

    Args:
        asked: they come because we asked for them, so the peer need not be one that may send.
    """

    def __init__(
        self, settings: Settings, spool: ReceiverSpool, limits: Limits, *, asked: bool = False
    ) -> None:
        self.spool, self.limits = spool, limits
        self._everybody = settings.node.accept_unknown or asked
        self._senders = {peer.ae_title for peer in settings.peers if peer.send}

    def check(self, calling_ae: str) -> None:
        """What can be said before the first byte.

        Raises:
            NotAuthorisedError: the peer may not send.
            OutOfSpaceError: the disk is almost full.
        """
        if not self._everybody and calling_ae not in self._senders:
            raise NotAuthorisedError(f"{calling_ae} may not send us images")
        self.spool.check_space()

    def begin(
        self, sender: Sender, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
    ) -> Incoming:
        """Begin an instance that a C-STORE command announced."""
        announced = ReceivedInstance(
            sop_class_uid,
            sop_instance_uid,
            transfer_syntax_uid,
            sender.association,
            clock.now(),
        )
        return Incoming(self, sender, announced)


class Incoming:
    """One instance while it comes.

    What is wrong with it is told at its end, as the sender listens only then (PS3.7 Section
    9.1.1); until then the rest of its bytes goes nowhere.
    """

    def __init__(self, reception: Reception, sender: Sender, announced: ReceivedInstance) -> None:
        self._reception, self._sender, self._announced = reception, sender, announced
        self._refused: RefusedError | None = None
        self._head = bytearray()
        self._most = reception.limits.most_bytes(sender.association.calling_ae)
        self._look_at = _LOOK_AGAIN_BYTES
        self._file: SpoolFile | None = None
        self.size = 0
        try:
            reception.check(sender.association.calling_ae)
            room = len(sender.heads.encode(announced))
            self._file = reception.spool.begin(sender.association, next(sender.numbers), room)
        except RefusedError as error:
            self._refused = error
        except OSError as error:
            self._refuse(out_of_space(error))

    @property
    def absurd(self) -> bool:
        """Whether the peer sends on and on: twice as much as it may. It is not listened to."""
        return self.size > 2 * self._most

    def write(self, parts: list[memoryview]) -> None:
        """Add bytes of the data set."""
        size = sum(len(part) for part in parts)
        self.size += size
        if self._file is None:
            return
        if len(self._head) < WINDOW:
            for part in parts:
                self._head += part[: WINDOW - len(self._head)]
        try:
            if self.size > self._most:
                self._reception.limits.check_size(self._sender.association.calling_ae, self.size)
            if self.size > self._look_at:
                self._look_at += _LOOK_AGAIN_BYTES
                self._reception.spool.check_space()
            self._file.write(parts, size)
        except RefusedError as error:
            self._refuse(error)
        except OSError as error:
            self._refuse(out_of_space(error))

    def finish(self) -> tuple[int, str]:
        """Keep it or refuse it: the status, and the comment that goes with a refusal.

        0x0000 means that it is on the disk.
        """
        association = self._sender.association
        uid = self._announced.sop_instance_uid[:64]
        try:
            self._keep()
        except RefusedError as error:
            log.warning(
                "instance_refused",
                association=association.id,
                calling_ae=association.calling_ae,
                sop_instance_uid=uid,
                status=f"0x{error.status:04X}",
                reason=str(error),
                remedy=error.remedy,
            )
            count("sentinode_instances_refused", association.calling_ae, f"0x{error.status:04X}")
            return error.status, comment(str(error))
        except Exception:
            log.exception(
                "instance_refused",
                association=association.id,
                calling_ae=association.calling_ae,
                sop_instance_uid=uid,
                status=f"0x{PROCESSING_FAILURE:04X}",
            )
            return PROCESSING_FAILURE, comment("internal error; see the receiver's log")
        finally:
            self.discard()
        self._sender.count += 1
        count("sentinode_instances_received", association.calling_ae)
        count("sentinode_received_bytes", association.calling_ae, amount=self.size)
        log.debug(
            "instance_spooled",
            association=association.id,
            calling_ae=association.calling_ae,
            sop_instance_uid=uid,
        )
        return SUCCESS, ""

    def discard(self) -> None:
        """Keep nothing of it, unless it is kept already."""
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _refuse(self, error: RefusedError) -> None:
        self._refused = error
        self.discard()

    def _keep(self) -> None:
        if self._refused is not None:
            raise self._refused
        assert self._file is not None
        if not self.size:
            raise UnreadableError("the C-STORE command came without a data set")
        announced = self._announced
        identity = self._identity(self._file)
        check_announced(identity, announced.sop_class_uid, announced.sop_instance_uid)
        try:
            received = replace(announced, received_at=clock.now())
            file = self._file
            file.keep(self._sender.heads.encode(received, file.size, file.check))
        except OSError as error:
            raise out_of_space(error) from error
        self._file = None

    def _identity(self, file: SpoolFile) -> DatasetIdentity:
        syntax = self._announced.transfer_syntax_uid
        if syntax not in (_BIG_ENDIAN, _DEFLATED):
            implicit = syntax == ImplicitVRLittleEndian
            found = glance(self._head, self.size, implicit, file.read)
            if found is not None:
                return found
        with file.dataset() as stream:
            return examine(stream, self.size, PydicomUID(syntax))


def comment(text: str) -> str:
    """A text as Error Comment (0000,0902) carries it."""
    return text.encode("ascii", "replace").decode()[:COMMENT_LENGTH]
