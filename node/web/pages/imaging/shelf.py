"""Stacks, frames and outlines from the store; what was read lately is kept in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pydicom import dcmread
from pydicom.dataset import Dataset

from core.domain import Result
from core.errors import BytesGoneError, DecodeError, SentinodeError, StoreError
from core.ledger.browse_study import Held
from core.store import Store
from node.web.pages.imaging.frame import Drawable, read_frame
from node.web.pages.imaging.outlines import Outlines, read_outlines
from node.web.pages.imaging.stack import TAGS, Stack, arrange

MOST_INSTANCES = 4000
_STACKS, _OUTLINES = 32, 16
# Decoding takes memory: so many at once in a process, the others wait.
_AT_ONCE = 3

_Made = TypeVar("_Made")


class Shelf:
    """Reads for the viewer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(_AT_ONCE)
        self._stacks: OrderedDict[Any, Stack] = OrderedDict()
        self._outlines: OrderedDict[Any, Outlines] = OrderedDict()

    def stack(self, held: list[Held]) -> Stack:
        """The frames of a series in order.

        Raises:
            StoreError: the store is away.
        """
        there = [item for item in held if not item.gone]
        key = tuple(item.instance.id for item in there)
        return self._kept(
            self._stacks,
            _STACKS,
            key,
            lambda: arrange(self._headers(there), len(held) - len(there)),
        )

    def frame(self, held: Held, number: int) -> Drawable:
        """One frame, from 1.

        Raises:
            BytesGoneError: retention removed it.
            DecodeError: it cannot be drawn.
            StoreError: the store is away.
        """
        if held.gone:
            raise BytesGoneError("the image was removed from the store ([retention])")
        with self._room, self._store.as_file(held.instance.store_key) as path:
            return read_frame(path, number)

    def outlines(self, result: Result) -> Outlines:
        """The borders of a segmentation that a job made.

        Raises:
            BytesGoneError: retention removed it.
            DecodeError: it cannot be read.
            StoreError: the store is away.
        """

        def read() -> Outlines:
            with self._room, self._store.as_file(result.store_key) as path:
                return read_outlines(path)

        return self._kept(self._outlines, _OUTLINES, result.id, read)

    def _headers(self, held: list[Held]) -> Iterator[tuple[int, Dataset]]:
        for item in held:
            try:
                with self._store.as_file(item.instance.store_key) as path:
                    yield (
                        item.instance.id,
                        dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS)),
                    )
            except StoreError as error:
                if not isinstance(error, BytesGoneError):
                    raise
            except SentinodeError:
                raise
            except Exception as error:  # a damaged file can raise anything
                raise DecodeError(f"a header cannot be read: {error}") from error

    def _kept(
        self,
        kept: OrderedDict[Any, _Made],
        most: int,
        key: Any,
        make: Callable[[], _Made],
    ) -> _Made:
        with self._lock:
            if key in kept:
                kept.move_to_end(key)
                return kept[key]
        made = make()
        with self._lock:
            kept[key] = made
            while len(kept) > most:
                kept.popitem(last=False)
        return made
