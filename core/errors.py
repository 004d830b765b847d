"""Every error that Sentinode raises on purpose, in one tree.

Each class knows whether trying again can help and, where a DIMSE peer is told, which status
it gets. A message says what happened, where, and what to do::

    SentinodeError
    ├── SettingsError            the settings have faults (all of them, each by its full key)
    ├── InvalidValueError        a UID, AE title or address that cannot be one
    ├── RefusedError             an instance the door does not take        (has a DIMSE status)
    │   ├── OutOfSpaceError      0xA700  PS3.4 Table B.2-1, Refused: Out of Resources
    │   ├── TooLargeError        0xA700  the same: larger than the peer may send
    │   ├── MismatchError        0xA900  PS3.4 Table B.2-1, Data Set does not match SOP Class
    │   ├── UnreadableError      0xC000  PS3.4 Table B.2-1, Cannot understand
    │   ├── NotAuthorisedError   0x0124  PS3.7 Annex C, Refused: Not Authorized
    │   ├── AssociationEndedError 0x0110 PS3.7 Annex C, Processing failure
    │   └── MessageError         a message of an N-service; each carries its status
    ├── QueryError               a query or retrieve request that is refused (has a DIMSE status)
    ├── LedgerError              the database is away or not as expected   (retry)
    │   ├── IllegalMoveError     a state change that the lifecycle does not allow (no retry)
    │   ├── LedgerValueError     a value that the database does not take (no retry)
    │   └── NotFoundError        no such job, study, result               (no retry)
    ├── AccountError             an account or a token that cannot be made or changed so
    ├── AuditError               an audit message cannot be written         (retry)
    ├── WebError                 a request over HTTP that is not served as it is
    │   ├── NotSignedInError     401: nobody is signed in, or the token does not work
    │   ├── ForbiddenError       403: the role, or the page that it came from, does not do
    │   ├── TooManyTriesError    429: sign-ins failed too often; later again
    │   ├── BadRequestError      400: a parameter that cannot be understood
    │   ├── NotAcceptableError   406: not to be had in the form that was asked for
    │   └── PortTakenError       the port of the web pages is not to be had  (retry)
    ├── StoreError               bytes cannot be written or read           (retry)
    │   └── BytesGoneError       the store answers, and has no such bytes  (retry a few times)
    ├── QueueError               the broker is away                        (retry)
    ├── PeerError                a DICOM peer cannot be reached or refused (retry)
    ├── ModelError               a model package that cannot be used
    │   ├── MemoryShortError     the device's memory does not do (again, with less)
    │   ├── ModelSpecError       its specification has faults
    │   ├── WeightsError         its weights are missing, truncated or not the ones named
    │   └── TrainingError        training cannot start or go on
    └── JobError                 a job that ends without a result
        ├── NotApplicableError   the input is not what the model is for; not a failure
        ├── DecodeError          pixel data that cannot be decoded
        ├── LeaseLostError       another worker, or an administrator, has taken the job
        ├── TimeLimitError       it took longer than its model may
        └── ResultError          an object that would not be right, so it was not sent
"""

from __future__ import annotations


class SentinodeError(Exception):
    """Root of the tree.

    Attributes:
        retry: whether the same action may succeed later without anybody's help.
        remedy: what a person can do, or an empty string.
    """

    retry: bool = False
    remedy: str = ""

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        if remedy is not None:
            self.remedy = remedy


class SettingsError(SentinodeError):
    """The settings have faults; `faults` lists every one as "full.key: what is wrong"."""

    remedy = "Correct the lines named above in sentinode.toml or the SENTINODE_… variables."

    def __init__(self, source: str, faults: list[str]) -> None:
        self.faults = faults
        lines = "\n".join(f"  {fault}" for fault in faults)
        super().__init__(f"{source}: {len(faults)} fault(s) in the settings\n{lines}")


class InvalidValueError(SentinodeError, ValueError):
    """A value that is no UID, AE title or address."""


class RefusedError(SentinodeError):
    """An instance that the door does not take; `status` is what the sender is told."""

    status: int = 0x0110  # PS3.7 C.4.1 Processing failure


class OutOfSpaceError(RefusedError):
    """The disk is almost full: nothing was kept, the sender must keep its copy."""

    retry = True
    status = 0xA700
    remedy = "Free space on the spool's disk or lower storage.min_free_mb."


class TooLargeError(RefusedError):
    """The instance is larger than its sender may send; nothing was kept."""

    status = 0xA700
    remedy = "Raise node.max_instance_mb, or max_instance_mb of this peer."


class MismatchError(RefusedError):
    """The data set is not the instance that the C-STORE command announced."""

    status = 0xA900


