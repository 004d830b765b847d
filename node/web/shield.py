"""What holds for every answer: security headers, and limits of what may be asked."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.settings import WebSettings
from node.web.problems import MEDIA_TYPE

MOST_BYTES = 1 << 20
# Scripts and styles come from our own files only: text of an image's header can never be one.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; font-src 'self'; worker-src 'self'; manifest-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_FOR_CHECKS = frozenset({"/livez", "/readyz"})
_HERE = ("127.0.0.1", "localhost", "[::1]")


class Shield:
    """Wraps the application.

    A body of more than 1 MiB is refused before it is read. A page on another host whose name was
    made to point at this machine is refused as long as we listen on it alone (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app = app
        self._settings = settings
        own = settings.url.partition("://")[2].partition("/")[0]
        only_here = settings.host in {"127.0.0.1", "localhost", "::1"} and not settings.proxy
        self._hosts = {*_HERE, _name(own)} if only_here else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}

        async def send_shielded(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    sent.setdefault(name, value)
                # what shows patients stays in no cache; files of ours may
                sent.setdefault("Cache-Control", "no-store")
                if self._settings.cert is not None:
                    sent.setdefault("Strict-Transport-Security", "max-age=31536000")
            await send(message)

        async def refuse(status: int, title: str, detail: str) -> None:
            content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
            answer = JSONResponse(content, status, media_type=MEDIA_TYPE)
            await answer(scope, receive, send_shielded)

        host = _name(headers.get(b"host", b"").decode("latin-1"))
        if self._hosts is not None and host not in self._hosts and scope["path"] not in _FOR_CHECKS:
            await refuse(421, "Misdirected Request", "this node is not reached by that name")
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MOST_BYTES:
            await refuse(413, "Content Too Large", f"a request has at most {MOST_BYTES} bytes")
            return
        read, started, refused = 0, False, False

        async def receive_bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MOST_BYTES:
                raise _TooMuchError
            return message

        async def send_noted(message: Message) -> None:
            nonlocal started, refused
            if read > MOST_BYTES and not started:
                refused = True  # whatever the application made of the error
            started = True
            if not refused:
                await send_shielded(message)

        try:
            await self._app(scope, receive_bounded, send_noted)
        except _TooMuchError:
            refused = not started
        if refused:
            await refuse(413, "Content Too Large", f"a request has at most {MOST_BYTES} bytes")


class _TooMuchError(Exception):
    """A body without a length was longer than any may be."""


def _name(host: str) -> str:
    """A host's name without its port, in lower case."""
    host = host.lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
