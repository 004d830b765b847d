"""Honest modalities: what was not answered 0x0000 is sent again, until it was.

A modality also does what modalities do to a node: it sends images twice, in any order, and
loses its connection in the middle of one. Those come as wishes, so that each can be counted.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, Queue

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.association import Association

from support.torture.book import Book
from support.torture.patients import Series
from support.torture.relay import Relay

_TIMEOUT = 15.0


@dataclass
class Wish:
    """Something that the next modality shall do to the node.

    Attributes:
        kind: "duplicates", "reordered" or "cut".
        hit: whether it happened; None while it is not known.
    """

    kind: str
    hit: bool | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def settle(self, hit: bool) -> None:
        """Say whether it happened."""
        self.hit = hit
        self.done.set()


@dataclass(frozen=True)
class Door:
    """Where a node listens."""

    node: str
    port: int


class Modality(threading.Thread):
    """Sends one study after the other until it is told to stop; ends what it began.

    `doors` gives the doors that are open now, `next_study` a study's series or None when no
    more is wanted just now.
    """

    def __init__(
        self,
        ae_title: str,
        seed: int,
        book: Book,
        doors: Callable[[], list[Door]],
        next_study: Callable[[], list[Series] | None],
        wishes: Queue[Wish],
    ) -> None:
        super().__init__(name=ae_title, daemon=True)
        self._ae_title = ae_title
        self._rng = random.Random(seed)
        self._book = book
        self._doors = doors
        self._next_study = next_study
        self._wishes = wishes
        self.enough = threading.Event()
        self.give_up = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Work until `enough` is set and the study at hand is acknowledged."""
        try:
            while not self.enough.is_set():
                study = self._next_study()
                if study is None:
                    time.sleep(0.05)
                    continue
                self._study(study)
        except BaseException as error:
            self.failure = error
            raise

    def _study(self, study: list[Series]) -> None:
        wish = self._wish()
        kind = wish.kind if wish else ""
        todo = [(series, index) for series in study for index in range(series.images)]
        if kind == "reordered":
            self._rng.shuffle(todo)
        first = True
        while todo and not self.give_up.is_set():
            relayed = kind == "cut" and first
            first = False
            left = self._send(todo, cut=relayed, wish=wish)
            if left:
                self._pause(0.2, 1.0)
            todo = left
        if wish and kind == "cut" and not wish.done.is_set():
            wish.settle(False)  # no door was open at that moment
        if todo:
            return  # told to give up; it is in the book that they were not acknowledged
        for series in study:
            self._book.finish(series)
        if kind == "duplicates":
            self._again(study, wish)
        elif wish and kind == "reordered":
            wish.settle(True)

    def _again(self, study: list[Series], wish: Wish | None) -> None:
        """Half of the images once more, in the other encoding: nothing may change."""
        images = [(series, index) for series in study for index in range(series.images)]
        again = self._rng.sample(images, max(1, len(images) // 2))
        before = {series.sop_uid(index): self._answered(series, index) for series, index in again}
        self._send(again, implicit=True)
        twice = any(
            self._answered(series, index) > before[series.sop_uid(index)] for series, index in again
        )
        if wish:
            wish.settle(twice)

    def _answered(self, series: Series, index: int) -> int:
        return self._book.answered[series.sop_uid(index)]

    def _send(
        self,
        images: list[tuple[Series, int]],
        *,
        implicit: bool = False,
        cut: bool = False,
        wish: Wish | None = None,
    ) -> list[tuple[Series, int]]:
        """Send over one association; returns what was not acknowledged."""
        doors = self._doors()
        if not doors:
            return images
        door = self._rng.choice(doors)
        relay = None
        port = door.port
        if cut:
            relay = Relay(door.port)
            relay.cut_after(self._rng.randrange(len(images)))
            port = relay.port
        ae = AE(self._ae_title)
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        ae.add_requested_context(MRImageStorage, syntax)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = _TIMEOUT
        ae.connection_timeout = 5
        association = ae.associate("127.0.0.1", port, ae_title="SENTINODE")
        try:
            if not _is_open(association):
                return images
            with self._book.sending(door.node):
                left = self._store(association, images, door)
            if _is_open(association):
                association.release()
            else:
                self._book.break_off()
        finally:
            if relay is not None:
                relay.unplug()
                if wish is not None:
                    wish.settle(relay.cuts > 0)
        return left

    def _store(
        self, association: Association, images: list[tuple[Series, int]], door: Door
    ) -> list[tuple[Series, int]]:
        left: list[tuple[Series, int]] = []
        for number, (series, index) in enumerate(images):
            if not _is_open(association):
                return left + images[number:]
            try:
                answer = association.send_c_store(series.image(index))
            except (RuntimeError, ValueError):  # it broke between the question and the call
                return left + images[number:]
            status = answer.get("Status")
            if status is not None:
                self._book.answer(series, index, int(status), door.node)
            if status != 0x0000:
                left.append((series, index))
            self._pause(0.0, 0.02)
        return left

    def _wish(self) -> Wish | None:
        try:
            return self._wishes.get_nowait()
        except Empty:
            return None

    def _pause(self, least: float, most: float) -> None:
        time.sleep(self._rng.uniform(least, most))


def _is_open(association: Association) -> bool:
    """Asked anew each time: it changes by itself."""
    return bool(association.is_established)
