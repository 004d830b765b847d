"""The records that all parts speak of, as frozen values.

Rows of the ledger are read into these; nothing outside `core.ledger` touches a table.
Coordinates are patient coordinates (LPS, mm) unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from core.lifecycle import JobState, RenditionState, SeriesState, TransferState
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

# What the ledger keeps of an object that we made, so that queries can tell it.
RESULT_KEYWORDS = (
    "Modality",
    "SeriesNumber",
    "SeriesDescription",
    "SeriesDate",
    "SeriesTime",
    "InstanceNumber",
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
        number: Instance Number (0020,0013), or empty.
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
    number: str = ""


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
    """A series as the ledger knows it.

    Attributes:
        decision: why it is whole, for a person.
        decided_by: the kind of evidence that decided (`core.lifecycle.EvidenceSource`), or empty.
        expected: how many images it should have, where anybody said so.
        incomplete: it was taken as whole although more was announced than came.
    """

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
    decided_by: str = ""
    expected: int | None = None
    incomplete: bool = False


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
        deaths: how many workers died while they ran it, by its fault as far as is known.
        losses: how often its lease ran out, and nobody knows why.
        priority: the greater goes first; 0 is routine.
        size: bytes of the input.
        sender: AE title that the input came from.
        expected: how many images there should be, where anybody said so.
        strain: how often memory ran out: 1 computes one image at a time, 2 on the CPU.
        same_as: the job whose results count for this one too, for it had the same input.
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
    deaths: int = 0
    losses: int = 0
    priority: int = 0
    size: int = 0
    sender: str = ""
    expected: int | None = None
    strain: int = 0
    same_as: str | None = None


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
        derivation: what was made of many values, e.g. (373098007, SCT, "Mean"); None where the
            concept says it all.
    """

    concept: Code
    value: float
    unit: Code
    method: Code | None = None
    derivation: Code | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One coded reading of a finding (PS3.16 TID 1501, row 10): a concept and its value."""

    concept: Code
    value: Code


class FindingKind(StrEnum):
    """What a finding speaks of.

    lesion: a region that was outlined, or the statement that none is there.
    classification: a whole image or series.
    structure: anatomy that was outlined; it is shown and measured, and is no finding.
    """

    LESION = "lesion"
    CLASSIFICATION = "classification"
    STRUCTURE = "structure"


class Space(StrEnum):
    """What coordinates count in.

    patient: LPS, mm, in the Frame of Reference.
    image: (column, row, frame) of the stack: column and row in pixels from the upper left
        corner of the image, so that the centre of its first pixel is (0.5, 0.5), as SCOORD has
        it (PS3.3 C.18.6.1.1); frames from 0 in the stack.
    """

    PATIENT = "patient"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class KeyImage:
    """The image that shows a finding best.

    Attributes:
        frame: Referenced Frame Number, from 1; None for a single-frame instance.
        index: its place in the stack, from 0.
    """

    sop_instance_uid: str
    frame: int | None
    index: int


@dataclass(frozen=True, slots=True)
class Axes:
    """The longest diameter on a slice and the one across it, as RECIST 1.1 measures.

    Attributes:
        index: the slice, from 0 in the stack.
        long, short: both ends, each (column, row) in pixels of that slice, counted as
            `Space.IMAGE` counts.
    """

    index: int
    long: tuple[tuple[float, float], tuple[float, float]]
    short: tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One lesion, one class of a whole image, or the statement that what was sought is absent.

    Attributes:
        number: 1 for the first; 0 for "absent".
        label: what a person reads.
        present: False where it was sought and is absent.
        tracking_uid: the same in the SEG's segment and the SR's measurement group.
        part: index of the stack that it lies in.
        segment: Segment Number in that part's SEG, from 1; 0 where there is none.
        channel: the model's output channel that it came from.
        laterality: side of the body, (7771000, SCT, "Left") or (24028007, SCT, "Right"); None
            where nothing in the data says it.
        space: what `centre` and `box` count in.
        centre: centre of mass (x, y, z).
        box: bounding box as the voxel centres' least and greatest (x, y, z):
            (x0, y0, z0, x1, y1, z1).
        slices: first and last slice that it touches, from 0, in the sorted stack.
        key_image: the slice with its longest diameter, or the frame that was classified.
        axes: the diameters measured there.
        probability: mean of the model's probability over the lesion's voxels, or the class's
            probability; 0 to 1.
        evaluations: coded readings other than present or absent.
    """

    number: int
    label: str
    category: Code
    type: Code
    tracking_uid: str
    kind: FindingKind = FindingKind.LESION
    present: bool = True
    part: int = 0
    segment: int = 0
    channel: int = 0
    site: Code | None = None
    laterality: Code | None = None
    color: tuple[int, int, int] = (255, 64, 64)
    space: Space = Space.PATIENT
    centre: tuple[float, float, float] | None = None
    box: tuple[float, float, float, float, float, float] | None = None
    slices: tuple[int, int] | None = None
    key_image: KeyImage | None = None
    axes: Axes | None = None
    probability: float | None = None
    measurements: tuple[Measurement, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()


class ResultKind(StrEnum):
    """What a result is.

    SEG: segmentation. SR: structured report. SC: the picture as Secondary Capture. KO: a Key
    Object that points to the images with findings. REJECTION: a Key Object that rejects the
    objects of an earlier analysis (IHE IOCM). PICTURE: the picture as PNG; HEAT: class activation
    maps as tiles of a PNG. Both are for pages and are never sent.
    """

    SEG = "SEG"
    SR = "SR"
    SC = "SC"
    KO = "KO"
    REJECTION = "REJECTION"
    PICTURE = "PICTURE"
    HEAT = "HEAT"


# No DICOM objects.
FOR_PAGES = frozenset({ResultKind.PICTURE, ResultKind.HEAT})


@dataclass(frozen=True, slots=True)
class Result:
    """One object that a job made; its bytes lie in the store under `store_key`.

    Attributes:
        part: counts results of one kind, from 0.
        alternative_to: the result that this one stands in for, at destinations that refuse it.
        sop_class_uid, sop_instance_uid, series_instance_uid: empty for a PICTURE or HEAT,
            which are no DICOM objects.
        attributes: what queries tell of it and of its series, by keyword.
    """

    kind: ResultKind
    store_key: str
    digest: str
    size: int
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    series_instance_uid: str = ""
    part: int = 0
    alternative_to: int | None = None
    id: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rendition:
    """A result that is to be made in another SOP class, for destinations that refuse its own.

    Attributes:
        result: what it is made from.
        sop_class_uid: what it is made in.
    """

    id: int
    result: Result
    job_id: str
    study_instance_uid: str
    sop_class_uid: str
    queue: str
    state: RenditionState
    attempts: int
    created_at: datetime
    next_try_at: datetime | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RefusedClass:
    """A SOP class that a destination does not take.

    Attributes:
        at: when it last said so.
        how: what it said: the negotiation's answer or a status.
    """

    destination: str
    sop_class_uid: str
    at: datetime
    how: str


IMAGE = "IMAGE"


@dataclass(frozen=True, slots=True)
class Transfer:
    """The delivery of one result, or of one original that a route passes on, to one destination.

    Attributes:
        result, instance: what is sent; exactly one of them is there.
        job_id: empty for an original.
        refusals: how often the destination answered it with an error, or did not keep it.
        class_refused: it was refused because the destination takes no object of its SOP class.
        rendition_id: what is made for the destination instead, if anything.
        proof: how it is known that the destination has it (`core.lifecycle.Proof`), or empty.
        proof_tries: how often the destination was queried and did not list it.
        waits_for: what must be at the destination before it, for a person, where nothing else
            says why it is still due.
    """

    id: int
    result: Result | None
    instance: Instance | None
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
    refusals: int = 0
    class_refused: bool = False
    rendition_id: int | None = None
    proof: str = ""
    proof_tries: int = 0
    proved_at: datetime | None = None
    waits_for: str = ""

    @property
    def _object(self) -> Result | Instance:
        what = self.result or self.instance
        assert what is not None
        return what

    @property
    def kind(self) -> str:
        """The kind of the result, or `IMAGE` for an original."""
        return str(self.result.kind) if self.result else IMAGE

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID of the object."""
        return self._object.sop_class_uid

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID of the object."""
        return self._object.sop_instance_uid

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID of the object."""
        return self._object.series_instance_uid

    @property
    def store_key(self) -> str:
        """Where its bytes lie in the store."""
        return self._object.store_key

    @property
    def size(self) -> int:
        """Its size in the store, bytes."""
        return self._object.size


@dataclass(frozen=True, slots=True)
class Commitment:
    """A storage commitment that we ask a destination for (PS3.4 Annex J).

    Attributes:
        attempts: how often the destination answered the question so far.
        instances: (SOP Class UID, SOP Instance UID) of each object.
    """

    id: int
    transaction_uid: str
    destination: str
    attempts: int
    instances: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Delivered:
    """How many objects of one kind went to a destination in the same way.

    Attributes:
        kind: a `ResultKind`, or `IMAGE`.
        status: the last answer to C-STORE, or None.
        message: of one of them.
    """

    destination: str
    kind: str
    state: TransferState
    proof: str
    status: int | None
    message: str
    count: int


@dataclass(frozen=True, slots=True)
class TransferAttempt:
    """One try to deliver, and how it ended."""

    at: datetime
    status: int | None
    message: str
