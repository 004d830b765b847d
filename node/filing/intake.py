"""Intake: from the spool into the store and the ledger.

The order of each batch is: bytes into the store, rows into the ledger, commit, then the spool's
copy goes. A crash anywhere in between repeats the batch, and filing the same thing twice
changes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from core import clock
from core.counters import count
from core.domain import Association, IncomingInstance
from core.errors import LedgerError, LedgerValueError, StoreError
from core.ledger import Ledger, Work
from core.ledger.filing import Filed, Outcome
from core.store import Store, fsync_folder
from node.filing.incoming import IncomingReader
from node.spool.file import PARTIAL
from node.spool.heads import association_from_json
from node.spool.notices import NoticeDesk
from node.spool.receiver import END_FILE, UNREADABLE, receiver_is_dead
from node.spool.recovery import recover

log = structlog.get_logger()

# Of one association in one turn, and of all of them in one transaction.
_TURN = 200
_BATCH = 400
_BATCH_BYTES = 256 << 20
# Troubles of this process or its machine, not of the file that was to be read.
_PASSING = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC])
_NOTE_EVERY = timedelta(seconds=0.5)
# Between the moment that an image is said to be received at and its last bytes, which tell us.
_BETWEEN = timedelta(seconds=0.1)


@dataclass(frozen=True, slots=True)
class _Read:
    path: Path
    incoming: IncomingInstance


@dataclass(slots=True)
class _Folder:
    """One association in the spool, as one look found it.

    Attributes:
        ended: it has ended; asked before the files, so that none comes after it.
        files: the images that this turn files, in order of arrival.
        left: when the first image came that is left for the next turn; None where all are filed.
        coming: when the last bytes came of an image that is still being written, or made durable;
            the earliest where there are several.
        notices: whether there are any.
        sender: as the last image that was read says.
    """

    path: Path
    receiver_dead: bool
    ended: bool
    files: list[Path]
    left: datetime | None
    coming: datetime | None
    notices: bool
    sender: Association | None = None


class Intake:
    """Files what the receivers of this machine spooled."""

    def __init__(self, spool: Path, store: Store, ledger: Ledger) -> None:
        self._spool = spool
        self._store = store
        self._ledger = ledger
        self._notices = NoticeDesk(ledger)
        self._reader = IncomingReader()
        self._place = f"{socket.gethostname()}:{spool}"
        self._id = str(uuid.uuid5(uuid.NAMESPACE_URL, self._place))
        self._filed_before: datetime | None = None
        self._noted_at: datetime | None = None
        spool.mkdir(parents=True, exist_ok=True)

    def step(self) -> int:
        """File everything that is there now, a turn of each association; returns the number.

        Raises:
            LedgerError: SQL is away; the spool keeps what was not filed.
            StoreError: the store is away; the same.
        """
        began = clock.now()
        with ExitStack() as locks:
            receivers = list(self._receivers(locks))
            # a turn of each: a long association must not let a short one of the same series
            # wait until the quiet time is over
            folders = [
                _look(path, dead)
                for receiver, dead in receivers
                for path in sorted(item for item in receiver.iterdir() if item.is_dir())
            ]
            if self._filed_before is None:
                waiting = [at for item in folders for at in (_first(item), item.coming) if at]
                self._filed_before = min([began, *waiting])
            count = 0
            for batch in _batches(folders):
                count += self._file_batch(batch)
            for folder in folders:
                if folder.notices:
                    count += self._notices.file(folder.path)
            self._end(folders)
            for receiver, dead in receivers:
                if dead:
                    _remove(receiver, ("lock",))
        waiting = [at for item in folders for at in (item.left, item.coming) if at is not None]
        self._filed_before = min([began, *waiting])
        self._note_watermark(behind=self._filed_before < began)
        return count

    def close(self) -> None:
        """Sign off: nobody waits for this intake when its spool is empty."""
        folders = {path.parent for path in self._spool.glob("*/*/*" + PARTIAL)}
        coming = any(_coming(folder, _names(folder)) for folder in folders)
        if not coming and next(self._spool.glob("*/*/*.dcm"), None) is None:
            try:
                with self._ledger.write() as work:
                    work.watermarks.leave(self._id)
            except LedgerError as error:
                # others wait a minute for it, then go on
                log.warning("intake_not_signed_off", error=str(error))

    def _receivers(self, locks: ExitStack) -> Iterator[tuple[Path, bool]]:
        """The receivers' folders, and whether each is dead; its lock is held meanwhile."""
        for receiver in sorted(self._spool.iterdir()):
            # a name with a dot: a receiver that is just starting
            if receiver.name == UNREADABLE or receiver.name.startswith(".") or receiver.is_file():
                continue
            # asked before looking: what a receiver wrote before it died is then seen for sure
            yield receiver, locks.enter_context(receiver_is_dead(receiver))

    def _file_batch(self, batch: Sequence[tuple[_Folder, Path]]) -> int:
        count = 0
        read: list[_Read] = []
        seen: set[str] = set()
        size = 0
        for folder, path in batch:
            item = self._read(path, seen)
            if item is None:
                continue
            folder.sender = item.incoming.association
            seen.add(item.incoming.series_instance_uid)
            read.append(item)
            size += item.incoming.size
            if size > _BATCH_BYTES:
                count += self._file_or_shelve(read)
                read, size = [], 0
                seen.clear()
        return count + (self._file_or_shelve(read) if read else 0)

    def _read(self, path: Path, known: set[str]) -> _Read | None:
        try:
            return _Read(path, self._reader.read(path, known))
        except FileNotFoundError:
            return None  # another intake was faster
        except OSError as error:
            if error.errno in _PASSING:
                raise StoreError(f"the spool cannot be read: {error}") from error
            self._put_aside(path, error)
        except Exception as error:  # noqa: BLE001 - kept, told, and the next image is filed
            self._put_aside(path, error)
        return None

    def _put_aside(self, path: Path, error: Exception) -> None:
        """Shelve a file that cannot be read. The message may quote a patient's value: not told."""
        place = traceback.extract_tb(error.__traceback__)[-1]
        log.error(
            "instance_unreadable",
            kept_as=str(self._shelve(path)),
            error=type(error).__name__,
            where=f"{Path(place.filename).name}:{place.lineno}",
        )

    def _shelve(self, path: Path) -> Path:
        """Put a file aside that cannot be filed. Nothing that was acknowledged is thrown away."""
        shelf = self._spool / UNREADABLE
        shelf.mkdir(exist_ok=True)
        target = shelf / f"{path.parent.name}-{path.name}"
        with contextlib.suppress(FileNotFoundError):  # another intake was faster
            path.rename(target)
        fsync_folder(shelf)
        return target

    def _file_or_shelve(self, batch: list[_Read]) -> int:
        """File a batch; if a value is not taken, halves of it; keep aside what fails alone."""
        try:
            self._file(batch)
        except LedgerValueError as error:
            if len(batch) == 1:
                kept_as = self._shelve(batch[0].path)
                log.warning("instance_unfilable", kept_as=str(kept_as), reason=str(error))
                return 0
            middle = len(batch) // 2
            return self._file_again(batch[:middle]) + self._file_again(batch[middle:])
        return len(batch)

    def _file_again(self, batch: list[_Read]) -> int:
        """File a part of a batch, each with its attributes: the first of a series may be gone."""
        again = [found for item in batch if (found := self._read(item.path, set())) is not None]
        return self._file_or_shelve(again) if again else 0

    def _file(self, batch: list[_Read]) -> None:
        self._store.put_files([(item.incoming.store_key, item.path) for item in batch])
        now = clock.now()
        with self._ledger.write() as work:
            own = work.filing.own_results(item.incoming.sop_instance_uid for item in batch)
            incoming = [
                replace(item.incoming, own_result=True)
                if item.incoming.sop_instance_uid in own
                else item.incoming
                for item in batch
            ]
            filed = work.filing.file_many(incoming, now)
            back = [item for item, one in zip(batch, filed, strict=True) if one.bytes_wanted]
            self._store.put_files([(item.incoming.store_key, item.path) for item in back])
            held = {study for one in filed for study in one.studies_in_conflict}
            for study in sorted(held):
                work.conflicts.hold(study, now)
            # before anybody sees the new images: they must know that we are at work
            if self._noted_at is None or now - self._noted_at >= _NOTE_EVERY:
                self._note(work, now)
        # only now is it safe to let the spool's copy go
        for item in batch:
            item.path.unlink(missing_ok=True)
        _tell(incoming, filed)

    def _note_watermark(self, *, behind: bool) -> None:
        """Say how far we are, as long as somebody asks."""
        now = clock.now()
        if self._noted_at is not None and now - self._noted_at < _NOTE_EVERY:
            return
        if not behind:
            with self._ledger.read() as work:
                if not work.watermarks.wanted():
                    return
        with self._ledger.write() as work:
            self._note(work, now)

    def _note(self, work: Work, now: datetime) -> None:
        if self._filed_before is not None:
            work.watermarks.note(self._id, self._place, self._filed_before, now)
            self._noted_at = now

    def _end(self, folders: list[_Folder]) -> None:
        """End the associations that have ended and of which everything is filed."""
        ends = []
        for folder in folders:
            if folder.left is not None or not (folder.ended or folder.receiver_dead):
                continue
            if any(_waits(item) for item in folder.path.iterdir()):
                continue  # it could not be read just now and was not moved, or has just come
            association = _ended(folder.path) if folder.ended else _broken_off(folder)
            ends.append((folder.path, association))
        if not ends:
            return
        with self._ledger.write() as work:
            for _, association in ends:
                work.filing.end_association(association)
        for path, association in ends:
            _remove(path, (END_FILE, "*.part"))
            log.info("association_filed", association=association.id, end=association.end)


