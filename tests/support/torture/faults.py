"""The kinds of faults. Each is tried until it is shown to have hit, or its time is over.

A fault takes what it breaks for itself (`needs`), so that two faults never share a broken part;
faults of different parts overlap as they happen to.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Queue

from sqlalchemy.exc import SQLAlchemyError

from support.torture.modality import Wish
from support.torture.pacs import Manner
from support.torture.processes import Process
from support.torture.site import Site, wait_until

_PATIENCE = 40.0  # seconds that a fault waits for its moment
_OPEN_JOBS = "SELECT count(*) FROM job WHERE state IN ('waiting', 'queued', 'running')"
_RECEIVING = "SELECT count(*) FROM series WHERE state = 'receiving'"
# a job that took two workers down is quarantined, as it should be: each is hit once
_LEASED = "SELECT id FROM job WHERE state = 'running' AND lease_owner IS NOT NULL AND deaths = 0"
_STILL_LEASED = "SELECT count(*) FROM job WHERE id = :id AND state = 'running'"
_SENDING = "SELECT count(*) FROM transfer WHERE state = 'sending'"
_DUE = "SELECT count(*) FROM transfer WHERE state IN ('due', 'sending')"
_FAILURES = "SELECT coalesce(sum(failures), 0) FROM destination"


@dataclass
class Scene:
    """What a fault may touch.

    Attributes:
        hurry: while its block lasts, modalities send without regard for how much is waiting.
    """

    site: Site
    rng: random.Random
    wishes: Queue[Wish]
    hurry: Callable[[], contextlib.AbstractContextManager[None]]

    def pause(self, least: float, most: float) -> None:
        """Wait a random while."""
        time.sleep(self.rng.uniform(least, most))


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        needs: the parts that it breaks; nobody else breaks them meanwhile.
        inject: does it; returns whether it hit.
    """

    name: str
    needs: tuple[str, ...]
    inject: Callable[[Scene], bool]


def _receiver_killed(scene: Scene) -> bool:
    """While a modality sends to it."""
    site = scene.site
    process, book = site.a.roles["scp"], site.book
    with scene.hurry():
        if not wait_until(lambda: book.being_sent("a") > 0, _PATIENCE):
            return False
        broken = book.broken
        dead = process.kill()
        felt = wait_until(lambda: book.broken > broken, 20)
    _restart(scene, process)
    wait_until(lambda: site.a.door_open, 60, "the door is open again")
    return dead and felt


def _intake_killed(scene: Scene) -> bool:
    """While images lie in the spool that it has not filed."""
    process = scene.site.a.roles["intake"]
    with scene.hurry():
        hit = _kill_when(process, lambda: scene.site.a.spooled() > 0)
    _restart(scene, process)
    return hit


def _dispatcher_killed(scene: Scene) -> bool:
    """While series are received or jobs are open."""
    process = scene.site.a.roles["dispatch"]
    sql = scene.site.sql
    hit = _kill_when(process, lambda: sql.count(_RECEIVING) + sql.count(_OPEN_JOBS) > 0)
    _restart(scene, process)
    return hit


def _worker_killed(scene: Scene) -> bool:
    """While it holds a lease: the whole of it, or the child that computes."""
    process = scene.site.a.roles["worker"]
    sql = scene.site.sql
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(SQLAlchemyError):
            if sql.ask(_LEASED):
                process.freeze()
                try:
                    leased = sql.ask(_LEASED)
                    if leased:
                        dead = process.kill_child() if scene.rng.random() < 0.3 else process.kill()
                        held = sql.count(_STILL_LEASED, id=leased[0][0]) == 1
                        if not process.alive:
                            _restart(scene, process)
                        return dead and held
                finally:
                    process.thaw()
        time.sleep(0.02)
    return False


def _sender_killed(scene: Scene) -> bool:
    """While an object is on its way."""
    process = scene.site.a.roles["send"]
    with _manner(scene, Manner.SLOW):
        hit = _kill_when(process, lambda: scene.site.sql.count(_SENDING) > 0)
    _restart(scene, process)
    return hit


def _broker_killed(scene: Scene) -> bool:
    return _break_broker(scene, wipe=False)


def _broker_wiped(scene: Scene) -> bool:
    return _break_broker(scene, wipe=True)


def _break_broker(scene: Scene, *, wipe: bool) -> bool:
    broker = scene.site.broker
    dead = broker.process.kill() and not broker.answers
    files = broker.wipe() if wipe else 1
    scene.pause(0.3, 2.5)
    broker.process.start()
    wait_until(lambda: broker.answers, 30, "the broker is back")
    return dead and files > 0


def _sql_away(scene: Scene) -> bool:
    with scene.site.sql.away() as felt:
        scene.pause(1.5, 6.0)
    return felt


def _pacs_down(scene: Scene) -> bool:
    """Its port is closed, and a sender learned so."""
    site = scene.site
    if not wait_until(lambda: site.sql.count(_DUE) > 0, _PATIENCE):
        return False
    site.pacs.wire.unplug()
    try:
        return wait_until(lambda: site.sql.count(_FAILURES) > 0, _PATIENCE)
    finally:
        scene.pause(0.0, 2.0)
        site.pacs.wire.plug()


def _pacs_slow(scene: Scene) -> bool:
    return _misbehave(scene, Manner.SLOW)


