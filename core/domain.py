"""The records that all parts speak of, as frozen values.

Rows of the ledger are read into these; nothing outside `core.ledger` touches a table.
Coordinates are patient coordinates (LPS, mm) unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from core.lifecycle import JobState, SeriesState, TransferState
from core.modelspec import Code

# Attributes that say whose an image is: they must agree within a study (promise 3).
IDENTITY_KEYWORDS = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "AccessionNumber",
    "StudyInstanceUID",
)


@dataclass(frozen=True, slots=True)
class Association:
    """One association that sent us instances.

    Attributes:
        id: our own identifier for it.
        ended_at: None while it is open.
        end: "released", "aborted" or "broken off"; None while it is open.
    """

    id: str
    calling_ae: str
    called_ae: str
    peer_address: str
    began_at: datetime
    ended_at: datetime | None = None
    end: str | None = None


@dataclass(frozen=True, slots=True)
class IncomingInstance:
    """An instance as intake read it from the spool, before it is filed.

    Attributes:
        digest: SHA-256 of the data set's content, independent of the little endian encoding.
        attributes: the short attributes of the data set by keyword, for routing and display.
        identity: the values of `IDENTITY_KEYWORDS`, padding removed.
        own_result: whether one of our nodes made it.
    """

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    digest: str
    store_key: str
    size: int
    received_at: datetime
    association: Association
    attributes: dict[str, Any]
    identity: dict[str, str]
    own_result: bool = False


@dataclass(frozen=True, slots=True)
class Instance:
    """One stored version of an instance."""

    id: int
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    digest: str
    version: int
    store_key: str
    size: int
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Series:
    """A series as the ledger knows it."""

    series_instance_uid: str
    study_instance_uid: str
    modality: str
    description: str
    number: str
    state: SeriesState
    revision: int
    instances: int
    attributes: dict[str, Any]
    decision: str = ""
    decided_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """A study as the ledger knows it. Patient attributes are for people, never for logs."""

    study_instance_uid: str
    patient_id: str
    patient_name: str
    accession_number: str
    description: str
    study_date: str
    first_received_at: datetime
    conflict: bool
    series: tuple[Series, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """Why a route took a series, or why not."""

    route: str
    matched: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Job:
    """One analysis of one input by one version of one model.

    Attributes:
        id: UUID as text; the only thing that a queue message carries.
        run: 1 for the first; a re-run of the same input counts up.
        created_at: also the date that every object made by the job bears.
        reason: why it ended as it did, for a person.
    """

    id: str
    study_instance_uid: str
    route: str
    model: str
    model_version: str
    queue: str
    state: JobState
    run: int
    attempt: int
    created_at: datetime
    updated_at: datetime
    destinations: tuple[str, ...]
    series_instance_uids: tuple[str, ...] = ()
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    next_try_at: datetime | None = None
    lease_owner: str | None = None
    lease_until: datetime | None = None
    reason: str = ""
    remedy: str = ""
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One step in a job's life."""

    at: datetime
    state: JobState
    note: str
    actor: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured value of a finding (PS3.16 TID 300).

    Attributes:
        concept: what was measured.
        unit: UCUM code, for example "mL".
        method: how, or None where the concept says it all.
    """

    concept: Code
    value: float
    unit: Code
    method: Code | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One lesion, or the statement that the lesion sought is absent.

    Attributes:
        number: 1 for the first; also the segment number in the SEG. 0 for "absent".
        label: what a person reads.
        present: False only for the one finding that says "sought and absent".
        tracking_uid: the same in the SEG's segment and the SR's measurement group.
        centre: centre of mass (x, y, z), LPS, mm.
        box: bounding box as the voxel centres' least and greatest (x, y, z), LPS, mm:
            (x0, y0, z0, x1, y1, z1).
        slices: first and last slice that it touches, from 0, in the sorted volume.
        probability: mean of the model's probability over the lesion's voxels, 0 to 1.
    """

    number: int
    label: str
    category: Code
    type: Code
    tracking_uid: str
    present: bool = True
    site: Code | None = None
    color: tuple[int, int, int] = (255, 64, 64)
    centre: tuple[float, float, float] | None = None
    box: tuple[float, float, float, float, float, float] | None = None
    slices: tuple[int, int] | None = None
    probability: float | None = None
    measurements: tuple[Measurement, ...] = ()


class ResultKind(StrEnum):
    """What a result is."""

    SEG = "SEG"
    SR = "SR"
    PICTURE = "PICTURE"


@dataclass(frozen=True, slots=True)
class Result:
    """One object that a job made; its bytes lie in the store under `store_key`.

    `sop_instance_uid` and `sop_class_uid` are empty for a picture, which is no DICOM object.
    """

    kind: ResultKind
    store_key: str
    digest: str
    size: int
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    series_instance_uid: str = ""
    id: int = 0


@dataclass(frozen=True, slots=True)
class Transfer:
    """The delivery of one result to one destination."""

    id: int
    result: Result
    job_id: str
    study_instance_uid: str
    destination: str
    state: TransferState
    attempts: int
    created_at: datetime
    next_try_at: datetime | None
    status: int | None
    message: str
    sent_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TransferAttempt:
    """One try to deliver, and how it ended."""

    at: datetime
    status: int | None
    message: str
