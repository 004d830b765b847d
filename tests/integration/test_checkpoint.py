"""An answer goes to who waits for it, however slow pynetdicom's own thread is."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from pynetdicom import build_context
from pynetdicom.sop_class import Verification
from support.peers import small_pacs

from core.identifiers import AETitle, DicomAddress
from node.dimse.checkpoint import Checkpoint
from node.dimse.scu import associate


@pytest.fixture(autouse=True)
def _exact_pauses() -> None:
    """Here pynetdicom's associations stay as they are."""


def dawdle(association: Any) -> None:
    """Let the association thread stand behind its checkpoint for a moment in each round.

    And who sends looks for the answer only some time after it has come.
    """
    checkpoint, send = association._reactor_checkpoint, association.dimse.send_msg
    wait = checkpoint.wait

    def send_and_rest(*arguments: Any) -> None:
        send(*arguments)
        time.sleep(0.2)

    def slowly(timeout: float | None = None) -> bool:
        passed = bool(wait(timeout))
        time.sleep(0.05)
        return passed

    checkpoint.wait = slowly
    association.dimse.send_msg = send_and_rest


def test_no_answer_is_taken_by_the_association_thread() -> None:
    with small_pacs() as pacs:
        peer = DicomAddress(AETitle("PACS"), "127.0.0.1", pacs.port)
        with associate("SENTINODE", peer, [build_context(Verification)], 2) as association:
            dawdle(association)
            answers = [association.send_c_echo().get("Status") for _ in range(3)]
        assert answers == [0x0000] * 3
        assert association.is_released


class Rounds(threading.Thread):
    """An association thread: passes the checkpoint, then is busy until it may go on."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.checkpoint = Checkpoint(self)
        self.busy, self.go_on = threading.Event(), threading.Event()
        self._kill = False
        self._is_paused = False

    def run(self) -> None:
        while not self._kill:
            self.checkpoint.wait()
            self.busy.set()
            self.go_on.wait()


def test_clearing_returns_when_the_thread_stands() -> None:
    rounds = Rounds()
    rounds.start()
    assert rounds.busy.wait(10)
    cleared = threading.Event()

    def clear() -> None:
        rounds.checkpoint.clear()
        cleared.set()

    clearing = threading.Thread(target=clear)
    clearing.start()
    assert not cleared.wait(0.3)
    rounds.go_on.set()
    assert cleared.wait(10)
    rounds._kill = True
    rounds.checkpoint.set()
    rounds.join(10)
    assert not rounds.is_alive()


def test_clearing_does_not_wait_for_a_thread_that_ended() -> None:
    rounds = Rounds()
    rounds._kill = True
    rounds.start()
    rounds.join(10)
    rounds.checkpoint.clear()
    assert rounds._is_paused
