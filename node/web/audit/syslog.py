"""Audit messages to a syslog server: RFC 5424, over UDP (RFC 5426), TCP or TLS (RFC 5425).

PS3.15 A.6 and A.7: facility 10, severity 5, MSGID "DICOM+RFC3881".
"""

from __future__ import annotations

import os
import socket
import ssl
from datetime import datetime
from urllib.parse import urlsplit

_PRIORITY = 10 * 8 + 5
_TIMEOUT_SECONDS = 5.0


class Syslog:
    """One server, by a URL such as udp://host:514."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._kind = parts.scheme
        self._address = (parts.hostname or "", parts.port or 514)
        self._socket: socket.socket | None = None

    def send(self, text: str, at: datetime) -> None:
        """Tell it one message; a broken connection is made again, once.

        Raises:
            OSError: it is away.
        """
        head = f"<{_PRIORITY}>1 {at.isoformat(timespec='milliseconds')} {socket.gethostname()} "
        # the byte order mark says that what follows is UTF-8 (RFC 5424, 6.4)
        content = f"{head}sentinode {os.getpid()} DICOM+RFC3881 - \ufeff{text}".encode()
        if self._kind != "udp":
            content = b"%d %s" % (len(content), content)  # octet counting, RFC 5425 4.3
        for last in (False, True):
            try:
                self._connected().sendall(content)
                return
            except OSError:
                self.close()
                if last:
                    raise

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is not None:
            return self._socket
        if self._kind == "udp":
            family = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
            made = socket.socket(family[0], socket.SOCK_DGRAM)
            made.connect(family[4])
        else:
            made = socket.create_connection(self._address, timeout=_TIMEOUT_SECONDS)
            if self._kind == "tls":
                context = ssl.create_default_context()
                made = context.wrap_socket(made, server_hostname=self._address[0])
        self._socket = made
        return made
