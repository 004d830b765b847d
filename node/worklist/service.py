"""The query services of the door: who may ask what, and what becomes of a request.

Requests are taken from pynetdicom before its own service classes, whose loops make and copy
several objects for each response. SQL and the store are opened when the first request needs them:
the door receives images while they are away, and answers queries with a status.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext

from core import clock
from core.errors import LedgerError, QueryError, SentinodeError
from core.ledger import Ledger
from core.ledger.queries import Level, Station
from core.settings import Settings
from core.store import Store
from node.dimse.contexts import (
    PATIENT_ROOT_FIND,
    PATIENT_ROOT_GET,
    PATIENT_ROOT_MOVE,
    STORAGE_CLASSES,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    UPS_CLASSES,
    UPS_PULL,
    UPS_PUSH,
    UPS_QUERY,
    UPS_WATCH,
    WORKLIST_FIND,
    accepted_queries,
)
from node.worklist.find import answer, read_query, read_worklist
from node.worklist.identifier import read_identifier
from node.worklist.replies import C_FIND_RSP, C_GET_RSP, C_MOVE_RSP, Replies
from node.worklist.retrieve import Retrieval, destination_of, read_selection
from node.worklist.statuses import (
    NOT_AUTHORISED,
    OUT_OF_RESOURCES,
    UNABLE_TO_PROCESS,
)
from node.worklist.ups.service import UpsService

log = structlog.get_logger()

_FIELDS: dict[type, int] = {C_FIND: C_FIND_RSP, C_GET: C_GET_RSP, C_MOVE: C_MOVE_RSP}
# SOP class → its name in the log, the request it takes, the uppermost level of its model.
_SERVICES: dict[str, tuple[str, Any, Level]] = {
    WORKLIST_FIND: ("worklist", C_FIND, Level.STUDY),
    PATIENT_ROOT_FIND: ("patient root", C_FIND, Level.PATIENT),
    PATIENT_ROOT_GET: ("patient root", C_GET, Level.PATIENT),
    PATIENT_ROOT_MOVE: ("patient root", C_MOVE, Level.PATIENT),
    STUDY_ROOT_FIND: ("study root", C_FIND, Level.STUDY),
    STUDY_ROOT_GET: ("study root", C_GET, Level.STUDY),
    STUDY_ROOT_MOVE: ("study root", C_MOVE, Level.STUDY),
    **dict.fromkeys((UPS_PUSH, UPS_PULL, UPS_WATCH, UPS_QUERY), ("workitems", C_FIND, Level.STUDY)),
}
# Service Class Application Information of a C-FIND (PS3.4 Section C.5.1.1): relational queries,
# combined date-time matching, fuzzy matching of names, timezone query adjustment.
_EXTENDED = (STUDY_ROOT_FIND, PATIENT_ROOT_FIND)
_DATE_TIME_BYTE = 1


def _belongs(context: Any, request: Any) -> bool:
    """Whether a request came in a context of its class; workitems are of the Push class."""
    asked, carried = str(request.AffectedSOPClassUID), str(context.abstract_syntax)
    return asked == carried or (carried in UPS_CLASSES and asked in UPS_CLASSES)


class QueryService:
    """Answers the queries and retrievals of peers.

    Args:
        settings: who may ask.
    """

    def __init__(self, settings: Settings, now: Callable[[], datetime] = clock.now) -> None:
        self._settings = settings
        self._now = now
        self._may_query = {peer.ae_title for peer in settings.peers if peer.query}
        self._may_see_steps = {peer.ae_title for peer in settings.peers if peer.worklist}
        self._contexts = accepted_queries(settings)
        self._offered = {str(context.abstract_syntax) for context in self._contexts}
        self._zone = ZoneInfo(settings.results.timezone) if settings.results.timezone else None
        self.workitems: UpsService | None = None
        self._ledger: Ledger | None = None
        self._store: Store | None = None
        self._lock = threading.Lock()

    def contexts(self) -> list[PresentationContext]:
        """The presentation contexts that the settings want; empty while nobody may ask."""
        return self._contexts

    def add_to(self, ae: AE) -> None:
        """Offer the services, and our images to who asks for them by C-GET.

        For that the peer takes the role of SCP in storage contexts (PS3.7 Annex D.3.3.4).
        """
        for context in self._contexts:
            assert context.abstract_syntax is not None
            ae.add_supported_context(context.abstract_syntax, context.transfer_syntax)
        if STUDY_ROOT_GET not in self._offered:
            return
        for uid, context in ae._supported_contexts.items():
            if uid in STORAGE_CLASSES:
                context.scu_role = context.scp_role = True

    def handlers(self) -> list[tuple[Any, Callable[[Event], Any]]]:
        """What pynetdicom is to call for which event."""
        return [(evt.EVT_SOP_EXTENDED, self._on_extended)] if self._contexts else []

    def take_over(self, association: Any) -> None:
        """Let requests of an association that are ours come here."""
        if not self._contexts:
            return  # UPS is offered with the worklist
        otherwise = association._serve_request

        def serve(request: Any, context_id: int) -> None:
            context: Any = association._accepted_cx.get(context_id)
            service = _SERVICES.get(str(getattr(request, "AffectedSOPClassUID", "")))
            if (
                service is None
                or context is None
                or not isinstance(request, service[1])
                or not request.is_valid_request
                or not _belongs(context, request)
            ):
                otherwise(request, context_id)
                return
            association.dimse.cancel_req = {}
            association._is_paused = True  # as pynetdicom does, so that C-STOREs can be sent
            try:
                self._serve(association, request, context)
            finally:
                association._is_paused = False
                association.dimse.cancel_req = {}
                association.dul._idle_timer.restart()

        association._serve_request = serve

    def close(self) -> None:
        """Close the connections to SQL."""
        with self._lock:
            if self._ledger is not None:
                self._ledger.close()
                self._ledger = None

    def _on_extended(self, event: Any) -> dict[Any, bytes]:
        """We negotiate combined date-time matching, and nothing else."""
        asked = event.app_info
        answers = {}
        for uid in _EXTENDED:
            if uid in asked:
                wanted = len(asked[uid]) > _DATE_TIME_BYTE and asked[uid][_DATE_TIME_BYTE] == 1
                answers[uid] = bytes([0, int(wanted), 0, 0])[: max(1, len(asked[uid]))]
        return answers

    def _serve(self, association: Any, request: Any, context: Any) -> None:
        """Answer one request, whatever happens."""
        began = time.monotonic()
        sop_class = str(request.AffectedSOPClassUID)
        model, kind, root = _SERVICES[sop_class]
        calling = str(association.requestor.ae_title).strip()
        replies = Replies(association, request, context, _FIELDS[kind])
        bound = log.bind(calling_ae=calling, service=kind.__name__.replace("_", "-"), model=model)
        status, objects = UNABLE_TO_PROCESS, 0
        try:
            data = request.Identifier.getvalue() if request.Identifier is not None else b""
            if model == "workitems":
                assert self.workitems is not None
                status, objects = self.workitems.find(calling, replies, data)
                seconds = round(time.monotonic() - began, 3)
                bound.info(
                    "query_answered", status=f"0x{status:04X}", objects=objects, seconds=seconds
                )
                return
            self._check_rights(sop_class, calling)
            keys = read_identifier(data, implicit=replies.implicit)
            if sop_class == WORKLIST_FIND:
                asked = read_worklist(keys)
                status, objects = answer(self.ledger(), asked, replies, self._station(), "")
            elif kind is C_FIND:
                together = self._date_time(association, sop_class)
                asked = read_query(keys, root, date_and_time=together)
                title = self._settings.node.ae_title
                status, objects = answer(self.ledger(), asked, replies, None, title)
            else:
                selection = read_selection(keys, root)
                number = int(request.MessageID)
                retrieval = Retrieval(
                    self._settings, self.ledger(), self.store(), replies, number, calling
                )
                if kind is C_GET:
                    status, objects = retrieval.get(association, selection)
                else:
                    status, objects = retrieval.move(destination_of(request), selection)
        except QueryError as error:
            bound.warning("query_refused", status=f"0x{error.status:04X}", reason=str(error))
            replies.last(error.status, str(error), offending=error.offending)
            return
        except SentinodeError as error:
            status = OUT_OF_RESOURCES if error.retry else UNABLE_TO_PROCESS
            what = "the ledger" if isinstance(error, LedgerError) else "the store"
            bound.warning("query_refused", status=f"0x{status:04X}", reason=str(error))
            replies.last(status, f"{what} is away or refuses; see our log")
            return
        except Exception:  # noqa: BLE001 - the peer must get an answer, and we the traceback
            bound.exception("query_trouble")
            replies.last(UNABLE_TO_PROCESS, "internal error; see our log")
            return
        seconds = round(time.monotonic() - began, 3)
        bound.info("query_answered", status=f"0x{status:04X}", objects=objects, seconds=seconds)

    def _check_rights(self, sop_class: str, calling: str) -> None:
        allowed = self._may_see_steps if sop_class == WORKLIST_FIND else self._may_query
        if calling not in allowed:
            which = "worklist" if sop_class == WORKLIST_FIND else "query"
            raise QueryError(NOT_AUTHORISED, f"{which} = true is not set for this peer")

    def _date_time(self, association: Any, sop_class: str) -> bool:
        """Whether combined date-time matching was negotiated."""
        wanted = association.requestor.sop_class_extended.get(sop_class, b"")
        return len(wanted) > _DATE_TIME_BYTE and wanted[_DATE_TIME_BYTE] == 1

    def _station(self) -> Station:
        since = self._now() - timedelta(days=self._settings.worklist.days)
        return Station(self._settings.node.ae_title, self._zone, since)

    def ledger(self) -> Ledger:
        """SQL, opened when it is first needed.

        Raises:
            LedgerError: its URL is not usable.
        """
        with self._lock:
            if self._ledger is None:
                self._ledger = Ledger(self._settings.ledger_url)
            return self._ledger

    def store(self) -> Store:
        """The store, opened when it is first needed.

        Raises:
            StoreError: its URL is not usable.
        """
        with self._lock:
            if self._store is None:
                self._store = Store(self._settings.store_url)
            return self._store
