"""A clock that jumps: no job is blamed, none is lost, none runs twice at the same time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select
from support.instances import T0, incoming, mr_slice

from core.domain import Job
from core.ledger import Ledger
from core.ledger.jobs import NewJob
from core.lifecycle import JobState
from core.schema import CommitmentRow, DestinationRow, TransferRow
from core.settings import Settings
from node.deciding.publisher import Publisher
from node.keeping.clocks import ClockWatch, farthest_of

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
        self.settings = settings
        self.published: list[str] = []
        self.watch = ClockWatch(settings, ledger, self.clock)
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
        self.look()
        for _ in range(round(seconds / STEP)):
            self.clock.jump(timedelta(seconds=STEP))
            self.look()

    def look(self) -> None:
        self.watch.step()
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


def test_after_a_jump_back_a_dead_worker_s_lease_runs_out_soon(yard: Yard) -> None:
    yard.step()
    assert yard.claim("worker:1") is not None
    yard.clock.jump(-HOUR)
    yard.step(3 * LEASE)
    assert yard.state == JobState.QUEUED


def test_a_node_that_begins_after_the_jump_finds_it_too(yard: Yard) -> None:
    yard.step()
    assert yard.claim("worker:1") is not None
    yard.clock.jump(-24 * HOUR)
    yard.watch = ClockWatch(yard.settings, yard.ledger, yard.clock)
    yard.step(3 * LEASE)
    assert yard.state == JobState.QUEUED


def test_a_wait_does_not_grow_by_the_jump(yard: Yard) -> None:
    yard.step()
    assert yard.claim("worker:1") is not None
    with yard.ledger.write() as work:
        again = yard.clock.now + timedelta(seconds=20)
        work.jobs.give_back(yard.job_id, "worker:1", "trouble", again, yard.clock.now)
    yard.clock.jump(-HOUR)
    yard.step(STEP)
    assert yard.state == JobState.QUEUED


def test_every_moment_that_lies_too_far_ahead_is_pulled_in(yard: Yard) -> None:
    """A dead sender's lease, a destination's wait, a series' quiet time, and the others."""
    farthest = farthest_of(yard.settings)
    with yard.ledger.write() as work:
        session = work.moments._session
        session.add(DestinationRow(name="pacs", failures=3, next_try_at=T0, probe_until=T0))
        session.add(
            CommitmentRow(
                transaction_uid="2.25.1", destination="pacs", state="asking", created_at=T0,
                lease_until=T0,
            )
        )  # fmt: skip
        for number, state in enumerate(("due", "sending", "sent")):
            image = work.series.instances("1.2.3.4")[0]
            session.add(
                TransferRow(
                    instance_id=image.id, study_instance_uid="1.2.3", destination=f"p{number}",
                    state=state, created_at=T0, next_try_at=T0, lease_until=T0,
                )
            )  # fmt: skip
    # what was written now lies nowhere too far ahead; a day later by the clock before, it does
    with yard.ledger.write() as work:
        assert not work.moments.too_far(farthest, T0)
        before = T0 - 24 * HOUR
        assert work.moments.too_far(farthest, before)
        assert work.moments.pull_in(farthest, before) == 8
        assert not work.moments.too_far(farthest, before)
    with yard.ledger.read() as work:
        found = work.facts.standing()
        rows = work.moments._session.scalars(select(TransferRow).order_by(TransferRow.id)).all()
        destination = work.circuits.get("pacs")
    assert found
    assert rows[0].next_try_at == rows[2].next_try_at == before
    assert rows[1].lease_until == before + farthest.send_lease
    assert destination.next_try_at == before


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
