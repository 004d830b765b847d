"""Ctrl-C in a long command: the first ends it in order, the second at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from cli.context import error_console

EXIT_STOPPED = 130  # 128 + SIGINT, as shells have it


@contextmanager
def stopping(after: str = "") -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; the command then exits with 130.

    Args:
        after: what a person should know when it was stopped.
    """
    from node.fetching.stopping import StoppedError

    stop = threading.Event()

    def on_signal(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        error_console.print("Stopping; once more ends at once.")

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, on_signal) for number in numbers]
    try:
        yield stop
    except (StoppedError, KeyboardInterrupt):
        error_console.print(f"Stopped. {after}".strip(), highlight=False)
        raise typer.Exit(EXIT_STOPPED) from None
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
