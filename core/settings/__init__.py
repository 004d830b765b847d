"""Settings: `sentinode.toml` and `SENTINODE_…` variables, read in one place, frozen.

A variable overrides the file: `SENTINODE_NODE__PORT=11112` is `port` under `[node]`. Peers and
routes are lists and live in the file. Every fault is reported at once, by its full key.
Nothing is read at import.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from core.errors import InvalidValueError, SettingsError
from core.settings.faults import cross_faults, faults_of, rule_faults
from core.settings.sections import (
    AuditSettings,
    CompletenessSettings,
    DeliverySettings,
    JobSettings,
    LedgerSettings,
    LogSettings,
    ModelSettings,
    NodeSettings,
    Notice,
    Peer,
    QueueSettings,
    RangeRule,
    RegexRule,
    ResultSettings,
    RetentionSettings,
    Route,
    Rule,
    ServiceSettings,
    StorageSettings,
    WebSettings,
    WorkerSettings,
    Workitem,
    WorklistSettings,
)

ENV_PREFIX = "SENTINODE_"
DEFAULT_FILE = Path("sentinode.toml")

__all__ = [
    "DEFAULT_FILE",
    "ENV_PREFIX",
    "AuditSettings",
    "CompletenessSettings",
    "DeliverySettings",
    "JobSettings",
    "LedgerSettings",
    "LogSettings",
    "ModelSettings",
    "NodeSettings",
    "Notice",
    "Peer",
    "QueueSettings",
    "RangeRule",
    "RegexRule",
    "ResultSettings",
    "RetentionSettings",
    "Route",
    "Rule",
    "ServiceSettings",
    "Settings",
    "StorageSettings",
    "WebSettings",
    "WorkerSettings",
    "Workitem",
    "WorklistSettings",
    "load",
    "rule_faults",
]


class _Environment(EnvSettingsSource):
    """The variables. One that is no JSON stays text, which the validation reports by its key."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


class Settings(BaseSettings):
    """All settings. Build it with `load`, which reports every fault at once."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter="__"
    )

    node: NodeSettings = NodeSettings()
    storage: StorageSettings = StorageSettings()
    ledger: LedgerSettings = LedgerSettings()
    queue: QueueSettings = QueueSettings()
    services: ServiceSettings = ServiceSettings()
    completeness: CompletenessSettings = CompletenessSettings()
    worklist: WorklistSettings = WorklistSettings()
    jobs: JobSettings = JobSettings()
    worker: WorkerSettings = WorkerSettings()
    models: ModelSettings = ModelSettings()
    results: ResultSettings = ResultSettings()
    delivery: DeliverySettings = DeliverySettings()
    retention: RetentionSettings = RetentionSettings()
    web: WebSettings = WebSettings()
    audit: AuditSettings = AuditSettings()
    logs: LogSettings = LogSettings()
    peers: tuple[Peer, ...] = ()
    routes: tuple[Route, ...] = ()
    notices: tuple[Notice, ...] = ()
    workitems: tuple[Workitem, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return _Environment(settings_cls), init_settings

    @property
    def data(self) -> Path:
        """Folder for everything embedded, absolute."""
        return self.storage.data.absolute()

    @property
    def spool(self) -> Path:
        """Folder of the spool, absolute."""
        return (self.storage.spool or self.storage.data / "spool").absolute()

    @property
    def store_url(self) -> str:
        """Folder or URL of the store."""
        return self.storage.store or str(self.data / "store")

    @property
    def audit_file(self) -> Path:
        """File of the audit messages, absolute."""
        return (self.audit.file or self.storage.data / "audit" / "audit.xml").absolute()

    @property
    def ledger_url(self) -> str:
        """SQLAlchemy URL of the ledger."""
        return self.ledger.url or f"sqlite:///{self.data / 'ledger.db'}"

    @property
    def embedded_ledger(self) -> bool:
        """Whether the ledger is our own SQLite file, which we may migrate unasked."""
        return self.ledger_url.startswith("sqlite")

    @property
    def embedded_broker(self) -> bool:
        """Whether the broker is the Valkey that `sentinode up` starts."""
        return not self.queue.url

    def peer(self, name: str) -> Peer | None:
        """The peer of that name."""
        return next((peer for peer in self.peers if peer.name == name), None)

    def queue_of(self, route: Route) -> str:
        """The queue of a route's jobs."""
        return route.queue or self.queue.name

    def destinations(self, route: Route) -> tuple[str, ...]:
        """Names of the peers that get the results of `route`."""
        if route.destinations is not None:
            return route.destinations
        return tuple(peer.name for peer in self.peers if peer.archive)


