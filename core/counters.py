"""Counters that every role writes and the role web shows to Prometheus, over all processes.

They lie in files beside the pid files, one per process, which the web role adds up. A role that
was not told a folder counts nothing.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

# name → labels, what it counts. `_total` is added where it is shown.
COUNTERS: dict[str, tuple[tuple[str, ...], str]] = {
    "sentinode_instances_received": (("peer",), "Instances that are safe in the spool"),
    "sentinode_received_bytes": (("peer",), "Bytes of them, as they came"),
    "sentinode_instances_refused": (
        ("peer", "status"),
        "Instances that were not taken, by the status that the peer was told",
    ),
    "sentinode_instances_filed": (("outcome",), "Instances that intake has filed in the ledger"),
    "sentinode_objects_sent": (("destination", "outcome"), "Tries to deliver an object"),
    "sentinode_log_events": (
        ("role", "event", "level"),
        "Log events from warning upwards, by name; operations.md says what each means",
    ),
}
# So many combinations of labels are told apart; a peer may call itself by any name.
_MOST_KINDS = 300
_OTHER = "other"


class _Book:
    """The counters of this process."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}
        self.kinds: dict[str, set[tuple[str, ...]]] = {}
        self.lock = threading.Lock()


_book = _Book()


def folder_of(data: Path) -> Path:
    """Where the counters of the roles on one data folder lie."""
    return data / "run" / "counters"


def configure(data: Path) -> None:
    """Count from now on, in files under the data folder."""
    if _book.made:
        return
    folder = folder_of(data)
    folder.mkdir(parents=True, exist_ok=True)
    # read by prometheus_client when it is imported, so that comes afterwards
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    from prometheus_client import CollectorRegistry, Counter  # noqa: PLC0415

    registry = CollectorRegistry()
    for name, (labels, text) in COUNTERS.items():
        _book.made[name] = Counter(name, text, labels, registry=registry)
        _book.kinds[name] = set()


def count(name: str, *labels: str, amount: float = 1) -> None:
    """Count something; nothing happens in a process that was not told to count."""
    counter = _book.made.get(name)
    if counter is None:
        return
    kinds = _book.kinds[name]
    if labels not in kinds:
        with _book.lock:
            if len(kinds) >= _MOST_KINDS:
                labels = tuple(_OTHER for _ in labels)
            kinds.add(labels)
    counter.labels(*labels).inc(amount)
