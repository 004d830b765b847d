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
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from core.errors import InvalidValueError, ModelSpecError, SettingsError
from core.identifiers import AETitle, DicomAddress
from core.modelspec import find_specs

ENV_PREFIX = "SENTINODE_"
DEFAULT_FILE = Path("sentinode.toml")

_PARTS_OF_A_RULE = 4  # routes, its index, match, keyword
_RULE_HELP = "write a value, a list, { regex = … } or { min = …, max = … }"

Title = Annotated[str, AfterValidator(lambda text: str(AETitle(text)))]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


def _by_commas(value: Any) -> Any:
    """A variable of the environment may hold a list with commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _known_zone(name: str) -> str:
    if name and name not in available_timezones():
        raise ValueError(f"no time zone is called {name!r}")
    return name


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _empty_means_default(cls, values: Any) -> Any:
        """TOML and the environment know no null: an empty text leaves an optional key unset."""
        if not isinstance(values, dict):
            return values
        optional = {key for key, field in cls.model_fields.items() if field.default is None}
        return {key: value for key, value in values.items() if value != "" or key not in optional}


class NodeSettings(_Section):
    """`[node]`: who we are on the network, and whom we talk to."""

    ae_title: Title = Field("SENTINODE", description="Our AE title; called AE must be this")
    host: str = Field("0.0.0.0", description="Address to listen on")  # noqa: S104 - a server
    port: Port = Field(11112, description="Port to listen on")
    accept_unknown: bool = Field(False, description="Take associations from unknown AE titles")
    max_associations: Annotated[int, Field(ge=1)] = Field(
        32, description="Most associations at once, per receiver process; one more is rejected"
    )
    receivers: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Receiver processes that share the port"
    )
    fast_lane: bool = Field(
        True, description="Receive images by our own data path; false: by pynetdicom's"
    )
    max_associations_per_peer: Annotated[int, Field(ge=1)] = Field(
        16, description="Most associations of one AE title at once, per receiver process"
    )
    max_pdu: Annotated[int, Field(ge=4096, le=131072)] = Field(
        131072, description="Largest PDU that we receive, bytes"
    )
    max_instance_mb: Annotated[int, Field(ge=1)] = Field(
        8192, description="Largest instance that we take, MB; a peer may have its own"
    )
    acse_timeout: Seconds = Field(30, description="Wait for association messages, seconds")
    dimse_timeout: Seconds = Field(60, description="Wait for a DIMSE message, seconds")
    network_timeout: Seconds = Field(120, description="Idle association is aborted, seconds")


class StorageSettings(_Section):
    """`[storage]`: where bytes lie."""

    data: Path = Field(Path("data"), description="Folder for everything embedded")
    spool: Path | None = Field(None, description="Folder of the spool; default: data/spool")
    store: str = Field("", description="Folder or fsspec URL of the store; default: data/store")
    min_free_mb: Annotated[int, Field(ge=0)] = Field(
        1024, description="Refuse instances (0xA700) when the spool's disk has less free, MB"
    )
    warn_free_mb: Annotated[int, Field(ge=0)] = Field(
        5120, description="Warn when the disk of spool or store has less free, MB"
    )
    fsync: bool = Field(
        True, description="Answer only when the disk has the image; false may lose images"
    )


class RetentionSettings(_Section):
    """`[retention]`: how long things are kept. Nothing goes that is not yet delivered."""

    originals_days: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Images older than this go from the store; default: kept"
    )
    results_days: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Results older than this go from the store; default: kept"
    )
    ledger_days: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Rows of studies older than this go from the ledger; default: kept"
    )
    max_store_gb: Annotated[float, Field(gt=0)] | None = Field(
        None, description="The oldest images go when the store holds more; default: no limit"
    )
    check_seconds: Seconds = Field(60, description="How often it is looked")


class LedgerSettings(_Section):
    """`[ledger]`: the SQL database."""

    url: str = Field("", description="SQLAlchemy URL; default: SQLite in data/ledger.db")


class QueueSettings(_Section):
    """`[queue]`: the Celery broker."""

    url: str = Field("", description="Broker URL; default: the Valkey inside `sentinode up`")
    name: Name = Field("cpu", description="Queue for jobs whose route names none")
    republish_seconds: Seconds = Field(
        20, description="Publish a job again when no worker took it for so long"
    )


class CompletenessSettings(_Section):
    """`[completeness]`: when a series is whole."""

    quiet_seconds: Seconds = Field(
        5, description="Whole when nothing came for so long after the association ended"
    )
    broken_quiet_seconds: Seconds = Field(
        30, description="The same after an association that broke off: the sender may try again"
    )
    force_seconds: Seconds = Field(
        600,
        description="Taken as incomplete when more was announced and nothing came for so long",
    )
    ask_seconds: Seconds = Field(
        3, description="Between the two counts that a sender with find = true is asked for"
    )


class ServiceSettings(_Section):
    """`[services]`: DICOM services that are off unless they are asked for."""

    mpps: bool = Field(False, description="Take Modality Performed Procedure Steps, as evidence")
    availability: bool = Field(
        False, description="Take Instance Availability Notifications, as evidence"
    )
    commitment: bool = Field(
        False,
        description="Answer storage commitment requests; a modality may delete after our yes",
    )


class WorklistSettings(_Section):
    """`[worklist]`: what peers with `worklist = true` see of our steps."""

    days: Annotated[float, Field(gt=0)] = Field(
        7, description="A step that is over is listed for so long after it began, days"
    )


class JobSettings(_Section):
    """`[jobs]`: leases and attempts."""

    lease_seconds: Seconds = Field(15, description="A worker that is silent so long has died")
    stat_modalities: tuple[str, ...] = Field(
        (), description="Modalities whose jobs go first, as with a STAT request"
    )
    time_limit_seconds: Seconds = Field(
        3600, description="Longest time for a job; a model may have its own"
    )
    max_attempts: Annotated[int, Field(ge=1)] = Field(
        3, description="Attempts at a job that ends in an unknown error before it is failed"
    )
    retry_seconds: Seconds = Field(5, description="First wait after a passing trouble; doubles")


class WorkerSettings(_Section):
    """`[worker]`: how a worker computes."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where torch runs")
    queues: Annotated[tuple[Name, ...], BeforeValidator(_by_commas)] = Field(
        (), description="Queues to serve; default: gpu,cpu by device"
    )
    batch_size: Annotated[int, Field(ge=1)] = Field(8, description="Slices per batch")
    stop_seconds: Seconds = Field(
        20,
        description="A job that still runs so long after SIGTERM is given back; "
        "`sentinode up` ends a worker after 30",
    )
    processes: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Worker processes that `sentinode up` starts"
    )
    threads: Annotated[int, Field(ge=0)] = Field(
        0, description="Threads of torch; 0: its default, shared out among several processes"
    )
    max_voxels: Annotated[int, Field(ge=1)] = Field(
        2_000_000_000,
        description="Most pixels of a series (rows × columns × frames); more is refused unread",
    )


