"""Intake: from the spool into the store and the ledger.

The order of each batch is: bytes into the store, rows into the ledger, commit, then the spool's
copy goes. A crash anywhere in between repeats the batch, and filing the same thing twice
changes nothing.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import structlog

from core import clock
from core.domain import Association, IncomingInstance
from core.errors import LedgerValueError
from core.ledger import Ledger
from core.ledger.filing import Outcome
from core.store import Store, fsync_folder
from node.incoming import read_incoming
from node.spool import END_FILE, UNREADABLE, association_from_json, receiver_is_dead

log = structlog.get_logger()

_BATCH = 50


@dataclass(frozen=True, slots=True)
class _Read:
    path: Path
    incoming: IncomingInstance


class Intake:
    """Files what the receivers of this machine spooled."""

    def __init__(self, spool: Path, store: Store, ledger: Ledger) -> None:
        self._spool = spool
        self._store = store
        self._ledger = ledger
        spool.mkdir(parents=True, exist_ok=True)

    def step(self) -> int:
        """File everything that is there now; returns the number of instances.

        Raises:
            LedgerError: SQL is away; the spool keeps what was not filed.
            StoreError: the store is away; the same.
        """
        count = 0
        for receiver in sorted(self._spool.iterdir()):
            # a name with a dot: a receiver that is just starting
            if receiver.name == UNREADABLE or receiver.name.startswith(".") or receiver.is_file():
                continue
            # asked before looking: what a receiver wrote before it died is then seen for sure
            with receiver_is_dead(receiver) as dead:
                folders = sorted(item for item in receiver.iterdir() if item.is_dir())
                # a batch of each in turn: a long association must not let a short one of the
                # same series wait until the quiet time is over
                for folder in folders:
                    count += self._association(folder, dead)
                if dead:
                    _remove(receiver, ("lock",))
        return count

    def _association(self, folder: Path, receiver_dead: bool) -> int:
        count = 0
        # looked for before the files: when it is there, no file comes after it
        end_file = folder / END_FILE
        ended = end_file.exists()
        files = sorted(folder.glob("*.dcm"))
        last: IncomingInstance | None = None
        batch = self._read(files[:_BATCH])
        if batch:
            last = batch[-1].incoming
            count += self._file_or_shelve(batch)
        if len(files) > _BATCH:
            return count
        if ended:
            content = json.loads(end_file.read_text(encoding="utf-8"))
            association = replace(
                association_from_json(content["association"]),
                ended_at=datetime.fromisoformat(content["ended_at"]),
                end=content["end"],
            )
            self._end(folder, association)
        elif receiver_dead:
            self._end(folder, self._broken_off(folder, last))
        return count

    def _read(self, paths: list[Path]) -> list[_Read]:
        batch = []
        for path in paths:
            try:
                batch.append(_Read(path, read_incoming(path)))
            except FileNotFoundError:
                continue  # another intake was faster
            except Exception:
                log.exception("instance_unreadable", kept_as=str(self._shelve(path)))
        return batch

    def _shelve(self, path: Path) -> Path:
        """Put a file aside that cannot be filed. Nothing that was acknowledged is thrown away."""
        shelf = self._spool / UNREADABLE
        shelf.mkdir(exist_ok=True)
        target = shelf / f"{path.parent.name}-{path.name}"
        path.rename(target)
        fsync_folder(shelf)
        return target

    def _file_or_shelve(self, batch: list[_Read]) -> int:
        """File a batch; if a value is not taken, each by itself; keep aside what fails alone."""
        try:
            self._file(batch)
        except LedgerValueError as error:
            if len(batch) > 1:
                return sum(self._file_or_shelve([item]) for item in batch)
            kept_as = self._shelve(batch[0].path)
            log.warning("instance_unfilable", kept_as=str(kept_as), reason=str(error))
            return 0
        return len(batch)

    def _file(self, batch: list[_Read]) -> None:
        for item in batch:
            self._store.put_file(item.incoming.store_key, item.path)
        outcomes: dict[Outcome, int] = {}
        held: set[str] = set()
        now = clock.now()
        with self._ledger.write() as work:
            for item in batch:
                incoming = item.incoming
                if not incoming.own_result and work.filing.is_own_result(incoming.sop_instance_uid):
                    incoming = replace(incoming, own_result=True)
                filed = work.filing.file(incoming, now)
                outcomes[filed.outcome] = outcomes.get(filed.outcome, 0) + 1
                if filed.conflicts:
                    log.warning(
                        "identity_conflict",
                        study=incoming.study_instance_uid,
                        series=incoming.series_instance_uid,
                        sop_instance_uid=incoming.sop_instance_uid,
                        differs=list(filed.conflicts),
                        remedy="See `sentinode conflicts`.",
                    )
                held.update(filed.studies_in_conflict)
            for study in sorted(held):
                work.conflicts.hold(study, now)
        # only now is it safe to let the spool's copy go
        for item in batch:
            item.path.unlink(missing_ok=True)
        log.debug(
            "instances_filed",
            association=batch[0].incoming.association.id,
            **{outcome.replace(" ", "_"): number for outcome, number in outcomes.items()},
        )

    def _broken_off(self, folder: Path, last: IncomingInstance | None) -> Association:
        """The receiver died without a word: the association ends now, as broken off."""
        association = (
            last.association
            if last is not None
            else Association(folder.name, "", "", "", clock.now())
        )
        return replace(association, id=folder.name, ended_at=clock.now(), end="broken off")

    def _end(self, folder: Path, association: Association) -> None:
        if any(folder.glob("*.dcm")):
            return  # a file could not be read just now and was not moved: the next step ends it
        with self._ledger.write() as work:
            work.filing.end_association(association)
        _remove(folder, (END_FILE, "*.part"))
        log.info("association_filed", association=association.id, end=association.end)


def _remove(folder: Path, leftovers: tuple[str, ...]) -> None:
    """Remove a folder that holds nothing but leftovers; one that holds more stays for later."""
    if any(item.suffix == ".dcm" or item.is_dir() for item in folder.iterdir()):
        return
    for pattern in leftovers:
        for item in folder.glob(pattern):
            item.unlink(missing_ok=True)
    # another intake was faster, or a file has come: either way the next step sees
    with contextlib.suppress(OSError):
        folder.rmdir()