def _look(path: Path, receiver_dead: bool) -> _Folder:
    """What lies in the folder of an association."""
    ended = (path / END_FILE).exists()
    names = _names(path)
    if receiver_dead:
        names = sorted({*names, *_recovered(path, names)})
    images = [name for name in names if name.endswith(".dcm")]
    left = images[_TURN] if len(images) > _TURN else None
    return _Folder(
        path,
        receiver_dead,
        ended,
        [path / name for name in images[:_TURN]],
        _came_at(path / left) if left is not None else None,
        None if ended or receiver_dead else _coming(path, names),
        any(name.startswith("notice-") and name.endswith(".json") for name in names),
    )


def _recovered(path: Path, names: list[str]) -> list[str]:
    """Images that were complete, but not yet named so, when their receiver died."""
    try:
        found = recover(path, names)
    except OSError as error:
        # one of them may have been acknowledged: nothing of this folder may be removed
        raise StoreError(f"the spool cannot be read: {error}") from error
    if found:
        log.warning("instances_recovered", association=path.name, instances=len(found))
    return found


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - thousands of names
    except FileNotFoundError:  # another intake was faster
        return []


def _came_at(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return clock.now()  # another intake was faster


def _coming(path: Path, names: list[str]) -> datetime | None:
    """Since when an image of the folder is on its way to the disk.

    The disk may take its time: such an image was received, but cannot be seen yet.
    """
    moments = []
    for name in names:
        # others are small files of the receiver's own
        if not name.endswith(PARTIAL) or not name.removesuffix(PARTIAL).isdigit():
            continue
        number = name.removesuffix(PARTIAL)
        # it may have become complete since the look, or be gone
        for found in (path / name, path / (number + ".dcm")):
            with contextlib.suppress(FileNotFoundError):
                status = found.stat()
                if status.st_size:
                    moments.append(datetime.fromtimestamp(status.st_mtime, UTC) - _BETWEEN)
                break
    return min(moments, default=None)


def _first(folder: _Folder) -> datetime:
    return _came_at(folder.files[0]) if folder.files else clock.now()


def _batches(folders: list[_Folder]) -> Iterator[list[tuple[_Folder, Path]]]:
    """The files of all folders, so many that one transaction takes them."""
    files = [(folder, path) for folder in folders for path in folder.files]
    for begin in range(0, len(files), _BATCH):
        yield files[begin : begin + _BATCH]


def _waits(path: Path) -> bool:
    """Whether an association's folder holds something that must be filed first."""
    return path.suffix == ".dcm" or path.match("notice-*.json") or path.is_dir()


def _ended(folder: Path) -> Association:
    content = json.loads((folder / END_FILE).read_text(encoding="utf-8"))
    return replace(
        association_from_json(content["association"]),
        ended_at=datetime.fromisoformat(content["ended_at"]),
        end=content["end"],
    )


def _broken_off(folder: _Folder) -> Association:
    """The receiver died without a word: the association ends now, as broken off."""
    name = folder.path.name
    sender = folder.sender or Association(name, "", "", "", clock.now())
    return replace(sender, id=name, ended_at=clock.now(), end="broken off")


def _tell(batch: list[IncomingInstance], filed: list[Filed]) -> None:
    outcomes: dict[Outcome, int] = {}
    for incoming, one in zip(batch, filed, strict=True):
        outcomes[one.outcome] = outcomes.get(one.outcome, 0) + 1
        if one.conflicts:
            log.warning(
                "identity_conflict",
                study=incoming.study_instance_uid,
                series=incoming.series_instance_uid,
                sop_instance_uid=incoming.sop_instance_uid,
                differs=list(one.conflicts),
                remedy="See `sentinode conflicts`.",
            )
    for outcome, number in outcomes.items():
        count("sentinode_instances_filed", outcome, amount=number)
    log.debug(
        "instances_filed",
        associations=len({item.association.id for item in batch}),
        **{outcome.replace(" ", "_"): number for outcome, number in outcomes.items()},
    )


def _remove(folder: Path, leftovers: tuple[str, ...]) -> None:
    """Remove a folder that holds nothing but leftovers; one that holds more stays for later."""
    if any(_waits(item) for item in folder.iterdir()):
        return
    for pattern in leftovers:
        for item in folder.glob(pattern):
            item.unlink(missing_ok=True)
    # another intake was faster, or a file has come: either way the next step sees
    with contextlib.suppress(OSError):
        folder.rmdir()
