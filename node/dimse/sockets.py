"""What every DICOM connection of ours, coming or going, is set to."""

from __future__ import annotations

import socket

from pynetdicom.events import Event


def no_delay(event: Event) -> None:
    """Send at once: answers are small, and waiting to fill a packet makes peers crawl.

    Nagle's algorithm (RFC 896) and delayed acknowledgements together cost 40 ms an answer.
    """
    wrapped = event.assoc.dul.socket
    if wrapped is not None and wrapped.socket is not None:
        wrapped.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
