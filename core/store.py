"""The store: bytes of instances and results, in a folder or behind any fsspec URL.

Keys are made here from UIDs and digests, never from anything else that a peer sent. In a
folder a key appears only when its bytes and its directory entry are on the disk.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import fsspec

from core.errors import BytesGoneError, StoreError

_DIGEST_IN_KEY = 16
_MOST_KNOWN_FOLDERS = 10_000
_PIECE = 1 << 20
_TRIES = 20


def instance_key(study_uid: str, series_uid: str, sop_uid: str, digest: str) -> str:
    """Key of one version of an instance. The UIDs are `core.identifiers.UID`s."""
    return f"instances/{study_uid}/{series_uid}/{sop_uid}-{digest[:_DIGEST_IN_KEY]}.dcm"


def result_key(job_id: str, owner: str, name: str) -> str:
    """Key of a result, of this attempt only: two workers never write the same key."""
    return f"results/{job_id}/{owner.rpartition(':')[2]}/{name}"


def alternative_key(job_id: str, owner: str, result_id: int, sop_class_uid: str, part: int) -> str:
    """Key of an object that stands in for a result, of this attempt only."""
    return result_key(job_id, owner, f"{result_id}-as-{sop_class_uid}-{part + 1}.dcm")


def fsync_folder(folder: Path) -> None:
    """Make the folder's entries durable (a file's own fsync does not do that)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder_durable(folder: Path) -> None:
    """Make a folder, its parents, and their entries durable."""
    if folder.is_dir():
        return
    make_folder_durable(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


@contextmanager
def _remote(key: str) -> Iterator[None]:
    """Each remote file system raises errors of its own libraries; all mean the same to us."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(f"{key}: the store does not answer as it should: {error}") from error


class Store:
    """Bytes by key.

    Raises:
        StoreError: the URL is none that fsspec knows.
    """

    def __init__(self, url: str) -> None:
        try:
            filesystem, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise StoreError(f"storage.store is not usable: {url!r}: {error}") from error
        self._fs: Any = filesystem
        self._root = str(root)
        self._known: set[Path] = set()
        protocol = filesystem.protocol
        self._local = "file" in (protocol if isinstance(protocol, tuple) else (protocol,))

    def put_file(self, key: str, source: Path) -> None:
        """Store a durable file under `key`; the source stays. Existing bytes are kept.

        Raises:
            StoreError: the bytes are not safely there.
        """
        self.put_files([(key, source)])

    def put_files(self, items: Iterable[tuple[str, Path]]) -> None:
        """Store durable files under their keys; the sources stay. Existing bytes are kept.

        Each folder is made durable once for all of them.

        Raises:
            StoreError: not all of the bytes are safely there; those that are do no harm.
        """
        folders: dict[str, None] = {}
        for key, source in items:
            path = self._path(key)
            try:
                if self._local:
                    folders[self._put_local(path, source)] = None
                    continue
                with _remote(key):
                    if not self._fs.exists(path):
                        self._fs.put_file(str(source), path)
            except OSError as error:
                raise StoreError(f"{key} cannot be stored: {error}") from error
        for folder in folders:
            try:
                # also of a file that was there: who made it may have died before its fsync
                fsync_folder(Path(folder))
            except OSError as error:
                raise StoreError(f"{folder} cannot be made durable: {error}") from error

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store `data` under `key`, durably.

        Raises:
            StoreError: the bytes are not safely there.
        """
        try:
            if not self._local:
                with _remote(key):
                    self._fs.pipe_file(self._path(key), data)
                return
            target = Path(self._path(key))
            self._in_its_folder(target, lambda: self._write_local(target, data))
            fsync_folder(target.parent)
        except OSError as error:
            raise StoreError(f"{key} cannot be stored: {error}") from error

    def open(self, key: str) -> IO[bytes]:
        """Open the bytes under `key` for reading.

        Raises:
            BytesGoneError: they are not there.
            StoreError: they cannot be read.
        """
        with _remote(key):
            try:
                return cast("IO[bytes]", self._fs.open(self._path(key), "rb"))
            except FileNotFoundError as error:
                raise self._missing(key) from error

    def get(self, key: str) -> bytes:
        """The bytes under `key`.

        Raises:
            BytesGoneError: they are not there.
            StoreError: they cannot be read.
        """
        with _remote(key), self.open(key) as stream:
            return stream.read()

    @contextmanager
    def as_file(self, key: str) -> Iterator[Path]:
        """The bytes under `key` as a file: the store's own, or a copy that goes at the end.

        Memory stays small, whatever its size. Only to be read.

        Raises:
            BytesGoneError: they are not there.
            StoreError: they cannot be read.
        """
        if self._local:
            path = Path(self._path(key))
            if not path.is_file():
                raise self._missing(key)
            yield path
            return
        with tempfile.NamedTemporaryFile(prefix="sentinode-") as copy:
            with _remote(key), self.open(key) as stream:
                shutil.copyfileobj(stream, copy, _PIECE)
            copy.flush()
            yield Path(copy.name)

    def _missing(self, key: str) -> StoreError:
        """What it means that `key` is not there: gone, or the whole store is away.

        A disk that is not mounted leaves an empty folder behind, without `instances`.
        """
        root = self._root if self._local else self._root.partition("/")[0] or self._root
        place = f"{root}/{key.partition('/')[0]}" if self._local else root
        if self._fs.exists(place):
            return BytesGoneError(f"{key} is not in the store any more")
        return StoreError(f"{key} is not there, and neither is the store itself ({place})")

    def exists(self, key: str) -> bool:
        """Whether something is stored under `key`."""
        with _remote(key):
            return bool(self._fs.exists(self._path(key)))

    def delete(self, key: str) -> None:
        """Delete the bytes under `key`, or all under it where it ends with a slash.

        What is not there is no error. Folders that are empty then go as well.

        Raises:
            StoreError: the bytes may be there still.
        """
        if not self._local:
            with _remote(key):
                path = self._path(key.rstrip("/"))
                if self._fs.exists(path):
                    self._fs.rm(path, recursive=key.endswith("/"))
            return
        target = Path(self._path(key))
        try:
            if key.endswith("/"):
                if target.is_dir():
                    shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{key} cannot be deleted: {error}") from error
        root = Path(self._root)
        for folder in target.parents:
            if len(folder.parts) <= len(root.parts) + 1:
                break  # `instances` and `results` stay
            try:
                folder.rmdir()
            except OSError:
                break  # it holds more, or is gone
            self._known.discard(folder)

    @property
    def folder(self) -> Path | None:
        """The folder that holds it, for who looks at its disk; None if it is remote."""
        return Path(self._root) if self._local else None

    def probe(self) -> None:
        """Write, read and delete a small object.

        Raises:
            StoreError: one of the three does not work.
        """
        key = f"probe/{uuid.uuid4().hex}"
        self.put_bytes(key, b"probe")
        if self.get(key) != b"probe":
            raise StoreError("the store returned other bytes than were written")
        with _remote(key):
            self._fs.rm_file(self._path(key))

    def describe(self, key: str) -> str:
        """Where a person finds the bytes: a path, or a URL."""
        return self._path(key) if self._local else str(self._fs.unstrip_protocol(self._path(key)))

    def _put_local(self, path: str, source: Path) -> str:
        """Link or copy a file to its place; returns the folder, which is yet to be synced."""
        target = Path(path)
        self._in_its_folder(target, lambda: self._link_or_copy(target, source))
        return str(target.parent)

    def _in_its_folder(self, target: Path, put: Callable[[], None]) -> None:
        """Make the folder of `target` and put the file there.

        Retention removes a folder that is empty, also the one that was made a moment ago.
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                self._make_folder(target.parent)
                put()
            except FileNotFoundError:
                if not tries_left:
                    raise
                self._known.clear()
            else:
                return

    def _make_folder(self, folder: Path) -> None:
        """Make a folder durable, once in the life of this process.

        A folder that is there may have been made by a process that died before it synced the
        parent, so the way up is synced until a folder that this process knows.
        """
        if folder in self._known:
            return
        make_folder_durable(folder)
        if len(self._known) > _MOST_KNOWN_FOLDERS:
            self._known.clear()
        root = Path(self._root)
        for parent in [folder, *folder.parents]:
            known = parent in self._known
            fsync_folder(parent)
            self._known.add(parent)
            if known or parent == root:
                break

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    @classmethod
    def _link_or_copy(cls, target: Path, source: Path) -> None:
        try:
            # same disk: the very bytes that were fsynced before, under a second name
            os.link(source, target)
        except FileExistsError:
            pass
        except OSError:
            if not target.exists():
                cls._write_local(target, source)

    @staticmethod
    def _write_local(target: Path, source: Path | bytes) -> None:
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with temporary.open("wb") as stream:
                if isinstance(source, bytes):
                    stream.write(source)
                else:
                    with source.open("rb") as original:
                        shutil.copyfileobj(original, stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
