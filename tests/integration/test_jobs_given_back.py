"""Jobs whose lease ran out: who is blamed, who gets them back, and what ends them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from support.instances import T0, incoming, mr_slice

from core.domain import Job, Result, ResultKind
from core.errors import LeaseLostError
from core.ledger import Ledger
from core.ledger.jobs import MAX_LOSSES, NewJob
from core.lifecycle import JobState
from core.settings import Settings
from node.deciding.publisher import Publisher
from workers import pipeline, successor

J = JobState
SECOND = timedelta(seconds=1)
LEASE = 15 * SECOND
REPUBLISH = 40 * SECOND
SR = Result(ResultKind.SR, "k", "0" * 64, 1, "1.2.840.10008.5.1.4.1.1.88.34", "2.25.1", "2.25.2")


class Yard:
    """A ledger with a job of one image, and a clock that we turn."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.now: datetime = T0
        self.images = 0
        self.job_id = self.make()

    def make(self, route: str = "route") -> str:
        """A job of the series as it is now."""
        with self.ledger.write() as work:
            if route == "route":
                self.images += 1
                work.filing.file(incoming(mr_slice(self.images)), self.now)
            images = tuple(work.series.instances("1.2.3.4"))
            new = NewJob("1.2.3", ("1.2.3.4",), images, route, "m", "1", "cpu", ("pacs",))
            made = work.jobs.create(new, self.now)
            assert made is not None
            return made

    def begin(self, owner: str, job_id: str = "") -> None:
        with self.ledger.write() as work:
            work.jobs.to_publish(self.now + 3600 * SECOND, REPUBLISH)
            assert work.jobs.claim(job_id or self.job_id, owner, self.now + LEASE, self.now)

    def fall_silent(self, *, blame: bool = True) -> JobState:
        """The lease runs out and the node sees it."""
        self.now += LEASE + SECOND
        with self.ledger.write() as work:
            return dict(work.jobs.expire(self.now, blame=blame))[self.job_id]

    def beat(self, owner: str) -> bool:
        with self.ledger.write() as work:
            return work.jobs.heartbeat(self.job_id, owner, self.now + LEASE, self.now)

    def finish(self, owner: str, job_id: str = "") -> None:
        with self.ledger.write() as work:
            work.jobs.finish(job_id or self.job_id, owner, J.DONE, self.now, results=[SR])

    @property
    def job(self) -> Job:
        with self.ledger.read() as work:
            return work.views.job(self.job_id)

    @property
    def about(self) -> tuple[JobState, int, int]:
        return self.job.state, self.job.deaths, self.job.losses


@pytest.fixture
def yard(ledger: Ledger) -> Yard:
    return Yard(ledger)


def quarantine(yard: Yard) -> None:
    """Two workers in a row fall silent: w:1, then w:2."""
    yard.begin("w:1")
    assert yard.fall_silent() == J.WAITING
    yard.begin("w:2")
    assert yard.fall_silent() == J.QUARANTINED
    assert yard.about == (J.QUARANTINED, 2, 0)


@pytest.mark.parametrize("published", [False, True])
def test_a_worker_that_was_only_slow_gets_its_job_back(yard: Yard, published: bool) -> None:
    for number in range(5):  # more often than a worker may die
        if number == 0:
            yard.begin("w:1")
        assert yard.fall_silent() == J.WAITING
        assert yard.about == (J.WAITING, 1, 0)
        if published:
            with yard.ledger.write() as work:
                work.jobs.to_publish(yard.now, REPUBLISH)
        assert yard.beat("w:1")
        assert yard.about == (J.RUNNING, 0, 0)
    yard.finish("w:1")
    assert yard.about == (J.DONE, 0, 0)
    assert yard.job.attempt == 1


def test_a_result_that_comes_after_the_lease_counts(yard: Yard) -> None:
    yard.begin("w:1")
    yard.fall_silent()
    yard.finish("w:1")
    assert yard.about == (J.DONE, 0, 0)


