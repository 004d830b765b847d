"""Storage Commitment Push Model as SCU (PS3.4 Annex J): the question, and the report to it.

The report may come on the same association, or on a new one to our door (`node.door.services`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class_n import StorageCommitmentServiceClass

from core.domain import Commitment
from core.errors import LedgerError, MessageError, PeerError
from node.dimse.contexts import COMMITMENT, COMMITMENT_INSTANCE
from node.dimse.messages import CommitReport, read_commit_report

_REQUEST = 1  # PS3.4 Table J.3-1, Request Storage Commitment
_SUCCESS, _PROCESSING_FAILURE = 0x0000, 0x0110  # PS3.7 Annex C


def commit_contexts() -> list[PresentationContext]:
    """The presentation contexts that the question needs."""
    return [build_context(COMMITMENT, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])]


def request(association: Association, commitment: Commitment) -> int:
    """N-ACTION: ask for the commitment (PS3.4 Section J.3.2); returns the status.

    Raises:
        PeerError: the association broke.
    """
    content = Dataset()
    content.TransactionUID = commitment.transaction_uid
    content.ReferencedSOPSequence = []
    for sop_class, sop_instance in commitment.instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
        content.ReferencedSOPSequence.append(item)
    try:
        answer, _ = association.send_n_action(content, _REQUEST, COMMITMENT, COMMITMENT_INSTANCE)
    except (RuntimeError, ValueError) as error:
        raise PeerError(f"the association broke: {error}") from error
    if "Status" not in answer:
        raise PeerError("the association broke, or the destination did not answer in time")
    return int(answer.Status)


class Listener:
    """Takes the reports that come on the association of the question.

    `take` writes one down and raises LedgerError when it cannot: then the destination is told
    so, and may report again.
    """

    def __init__(self, take: Callable[[CommitReport], None]) -> None:
        self._take = take
        self._taken: set[str] = set()
        self._reported: set[str] = set()
        self._answering = 0
        self._over = False
        self._changed = threading.Condition()

    @property
    def handlers(self) -> list[Any]:
        """For `node.dimse.scu.associate`."""
        return [(evt.EVT_N_EVENT_REPORT, self._on_report)]

    def serve(self, association: Association) -> None:
        """Answer reports without touching the flag that a question or a release waits for.

        pynetdicom 3.0 serves a report in a thread of its own, and clears that flag when it is
        done: who begins to send at that moment would wait for ever.
        """
        serve = association._serve_request

        def serve_request(message: Any, context_id: int) -> None:
            context = association._accepted_cx.get(context_id)
            if isinstance(message, N_EVENT_REPORT) and context is not None:
                with self._answers() as may_answer:
                    if may_answer:
                        StorageCommitmentServiceClass(association).SCP(message, context)
            else:
                serve(message, context_id)

        association._serve_request = serve_request  # type: ignore[method-assign, assignment]

    def wait_for(self, transaction_uids: set[str], seconds: float) -> None:
        """Wait until all these were reported and the reports answered, or so long.

        A report that came is answered in any case before this returns: once the release is
        requested no answer may be sent (PS3.8 Section 7.2). One that comes later is left alone,
        and its sender reports again on an association of its own.
        """
        with self._changed:
            self._changed.wait_for(lambda: transaction_uids <= self._reported, seconds)
            self._changed.wait_for(lambda: not self._answering, seconds)
            self._over = True

    @contextmanager
    def _answers(self) -> Iterator[bool]:
        """While a report is taken and its answer handed on; gives whether it still may be."""
        with self._changed:
            if self._over:
                yield False
                return
            self._answering += 1
        try:
            yield True
        finally:
            with self._changed:
                self._answering -= 1
                if not self._answering:
                    self._reported |= self._taken
                self._changed.notify_all()

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        try:
            report = read_commit_report(event.event_type, event.event_information)
            self._take(report)
        except MessageError as error:
            return error.status, None
        except LedgerError:
            return _PROCESSING_FAILURE, None
        with self._changed:
            self._taken.add(report.transaction_uid)
        return _SUCCESS, None
