"""Shapes that several parts of the interface share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel

PREFIX = "/api/v1"
_UID_PATTERN = r"^[0-9]+(\.[0-9]+)*$"
T = TypeVar("T")

# `default` speaks for every status that is no success.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "What went wrong (RFC 9457)",
        "content": {
            "application/problem+json": {
                "schema": {
                    "type": "object",
                    "required": ["type", "title", "status"],
                    "properties": {
                        "type": {"type": "string"},
                        "title": {"type": "string"},
                        "status": {"type": "integer"},
                        "detail": {"type": "string"},
                        "remedy": {"type": "string", "description": "What a person can do"},
                    },
                }
            }
        },
    }
}


class Page(BaseModel, Generic[T]):
    """A page of a list; `after` leads to the next one and is empty at the end."""

    items: list[T]
    after: str = ""


def _with_zone(moment: datetime) -> datetime:
    """A moment without a time zone is UTC, as all ours are."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def no_nul(text: str) -> str:
    """A text that both databases take."""
    if "\0" in text:
        raise ValueError("a text without NUL")
    return text


Text = Annotated[str, Query(max_length=200), AfterValidator(no_nul)]
After = Annotated[
    str,
    Query(max_length=300, description="`after` of the page before"),
    AfterValidator(no_nul),
]
Limit = Annotated[int, Query(ge=1, le=500, description="Most items of the page")]
Moment = Annotated[datetime, AfterValidator(_with_zone)]
StudyUID = Annotated[str, Path(pattern=_UID_PATTERN, max_length=64)]
JobId = Annotated[
    str, Path(pattern=r"^[0-9a-f]{8}[0-9a-f-]{0,28}$", description="A job's id, or its beginning")
]
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}$")]
UIDText = Annotated[str, Query(pattern=r"^$|" + _UID_PATTERN, max_length=64)]
