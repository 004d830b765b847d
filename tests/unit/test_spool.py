"""The spool's own promises: descriptors, and what outlives an association."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.instances import T0, association
from support.power_cut import Disk

from core.errors import AssociationEndedError
from node.spool.heads import Heads, ReceivedInstance
from node.spool.receiver import ReceiverSpool
from node.spool.recovery import is_complete, recover

SENDER = association()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[ReceiverSpool]:
    made = ReceiverSpool(tmp_path / "spool", 0)
    yield made
    made.close()


def instance(number: int = 1) -> ReceivedInstance:
    return ReceivedInstance("1.2.840", f"1.2.{number}", "1.2.840.10008.1.2", SENDER, T0)


def open_folders(spool: ReceiverSpool) -> list[str]:
    """The folders of associations that this process has open."""
    links = Path("/proc/self/fd").iterdir()
    found = [str(link.readlink()) for link in links if link.is_symlink()]
    return [path for path in found if Path(path.split(" (")[0]).parent == spool.folder]


def test_what_comes_after_the_end_opens_nothing(spool: ReceiverSpool) -> None:
    """A request that was on its way while the connection closed."""
    spool.write(instance(1), 1, b"data")
    late = spool.begin(SENDER, 2, 100)
    spool.end(replace(SENDER, ended_at=T0, end="aborted"))
    with pytest.raises(AssociationEndedError):
        spool.write(instance(3), 3, b"data")
    with pytest.raises(AssociationEndedError):
        spool.association_folder(SENDER)
    late.discard()
    lock = str(spool.folder / "lock")
    assert [path for path in open_folders(spool) if path != lock] == []
    assert sorted(path.name for path in (spool.folder / SENDER.id).iterdir()) == [
        "000001.dcm",
        "end.json",
    ]


def test_a_closed_spool_opens_nothing(spool: ReceiverSpool) -> None:
    spool.close()
    with pytest.raises(AssociationEndedError):
        spool.begin(SENDER, 1, 100)


# ---- names made ahead, and what a power cut leaves


def test_names_are_made_ahead_and_removed_at_the_end(spool: ReceiverSpool) -> None:
    for number in range(1, 4):
        spool.write(instance(number), number, b"data")
    folder = spool.folder / SENDER.id
    assert sorted(path.name for path in folder.glob("*.part")) == ["000004.part", "000005.part"]
    spool.end(replace(SENDER, ended_at=T0, end="released"))
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("seed", range(40))
def test_a_power_cut_loses_nothing_acknowledged_and_files_nothing_torn(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    spool = ReceiverSpool(tmp_path / "spool", 0)
    disk = Disk(spool.folder)
    acknowledged: dict[str, bytes] = {}
    with disk.watching():
        for number in range(1, chance.randint(2, 20)):
            data = chance.randbytes(chance.choice([1, 300, 5000, 40_000]))
            heads = Heads(SENDER)
            file = spool.begin(SENDER, number, len(heads.encode(instance(number))))
            for start in range(0, len(data), 9000):
                file.write([memoryview(data[start : start + 9000])], len(data[start:][:9000]))
            if chance.random() < 0.2:
                file.discard()
                continue
            head = heads.encode(instance(number), file.size, file.check)
            file.keep(head)
            acknowledged[f"1.2.{number}"] = head + data
        # the last one comes just when the power goes: its head may be written, and more
        half = spool.begin(SENDER, number + 1, len(head := Heads(SENDER).encode(instance(99))))
        data = chance.randbytes(30_000)
        half.write([memoryview(data)], len(data))
        os.pwrite(half._handle, Heads(SENDER).encode(instance(99), half.size, half.check), 0)
        disk.cut(chance, tmp_path / "after")
    half.discard()
    spool.close()
    after = tmp_path / "after" / SENDER.id
    recover(after, [path.name for path in after.iterdir()])
    assert recover(after, [path.name for path in after.iterdir()]) == []
    found = [path.read_bytes() for path in after.glob("*.dcm")]
    for uid, content in acknowledged.items():
        assert content in found, uid
    whole = {
        *acknowledged.values(),
        Heads(SENDER).encode(instance(99), len(data), half.check) + data,
    }
    assert set(found) <= whole


def test_a_file_of_other_bytes_is_not_complete(tmp_path: Path) -> None:
    """Every byte counts, and the length."""
    data = bytes(range(256)) * 10
    heads = Heads(SENDER)
    whole = heads.encode(instance(), len(data), zlib.crc32(data)) + data
    path = tmp_path / "000001.part"
    for position in (0, 130, 140, 200, 500, len(whole) - len(data) - 3, len(whole) - 1):
        path.write_bytes(whole)
        assert is_complete(path)
        changed = bytearray(whole)
        changed[position] ^= 1
        path.write_bytes(changed)
        assert not is_complete(path), position
    for other in (whole[:-1], whole + b"\0", whole[:300], whole[:100], b"", bytes(5000)):
        path.write_bytes(other)
        assert not is_complete(path)
    # what was not synced is never taken for complete
    path.write_bytes(heads.encode(instance(), len(data)) + data)
    assert not is_complete(path)
