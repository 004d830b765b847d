"""The store: bytes under keys, in a folder and behind a URL."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from core.errors import BytesGoneError, StoreError
from core.store import Store, instance_key, make_folder_durable, result_key


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path / "store")
        return
    name = uuid.uuid4().hex
    yield f"memory://{name}"
    memory = fsspec.filesystem("memory")
    if memory.exists(f"/{name}"):
        memory.rm(f"/{name}", recursive=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.dcm"
    path.write_bytes(b"pixels")
    return path


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_bytes_come_back_as_they_were_put(url: str, source: Path) -> None:
    store = Store(url)
    store.put_bytes("results/j/o/seg.dcm", b"\0seg\xff")
    store.put_file("instances/1/2/3.dcm", source)
    assert store.get("results/j/o/seg.dcm") == b"\0seg\xff"
    with store.open("instances/1/2/3.dcm") as stream:
        assert stream.read() == b"pixels"
    assert store.exists("instances/1/2/3.dcm")
    assert not store.exists("instances/1/2/4.dcm")
    assert source.read_bytes() == b"pixels"
    # another process sees the same
    assert Store(url).get("instances/1/2/3.dcm") == b"pixels"


def read_in_every_way(store: Store, key: str) -> Iterator[type[StoreError]]:
    """The error of each way to read what is not there."""
    for read in (store.get, store.open, store.as_file):
        with pytest.raises(StoreError) as found:
            result = read(key)
            if read == store.as_file:
                result.__enter__()
        yield found.type


def test_bytes_that_are_gone_are_told_from_a_store_that_is_away(url: str) -> None:
    store = Store(url)
    assert set(read_in_every_way(store, "instances/1/2.dcm")) == {StoreError}  # nothing is there
    store.put_bytes("instances/1/1.dcm", b"one")
    assert set(read_in_every_way(store, "instances/1/2.dcm")) == {BytesGoneError}


def test_a_file_that_is_there_is_kept(url: str, source: Path) -> None:
    store = Store(url)
    store.put_file("a/b", source)
    other = source.with_name("other")
    other.write_bytes(b"different")
    store.put_file("a/b", other)
    assert store.get("a/b") == b"pixels"


def test_bytes_that_are_put_again_replace_the_old_ones(url: str) -> None:
    store = Store(url)
    store.put_bytes("a/b", b"longer than the next")
    store.put_bytes("a/b", b"short")
    assert store.get("a/b") == b"short"


def test_what_is_not_there_is_said_with_its_key(url: str) -> None:
    with pytest.raises(StoreError, match=r"^no/such") as caught:
        Store(url).get("no/such")
    assert caught.value.retry


def test_a_source_that_is_gone_is_an_error(url: str, tmp_path: Path) -> None:
    store = Store(url)
    with pytest.raises(StoreError, match=r"^a/b.*gone"):
        store.put_file("a/b", tmp_path / "gone")
    assert not store.exists("a/b")


def test_a_probe_leaves_nothing(url: str) -> None:
    store = Store(url)
    store.probe()
    filesystem, root = fsspec.core.url_to_fs(url)
    assert filesystem.find(root) == []


def test_a_person_is_told_where_the_bytes_lie(tmp_path: Path) -> None:
    assert Store(str(tmp_path)).describe("a/b") == str(tmp_path / "a" / "b")
    assert Store("memory://x").describe("a/b") == "memory:///x/a/b"


def test_a_url_that_nobody_knows_is_refused() -> None:
    with pytest.raises(StoreError, match=r"storage\.store is not usable"):
        Store("nosuchprotocol://x")


def test_a_file_on_the_same_disk_is_linked_not_copied(tmp_path: Path, source: Path) -> None:
    Store(str(tmp_path / "store")).put_file("a/b", source)
    assert (tmp_path / "store" / "a" / "b").stat().st_ino == source.stat().st_ino


def test_a_file_on_another_disk_is_copied(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_disk(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    Store(str(tmp_path / "store")).put_file("a/b", source)
    (copy,) = files(tmp_path / "store")
    assert copy.read_bytes() == b"pixels"
    assert copy.stat().st_ino != source.stat().st_ino


def test_a_key_never_shows_half_of_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up, or the power fails, in the middle of a write."""
    store = Store(str(tmp_path / "store"))
    store.put_bytes("a/b", b"first")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"a/b cannot be stored.*No space"):
            store.put_bytes("a/b", b"second")
        with pytest.raises(StoreError, match="No space"):
            store.put_bytes("a/c", b"third")
    assert store.get("a/b") == b"first"
    assert not store.exists("a/c")
    assert [path.name for path in files(tmp_path / "store")] == ["b"]  # nothing left over


def test_a_retry_makes_durable_what_an_attempt_before_it_left(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link was made, then the process died before the folder's fsync."""
    store = Store(str(tmp_path / "store"))
    (tmp_path / "store" / "a").mkdir(parents=True)
    os.link(source, tmp_path / "store" / "a" / "b")
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    store.put_file("a/b", source)
    assert str(tmp_path / "store" / "a") in synced


def test_readers_beside_a_writer_see_the_old_or_the_new_bytes(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    versions = {bytes([number]) * 50_000 for number in range(8)}
    store.put_bytes("a", next(iter(versions)))
    seen: list[bytes] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.append(store.get("a"))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for data in versions:
            store.put_bytes("a", data)
    finally:
        stop.set()
        reader.join()
    assert seen
    assert set(seen) <= versions


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path, source: Path) -> None:
    (tmp_path / "store").write_bytes(b"a file, no folder")
    store = Store(str(tmp_path / "store"))
    for attempt in (
        lambda: store.put_bytes("a/b", b"x"),
        lambda: store.put_file("a/b", source),
        store.probe,
    ):
        with pytest.raises(StoreError, match="cannot be stored") as caught:
            attempt()
        assert caught.value.retry
        assert "storage.store" in caught.value.remedy


def test_a_probe_tells_a_store_that_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    monkeypatch.setattr(Store, "get", lambda *_: b"other")
    with pytest.raises(StoreError, match="other bytes"):
        store.probe()


def test_folders_are_made_with_their_parents(tmp_path: Path) -> None:
    make_folder_durable(tmp_path / "a" / "b" / "c")
    make_folder_durable(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_versions_and_attempts_have_keys_of_their_own() -> None:
    assert instance_key("1", "2", "3", "a" * 64) != instance_key("1", "2", "3", "b" * 64)
    assert result_key("j", "worker:1", "seg.dcm") != result_key("j", "worker:2", "seg.dcm")
    assert instance_key("1.2", "3", "4", "a" * 64) == f"instances/1.2/3/4-{'a' * 16}.dcm"


def test_a_batch_makes_each_folder_durable_once(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "store"))
    store.put_files([("a/0", source), ("b/0", source)])
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        names = {path.name for path in (tmp_path / "store" / "a").iterdir()}
        assert names == {str(number) for number in range(21)}  # links first
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    store.put_files([(f"{folder}/{number}", source) for number in range(21) for folder in "ab"])
    assert synced == ["a", "b"]


def test_a_folder_that_retention_removed_is_made_again(tmp_path: Path, source: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.put_file("a/b/c", source)
    (tmp_path / "store" / "a" / "b" / "c").unlink()
    (tmp_path / "store" / "a" / "b").rmdir()
    store.put_file("a/b/d", source)
    assert store.get("a/b/d") == b"pixels"
