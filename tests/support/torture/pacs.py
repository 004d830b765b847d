"""A PACS that misbehaves as it is told, and remembers every byte that it took."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from socketserver import TCPServer
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from node.dimse.contexts import accepted
from support.torture.relay import Relay

_SLOW_SECONDS = 0.4
_OUT_OF_RESOURCES = 0xA700  # PS3.4 Table B.2-1
_CANNOT_UNDERSTAND = 0xC000


class Manner(StrEnum):
    """How it answers."""

    WELL = "well"
    SLOW = "slow"
    OUT_OF_RESOURCES = "out of resources"
    REFUSING = "refusing"
    LATE = "late"
    NO_ANSWER = "no answer"


@dataclass(frozen=True, slots=True)
class Kept:
    """An object as it was taken.

    Attributes:
        digest: SHA-256 of the data set as it came.
        references: SOP Instance UIDs that it refers to.
    """

    sop_uid: str
    sop_class: str
    modality: str
    patient_id: str
    study_uid: str
    digest: str
    references: frozenset[str]
    at: float


class HarshPacs:
    """Listens behind a relay, so that its wire can be pulled out or cut.

    Attributes:
        kept: by SOP Instance UID, the first that came.
        other_content: UIDs that came again with other bytes.
        hits: how often it misbehaved, by manner.
        repeats: how often it was sent what it had.
    """

    def __init__(self, late_seconds: float, ae_title: str = "PACS") -> None:
        self.kept: dict[str, Kept] = {}
        self.other_content: list[str] = []
        self.hits: Counter[Manner] = Counter()
        self.repeats = 0
        self.manner = Manner.WELL
        self._late_seconds = late_seconds
        self._lock = threading.Lock()
        ae = AE(ae_title=ae_title)
        ae.supported_contexts = accepted()
        ae.maximum_pdu_size = 4096  # a result takes several: it can be cut in its middle
        self._server = ae.make_server(
            ("127.0.0.1", 0),
            evt_handlers=[(evt.EVT_C_STORE, self._on_store), (evt.EVT_C_ECHO, lambda _: 0x0000)],
            server_class=ThreadedAssociationServer,
        )
        # as AE.start_server does, but its end is noticed at once
        self._serving = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._serving.start()
        self.wire = Relay(int(self._server.server_address[1]))

    @property
    def port(self) -> int:
        """Where the node sends to."""
        return self.wire.port

    def close(self) -> None:
        """End it."""
        self.wire.unplug()
        TCPServer.shutdown(self._server)
        self._server.server_close()
        self._serving.join()

    def _on_store(self, event: Any) -> int:
        with self._lock:
            manner = self.manner
            if manner != Manner.WELL:
                self.hits[manner] += 1
        if manner == Manner.OUT_OF_RESOURCES:
            return _OUT_OF_RESOURCES
        if manner == Manner.REFUSING:
            return _CANNOT_UNDERSTAND
        if manner == Manner.SLOW:
            time.sleep(_SLOW_SECONDS)
        self._keep(event.request.DataSet.getvalue(), event.dataset)
        if manner == Manner.LATE:
            time.sleep(self._late_seconds)
        if manner == Manner.NO_ANSWER:  # it has the object; the sender cannot know
            event.assoc.abort()
        return 0x0000

    def _keep(self, encoded: bytes, dataset: Dataset) -> None:
        item = Kept(
            sop_uid=str(dataset.SOPInstanceUID),
            sop_class=str(dataset.SOPClassUID),
            modality=str(dataset.Modality),
            patient_id=str(dataset.PatientID),
            study_uid=str(dataset.StudyInstanceUID),
            digest=hashlib.sha256(encoded).hexdigest(),
            references=frozenset(_references(dataset)),
            at=time.time(),
        )
        with self._lock:
            known = self.kept.setdefault(item.sop_uid, item)
            if known is not item:
                self.repeats += 1
            if known.digest != item.digest:
                self.other_content.append(item.sop_uid)


def _references(dataset: Dataset) -> Iterator[str]:
    """Every Referenced SOP Instance UID (0008,1155), at any depth."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _references(item)
        elif element.tag == 0x00081155:
            yield str(element.value)
