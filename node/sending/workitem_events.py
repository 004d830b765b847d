"""N-EVENT-REPORT to those who subscribed to workitems (PS3.4 Section CC.2.6).

Each subscriber is told in order, over an association that we open and on which we are the SCP.
One that does not take its events is told again, with waits that double; after a day its
subscriptions end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import build_context, build_role

from core import clock
from core.errors import PeerError
from core.ledger import Ledger
from core.ledger.subscriptions import DueEvent
from core.settings import Settings
from node.dimse.contexts import UPS_EVENT, UPS_PUSH
from node.dimse.scu import associate
from node.servants import Servants

log = structlog.get_logger()

GIVE_UP_AFTER = timedelta(days=1)
_LEASE = timedelta(seconds=120)
_LONGEST_RETRY = timedelta(hours=1)
_MOST_AT_ONCE = 100


class WorkitemTeller:
    """Tells subscribers what is queued for them."""

    def __init__(
        self, settings: Settings, ledger: Ledger, now: Callable[[], datetime] = clock.now
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._now = now
        self._servants = Servants(self._serve)

    def step(self, *, wait_seconds: float = 0.0) -> int:
        """Begin what is due; returns how many events were taken since.

        Raises:
            LedgerError: SQL is away.
        """
        with self._ledger.read() as work:
            due = work.subscriptions.peers_due(self._now())
        self._servants.begin(due)
        return self._servants.ended(wait_seconds)

    def close(self) -> None:
        """Let what is under way come to its end."""
        self._servants.close()

    def _serve(self, ae_title: str) -> int:
        now = self._now()
        with self._ledger.write() as work:
            due = work.subscriptions.claim(ae_title, now, now + _LEASE, _MOST_AT_ONCE)
        if not due:
            return 0
        peer = next((item for item in self._settings.peers if item.ae_title == ae_title), None)
        address = peer.address if peer is not None else None
        told: list[DueEvent] = []
        try:
            if address is None:
                raise PeerError(f"no peer with AE title {ae_title}, host and port in the settings")
            context = build_context(UPS_EVENT, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
            roles = [build_role(UPS_EVENT, scp_role=True)]
            timeout = self._settings.delivery.timeout
            own = self._settings.node.ae_title
            with associate(own, address, [context], timeout, roles=roles) as association:
                for event in due:
                    report(association, event)
                    told.append(event)
                    with self._ledger.write() as work:
                        work.subscriptions.told(event.id)
        except PeerError as error:
            self._not_told(ae_title, due[len(told) :], str(error))
        return len(told)

    def _not_told(self, ae_title: str, left: Sequence[DueEvent], reason: str) -> None:
        now = self._now()
        first = left[0]
        if now - first.at >= GIVE_UP_AFTER:
            with self._ledger.write() as work:
                ended = work.subscriptions.drop(ae_title)
            log.warning(
                "subscriber_dropped", called_ae=ae_title, subscriptions=ended, reason=reason
            )
            return
        shortest = timedelta(seconds=self._settings.delivery.retry_seconds)
        pause = min(shortest * 2 ** min(first.attempts, 16), _LONGEST_RETRY)
        with self._ledger.write() as work:
            work.subscriptions.not_told(ae_title, now + pause)
        log.warning(
            "workitem_event_not_told",
            called_ae=ae_title,
            reason=reason,
            next_try_seconds=pause.total_seconds(),
        )


def report(association: Association, event: DueEvent) -> None:
    """Send one N-EVENT-REPORT. An answer that is no success is told, and counts as taken.

    Raises:
        PeerError: the association broke, or the peer does not let us be its SCP.
    """
    content = Dataset.from_json(dict(event.content))
    try:
        status, _ = association.send_n_event_report(
            content, event.kind, UPS_PUSH, event.uid, meta_uid=UPS_EVENT
        )
    except ValueError as error:
        raise PeerError(f"it does not take reports from us: {error}") from error
    except RuntimeError as error:
        raise PeerError(f"the association broke: {error}") from error
    if "Status" not in status:
        raise PeerError("the association broke, or no answer came to our report in time")
    if int(status.Status) != 0:
        log.warning(
            "workitem_event_refused", workitem=event.uid, status=f"0x{int(status.Status):04X}"
        )