class ModelSettings(_Section):
    """`[models]`: where packages lie beside the built-in ones."""

    folders: tuple[Path, ...] = Field((), description="Folders that hold model packages")
    windows: dict[str, tuple[str, ...]] = Field(
        {},
        description="Of a model that is a rule: what it looks for, by the names in its "
        'model.toml, or as "LOW..HIGH" in its unit; default: its own choice',
    )
    allowed: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = Field(
        (),
        description="Hashes of packages whose own code may run (`sentinode models show NAME`)",
    )


class ResultSettings(_Section):
    """`[results]`: what the objects say."""

    min_volume_ml: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Least lesion volume, mL; default: the model's own"
    )
    max_segments: Annotated[int, Field(ge=1)] = Field(
        50, description="Most lesions per SEG; the largest are kept, the rest is counted"
    )
    uid_root: Annotated[str, Field(pattern=r"^$|^[0-9]+(\.[0-9]+)*$", max_length=40)] = Field(
        "", description="Your own UID root; default: UUID-derived UIDs (2.25)"
    )
    device: str = Field(
        "", max_length=64, description="Serial number of this device; default: node.ae_title"
    )
    institution: str = Field("", max_length=64, description="Institution of the equipment")
    timezone: Annotated[str, AfterValidator(_known_zone)] = Field(
        "",
        description="Time zone of dates in the objects where the source names none, such as "
        "Europe/Berlin; default: this machine's",
    )
    segmentation: Literal["binary", "labelmap", "fractional"] = Field(
        "binary", description="Kind of the SEG; labelmap is another SOP class that few PACS take"
    )
    picture: Literal["always", "findings", "never"] = Field(
        "always", description="When a Secondary Capture with the outlines is sent"
    )
    key_object: bool = Field(False, description="Send a Key Object that names the key images")
    iocm: bool = Field(
        False, description="Reject the objects of an earlier analysis by a Key Object (IHE IOCM)"
    )


