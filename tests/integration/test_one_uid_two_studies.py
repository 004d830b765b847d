"""One SOP Instance UID in two studies: both are held, however and whenever the second comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import text
from support.instances import T0, incoming, mr_slice

from core.domain import IncomingInstance
from core.ledger import Ledger

BOTH = ("1.2.3", "1.2.9")
PATIENCE = 30.0


def image(study: str, uid: str = "1.9.7", **changes: Any) -> IncomingInstance:
    dataset = mr_slice(
        1, SOPInstanceUID=uid, StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1", **changes
    )
    return incoming(dataset, digest=study[-1] * 64, name=f"a{study[-1]}")


def in_conflict(ledger: Ledger) -> set[str]:
    with ledger.read() as work:
        noted = {item.study_instance_uid for item in work.conflicts.open()}
        assert noted == {uid for uid in BOTH if work.views.study(uid).conflict}
        return noted


def test_the_study_that_loses_its_image_is_held_too(ledger: Ledger) -> None:
    with ledger.write() as work:
        work.filing.file(image("1.2.3"), T0)
    with ledger.write() as work:
        filed = work.filing.file(image("1.2.9"), T0)
    assert filed.studies_in_conflict == BOTH
    assert in_conflict(ledger) == set(BOTH)


def test_both_in_one_batch(ledger: Ledger) -> None:
    with ledger.write() as work:
        work.filing.file_many([image("1.2.3"), image("1.2.9")], T0)
    assert in_conflict(ledger) == set(BOTH)


def somebody_waits(ledger: Ledger) -> bool:
    if ledger.engine.dialect.name == "sqlite":
        return True  # the other has not begun: there is one writer
    with ledger.engine.connect() as connection:
        return bool(connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_two_nodes_at_the_same_moment(ledger: Ledger) -> None:
    """The second files its own before the first has committed."""
    begun = threading.Event()

    def second() -> None:
        begun.wait(PATIENCE)
        with ledger.write() as work:
            work.filing.file(image("1.2.9", PatientID="OTHER"), T0)

    node = threading.Thread(target=second)
    node.start()
    with ledger.write() as work:
        work.filing.file(image("1.2.3"), T0)
        begun.set()
        until(lambda: somebody_waits(ledger) or not node.is_alive())
    node.join(PATIENCE)
    assert in_conflict(ledger) == set(BOTH)
    with ledger.engine.connect() as connection:
        current = "SELECT count(*) FROM instance WHERE sop_instance_uid = '1.9.7' AND current"
        assert connection.scalar(text(current)) == 1


def test_nodes_that_meet_in_many_instances_never_wait_in_a_circle(ledger: Ledger) -> None:
    uids = [f"1.9.{number}" for number in range(20)]
    faults: list[Exception] = []

    def node(study: str, order: list[str]) -> None:
        try:
            for _ in range(5):
                with ledger.write() as work:
                    work.filing.file_many([image(study, uid) for uid in order], T0)
        except Exception as error:  # noqa: BLE001 - told by the test
            faults.append(error)

    nodes = [
        threading.Thread(target=node, args=(study, order))
        for study, order in (("1.2.3", uids), ("1.2.9", uids[::-1]), ("1.2.3", uids[::-1]))
    ]
    for thread in nodes:
        thread.start()
    for thread in nodes:
        thread.join(PATIENCE)
    assert faults == []
    assert in_conflict(ledger) == set(BOTH)
