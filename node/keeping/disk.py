"""Room on the disks: spool, store and ledger, each where it lies.

The door refuses instances while the spool's disk has less than `storage.min_free_mb`. Intake goes
on below that, for it frees the spool; but when the disk of the store or the ledger has less than
half of it, intake waits too, so that images never take the ledger's last room. Then the spool
fills, and the door refuses. A disk that is getting full is told once, and once when it is well
again.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

import structlog

from core import clock
from core.errors import StoreError
from core.settings import Settings
from core.store import Store

log = structlog.get_logger()

_MB = 1 << 20
_LOOK_EVERY = timedelta(seconds=10)
# The rate at which a disk fills is taken over so long, and not told before there is so much of it.
_RATE_OVER = timedelta(hours=1)
_RATE_AT_LEAST = timedelta(minutes=2)
# Free space must grow so much above a mark before it is well again, or it would be told for ever.
_CLEARLY = 1.05


class Level(StrEnum):
    """How a disk does: well, less than storage.warn_free_mb, less than storage.min_free_mb."""

    WELL = "well"
    LOW = "low"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk that something of ours lies on.

    Attributes:
        holds: of "spool", "store" and "ledger" those that lie on it.
        folder: one of their folders.
        free_mb, total_mb: MB.
    """

    holds: tuple[str, ...]
    folder: Path
    free_mb: int
    total_mb: int
    level: Level


def disks(settings: Settings) -> list[Disk]:
    """The disks of spool, store and ledger as they are now; a remote store or ledger has none.

    Raises:
        StoreError: a disk does not answer.
    """
    by_device: dict[int, tuple[list[str], Path]] = {}
    for name, folder in _places(settings).items():
        try:
            device = folder.stat().st_dev
        except OSError as error:
            raise StoreError(f"the {name}'s disk does not answer: {error}") from error
        by_device.setdefault(device, ([], folder))[0].append(name)
    found = []
    for names, folder in by_device.values():
        try:
            space = os.statvfs(folder)
        except OSError as error:
            raise StoreError(f"the {names[0]}'s disk does not answer: {error}") from error
        free = space.f_bavail * space.f_frsize // _MB
        total = space.f_blocks * space.f_frsize // _MB
        found.append(Disk(tuple(names), folder, free, total, _level(settings, free)))
    return found


def check_room(settings: Settings, found: list[Disk]) -> None:
    """See that intake leaves room for the ledger.

    Raises:
        StoreError: the disk of store or ledger has less than half of storage.min_free_mb.
    """
    least = settings.storage.min_free_mb // 2
    for disk in found:
        if disk.free_mb < least and set(disk.holds) & {"store", "ledger"}:
            raise StoreError(
                f"{disk.free_mb} MB free on the disk of {' and '.join(disk.holds)}; "
                f"nothing is filed below {least} MB",
                remedy="Free space on it, set [retention], or lower storage.min_free_mb.",
            )


class DiskWatch:
    """Tells when a disk gets full, and when it is well again."""

    def __init__(self, settings: Settings, now: Callable[[], datetime] = clock.now) -> None:
        self._settings = settings
        self._now = now
        self._levels: dict[tuple[str, ...], Level] = {}
        self._seen: dict[tuple[str, ...], deque[tuple[datetime, int]]] = {}
        self._told_at: datetime | None = None

    def step(self) -> int:
        """Look, tell what changed, and see that there is room; returns 0.

        Raises:
            StoreError: no room for intake, or a disk does not answer.
        """
        now, found = self._now(), disks(self._settings)
        if self._told_at is None or now - self._told_at >= _LOOK_EVERY or now < self._told_at:
            self._told_at = now
            for disk in found:
                self._note(disk, now)
                self._tell(disk)
        check_room(self._settings, found)
        return 0

    def _note(self, disk: Disk, now: datetime) -> None:
        seen = self._seen.setdefault(disk.holds, deque())
        if seen and now < seen[-1][0]:
            seen.clear()  # the clock was set back
        seen.append((now, disk.free_mb))
        while now - seen[0][0] > _RATE_OVER:
            seen.popleft()

    def _tell(self, disk: Disk) -> None:
        before = self._levels.get(disk.holds, Level.WELL)
        level = disk.level
        worse = list(Level).index(level) > list(Level).index(before)
        if not worse and level != before:
            level = _level(self._settings, int(disk.free_mb / _CLEARLY))
        if level == before:
            return
        self._levels[disk.holds] = level
        about = {
            "holds": list(disk.holds),
            "free_mb": disk.free_mb,
            "warn_free_mb": self._settings.storage.warn_free_mb,
            "min_free_mb": self._settings.storage.min_free_mb,
        }
        lasts = self._lasts_hours(disk.holds)
        if lasts is not None:
            about["full_in_hours"] = round(lasts, 1)
        if level == Level.WELL:
            log.info("disk_well", **about)
        elif level == Level.LOW:
            log.warning("disk_low", **about)
        else:
            log.error("disk_full", **about)

    def _lasts_hours(self, holds: tuple[str, ...]) -> float | None:
        """How long the room above storage.min_free_mb lasts at the present rate, if it shrinks."""
        (first, free_then), (last, free_now) = self._seen[holds][0], self._seen[holds][-1]
        taken = free_then - free_now
        if last - first < _RATE_AT_LEAST or taken <= 0:
            return None
        room = max(0, free_now - self._settings.storage.min_free_mb)
        return room / taken * ((last - first) / timedelta(hours=1))


def _level(settings: Settings, free_mb: int) -> Level:
    if free_mb < settings.storage.min_free_mb:
        return Level.FULL
    return Level.LOW if free_mb < settings.storage.warn_free_mb else Level.WELL


def _places(settings: Settings) -> dict[str, Path]:
    """Existing folders on the disks of spool, store and ledger."""
    places = {"spool": settings.spool}
    store = Store(settings.store_url)
    if store.folder is not None:
        places["store"] = store.folder
    file = settings.ledger_url.partition(":///")[2].partition("?")[0]
    if settings.embedded_ledger and file and file != ":memory:":
        places["ledger"] = Path(file).absolute().parent
    return {name: _existing(folder) for name, folder in places.items()}


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
