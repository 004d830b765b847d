"""Telling webhooks: one POST for each notice, signed, again until it is taken."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import httpx
import structlog

from core import clock
from core.ledger import Ledger
from core.ledger.notices import NoticeDue
from core.lifecycle import NoticeState
from core.settings import Notice, Settings

log = structlog.get_logger()

SIGNATURE = "X-Sentinode-Signature"
_TIMEOUT = 10.0
_LEASE = timedelta(minutes=5)
_FIRST_WAIT, _LONGEST_WAIT = timedelta(seconds=5), timedelta(minutes=30)
_GIVEN_UP_AFTER = timedelta(days=1)


class Poster:
    """Tells the targets of the settings."""

    def __init__(
        self, settings: Settings, ledger: Ledger, now: Callable[[], datetime] = clock.now
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._now = now
        # redirects are not followed: what the settings name is told, nobody else
        self._client = httpx.Client(timeout=_TIMEOUT, follow_redirects=False, trust_env=False)

    def step(self) -> int:
        """Tell what is due; how many were told or given up.

        Raises:
            LedgerError: the ledger is away.
        """
        now = self._now()
        with self._ledger.write() as work:
            due = work.notices.due(now, now + _LEASE)
        for notice in due:
            self._tell(notice)
        return len(due)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _tell(self, notice: NoticeDue) -> None:
        target = next((item for item in self._settings.notices if item.name == notice.target), None)
        if target is None:
            self._write(notice, NoticeState.GIVEN_UP, "the target is no longer in the settings")
            return
        try:
            answer = self._post(target, notice)
            trouble = "" if answer.is_success else f"answered {answer.status_code}"
        except httpx.HTTPError as error:
            trouble = type(error).__name__
        if not trouble:
            self._write(notice, NoticeState.TOLD, "")
            return
        old = self._now() - notice.created_at > _GIVEN_UP_AFTER
        log.warning("notice_not_told", target=target.name, notice=notice.event, reason=trouble)
        self._write(notice, NoticeState.GIVEN_UP if old else NoticeState.DUE, trouble)

    def _post(self, target: Notice, notice: NoticeDue) -> httpx.Response:
        body = {
            "id": notice.key,
            "event": notice.event,
            "at": notice.created_at.isoformat(),
            "node": self._settings.node.ae_title,
            **notice.body,
        }
        content = json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "Sentinode"}
        if target.secret is not None:
            moment = str(int(time.time()))
            signed = sign(target.secret.get_secret_value(), moment, content)
            headers[SIGNATURE] = f"t={moment},v1={signed}"
        return self._client.post(target.url, content=content, headers=headers)

    def _write(self, notice: NoticeDue, state: NoticeState, message: str) -> None:
        again = None
        if state == NoticeState.DUE:
            again = self._now() + min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(notice.attempts, 12))
        with self._ledger.write() as work:
            work.notices.told(notice.id, state, next_try_at=again, message=message)


def sign(secret: str, moment: str, content: bytes) -> str:
    """What a receiver compares: HMAC-SHA-256 of the moment, a dot and the body, as hex."""
    return hmac.new(secret.encode(), moment.encode() + b"." + content, hashlib.sha256).hexdigest()
