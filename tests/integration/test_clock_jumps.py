"""A clock that jumps: no job is blamed, none is lost, none runs twice at the same time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from support.instances import T0, incoming, mr_slice

from core.domain import Job
from core.ledger import Ledger
from core.ledger.jobs import NewJob
from core.lifecycle import JobState
from core.settings import Settings
from node.deciding.publisher import Publisher

HOUR = timedelta(hours=1)
LEASE = 10.0  # seconds
STEP = 4.0  # seconds between two looks: less than half a lease, or nobody is ever blamed


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> datetime:
        return self.now

    def jump(self, by: timedelta) -> None:
        self.now += by


class Yard:
    """A publisher with its ledger, and workers that claim what it publishes."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self.clock = Clock()
        self.ledger = ledger
        self.published: list[str] = []
        self.publisher = Publisher(
            settings, ledger, lambda job, _queue: self.published.append(job), self.clock
        )
        with ledger.write() as work:
            work.filing.file(incoming(mr_slice()), T0)
            new = NewJob(
                "1.2.3",
                ("1.2.3.4",),
                tuple(work.series.instances("1.2.3.4")),
                "route",
                "model",
                "1",
                "cpu",
                ("pacs",),
            )
            made = work.jobs.create(new, T0)
            assert made is not None
            self.job_id = made

    def step(self, seconds: float = 0.0) -> None:
        """The publisher looks, as often as it does in so many seconds."""
        self.publisher.step()
        for _ in range(round(seconds / STEP)):
            self.clock.jump(timedelta(seconds=STEP))
            self.publisher.step()

    def claim(self, owner: str) -> Job | None:
        with self.ledger.write() as work:
            until = self.clock.now + timedelta(seconds=LEASE)
            return work.jobs.claim(self.job_id, owner, until, self.clock.now)

    def beat(self, owner: str) -> bool:
        with self.ledger.write() as work:
            until = self.clock.now + timedelta(seconds=LEASE)
            return work.jobs.heartbeat(self.job_id, owner, until, self.clock.now)

    @property
    def state(self) -> JobState:
        with self.ledger.read() as work:
            return work.views.job(self.job_id).state


@pytest.fixture
def yard(ledger: Ledger, make_settings: Callable[..., Settings]) -> Yard:
    return Yard(ledger, make_settings(jobs={"lease_seconds": LEASE}))


def test_a_jump_forward_blames_no_worker_and_takes_nothing_from_it(yard: Yard) -> None:
    yard.step()
    assert yard.claim("worker:1") is not None
    for _ in range(6):  # more often than a job may be lost
        yard.step(STEP)
        yard.clock.jump(HOUR)
        yard.step()
        # its lease ran out by the clock, not by its fault; nobody else has taken the job
        assert yard.state == JobState.QUEUED
        assert yard.beat("worker:1")
        assert yard.state == JobState.RUNNING


def test_a_jump_back_takes_no_job_from_a_living_worker(yard: Yard) -> None:
    yard.step()
    assert yard.claim("worker:1") is not None
    yard.step(STEP)
    yard.clock.jump(-HOUR)
    for _ in range(6):
        yard.step(STEP)
        assert yard.beat("worker:1")
    assert yard.state == JobState.RUNNING
    assert yard.claim("worker:2") is None


def test_after_a_jump_back_a_dead_worker_is_found_out_by_its_own_renewals(yard: Yard) -> None:
    """What was renewed after the jump runs out by the new clock."""
    yard.step()
    assert yard.claim("worker:1") is not None
    yard.clock.jump(-HOUR)
    assert yard.beat("worker:1")
    yard.step(3 * LEASE)
    assert yard.state == JobState.QUEUED


def test_a_message_lost_while_the_clock_jumps_back_is_sent_again(yard: Yard) -> None:
    yard.step()
    assert yard.published == [yard.job_id]
    yard.clock.jump(-HOUR)
    yard.step()
    yard.clock.jump(HOUR)  # the clock is put right again
    yard.step(40)
    assert len(yard.published) > 1
    assert yard.claim("worker:1") is not None
