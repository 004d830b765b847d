"""Errors as answers: application/problem+json (RFC 9457) for programs, a page for people."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response

from core.errors import (
    AccountError,
    BytesGoneError,
    DecodeError,
    IllegalMoveError,
    InvalidValueError,
    LedgerValueError,
    NotFoundError,
    NotSignedInError,
    PeerError,
    SentinodeError,
    SettingsError,
    TooManyTriesError,
    WebError,
)

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
_FOR_PROGRAMS = ("/api/", "/dicom-web", "/metrics", "/livez", "/readyz", "/static/")
_RETRY_SECONDS = "5"
# The first that fits says it; the tree is in core/errors.py.
_STATUS: tuple[tuple[type[SentinodeError], int], ...] = (
    (NotFoundError, 404),
    (IllegalMoveError, 409),
    (LedgerValueError, 422),
    (AccountError, 409),
    (InvalidValueError, 422),
    (BytesGoneError, 410),
    (DecodeError, 422),
    (PeerError, 502),
    (SettingsError, 422),
)


def status_of(error: SentinodeError) -> int:
    """The HTTP status that stands for an error."""
    if isinstance(error, WebError):
        return error.status
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return 503 if error.retry else 500


def add_to(app: FastAPI) -> None:
    """Let `app` answer errors so."""
    app.add_exception_handler(SentinodeError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unforeseen)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, SentinodeError)
    status = status_of(error)
    if isinstance(error, NotSignedInError) and _for_person(request):
        return RedirectResponse(f"/sign-in?next={_here(request)}", status_code=303)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("request_failed", status=status, reason=type(error).__name__)
    headers = {}
    if isinstance(error, TooManyTriesError):
        headers["Retry-After"] = str(error.wait_seconds)
    elif status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = _RETRY_SECONDS
    elif status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="sentinode"'
    return answer(request, status, str(error), error.remedy, headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = "; ".join(
        f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
        for fault in error.errors()
    )
    return answer(request, 422, faults)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    return answer(request, error.status_code, str(error.detail), headers=headers)


async def _unforeseen(request: Request, error: Exception) -> Response:
    # only where it happened: its message and its frames may hold a patient's name
    path = getattr(request.scope.get("route"), "path", "")
    log.error("request_trouble", path=path, error=_where(error))
    return answer(request, 500, "an unforeseen error; its place is in the log")


def answer(
    request: Request,
    status: int,
    detail: str,
    remedy: str = "",
    headers: dict[str, str] | None = None,
) -> Response:
    """An error as its reader understands it."""
    title = HTTPStatus(status).phrase
    page = getattr(request.app.state, "error_page", None)
    if page is not None and _for_person(request):
        made = page(request, status, title, detail, remedy)
        assert isinstance(made, Response)
        made.headers.update(headers or {})
        return made
    content: dict[str, Any] = {"type": "about:blank", "title": title, "status": status}
    if detail and detail != title:
        content["detail"] = detail
    if remedy:
        content["remedy"] = remedy
    return JSONResponse(content, status, headers, media_type=MEDIA_TYPE)


def _for_person(request: Request) -> bool:
    wanted = request.headers.get("accept", "")
    return not request.url.path.startswith(_FOR_PROGRAMS) and "text/html" in wanted


def _here(request: Request) -> str:
    path = request.url.path if request.method == "GET" else "/"
    query = f"?{request.url.query}" if request.url.query and request.method == "GET" else ""
    return quote(path + query, safe="/")


def _where(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = ""
    if trace is not None:
        code = trace.tb_frame.f_code
        place = f" at {code.co_qualname}:{trace.tb_lineno}"
    return f"{type(error).__name__}{place}"