class DeliverySettings(_Section):
    """`[delivery]`: how results go out."""

    retry_seconds: Seconds = Field(5, description="First wait after a failed try; doubles")
    retry_max_seconds: Seconds = Field(300, description="Longest wait between tries")
    max_refusals: Annotated[int, Field(ge=1)] = Field(
        5, description="Tries at an object that the destination answers with an error"
    )
    timeout: Seconds = Field(60, description="Wait for the destination's answer, seconds")
    fallback: bool = Field(
        True, description="Make what a destination does accept of an object that it refuses"
    )
    relearn_hours: Annotated[float, Field(gt=0)] = Field(
        24, description="A SOP class that a destination refused is offered again after so long"
    )
    commit_seconds: Seconds = Field(
        3600, description="Longest wait for the report of a storage commitment"
    )
    proof_seconds: Seconds = Field(
        10, description="Wait before a destination with find = true is asked whether it has it"
    )


class WebSettings(_Section):
    """`[web]`: the pages, the HTTP interface and DICOMweb."""

    enabled: bool = Field(True, description="Whether `sentinode up` starts the role web")
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on; another than this machine's own needs cert and key, "
        "or proxy",
    )
    port: Port = Field(8112, description="Port to listen on")
    cert: Path | None = Field(None, description="TLS certificate with its chain, PEM")
    key: Path | None = Field(None, description="TLS private key, PEM")
    proxy: bool = Field(
        False, description="A proxy before it speaks TLS and says who asks (X-Forwarded-…)"
    )
    proxy_addresses: tuple[str, ...] = Field(
        ("127.0.0.1", "::1"), description="Addresses of that proxy; only it is believed"
    )
    url: str = Field(
        "", description="How browsers reach it, for links; default: made from host and port"
    )
    origins: tuple[str, ...] = Field(
        (), description="Other web sites whose viewers may read DICOMweb, e.g. an OHIF elsewhere"
    )
    idle_minutes: Annotated[float, Field(gt=0)] = Field(
        120, description="A session ends that was not used for so long"
    )
    session_hours: Annotated[float, Field(gt=0)] = Field(
        24, description="A session ends after so long in any case"
    )
    password_length: Annotated[int, Field(ge=8, le=128)] = Field(
        12, description="Least characters of a password"
    )

    @property
    def secure(self) -> bool:
        """Whether browsers speak TLS to it, itself or through the proxy."""
        return self.proxy or self.cert is not None

    @property
    def shown_url(self) -> str:
        """How browsers reach it, without a slash at the end."""
        if self.url:
            return self.url.rstrip("/")
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104
        return f"{'https' if self.cert else 'http'}://{host}:{self.port}"


