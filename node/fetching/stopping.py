"""Ending a request that runs: C-CANCEL when somebody asks to stop, an abort when that is not heard.

Who waits for an answer waits inside pynetdicom; so a thread of its own looks for the wish to stop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pydicom.uid import UID
from pynetdicom.association import Association

from core.errors import PeerError, SentinodeError

# A request's Message ID (0000,0110): there is one at a time on an association of ours.
MESSAGE_ID = 1
_LOOK_SECONDS = 0.05
# A peer need not heed a C-CANCEL (PS3.4 Section C.4.1.3.2); so long it is given.
_GRACE_SECONDS = 10.0


class StoppedError(SentinodeError):
    """Somebody asked to stop; nothing went wrong."""


class BrokenOffError(PeerError):
    """The association was opened, and broke or fell silent in the middle."""


class AnsweredNoError(PeerError):
    """The peer answered with an error; asking the same again does not help.

    Attributes:
        status: what it answered (PS3.7 Annex C, PS3.4 Tables C.4-1 to C.4-3).
    """

    retry = False
    remedy = ""

    def __init__(self, message: str, status: int, *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


@contextmanager
def cancelling(
    association: Association,
    sop_class: UID,
    stop: threading.Event | None,
) -> Iterator[Callable[[], None]]:
    """Watch a request: it is cancelled when `stop` is set, or when the given function is called.

    A peer that does not end the request within some seconds of the C-CANCEL is aborted. An
    exception in the block aborts at once: nobody would hear the answers that still come.
    """
    wanted, ended = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.wait(_LOOK_SECONDS):
            if wanted.is_set() or (stop is not None and stop.is_set()):
                break
        else:
            return
        # the association may end at this moment
        with suppress(RuntimeError, ValueError):
            association.send_c_cancel(MESSAGE_ID, query_model=sop_class)
        if not ended.wait(_GRACE_SECONDS):
            association.abort()
            # pynetdicom wakes up who waits for an answer only when the peer aborts
            association.dimse.msg_queue.put((None, None))

    watcher = threading.Thread(target=watch, name="canceller", daemon=True)
    watcher.start()
    try:
        yield wanted.set
    except BaseException:
        if association.is_established:
            association.abort()
        raise
    finally:
        ended.set()
        watcher.join()
