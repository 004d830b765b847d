"""C-GET and C-MOVE: images and results go out as they are stored (PS3.4 Sections C.4.2, C.4.3).

Objects are listed page by page and read from their files while they are sent; neither many nor
large ones cost memory. Each is a sub-operation, and each is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from pynetdicom.association import Association

from core.errors import PeerError, QueryError, StoreError
from core.ledger import Ledger
from core.ledger.queries import Level, Place, Stored
from core.ledger.queries.attributes import UNIQUE_KEYS, known_at
from core.ledger.queries.matching import OneOf
from core.settings import Settings
from core.store import Store
from node.dimse.contexts import MOST_PROPOSED
from node.dimse.scu import (
    Head,
    NoContextError,
    ObjectUnreadableError,
    associate,
    contexts_for,
    head_of,
    send_in_pieces,
    store_file,
)
from node.worklist.find import read_level
from node.worklist.identifier import Key, matching_of, tag_of
from node.worklist.replies import Counts, Replies
from node.worklist.statuses import (
    CANCELLED,
    CANNOT_COUNT,
    CANNOT_PERFORM,
    DESTINATION_UNKNOWN,
    IDENTIFIER_MISMATCH,
    SOME_FAILED,
    SUCCESS,
)

log = structlog.get_logger()

_PAGE = 200
_MOST_COUNTED = 0xFFFF  # VR US of Number of … Sub-operations
# An uncompressed object that the peer takes only in the other encoding is read into memory.
_MOST_ENCODED_ANEW = 64 << 20
_WARNINGS = range(0xB000, 0xC000)

Selection = Mapping[str, OneOf]


def read_selection(keys: Mapping[int, Key], root: Level) -> Selection:
    """What a request names: the unique keys of its level and of those above.

    Raises:
        QueryError: a wrong level, or a unique key is missing or has no plain value.
    """
    level = read_level(keys, root)
    levels = tuple(Level)
    known = known_at(level)
    asked: dict[str, OneOf] = {}
    for needed in levels[levels.index(root) : levels.index(level) + 1]:
        keyword = UNIQUE_KEYS[needed]
        key = keys.get(tag_of(keyword))
        matching = matching_of(known[keyword], key) if key is not None else None
        if not isinstance(matching, OneOf):
            raise QueryError(IDENTIFIER_MISMATCH, f"{keyword} is needed", offending=tag_of(keyword))
        asked[keyword] = matching
    return asked


class Retrieval:
    """Sends what one request names.

    Args:
        message_id: of the request; the sub-operations count on from it.
        calling: AE title of who asked.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        store: Store,
        replies: Replies,
        message_id: int,
        calling: str,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._store = store
        self._replies = replies
        self._message_id = message_id
        self._calling = calling
        self._counts = Counts()
        self._failed: list[str] = []

    def get(self, association: Association, selection: Selection) -> tuple[int, int]:
        """Send over the association of the request; the final status, and how many were sent.

        Raises:
            QueryError: more objects than can be counted.
            LedgerError: SQL is away.
        """
        if self._count(selection):
            send_in_pieces(association)
            self._send_all(association, selection, originator=None)
        return self._end()

    def move(self, destination: str, selection: Selection) -> tuple[int, int]:
        """Send to a peer, over an association that we open.

        Raises:
            QueryError: no such peer, or more objects than can be counted.
            LedgerError: SQL is away.
        """
        peer = next((item for item in self._settings.peers if item.ae_title == destination), None)
        address = peer.address if peer is not None else None
        if address is None:
            raise QueryError(DESTINATION_UNKNOWN, "no peer of that AE title to send to")
        if not self._count(selection):
            return self._end()
        node, timeout = self._settings.node, self._settings.delivery.timeout
        try:
            contexts = contexts_for(self._heads(selection))
        except ValueError as error:
            raise QueryError(CANNOT_PERFORM, str(error)) from error
        try:
            with associate(node.ae_title, address, contexts, timeout) as association:
                self._send_all(association, selection, originator=(self._calling, self._message_id))
        except PeerError as error:
            if not self._counts.completed:
                raise QueryError(CANNOT_PERFORM, "the destination takes nothing now") from error
            log.warning("move_broken_off", destination=destination, error=str(error))
        return self._end()

    def _count(self, selection: Selection) -> int:
        with self._ledger.read() as work:
            count = work.queries.stored.count(selection)
        if count > _MOST_COUNTED:
            raise QueryError(CANNOT_COUNT, f"more than {_MOST_COUNTED} objects")
        self._counts.remaining = count
        return count

    def _heads(self, selection: Selection) -> set[Head]:
        """What must be proposed: images by the ledger, what we made by its files."""
        with self._ledger.read() as work:
            kinds = work.queries.stored.kinds(selection)
            made = work.queries.stored.made(selection)
        heads = {Head(*kind) for kind in kinds}
        for item in made:
            try:
                heads.add(self._head(item))
            except (StoreError, ObjectUnreadableError):
                continue  # it fails when its turn comes
        if len(heads) > MOST_PROPOSED:
            raise QueryError(CANNOT_PERFORM, "more kinds of objects than one association carries")
        return heads

    def _head(self, item: Stored) -> Head:
        if item.transfer_syntax_uid:
            return Head(item.sop_class_uid, item.transfer_syntax_uid)
        with self._store.open(item.store_key) as stream:
            return head_of(stream)

    def _objects(self, selection: Selection) -> Iterable[Stored]:
        place: Place | None = Place()
        while place is not None:
            with self._ledger.read() as work:
                page, place = work.queries.stored.page(selection, place, _PAGE)
            yield from page

    def _send_all(
        self,
        association: Association,
        selection: Selection,
        originator: tuple[str, int] | None,
    ) -> None:
        """Send one after the other, until a cancel, or nobody takes them any more."""
        counts, replies = self._counts, self._replies
        for item in self._objects(selection):
            if replies.cancelled or replies.over or not counts.remaining:
                return  # retention, or a new image, may have changed the number meanwhile
            if not association.is_established:
                self._fail(item)
                continue
            status = self._send(association, item, originator)
            if status is None:
                self._fail(item)
            else:
                counts.remaining -= 1
                counts.completed += status == SUCCESS
                counts.warning += status != SUCCESS
            if counts.remaining:
                replies.progress(counts)

    def _fail(self, item: Stored) -> None:
        self._counts.remaining -= 1
        self._counts.failed += 1
        self._failed.append(item.sop_instance_uid)

    def _send(
        self, association: Association, item: Stored, originator: tuple[str, int] | None
    ) -> int | None:
        """One C-STORE; None where the object was not taken."""
        number = self._counts.completed + self._counts.failed + self._counts.warning
        try:
            head = self._head(item)
            with self._store.as_file(item.store_key) as path:
                status, _ = store_file(
                    association,
                    path,
                    head,
                    unchanged=item.size > _MOST_ENCODED_ANEW,
                    message_id=(self._message_id + number) % _MOST_COUNTED + 1,
                    originator=originator,
                )
        except (StoreError, ObjectUnreadableError, NoContextError, PeerError) as error:
            log.warning(
                "object_not_given",
                sop_instance_uid=item.sop_instance_uid,
                calling_ae=self._calling,
                error=str(error),
            )
            return None
        return status if status == SUCCESS or status in _WARNINGS else None

    def _end(self) -> tuple[int, int]:
        """The final response (PS3.4 Sections C.4.2.1.4 and C.4.3.1.4)."""
        counts = self._counts
        sent = counts.completed + counts.warning
        if self._replies.over:
            return CANCELLED, sent
        if self._replies.cancelled:
            status = CANCELLED
        else:
            # what was counted and then was not there any more
            counts.failed += counts.remaining
            counts.remaining = 0
            status = SUCCESS
            if counts.failed and not sent:
                status = CANNOT_PERFORM
            elif counts.failed or counts.warning:
                status = SOME_FAILED
        self._replies.last(status, counts=counts, failed=self._failed)
        return status, sent


def destination_of(request: Any) -> str:
    """Move Destination (0000,0600)."""
    return str(request.MoveDestination or "").strip()
