"""What can be set: one class for each section of the file."""

from __future__ import annotations

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
    model_validator,
)

from core.identifiers import AETitle, DicomAddress

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
