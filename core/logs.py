"""Logging: event names with bound identifiers; no patient's name, id or pixel.

Every module says `log = structlog.get_logger()` and `log.info("instance_spooled", …)`. An event
is a short name, the rest are fields. Fields whose keyword is an identity attribute are dropped
here as a last guard, whoever passed them.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from core.settings import LogSettings

_FORBIDDEN = frozenset(
    {
        "patient_id",
        "patient_name",
        "patient_birth_date",
        "birth_date",
        "accession_number",
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "IssuerOfPatientID",
        "AccessionNumber",
    }
)


def _no_identity(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for key in _FORBIDDEN & event.keys():
        event[key] = "(not logged)"
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
    structlog.contextvars.clear_contextvars()
    if role:
        structlog.contextvars.bind_contextvars(role=role)
