"""Logging: event names with bound identifiers; no patient's name, id or pixel.

Every module says `log = structlog.get_logger()` and `log.info("instance_spooled", …)`. An event
is a short name, the rest are fields. As a last guard, whoever passed them, identity attributes
are hidden here, nested ones too, and objects such as data sets are told by their type only.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import PurePath
from typing import Any

import structlog

from core.counters import count
from core.settings import LogSettings

# What says whose an image is (PS3.3 C.2.2, C.2.3, C.7.1.1), as keyword or as our own names,
# without case and underscores: every Patient… and …Patient… attribute, and these.
_FORBIDDEN = frozenset({"birthdate", "birthtime", "accessionnumber", "identity"})
_HIDDEN = "(not logged)"
# Values that can carry no identity of their own; of anything else only its type is told.
_PLAIN = (str, int, float, bool, type(None), datetime, timedelta, PurePath, BaseException)


def _no_identity(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {key: _clean(key, value) for key, value in event.items()}


def _clean(key: Any, value: Any) -> Any:
    name = str(key).replace("_", "").lower()
    if "patient" in name or name in _FORBIDDEN:
        return _HIDDEN
    if isinstance(value, Mapping):
        return {inner: _clean(inner, item) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean("", item) for item in value]
    if key in {"exc_info", "stack_info"} or isinstance(value, _PLAIN):
        return value
    return f"({type(value).__name__})"


def _counted(
    logger: Any, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    level = str(event.get("level", method))
    if level not in {"debug", "info"}:
        count("sentinode_log_events", str(event.get("role", "")), str(event["event"]), level)
    return event


def configure(settings: LogSettings, role: str = "") -> None:
    """Send structlog and the standard library's warnings to standard error."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.json_lines
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _counted,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _no_identity,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # asked anew each time: who replaces sys.stderr later gets the lines too
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=max(level, logging.WARNING), stream=sys.stderr, format="%(message)s")
    # pynetdicom and pydicom quote attribute values in their messages; ours say what is needed
    for name in ("pynetdicom", "pydicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # so do its warnings, on standard error
    warnings.filterwarnings("ignore", module=r"pydicom(\..*)?$")
    structlog.contextvars.clear_contextvars()
    if role:
        structlog.contextvars.bind_contextvars(role=role)