def load(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings from `path` (default: sentinode.toml, if it exists) and the environment.

    `overrides` are sections that replace the file's, for embedding. Relative folders are taken
    from the folder of the file.

    Raises:
        SettingsError: with every fault, each by its full key.
    """
    source = path or DEFAULT_FILE
    raw: dict[str, Any] = {}
    if source.is_file():
        try:
            raw = tomllib.loads(source.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(str(source), [f"not valid TOML: {error}"]) from error
    elif path is not None:
        raise SettingsError(str(path), ["there is no such file; `sentinode init` writes one"])
    raw = {**raw, **(overrides or {})}
    raw = _anchored(raw, source.absolute().parent)

    faults: list[str] = []
    settings: Settings | None = None
    try:
        settings = Settings(**raw)
    except ValidationError as error:
        faults += faults_of(error)
    except InvalidValueError as error:
        faults.append(str(error))
    faults += _unknown_variables()
    faults += cross_faults(_with_environment(raw))
    if faults or settings is None:
        raise SettingsError(str(source), sorted(set(faults)))
    return settings


def _anchored(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make relative paths absolute, so that every process of the node means the same folder."""

    def anchor(value: Any) -> Any:
        return str(folder / value) if isinstance(value, str) and value else value

    raw = dict(raw)
    storage = raw.get("storage", {})
    if isinstance(storage, dict):
        storage = {"data": "data", **storage}
        for key in ("data", "spool"):
            if key in storage:
                storage[key] = anchor(storage[key])
        if isinstance(storage.get("store"), str) and "://" not in storage["store"]:
            storage["store"] = anchor(storage["store"])
        raw["storage"] = storage
    for name, keys in (("web", ("cert", "key")), ("audit", ("file",))):
        section = raw.get(name, {})
        if isinstance(section, dict):
            raw[name] = {
                key: anchor(value) if key in keys else value for key, value in section.items()
            }
    models = raw.get("models", {})
    if isinstance(models, dict) and isinstance(models.get("folders"), list):
        raw["models"] = {**models, "folders": [anchor(item) for item in models["folders"]]}
    ledger = raw.get("ledger", {})
    if isinstance(ledger, dict) and isinstance(ledger.get("url"), str):
        relative = re.fullmatch(r"(sqlite(?:\+\w+)?:///)(?!/|:memory:)(.+)", ledger["url"])
        if relative:
            raw["ledger"] = {**ledger, "url": relative[1] + anchor(relative[2])}
    return raw


def _with_environment(raw: dict[str, Any]) -> dict[str, Any]:
    """Overlay the variables, for the checks that look across sections."""
    merged = dict(raw)
    for section, values in _Environment(Settings)().items():
        if isinstance(values, dict) and isinstance(merged.get(section, {}), dict):
            merged[section] = {**merged.get(section, {}), **values}
        else:
            merged[section] = values
    return merged


def _unknown_variables() -> list[str]:
    """Variables that would be settings, if there were such a section.

    Only those with two underscores: a container platform adds names such as SENTINODE_PORT.
    """
    return [
        f"{name}: unknown key"
        for name in os.environ
        if name.upper().startswith(ENV_PREFIX)
        and "__" in name
        and name[len(ENV_PREFIX) :].partition("__")[0].lower() not in Settings.model_fields
    ]