def _pacs_out_of_resources(scene: Scene) -> bool:
    return _misbehave(scene, Manner.OUT_OF_RESOURCES)


def _pacs_refusing(scene: Scene) -> bool:
    return _misbehave(scene, Manner.REFUSING)


def _pacs_late(scene: Scene) -> bool:
    return _misbehave(scene, Manner.LATE)


def _pacs_no_answer(scene: Scene) -> bool:
    return _misbehave(scene, Manner.NO_ANSWER)


def _misbehave(scene: Scene, manner: Manner) -> bool:
    pacs = scene.site.pacs
    before = pacs.hits[manner]
    with _manner(scene, manner):
        hit = wait_until(lambda: pacs.hits[manner] > before, _PATIENCE)
        scene.pause(0.2, 2.0)
    return hit


def _pacs_drops(scene: Scene) -> bool:
    """The association breaks in the middle of an object."""
    wire = scene.site.pacs.wire
    before = wire.cuts
    wire.cut_after(scene.rng.randrange(3))
    try:
        return wait_until(lambda: wire.cuts > before, _PATIENCE)
    finally:
        wire.heal()


def _disk_full(scene: Scene) -> bool:
    """Not a byte is free; a modality was refused with 0xA700."""
    site = scene.site
    before = _refused(site)
    if not site.disk.real:
        return _quota(scene, before)
    full = site.disk.fill()
    try:
        with scene.hurry():
            refused = wait_until(lambda: _refused(site) > before, _PATIENCE)
        scene.pause(0.5, 3.0)
    finally:
        site.disk.empty()
    return full and refused


def _quota(scene: Scene, before: int) -> bool:
    """Where nothing can be mounted: a receiver that wants more free space than there is."""
    process = scene.site.a.roles["scp"]
    process.kill()
    with process.variable("SENTINODE_STORAGE__MIN_FREE_MB", str(10**9)):
        process.start()
        with scene.hurry():
            refused = wait_until(lambda: _refused(scene.site) > before, _PATIENCE)
        process.kill()
    process.start()
    return refused


def _refused(site: Site) -> int:
    return sum(count for status, count in site.book.statuses.items() if status >> 8 == 0xA7)


def _sender_drops(scene: Scene) -> bool:
    return _wish(scene, "cut")


def _duplicates(scene: Scene) -> bool:
    return _wish(scene, "duplicates")


def _reordered(scene: Scene) -> bool:
    return _wish(scene, "reordered")


def _wish(scene: Scene, kind: str) -> bool:
    wish = Wish(kind)
    scene.wishes.put(wish)
    with scene.hurry():
        wish.done.wait(2 * _PATIENCE)
    return bool(wish.hit)


def _second_node(scene: Scene) -> bool:
    """Another node on the same ledger, store and broker takes part, then ends or is killed."""
    site = scene.site
    before = site.book.by_door["b"]
    for process in site.b.roles.values():
        process.start()
    wait_until(lambda: site.b.door_open, 90, "node b is ready")
    with scene.hurry():
        took_part = wait_until(lambda: site.book.by_door["b"] >= before + 5, _PATIENCE)
    scene.pause(2.0, 5.0)
    beside = all(process.wanted for process in site.a.roles.values())
    killed = scene.rng.random() < 0.5
    for process in site.b.roles.values():
        process.kill() if killed else process.end()
    return took_part and beside


KINDS = (
    Kind("receiver killed", ("scp",), _receiver_killed),
    Kind("intake killed", ("intake",), _intake_killed),
    Kind("dispatcher killed", ("dispatch",), _dispatcher_killed),
    Kind("worker killed with its lease", ("worker", "b"), _worker_killed),
    Kind("sender killed while sending", ("send", "pacs", "b"), _sender_killed),
    Kind("broker killed", ("broker",), _broker_killed),
    Kind("broker killed, files deleted", ("broker",), _broker_wiped),
    Kind("SQL away", ("sql",), _sql_away),
    Kind("PACS down", ("pacs",), _pacs_down),
    Kind("PACS slow", ("pacs",), _pacs_slow),
    Kind("PACS out of resources (0xA700)", ("pacs",), _pacs_out_of_resources),
    Kind("PACS refusing (0xC000)", ("pacs",), _pacs_refusing),
    Kind("PACS drops in mid-object", ("pacs",), _pacs_drops),
    Kind("PACS stores, does not answer", ("pacs",), _pacs_no_answer),
    Kind("PACS answers too late", ("pacs",), _pacs_late),
    Kind("disk full", ("scp", "disk"), _disk_full),
    Kind("sender drops in mid-image", (), _sender_drops),
    Kind("duplicates", (), _duplicates),
    Kind("reordered", (), _reordered),
    Kind("two nodes on one ledger", ("b",), _second_node),
)


def _kill_when(process: Process, moment: Callable[[], bool]) -> bool:
    """Kill a process at a moment that is looked at while it stands still."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if moment():
            process.freeze()
            if moment():
                return process.kill()
            process.thaw()
        time.sleep(0.01)
    return False


def _restart(scene: Scene, process: Process) -> None:
    """After a while, as a supervisor does. One that still lives stays."""
    scene.pause(0.2, 1.0)
    if not process.alive:
        process.start()


@contextmanager
def _manner(scene: Scene, manner: Manner) -> Iterator[None]:
    scene.site.pacs.manner = manner
    try:
        yield
    finally:
        scene.site.pacs.manner = Manner.WELL
