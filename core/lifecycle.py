"""States of a series, a job and a transfer, and one table of legal moves for each.

The ledger makes no move that is not in these tables; the tables are also what the
documentation and the tests read.
"""

from __future__ import annotations

from enum import StrEnum


class SeriesState(StrEnum):
    """Where a series stands.

    receiving: images may still come.
    whole: it was decided that none come; its routes were evaluated.
    own: our own result coming back; never analysed.
    """

    RECEIVING = "receiving"
    WHOLE = "whole"
    OWN = "own"


class JobState(StrEnum):
    """Where a job stands.

    waiting: to be published when its time comes.
    queued: a message with its id is at the broker.
    running: a worker holds its lease.
    done: its results are in the ledger and the store.
    not_applicable: the input is not what the model is for.
    failed: it ended without a result; the reason says why.
    quarantined: it took its worker down too often; a person must look.
    held: an identity conflict waits for an administrator.
    cancelled: an administrator ended it.
    superseded: a later job with a larger input took its place.
    """

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    NOT_APPLICABLE = "not_applicable"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    HELD = "held"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


class RenditionState(StrEnum):
    """Where the making of an alternative object stands.

    waiting: to be published when its time comes.
    queued: a message with its id is at the broker.
    running: a worker holds its lease.
    done: the objects are in the ledger and the store.
    failed: they cannot be made; the reason says why.
    """

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class TransferState(StrEnum):
    """Where an object's delivery to one destination stands.

    due: to be sent when its time comes.
    sending: a sender holds its lease.
    sent: the destination answered success or a warning.
    committed: the destination took responsibility (storage commitment).
    refused: the destination will not take it, however often it is sent.
    failed: given up, or cancelled by an administrator.
    paused: held by an identity conflict or an administrator.
    """

    DUE = "due"
    SENDING = "sending"
    SENT = "sent"
    COMMITTED = "committed"
    REFUSED = "refused"
    FAILED = "failed"
    PAUSED = "paused"


class CommitmentState(StrEnum):
    """Where a storage commitment stands that we ask a destination for.

    due: to be asked when its time comes.
    asking: a sender holds its lease.
    asked: the destination took the question; its report is waited for.
    reported: the destination said which objects it is responsible for.
    failed: it does not commit, or never reported; another proof takes its place.
    """

    DUE = "due"
    ASKING = "asking"
    ASKED = "asked"
    REPORTED = "reported"
    FAILED = "failed"


class AnswerState(StrEnum):
    """Where our answer to a peer stands that asked us for storage commitment."""

    DUE = "due"
    SENT = "sent"
    FAILED = "failed"


class NoticeState(StrEnum):
    """Where a notice to a webhook stands."""

    DUE = "due"
    TOLD = "told"
    GIVEN_UP = "given up"


class Proof(StrEnum):
    """How it is known that a destination has an object; the strongest that it offers.

    commitment: it took responsibility by storage commitment (PS3.4 Annex J).
    found: it lists the object when it is queried (C-FIND).
    status: its answer to C-STORE; no more is known.
    """

    COMMITMENT = "commitment"
    FOUND = "found"
    STATUS = "status"


class EvidenceSource(StrEnum):
    """Who says which images belong together; the first that speaks decides.

    request: a workitem or an administrator's request that lists its inputs.
    mpps: a Modality Performed Procedure Step, completed, with its images.
    availability: an Instance Availability Notification.
    commitment: the instances that a storage commitment request lists.
    count: the sender's own count, asked by C-FIND.
    quiet: nothing came for the quiet time. Not evidence, a guess.
    force: more was to come and did not; taken as it is.
    """

    REQUEST = "request"
    MPPS = "mpps"
    AVAILABILITY = "availability"
    COMMITMENT = "commitment"
    COUNT = "count"
    QUIET = "quiet"
    FORCE = "force"


S, J, T, R = SeriesState, JobState, TransferState, RenditionState
C = CommitmentState

SERIES_MOVES: dict[SeriesState, frozenset[SeriesState]] = {
    S.RECEIVING: frozenset({S.WHOLE, S.OWN}),
    S.WHOLE: frozenset({S.RECEIVING, S.OWN}),  # a late image, or an object recognised as ours
    S.OWN: frozenset(),
}

JOB_MOVES: dict[JobState, frozenset[JobState]] = {
    # To running again: its worker was taken for dead, and is not.
    J.WAITING: frozenset({J.QUEUED, J.RUNNING, J.HELD, J.CANCELLED, J.SUPERSEDED, J.QUARANTINED}),
    J.QUEUED: frozenset({J.WAITING, J.RUNNING, J.HELD, J.CANCELLED, J.SUPERSEDED, J.QUARANTINED}),
    J.RUNNING: frozenset(
        {
            J.DONE,
            J.NOT_APPLICABLE,
            J.FAILED,
            J.WAITING,  # a passing trouble, or a lease that ran out
            J.QUARANTINED,
            J.HELD,
            J.CANCELLED,
            J.SUPERSEDED,
        }
    ),
    J.HELD: frozenset({J.WAITING, J.CANCELLED, J.SUPERSEDED}),
    # A retry of a finished job is a new job, so that its history stays readable.
    J.DONE: frozenset({J.SUPERSEDED}),
    J.NOT_APPLICABLE: frozenset({J.SUPERSEDED}),
    J.FAILED: frozenset({J.SUPERSEDED}),
    # To running or waiting: the deaths that it was blamed for were none.
    J.QUARANTINED: frozenset({J.RUNNING, J.WAITING, J.CANCELLED, J.SUPERSEDED}),
    J.CANCELLED: frozenset(),
    J.SUPERSEDED: frozenset(),
}

TRANSFER_MOVES: dict[TransferState, frozenset[TransferState]] = {
    T.DUE: frozenset({T.SENDING, T.PAUSED, T.FAILED}),
    T.SENDING: frozenset({T.SENT, T.DUE, T.REFUSED, T.FAILED, T.PAUSED}),
    T.SENT: frozenset({T.COMMITTED, T.DUE}),  # a commitment that failed is sent again
    T.COMMITTED: frozenset(),
    T.REFUSED: frozenset({T.DUE}),
    T.FAILED: frozenset({T.DUE}),
    T.PAUSED: frozenset({T.DUE, T.FAILED}),
}

RENDITION_MOVES: dict[RenditionState, frozenset[RenditionState]] = {
    R.WAITING: frozenset({R.QUEUED}),
    R.QUEUED: frozenset({R.WAITING, R.RUNNING}),
    # a passing trouble, or a lease that ran out, lets it wait again
    R.RUNNING: frozenset({R.DONE, R.FAILED, R.WAITING}),
    R.DONE: frozenset(),
    R.FAILED: frozenset({R.WAITING}),  # an administrator sends the job's objects again
}

COMMITMENT_MOVES: dict[CommitmentState, frozenset[CommitmentState]] = {
    C.DUE: frozenset({C.ASKING, C.FAILED}),
    C.ASKING: frozenset({C.ASKED, C.REPORTED, C.DUE, C.FAILED}),
    C.ASKED: frozenset({C.REPORTED, C.DUE, C.FAILED}),
    C.REPORTED: frozenset(),
    C.FAILED: frozenset({C.REPORTED}),  # a report that comes late still counts
}

JOB_OPEN = frozenset({J.WAITING, J.QUEUED, J.RUNNING, J.HELD})
TRANSFER_OPEN = frozenset({T.DUE, T.SENDING, T.PAUSED})
RENDITION_OPEN = frozenset({R.WAITING, R.QUEUED, R.RUNNING})
