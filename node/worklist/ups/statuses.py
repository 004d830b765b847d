"""Statuses of Unified Procedure Step (PS3.4 Tables CC.2.1-4 to CC.2.5-5; PS3.7 Annex C)."""

from __future__ import annotations

from node.dimse.contexts import UPS_EVENT, UPS_PULL, UPS_PUSH, UPS_QUERY, UPS_WATCH

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
DUPLICATE = 0x0111
INVALID_VALUE = 0x0106
MISSING_ATTRIBUTE = 0x0120
NOT_AUTHORISED = 0x0124
NO_SUCH_ACTION = 0x0123
RESOURCE_LIMITATION = 0x0213
CREATED_WITH_CHANGES = 0xB300
LOCK_NOT_GRANTED = 0xB301
ALREADY_CANCELED = 0xB304
ALREADY_COMPLETED_AS_ASKED = 0xB306
NO_LONGER_UPDATED = 0xC300
WRONG_TRANSACTION = 0xC301
ALREADY_IN_PROGRESS = 0xC302
NEVER_SCHEDULED_AGAIN = 0xC303
NOT_FINAL = 0xC304
UNKNOWN_INSTANCE = 0xC307
UNKNOWN_RECEIVER = 0xC308
NOT_SCHEDULED = 0xC309
NOT_IN_PROGRESS = 0xC310
ALREADY_COMPLETED = 0xC311
PERFORMER_AWAY = 0xC312
INAPPROPRIATE = 0xC314

# For the conformance statement.
MEANINGS: tuple[tuple[int, str, str], ...] = (
    (SUCCESS, "all", "done"),
    (NOT_AUTHORISED, "all", "the peer has no `worklist = true`, or may not claim this workitem"),
    (RESOURCE_LIMITATION, "all", "the ledger is away; the same may succeed later"),
    (PROCESSING_FAILURE, "all", "an error of ours, or content that cannot be read"),
    (DUPLICATE, "N-CREATE", "a workitem has this SOP Instance UID"),
    (INVALID_VALUE, "N-CREATE, N-SET", "a value that cannot be one, or too much of it"),
    (MISSING_ATTRIBUTE, "N-CREATE", "the workitem code or the input is missing"),
    (CREATED_WITH_CHANGES, "N-CREATE", "created; what we cannot do was changed"),
    (LOCK_NOT_GRANTED, "N-ACTION", "subscribed; workitems are kept as retention says"),
    (ALREADY_CANCELED, "N-ACTION", "it is CANCELED already"),
    (ALREADY_COMPLETED_AS_ASKED, "N-ACTION", "it is COMPLETED already"),
    (NO_LONGER_UPDATED, "N-SET, N-ACTION", "it has ended"),
    (WRONG_TRANSACTION, "N-SET, N-ACTION", "not the Transaction UID that it was claimed with"),
    (ALREADY_IN_PROGRESS, "N-ACTION", "somebody, or one of our workers, has it"),
    (NEVER_SCHEDULED_AGAIN, "N-ACTION", "it cannot become SCHEDULED"),
    (NOT_FINAL, "N-ACTION", "what Table CC.2.5-3 wants at the end is missing"),
    (UNKNOWN_INSTANCE, "N-GET, N-SET, N-ACTION", "no workitem of this SOP Instance UID"),
    (UNKNOWN_RECEIVER, "N-ACTION", "no peer of the Receiving AE with host and port"),
    (NOT_SCHEDULED, "N-CREATE", "the state of a new workitem must be SCHEDULED"),
    (NOT_IN_PROGRESS, "N-ACTION", "it is not IN PROGRESS yet"),
    (ALREADY_COMPLETED, "N-ACTION", "a cancel was asked for, and it is COMPLETED"),
    (PERFORMER_AWAY, "N-ACTION", "its performer has not subscribed and cannot be asked to cancel"),
    (INAPPROPRIATE, "N-ACTION", "not for this instance"),
)

SOP_CLASSES = (UPS_PUSH, UPS_WATCH, UPS_PULL, UPS_EVENT, UPS_QUERY)