def test_who_comes_after_another_has_it_is_not_blamed_and_writes_nothing(yard: Yard) -> None:
    yard.begin("w:1")
    yard.fall_silent()
    yard.begin("w:2")
    with pytest.raises(LeaseLostError):
        yard.finish("w:1")
    assert not yard.beat("w:1")
    assert yard.about == (J.RUNNING, 0, 0)
    assert yard.job.lease_owner == "w:2"
    yard.finish("w:2")


@pytest.mark.parametrize("who", ["cancelled", "held", "superseded"])
def test_what_was_ended_meanwhile_does_not_come_back(yard: Yard, who: str) -> None:
    yard.begin("w:1")
    yard.fall_silent()
    if who == "superseded":
        yard.make()
    with yard.ledger.write() as work:
        if who == "cancelled":
            work.jobs.cancel(yard.job_id, "admin", yard.now)
        if who == "held":
            work.filing.file(incoming(mr_slice(9, PatientID="X")), yard.now)
            work.conflicts.hold("1.2.3", yard.now)
    assert not yard.beat("w:1")
    assert yard.job.state == who


def test_a_quarantine_that_was_none_is_lifted(yard: Yard) -> None:
    quarantine(yard)
    assert yard.beat("w:2")
    assert yard.about == (J.RUNNING, 1, 0)
    yard.finish("w:2")


@pytest.mark.parametrize("what", ["conflict", "later job", "run again"])
def test_a_quarantined_job_whose_time_is_over_stays(yard: Yard, what: str) -> None:
    quarantine(yard)
    if what == "later job":
        yard.make()
    with yard.ledger.write() as work:
        if what == "conflict":
            work.filing.file(incoming(mr_slice(9, PatientID="X")), yard.now)
        if what == "run again":
            work.jobs.rerun(yard.job_id, "admin", yard.now)
    assert not yard.beat("w:2")
    assert yard.about == (J.QUARANTINED, 1, 0)


def test_a_twin_that_began_since_is_not_computed_a_second_time(yard: Yard) -> None:
    yard.begin("w:1")
    twin = yard.make("other route")
    yard.fall_silent()
    yard.begin("w:2", twin)
    assert not yard.beat("w:1")
    assert yard.about[1:] == (0, 0)
    yard.finish("w:2", twin)
    assert not yard.beat("w:1")
    assert yard.job.state in {J.WAITING, J.QUEUED}  # it takes the other's results in its turn


def test_a_death_that_is_known_later_than_the_silence_is_blamed(yard: Yard) -> None:
    for number, expected in ((1, None), (2, J.QUARANTINED)):
        owner = f"w:{number}"
        yard.begin(owner)
        yard.fall_silent(blame=False)
        with yard.ledger.write() as work:
            assert work.jobs.worker_died(yard.job_id, owner, yard.now) == expected
        assert not yard.beat(owner)
    assert yard.about == (J.QUARANTINED, 2, 0)


def test_a_job_that_takes_its_whole_node_down_ends(
    yard: Yard, make_settings: Callable[..., Settings]
) -> None:
    """Nobody is left who could blame it; a publisher that was just started never does."""
    for number in range(MAX_LOSSES):
        assert yard.job.state in {J.WAITING, J.QUEUED}
        publisher = Publisher(make_settings(), yard.ledger, lambda *_: None, lambda: yard.now)
        publisher.step()
        yard.begin(f"w:{number}")
        yard.now += 600 * SECOND
        restarted = Publisher(make_settings(), yard.ledger, lambda *_: None, lambda: yard.now)
        restarted.step()
    assert yard.about == (J.QUARANTINED, 0, MAX_LOSSES)
    assert "lost 5 times" in yard.job.reason
    assert yard.job.remedy


