"""A role's loop: do a step, wait a little, go on when a server is away, end when told."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import structlog

from core.errors import SentinodeError

log = structlog.get_logger()
T = TypeVar("T")

POLL_SECONDS = 0.1
_LONGEST_WAIT = 5.0


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def on_signal(number: int, _: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop


def run(step: Callable[[], int], stop: threading.Event, poll_seconds: float = POLL_SECONDS) -> None:
    """Call `step` until `stop` is set. A step that did something is followed by the next at once.

    Errors that may pass are told once, when they begin and when they end; the step is tried
    again after a growing wait. Any other error ends the role, so that nobody believes it works.
    """
    trouble = ""
    wait = poll_seconds
    while not stop.is_set():
        try:
            busy = step()
        except SentinodeError as error:
            if not error.retry:
                raise
            if str(error) != trouble:
                trouble = str(error)
                log.warning("waiting", error=trouble, remedy=error.remedy)
            wait = min(wait * 2, _LONGEST_WAIT)
            stop.wait(wait)
            continue
        if trouble:
            log.info("going_on", after=trouble)
            trouble = ""
        wait = poll_seconds
        if not busy:
            stop.wait(poll_seconds)


@contextmanager
def beside(step: Callable[[], int], stop: threading.Event, poll_seconds: float) -> Iterator[None]:
    """Run a second loop in a thread of its own as long as the block runs.

    An error that would end a role ends this one: `stop` is set, and it is raised at the end of
    the block.
    """
    ended: list[BaseException] = []

    def loop() -> None:
        try:
            run(step, stop, poll_seconds)
        except BaseException as error:  # noqa: BLE001 - raised again by the role itself
            ended.append(error)
            stop.set()

    thread = threading.Thread(target=loop, name="beside")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if ended:
        raise ended[0]


def until_done(attempt: Callable[[], T], stop: threading.Event) -> T | None:
    """Call `attempt` until it returns, waiting out errors that may pass; None when told to stop."""
    result: list[T] = []
    done = threading.Event()

    def step() -> int:
        if stop.is_set():
            done.set()
        else:
            result.append(attempt())
            done.set()
        return 1

    run(step, done)
    return result[0] if result else None
