"""What the pages say, in each language: one catalogue file a language, all with the same keys."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from fastapi import Request

from node.web.room import FOLDER

LANGUAGES = {"en": "English", "zh": "中文"}
LANGUAGE_COOKIE = "sentinode-language"
_TRANSLATIONS = FOLDER / "translations"

Say = Callable[..., str]


@lru_cache
def catalogue(language: str) -> Mapping[str, str]:
    """All texts of a language by their full key, for example "worklist.title"."""
    text = (_TRANSLATIONS / f"{language}.toml").read_text(encoding="utf-8")
    return dict(_flat("", tomllib.loads(text)))


def _flat(prefix: str, table: Mapping[str, Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in table.items():
        full = f"{prefix}.{key}" if prefix else key
        found += _flat(full, value) if isinstance(value, Mapping) else [(full, str(value))]
    return found


def language_of(request: Request) -> str:
    """The language that somebody chose, or else the one that their browser asks for first."""
    chosen = request.cookies.get(LANGUAGE_COOKIE, "")
    if chosen in LANGUAGES:
        return chosen
    for item in request.headers.get("accept-language", "").split(","):
        wanted = item.partition(";")[0].strip().lower().partition("-")[0]
        if wanted in LANGUAGES:
            return wanted
    return "en"


def speaker(language: str) -> Say:
    """A function from a key and its values to the text in a language.

    Where `n` is 1 the text of the key with `_one` at its end is taken, if there is one.
    A key that is missing is a fault of ours, so it raises (KeyError) and a test finds it.
    """
    texts = catalogue(language)

    def say(key: str, /, **values: Any) -> str:
        text = texts[key]
        if values.get("n") == 1:
            text = texts.get(f"{key}_one", text)
        return text.format(**values) if values else text

    return say


def said(language: str, section: str) -> dict[str, str]:
    """All texts of one section by their short key, for a script."""
    start = f"{section}."
    return {
        key.removeprefix(start): text
        for key, text in catalogue(language).items()
        if key.startswith(start)
    }
