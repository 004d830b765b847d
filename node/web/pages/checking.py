"""Settings that somebody pastes: held against every rule, and against what runs now."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import SettingsError
from core.settings import Settings, load

_SECRET = re.compile(r"(?i)(secret|password|passwd|token|credential)")
_USERINFO = re.compile(r"(?<=://)([^/@\s:]*):([^/@\s]*)@")
HIDDEN = "••••••"


@dataclass(frozen=True, slots=True)
class Difference:
    """A key whose value is another than now; empty where there was, or is, none."""

    key: str
    now: str
    then: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a file.

    Attributes:
        faults: each by its full key; none when it is well.
        differences: to what runs now.
    """

    faults: tuple[str, ...]
    differences: tuple[Difference, ...] = ()


def check(text: str, running: Settings) -> Checked:
    """Hold a whole settings file against the rules. Nothing is written and nothing changes.

    Variables of the environment override it, as they will after the restart. Relative folders
    are taken from the folder in which the node runs.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return Checked((f"not valid TOML: {error}",))
    try:
        settings = settings_of(raw)
    except SettingsError as error:
        return Checked(tuple(error.faults))
    before, after = dict(values_of(running)), dict(values_of(settings))
    differences = tuple(
        Difference(key, before.get(key, ""), after.get(key, ""))
        for key in sorted(before | after)
        if before.get(key) != after.get(key)
    )
    return Checked((), differences)


def settings_of(raw: Mapping[str, Any]) -> Settings:
    """Settings from the sections of a file alone, whatever file this process has read.

    Raises:
        SettingsError: with every fault.
    """
    # a section that is not there counts as empty, so that the file in use does not shine through
    whole: dict[str, Any] = {
        name: [] if isinstance(field.default, tuple) else {}
        for name, field in Settings.model_fields.items()
    }
    return load(overrides={**whole, **raw})


def values_of(settings: Settings) -> Iterator[tuple[str, str]]:
    """Every key and its value as text; secrets are hidden."""
    yield from _flat("", settings.model_dump(mode="json"))


def shown(key: str, value: Any) -> str:
    """A value as text, without what must stay secret."""
    text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    if text and _SECRET.search(key.rpartition(".")[2]) and not key.startswith("web.password"):
        return HIDDEN
    return _USERINFO.sub(rf"\1:{HIDDEN}@", text)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for place, item in enumerate(value):
            name = item.get("name", place)
            yield from _flat(f"{prefix}[{name}]", item)
    elif value not in ({}, []):
        text = ", ".join(str(item) for item in value) if isinstance(value, list) else value
        yield prefix, shown(prefix, text)