class AuditSettings(_Section):
    """`[audit]`: who looked at what and did what, as DICOM audit messages (PS3.15 A.5)."""

    file: Path | None = Field(
        None, description="File of the messages, one a line; default: data/audit/audit.xml"
    )
    max_mb: Annotated[int, Field(ge=1)] = Field(
        50, description="The file is put aside when it is larger, MB"
    )
    keep: Annotated[int, Field(ge=1)] = Field(20, description="So many put aside are kept")
    syslog: str = Field(
        "",
        description="A syslog server gets them too: udp://host:514, tcp://host:601 or "
        "tls://host:6514",
    )


class Notice(_Section):
    """`[[notices]]`: a webhook that is told of trouble. No patient data goes there."""

    name: Name = Field(description="How logs call it")
    url: str = Field(description="http or https URL that gets a JSON object by POST")
    events: tuple[
        Literal["job_failed", "destination_down", "destination_well", "disk_low", "disk_well"], ...
    ] = Field(
        ("job_failed", "destination_down", "destination_well", "disk_low", "disk_well"),
        description="What it is told; default: everything",
    )
    secret: SecretStr | None = Field(
        None, description="Signs the body: X-Sentinode-Signature, HMAC-SHA-256"
    )


class LogSettings(_Section):
    """`[logs]`: what is told, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level")
    json_lines: bool = Field(False, description="One JSON object a line instead of text")


class Peer(_Section):
    """`[[peers]]`: an AE title that we know."""

    name: Name = Field(description="How routes and commands call it")
    ae_title: Title = Field(description="Its AE title")
    host: str | None = Field(None, description="Its address, where we send to it")
    port: Port | None = Field(None, description="Its port, where we send to it")
    send: bool = Field(True, description="May send us images")
    query: bool = Field(False, description="May query and retrieve")
    worklist: bool = Field(False, description="May query the worklist")
    archive: bool = Field(False, description="Gets results by default")
    commit: bool = Field(False, description="Is asked for storage commitment")
    find: bool = Field(
        False, description="Is queried: how many images a series has, and what it holds of ours"
    )
    max_instance_mb: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Largest instance from it, MB; default: node.max_instance_mb"
    )
    max_per_second: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Most instances a second from it, over all receiver processes of a machine; "
        "more are slowed down",
    )

    @property
    def address(self) -> DicomAddress | None:
        """Where it listens, or None if nothing can be sent to it."""
        if self.host is None or self.port is None:
            return None
        return DicomAddress(AETitle(self.ae_title), self.host, self.port)


class RegexRule(_Section):
    """A value must match a regular expression somewhere."""

    regex: str


class RangeRule(_Section):
    """A number must lie in a range, ends included."""

    min: float | None = None
    max: float | None = None


Rule = str | int | float | list[str | int | float] | RegexRule | RangeRule


class Route(_Section):
    """`[[routes]]`: which series go to which model, and where the results go."""

    name: Name = Field(description="How logs and explanations call it")
    model: str | None = Field(
        None, description="Model package; none for a route that only passes images on"
    )
    priority: Literal["stat", "high", "routine", "low"] = Field(
        "routine", description="Which jobs go first"
    )
    forward: tuple[str, ...] = Field(
        (), description="Peers that get the original images, unchanged"
    )
    match: dict[str, Rule] = Field({}, description="DICOM keyword → what its value must be")
    min_instances: Annotated[int, Field(ge=1)] = Field(1, description="Least images of the series")
    destinations: tuple[str, ...] | None = Field(
        None, description="Peers that get the results; default: those with archive = true"
    )
    queue: Name | None = Field(None, description="Queue of its jobs; default: queue.name")


class Workitem(_Section):
    """`[[workitems]]`: what other systems may order by Unified Procedure Step."""

    code: Annotated[str, Field(min_length=1, max_length=16)] = Field(
        description="Code Value of the Scheduled Workitem Code that is ordered"
    )
    scheme: Annotated[str, Field(min_length=1, max_length=16)] = Field(
        "99SENTINODE", description="Its Coding Scheme Designator"
    )
    meaning: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        description="Its Code Meaning"
    )
    route: Name | None = Field(None, description="The route whose model does it")
    outside: bool = Field(
        False, description="Other performers may claim it; none of our workers does it then"
    )
    hours: Annotated[float, Field(gt=0)] = Field(
        24, description="An outside performer's claim is overdue after so long, hours"
    )


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
        faults += _faults_of(error)
    except InvalidValueError as error:
        faults.append(str(error))
    faults += _unknown_variables()
    faults += _cross_faults(_with_environment(raw))
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


def _faults_of(error: ValidationError) -> list[str]:
    faults = []
    for fault in error.errors():
        place = fault["loc"]
        if len(place) > _PARTS_OF_A_RULE and (place[0], place[2]) == ("routes", "match"):
            # pydantic tells each member of the union that did not fit; one line says it all
            faults.append(f"{_key(place[:_PARTS_OF_A_RULE])}: {_RULE_HELP}")
        else:
            faults.append(f"{_key(place)}: {_message(fault)}")
    return faults


def _key(location: tuple[int | str, ...]) -> str:
    key = ""
    for part in location:
        if isinstance(part, int):
            key += f"[{part}]"
        else:
            key += f".{part}" if key else part
    return key


def _message(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return "unknown key"
    text = str(fault["msg"])
    value = fault.get("input")
    shown = f" (it is {value!r})" if isinstance(value, str | int | float | bool) else ""
    return text[0].lower() + text[1:] + shown


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


def _cross_faults(raw: dict[str, Any]) -> list[str]:
    """Faults that need more than one key. Works on raw values, so that they show at once."""
    faults: list[str] = []
    peers = _dicts(raw.get("peers"))
    routes = _dicts(raw.get("routes"))
    faults += _doubles("peers", [peer.get("name") for peer in peers])
    faults += _doubles("routes", [route.get("name") for route in routes])
    faults += _doubles("peers", [peer.get("ae_title") for peer in peers], key="ae_title")

    models = raw.get("models")
    folders = _texts(models.get("folders")) if isinstance(models, dict) else []
    known: set[str] | None = None
    try:
        known = set(find_specs(tuple(Path(folder) for folder in folders)))
    except ModelSpecError as error:
        faults.append(f"models.folders: {error}")
    named = _texts([peer.get("name") for peer in peers])
    sendable = _texts([peer.get("name") for peer in peers if peer.get("host") and peer.get("port")])
    for index, peer in enumerate(peers):
        asked = [key for key in ("archive", "commit", "find") if peer.get(key)]
        if asked and peer.get("name") not in sendable:
            faults.append(f"peers[{index}].host: {asked[0]} = true needs host and port")
    for index, route in enumerate(routes):
        model = route.get("model")
        if isinstance(model, str) and known is not None and model not in known:
            names = ", ".join(sorted(known)) or "none"
            faults.append(
                f"routes[{index}].model: no model {model!r} is installed (there is: {names})"
            )
        if not model and not route.get("forward"):
            faults.append(f"routes[{index}].model: a route needs a model, or peers to forward to")
        for among in ("destinations", "forward"):
            for number, name in enumerate(_texts(route.get(among))):
                key = f"routes[{index}].{among}[{number}]"
                if name not in named:
                    faults.append(f"{key}: no peer is called {name!r}")
                elif name not in sendable:
                    faults.append(f"{key}: peer {name!r} has no host and port to send to")
        match = route.get("match")
        for keyword, rule in match.items() if isinstance(match, dict) else ():
            faults += _rule_faults(f"routes[{index}].match.{keyword}", keyword, rule)
    return faults + _workitem_faults(raw, routes) + _web_faults(raw)


def _workitem_faults(raw: dict[str, Any], routes: list[dict[str, Any]]) -> list[str]:
    """A workitem is done by a route of ours, or by somebody else."""
    faults: list[str] = []
    called = _texts([route.get("name") for route in routes])
    workitems = _dicts(raw.get("workitems"))
    codes = [f"{item.get('scheme', '99SENTINODE')} {item.get('code')}" for item in workitems]
    for index, item in enumerate(workitems):
        route_name = item.get("route")
        if codes.index(codes[index]) != index:
            faults.append(f"workitems[{index}].code: {codes[index]!r} is there twice")
        if bool(route_name) == bool(item.get("outside")):
            faults.append(f"workitems[{index}].route: give a route, or outside = true; not both")
        elif isinstance(route_name, str) and route_name and route_name not in called:
            faults.append(f"workitems[{index}].route: no route is called {route_name!r}")
    return faults


def _web_faults(raw: dict[str, Any]) -> list[str]:
    """The pages show patients' images: never unprotected on a network."""
    faults: list[str] = []
    web = raw.get("web")
    web = web if isinstance(web, dict) else {}
    host = web.get("host") or "127.0.0.1"
    tls = bool(web.get("cert")) and bool(web.get("key"))
    if bool(web.get("cert")) != bool(web.get("key")):
        faults.append("web.cert: cert and key go together")
    proxied = str(web.get("proxy", False)).lower() in {"true", "1", "yes", "on"}
    if isinstance(host, str) and not _is_loopback(host) and not tls and not proxied:
        faults.append(
            f"web.host: {host!r} can be reached from other machines, which needs web.cert and "
            "web.key, or web.proxy = true behind a proxy that speaks TLS"
        )
    audit = raw.get("audit")
    syslog = audit.get("syslog") if isinstance(audit, dict) else ""
    if isinstance(syslog, str) and syslog:
        known = re.fullmatch(r"(udp|tcp|tls)://(\[[0-9A-Fa-f:]+\]|[^\[\]:/]+):([0-9]{1,5})", syslog)
        if not known:
            faults.append(f"audit.syslog: {syslog!r} is not udp://, tcp:// or tls://host:port")
    notices = _dicts(raw.get("notices"))
    faults += _doubles("notices", [notice.get("name") for notice in notices])
    for index, notice in enumerate(notices):
        url = notice.get("url")
        if isinstance(url, str) and not re.match(r"https?://[^/\s]+", url):
            faults.append(f"notices[{index}].url: {url!r} is no http or https URL")
    return faults


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def rule_faults(match: Mapping[str, Any]) -> list[str]:
    """What is wrong with the conditions of a route that was not read by `load`."""
    return [
        fault
        for keyword, rule in match.items()
        for fault in _rule_faults(f"match.{keyword}", keyword, rule)
    ]


def _rule_faults(key: str, keyword: str, rule: Any) -> list[str]:
    from pydicom.datadict import tag_for_keyword  # noqa: PLC0415 - 0.2 s; only with routes

    faults = []
    if tag_for_keyword(keyword) is None:
        faults.append(f"{key}: {keyword!r} is no DICOM keyword")
    if not isinstance(rule, dict):
        return faults
    if isinstance(rule.get("regex"), str):
        try:
            re.compile(rule["regex"])
        except re.error as error:
            faults.append(f"{key}.regex: {error}")
    if "regex" not in rule and not {"min", "max"} & set(rule):
        faults.append(f"{key}: {_RULE_HELP}")
    low, high = rule.get("min"), rule.get("max")
    if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
        faults.append(f"{key}: min {low} is greater than max {high}, so nothing would match")
    return faults


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _doubles(section: str, names: list[Any], key: str = "name") -> list[str]:
    seen: set[str] = set()
    faults = []
    for index, name in enumerate(names):
        if not isinstance(name, str):
            continue
        if name in seen:
            faults.append(f"{section}[{index}].{key}: {name!r} is used twice")
        seen.add(name)
    return faults
