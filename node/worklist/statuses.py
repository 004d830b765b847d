"""Statuses of queries and retrieval (PS3.4 Tables C.4-1 to C.4-3, K.4-1; PS3.7 Annex C)."""

from __future__ import annotations

SUCCESS = 0x0000
NOT_AUTHORISED = 0x0124
OUT_OF_RESOURCES = 0xA700
CANNOT_COUNT = 0xA701
CANNOT_PERFORM = 0xA702
DESTINATION_UNKNOWN = 0xA801
IDENTIFIER_MISMATCH = 0xA900
SOME_FAILED = 0xB000
UNABLE_TO_PROCESS = 0xC001
CANCELLED = 0xFE00
PENDING = 0xFF00
PENDING_WITH_UNSUPPORTED_KEYS = 0xFF01

# For the conformance statement: status, service, when we answer it.
MEANINGS: tuple[tuple[int, str, str], ...] = (
    (SUCCESS, "all", "all matches were told, or all objects sent"),
    (
        NOT_AUTHORISED,
        "all",
        "the peer has no `query = true`, or for the worklist `worklist = true`",
    ),
    (OUT_OF_RESOURCES, "all", "the ledger is away; the same may succeed later"),
    (CANNOT_COUNT, "C-GET, C-MOVE", "more objects than Number of Sub-operations can say"),
    (CANNOT_PERFORM, "C-GET, C-MOVE", "no object could be sent, or the destination is away"),
    (DESTINATION_UNKNOWN, "C-MOVE", "no peer of that AE title with host and port"),
    (
        IDENTIFIER_MISMATCH,
        "all",
        "a wrong level, a unique key of a level above is missing, or a value that cannot be one; "
        "Offending Element names the key",
    ),
    (SOME_FAILED, "C-GET, C-MOVE", "some were not sent; Failed SOP Instance UID List names them"),
    (UNABLE_TO_PROCESS, "all", "the identifier cannot be read, or an error of ours"),
    (CANCELLED, "all", "C-CANCEL was received"),
    (PENDING, "all", "a match, or an object was sent"),
    (
        PENDING_WITH_UNSUPPORTED_KEYS,
        "C-FIND",
        "a match; a key of the request is not known, or a value of it was not matched",
    ),
)