class UnreadableError(RefusedError):
    """The data set cannot be read, ends early, or lacks what is needed to file it."""

    status = 0xC000


class NotAuthorisedError(RefusedError):
    """The peer is known but may not do this."""

    status = 0x0124
    remedy = "Set send = true for this peer if it may send images."


class AssociationEndedError(RefusedError):
    """The association ended while this was on its way; nobody hears an answer."""


class MessageError(RefusedError):
    """A message of a normalised service (PS3.7 Section 10) that is not taken.

    Attributes:
        error_id: Error ID (0000,0903), where the standard names one.
    """

    def __init__(self, status: int, message: str, *, error_id: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error_id = error_id


class QueryError(SentinodeError):
    """A query or retrieve request that cannot be answered.

    Attributes:
        status: what the peer is told (PS3.4 Tables C.4-1 to C.4-3, PS3.7 Annex C).
        offending: tag of Offending Element (0000,0901), or None.
    """

    def __init__(self, status: int, message: str, *, offending: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.offending = offending


class LedgerError(SentinodeError):
    """The database is away or not as expected."""

    retry = True
    remedy = "See that ledger.url is reachable; run `sentinode check`."


class IllegalMoveError(LedgerError):
    """A state change that the lifecycle does not allow."""

    retry = False
    remedy = ""


class LedgerValueError(LedgerError):
    """A value that the database does not take; the same again would not help."""

    retry = False
    remedy = ""


class NotFoundError(LedgerError):
    """No row with that identifier."""

    retry = False
    remedy = ""


class AccountError(SentinodeError):
    """An account or a token that cannot be made or changed in this way."""


class AuditError(SentinodeError):
    """An audit message cannot be written: what it tells of is not done."""

    retry = True
    remedy = "See that the folder of audit.file can be written to and has space."


class WebError(SentinodeError):
    """A request over HTTP that is not served as it is; `status` is what its sender is told."""

    status: int = 400


class NotSignedInError(WebError):
    """Nobody is signed in, the session has ended, or the token does not work."""

    status = 401


class ForbiddenError(WebError):
    """Who asks may not do this, or the request did not come from our own page."""

    status = 403


class TooManyTriesError(WebError):
    """Sign-ins failed too often.

    Attributes:
        wait_seconds: when to try again.
    """

    status = 429

    def __init__(self, message: str, wait_seconds: int) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class BadRequestError(WebError):
    """A parameter that cannot be understood."""


class NotAcceptableError(WebError):
    """It is not to be had in the media type or transfer syntax that was asked for."""

    status = 406


class PortTakenError(WebError):
    """The port of the web pages is not to be had now."""

    retry = True
    status = 503
    remedy = "Another program has it: end it, or set web.port."


class StoreError(SentinodeError):
    """Bytes cannot be written to, or read from, the store."""

    retry = True
    remedy = "See that storage.store is reachable and has space; run `sentinode check`."


class BytesGoneError(StoreError):
    """The store answers, and does not have what the ledger says it has.

    It may be a moment's trouble of a network file system; after a few tries it is given up.
    """

    remedy = "Send the study again, or bring the store back from a backup; then `sentinode retry`."


class QueueError(SentinodeError):
    """The broker is away."""

    retry = True
    remedy = "See that queue.url is reachable; work goes on by itself when it is back."


class PeerError(SentinodeError):
    """A DICOM peer cannot be reached or refused."""

    retry = True
    remedy = "See that it runs, that host, port and AE title are right, and that it knows ours."


class ModelError(SentinodeError):
    """A model package that cannot be used."""


class MemoryShortError(ModelError):
    """Not even one image fits into the device's memory, or the machine has none left."""

    remedy = "Use a worker with more memory; then `sentinode retry JOB`."


class ModelSpecError(ModelError):
    """A model's specification has faults."""


class WeightsError(ModelError):
    """Weights that are missing, truncated, or not the ones that the specification names."""


class TrainingError(ModelError):
    """Training cannot start or go on."""


class JobError(SentinodeError):
    """A job that ends without a result."""


class NotApplicableError(JobError):
    """The input is not what the model is for. An answer, not a failure."""


class DecodeError(JobError):
    """Pixel data that cannot be decoded."""

    remedy = "Send the study again uncompressed, or look at the original in the PACS."


class LeaseLostError(JobError):
    """Another worker, or an administrator, has taken the job; this attempt's work is dropped."""


class TimeLimitError(JobError):
    """It took longer than it may: `[limits] seconds` of its model, or jobs.time_limit_seconds."""

    remedy = (
        "Raise seconds under [limits] in its model.toml, or jobs.time_limit_seconds; "
        "then `sentinode retry JOB`."
    )


class ResultError(JobError):
    """A result object that would not be right, so nothing was sent."""
