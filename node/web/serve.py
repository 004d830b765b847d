"""The role web: the application behind its port, until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
import threading

import structlog
import uvicorn
from fastapi import FastAPI

from core.errors import PortTakenError, SettingsError
from core.ledger import Ledger
from core.settings import Settings, WebSettings
from core.store import Store
from node.web.app import make_app
from node.web.audit import Happening
from node.web.room import Room

log = structlog.get_logger()

_BACKLOG = 256
_GRACE_SECONDS = 10
_SLOW_HEADERS_SECONDS = 20


class Server:
    """Serves an application on a port that is its own already.

    Raises:
        PortTakenError: the port is not to be had.
        SettingsError: certificate or key cannot be read.
    """

    def __init__(self, app: FastAPI, settings: WebSettings) -> None:
        self._app = app
        self._settings = settings
        self._socket = _listening(settings)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # paths hold UIDs; the audit trail says who looked
            server_header=False,
            proxy_headers=settings.proxy,
            forwarded_allow_ips=list(settings.proxy_addresses),
            timeout_graceful_shutdown=_GRACE_SECONDS,
            timeout_keep_alive=_SLOW_HEADERS_SECONDS,
            lifespan="on",
        )
        if settings.cert is not None and settings.key is not None:
            config.ssl_certfile, config.ssl_keyfile = str(settings.cert), str(settings.key)
        logging.getLogger("uvicorn.error").addFilter(_WithoutTraces())
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            self._socket.close()
            raise SettingsError("web", [f"web.cert, web.key: {error}"]) from error
        self._server = _Quiet(config)

    @property
    def port(self) -> int:
        """The port."""
        return int(self._socket.getsockname()[1])

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set, then let requests end for ten seconds."""
        asyncio.run(self._run(stop))

    async def _run(self, stop: threading.Event) -> None:
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not stop.is_set() and not serving.done():
            await asyncio.sleep(0.1)
        room = self._app.state.room
        assert isinstance(room, Room)
        await room.changes.close()  # listeners would be waited for
        self._server.should_exit = True
        await serving
        self._socket.close()


class _WithoutTraces(logging.Filter):
    """A traceback of a request may quote a patient's name; `problems` tells what must be known."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.exc_info


class _Quiet(uvicorn.Server):
    """Leaves signals to the role."""

    def install_signal_handlers(self) -> None:
        """Nothing: `node.loop` has them."""


def serve(settings: Settings, ledger: Ledger, stop: threading.Event) -> None:
    """Serve pages and interfaces until `stop` is set.

    Raises:
        PortTakenError: the port is not to be had.
        LedgerError: the ledger is away.
    """
    app = make_app(settings, ledger, Store(settings.store_url))
    room = app.state.room
    assert isinstance(room, Room)
    server = Server(app, settings.web)
    room.audit.note(Happening.STARTED, settings.node.ae_title)
    log.info("pages_open", url=settings.web.shown_url)
    with ledger.read() as work:
        anybody = work.accounts.any()
    if not anybody:
        link = room.set_up.new_link(settings.web.shown_url)
        # not by the log: it may be kept, and sent elsewhere
        sys.stderr.write(f"\nNobody can sign in yet. Make the first account:\n\n    {link}\n\n")
        sys.stderr.flush()
    try:
        server.run(stop)
    finally:
        log.info("pages_closed")


def _listening(settings: WebSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it on, the second
    # piece of an answer waits 40 ms for the browser's delayed acknowledgement
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((settings.host, settings.port))
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        reason = error.strerror or error
        raise PortTakenError(
            f"port {settings.port} of {settings.host} is not to be had: {reason}"
        ) from error
    return made
