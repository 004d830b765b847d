"""Is this the pynetdicom that the lane was made for, and does it work with it?

The lane stands on private parts of pynetdicom. So it is used with the versions that it was made
for only, and when an image sent to ourselves over loopback came through unchanged.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import AE, __version__, build_context, evt
from pynetdicom.dsutils import encode

from node.dimse.checkpoint import exact_pauses
from node.door.lane.association import DoorServer
from node.door.lane.wire import StoreCommand

_VERSIONS = ("3.0.",)
_SECONDS = 10.0
_PIXELS = 300_000  # three PDUs
_VERIFICATION = UID("1.2.840.10008.1.1")


class _Desk:
    """Takes images into memory."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self._data = bytearray()
        self.absurd = False

    def begin_instance(self, association: Any, command: StoreCommand, syntax: str) -> _Desk:
        """Begin anew."""
        self._data.clear()
        return self

    def pause_after(self, association: Any) -> float:
        """At once."""
        return 0.0

    def write(self, parts: list[memoryview]) -> None:
        """Take bytes."""
        for part in parts:
            self._data += part

    def finish(self) -> tuple[int, str]:
        """Keep them."""
        self.taken.append(bytes(self._data))
        return 0x0000, ""

    def discard(self) -> None:
        """Forget them."""


@functools.cache
def trouble() -> str:
    """Why the lane cannot be used, or nothing. Looked into once in the life of a process."""
    if not str(__version__).startswith(_VERSIONS):
        return f"pynetdicom {__version__} is not one that the fast lane was made for"
    try:
        return _try()
    # anything at all: what cannot be tried is not used
    except Exception as error:  # noqa: BLE001
        return f"the self-check failed: {type(error).__name__}: {error}"


def _try() -> str:
    desk = _Desk()
    ae = AE(ae_title="SELFCHECK")
    ae.maximum_pdu_size = 131072
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = _SECONDS
    ae.supported_contexts = _contexts()
    server = ae.make_server(
        ("127.0.0.1", 0),
        evt_handlers=[(evt.EVT_C_ECHO, lambda event: 0x0000)],
        server_class=DoorServer,
        desk=desk,
        linger=_SECONDS,
    )
    ae._servers.append(server)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        return _send(int(server.server_address[1]), desk)
    finally:
        server.shutdown()
        thread.join(_SECONDS)


def _contexts() -> list[Any]:
    return [
        build_context(SecondaryCaptureImageStorage, ExplicitVRLittleEndian),
        build_context(_VERIFICATION),
    ]


def _send(port: int, desk: _Desk) -> str:
    ae = AE(ae_title="SELFCHECK")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = _SECONDS
    association = ae.associate(
        "127.0.0.1", port, _contexts(), evt_handlers=[(evt.EVT_CONN_OPEN, exact_pauses)]
    )
    if not association.is_established:
        return "no association with ourselves"
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = SecondaryCaptureImageStorage, UID("1.2.3")
    image.BitsAllocated, image.PixelRepresentation = 8, 0
    image.PixelData = bytes(_PIXELS)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    sent = encode(image, is_implicit_vr=False, is_little_endian=True)
    # an echo between two images: both ways, on one association
    statuses: list[int | None] = []
    try:
        for service in ("store", "echo", "store"):
            store = service == "store"
            answer = association.send_c_store(image) if store else association.send_c_echo()
            statuses.append(answer.get("Status"))
            if statuses[-1] != 0x0000:
                return f"an image or an echo sent to ourselves was answered {statuses}"
        association.release()
    finally:
        if association.is_established:
            association.abort()
    if desk.taken != [sent, sent]:
        return f"{len(desk.taken)} of 2 images took the lane unchanged"
    return "" if association.is_released else "the association did not end"
