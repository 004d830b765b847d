"""What comes by C-GET goes into the spool, as what comes to the door does.

It is looked at, refused or kept by the same rules (`node.door.reception`), and intake files it. The
folder is that of a receiver of its own; should this process die, intake takes over what is there.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association as DicomAssociation

from core import clock
from core.domain import Association
from core.identifiers import DicomAddress
from core.settings import Settings
from node.door.limits import Limits
from node.door.reception import PROCESSING_FAILURE, SUCCESS, Reception, Sender
from node.spool.receiver import ReceiverSpool, out_of_space

log = structlog.get_logger()


class Inbox:
    """Takes what a peer sends us because we asked for it.

    Attributes:
        kept: objects that are on the disk.
        refused: why others were not taken, by SOP Instance UID.
    """

    def __init__(self, settings: Settings, peer: DicomAddress) -> None:
        self._settings, self._peer = settings, peer
        storage = settings.storage
        self._limits = Limits(settings)
        self._spool = ReceiverSpool(settings.spool, storage.min_free_mb, durable=storage.fsync)
        # whoever was asked may send, also where send = false
        self._reception = Reception(settings, self._spool, self._limits, asked=True)
        self._sender: Sender | None = None
        self.kept = 0
        self.refused: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()
        self._limits.close()

    @property
    def handlers(self) -> list[Any]:
        """For `node.dimse.scu.associate`."""
        return [(evt.EVT_C_STORE, self._on_store)]

    @contextmanager
    def opened(self, association: DicomAssociation) -> Iterator[None]:
        """As long as an association is open. Its end is noted, and how it ended.

        Raises:
            OutOfSpaceError: the disk does not take the note.
        """
        opened = Association(
            id=uuid.uuid4().hex,
            calling_ae=str(self._peer.ae_title),
            called_ae=self._settings.node.ae_title,
            peer_address=f"{self._peer.host}:{self._peer.port}",
            began_at=clock.now(),
        )
        self._sender = Sender(opened)
        how = "aborted"
        try:
            yield
            how = "released"
        finally:
            self._sender = None
            self._end(replace(opened, ended_at=clock.now(), end=how))

    def _end(self, ended: Association) -> None:
        try:
            self._spool.end(ended)
        except OSError as error:
            raise out_of_space(error) from error

    def _on_store(self, event: evt.Event) -> int | Dataset:
        request: Any = event.request
        uid = str(request.AffectedSOPInstanceUID)
        sender = self._sender
        if sender is None:
            log.warning("instance_refused", reason="the association has ended")
            return PROCESSING_FAILURE
        incoming = self._reception.begin(
            sender, str(request.AffectedSOPClassUID), uid, str(event.context.transfer_syntax)
        )
        if request.DataSet is not None:
            incoming.write([request.DataSet.getbuffer()])
        status, comment = incoming.finish()
        pause = self._limits.pause(str(self._peer.ae_title))
        if pause:
            threading.Event().wait(pause)  # the peer waits for our answer
        if status == SUCCESS:
            self.kept += 1
            return SUCCESS
        self.refused[uid] = comment
        answer = Dataset()
        answer.Status, answer.ErrorComment = status, comment
        return answer