def restarted(yard: Yard, boot: str) -> list[str]:
    """What a worker does when it begins."""
    done = []
    with yard.ledger.read() as work:
        left = work.jobs.left_by_machine("host", boot)
    for job_id in left:
        with yard.ledger.write() as work:
            if work.jobs.machine_restarted(job_id, "host", boot, yard.now):
                done.append(job_id)
    return done


def test_a_machine_that_was_switched_off_gives_back_what_it_had(yard: Yard) -> None:
    for boot in range(4):
        yard.begin(f"worker:host.{boot}:x{boot}")
        assert restarted(yard, str(boot)) == []  # a second worker of the same machine begins
        assert yard.about == (J.RUNNING, 0, boot)
        assert restarted(yard, str(boot + 1)) == [yard.job_id]
        assert yard.about == (J.WAITING, 0, boot + 1)
        assert restarted(yard, str(boot + 1)) == []


def test_only_the_last_silence_is_put_right(yard: Yard) -> None:
    """Another node saw them before the machine was back."""
    yard.begin("worker:host.a:1")
    yard.fall_silent()
    assert restarted(yard, "b") == [yard.job_id]
    yard.begin("worker:host.b:2")
    yard.fall_silent()
    assert yard.about == (J.WAITING, 1, 1)
    yard.begin("worker:other.z:3")
    yard.fall_silent()
    assert yard.about == (J.QUARANTINED, 2, 1)
    assert restarted(yard, "c") == []  # the last silence was another machine's


def test_a_quarantine_by_power_cuts_is_lifted(yard: Yard) -> None:
    for boot in ("a", "b"):
        yard.begin(f"worker:host.{boot}:1")
        yard.fall_silent()
    assert yard.about == (J.QUARANTINED, 2, 0)
    assert restarted(yard, "c") == [yard.job_id]
    assert yard.about == (J.WAITING, 1, 1)
    yard.begin("worker:host.c:1")
    yard.finish("worker:host.c:1")


def test_another_machine_is_not_taken_for_this_one(yard: Yard) -> None:
    yard.begin("worker:host2.a:1")
    assert restarted(yard, "b") == []
    assert yard.about == (J.RUNNING, 0, 0)


def test_a_worker_s_first_child_settles_what_the_machine_went_down_with(
    yard: Yard, ledger_url: str, make_settings: Callable[..., Settings], monkeypatch: Any
) -> None:
    settings = make_settings(ledger={"url": ledger_url})
    monkeypatch.setattr(pipeline, "this_boot", lambda: "before")
    owner = pipeline._new_owner()
    yard.begin(owner)
    assert len(owner) <= 64  # the column
    assert successor.settle_restart(settings) == [yard.job_id]
    assert yard.about == (J.WAITING, 0, 1)
    assert successor.settle_restart(settings) == []
    monkeypatch.undo()
    yard.begin(pipeline._new_owner())
    assert successor.settle_restart(settings) == []
    assert yard.job.state == J.RUNNING


def test_a_broker_that_lost_its_messages_keeps_no_worker_idle(
    yard: Yard, make_settings: Callable[..., Settings]
) -> None:
    """However long the job has waited; and a weekend without workers does not fill the broker."""
    with yard.ledger.write() as work:
        images = tuple(work.series.instances("1.2.3.4"))
        for number in range(20):
            new = NewJob("1.2.3", ("1.2.3.4",), images, f"r{number}", "m", "1", "cpu", ())
            work.jobs.create(new, yard.now)
    sent: list[datetime] = []
    publisher = Publisher(
        make_settings(), yard.ledger, lambda *_: sent.append(yard.now), lambda: yard.now
    )
    for _ in range(3 * 360):
        publisher.step()
        yard.now += 10 * SECOND
    moments = sorted(set(sent))
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert max(gaps) <= 70 * SECOND
    last_hour = [moment for moment in sent if moment > yard.now - 3600 * SECOND]
    assert len(last_hour) <= 21 + 61  # one an hour for each job, and one a minute for the queue
