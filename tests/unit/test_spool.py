"""The spool's own promises: descriptors, and what outlives an association."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.instances import T0, association

from core.errors import AssociationEndedError
from node.spool.receiver import ReceivedInstance, ReceiverSpool

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
