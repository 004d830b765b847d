"""Who goes first, who shares, who stops: jobs on both databases, from many hands at once."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text
from support.instances import T0, incoming, mr_slice
from support.ledgers import new_ledger

from core.domain import Finding, Job, Measurement, Result, ResultKind
from core.errors import IllegalMoveError, LeaseLostError, NotFoundError
from core.ledger import Ledger, Work
from core.ledger.jobs import NewJob
from core.lifecycle import JobState
from core.modelspec import Code
from core.schema import JobRow
from core.settings import JobSettings, Route
from node.deciding.priority import HIGH, LOW, ROUTINE, STAT, priority_of

J = JobState
SECOND = timedelta(seconds=1)
LEASE = 30 * SECOND
REPUBLISH = 20 * SECOND
CODE = Code(value="52988006", scheme="SCT", meaning="Lesion")
MILLILITRE = Code(value="mL", scheme="UCUM", meaning="milliliter")
SR_CLASS = "1.2.840.10008.5.1.4.1.1.88.34"


def add(work: Work, number: int, **changes: Any) -> str:
    """A queued job of series 1.2.3.`number` with one image; made one second after the other."""
    series = f"1.2.3.{number}"
    known = work.series.instances(series)
    if not known:
        work.filing.file(
            incoming(mr_slice(number, SeriesInstanceUID=series, SOPInstanceUID=f"1.9.{number}")), T0
        )
        known = work.series.instances(series)
    values: dict[str, Any] = {
        "study_instance_uid": "1.2.3",
        "series_instance_uids": (series,),
        "instances": tuple(known),
        "route": "route",
        "model": "model",
        "model_version": "1.0.0",
        "queue": "cpu",
        "destinations": ("pacs",),
        "size": 100,
        "sender": "A",
    } | changes
    at = T0 + number * SECOND
    job_id = work.jobs.create(NewJob(**values), at)
    assert job_id is not None
    work.jobs.to_publish(at, REPUBLISH)
    return job_id


def take(ledger: Ledger, owner: str = "w:1", **how: Any) -> Job | None:
    now = T0 + 1000 * SECOND
    with ledger.write() as work:
        return work.jobs.claim_next("cpu", owner, now + LEASE, now, **how)


def order(ledger: Ledger, **how: Any) -> list[str]:
    """All queued jobs in the order in which one worker gets them, each done at once."""
    taken: list[str] = []
    while True:
        now = T0 + (1000 + len(taken)) * SECOND
        with ledger.write() as work:
            job = work.jobs.claim_next("cpu", "w:1", now + LEASE, now, **how)
            if job is None:
                return taken
            work.jobs.finish(job.id, "w:1", J.NOT_APPLICABLE, now)
        taken.append(job.id)


def test_the_urgent_first_then_the_small_then_the_old(ledger: Ledger) -> None:
    with ledger.write() as work:
        low = add(work, 1, priority=LOW, size=1)
        large = add(work, 2, size=900)
        small = add(work, 3, size=10)
        small_too = add(work, 4, size=10)
        stat = add(work, 5, priority=STAT, size=5000)
        elsewhere = add(work, 6, priority=STAT, queue="gpu")
    assert order(ledger) == [stat, small, small_too, large, low]
    with ledger.read() as work:
        assert work.views.job(elsewhere).state == J.QUEUED


def test_the_oldest_is_taken_when_it_is_asked_for(ledger: Ledger) -> None:
    with ledger.write() as work:
        old = add(work, 1, priority=LOW, size=10_000)
        add(work, 2, priority=STAT)
    job = take(ledger, oldest=True)
    assert job is not None
    assert job.id == old


def test_a_sender_with_a_thousand_jobs_does_not_starve_another(ledger: Ledger) -> None:
    """One worker serves senders in turn; several give each of them a hand."""
    with ledger.write() as work:
        many = [add(work, number, sender="MANY", size=1) for number in range(1, 9)]
        few = [add(work, number, sender="FEW", size=999) for number in (20, 21)]
    taken = order(ledger)
    assert taken == [few[0], many[0], few[1], many[1], *many[2:]]


def test_who_has_fewer_running_is_next(ledger: Ledger) -> None:
    with ledger.write() as work:
        for number in range(1, 6):
            add(work, number, sender="MANY")
        add(work, 20, sender="FEW")
    senders = []
    for number in range(4):
        job = take(ledger, f"w:{number}")
        assert job is not None
        senders.append(job.sender)
    assert sorted(senders[:2]) == ["FEW", "MANY"]
    assert senders[2:] == ["MANY", "MANY"]


def test_a_job_that_still_runs_counts_more_than_one_that_is_done(ledger: Ledger) -> None:
    """The sender that was served last is next, for the other one has a job running."""
    with ledger.write() as work:
        for number in (1, 2):
            add(work, number, sender="LONG")
            add(work, 10 + number, sender="SHORT")
    senders = []
    for number in range(3):
        now = T0 + (1000 + number) * SECOND
        with ledger.write() as work:
            job = work.jobs.claim_next("cpu", f"w:{number}", now + LEASE, now)
            assert job is not None
            if job.sender == "SHORT":
                work.jobs.finish(job.id, f"w:{number}", J.NOT_APPLICABLE, now)
        senders.append(job.sender)
    assert senders == ["LONG", "SHORT", "SHORT"]


@pytest.mark.parametrize("senders", [3])
def test_every_job_is_taken_once_however_many_hands_reach_for_it(
    ledger: Ledger, senders: int
) -> None:
    with ledger.write() as work:
        jobs = [add(work, number, sender=f"S{number % senders}") for number in range(1, 16)]
    taken: list[str] = []
    errors: list[BaseException] = []

    def worker(owner: str) -> None:
        try:
            while (job := take(ledger, owner)) is not None:
                taken.append(job.id)
        except BaseException as error:
            errors.append(error)
            raise

    hands = [threading.Thread(target=worker, args=(f"w:{number}",)) for number in range(6)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join(120)
    assert errors == []
    assert sorted(taken) == sorted(jobs)


def _best(jobs: Sequence[dict[str, Any]], served: dict[str, int]) -> int:
    top = max(job["priority"] for job in jobs)
    senders = {job["sender"] for job in jobs if job["priority"] == top}
    sender = min(senders, key=lambda name: (served.get(name, -1), name))
    mine = [job for job in jobs if job["priority"] == top and job["sender"] == sender]
    return int(min(mine, key=lambda job: (job["size"], job["number"]))["number"])


@settings(max_examples=6)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "priority": st.sampled_from([LOW, ROUTINE, STAT]),
                "size": st.integers(1, 3),
                "sender": st.sampled_from(["A", "B", "C"]),
            }
        ),
        min_size=5,
        max_size=8,
    )
)
def test_the_order_is_the_one_that_was_promised(made: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = new_ledger(Path(folder) / "ledger.db")
        jobs = [job | {"number": number} for number, job in enumerate(made, start=1)]
        with ledger.write() as work:
            ids = {add(work, **job): job["number"] for job in jobs}
        expected: list[int] = []
        served: dict[str, int] = {}
        while jobs:
            number = _best(jobs, served)
            (job,) = (item for item in jobs if item["number"] == number)
            served[job["sender"]] = len(expected)
            jobs.remove(job)
            expected.append(number)
        assert [ids[job_id] for job_id in order(ledger)] == expected
        ledger.close()


def test_ten_thousand_queued_jobs_do_not_slow_the_next_one_down(ledger: Ledger) -> None:
    with ledger.write() as work:
        first = add(work, 1, priority=STAT)
    rows = [
        {
            "id": f"job-{number}",
            "study_instance_uid": "1.2.3",
            "route": "r",
            "model": "m",
            "model_version": "1.0.0",
            "queue": "cpu",
            "destinations": [],
            "input_digest": str(number),
            "run": 1,
            "state": "queued" if number % 2 else "done",
            "priority": ROUTINE,
            "size": number % 97,
            "sender": f"S{number % 7}",
            "created_at": T0 + number * SECOND,
            "updated_at": T0,
            "started_at": None if number % 2 else T0,
            "summary": {},
        }
        for number in range(20_000)
    ]
    with ledger.engine.begin() as connection:
        connection.execute(insert(JobRow), rows)
        if connection.dialect.name == "postgresql":
            connection.execute(text("ANALYZE"))  # as autovacuum does
    began = time.perf_counter()
    taken = [take(ledger, f"w:{number}") for number in range(20)]
    seconds = (time.perf_counter() - began) / 20
    assert taken[0] is not None
    assert taken[0].id == first
    assert len({job.sender for job in taken[1:8] if job}) == 7
    print(f"{ledger.engine.dialect.name}: {1000 * seconds:.1f} ms for a claim")
    assert seconds < 1  # some ms on an idle machine


def a_result(job_id: str, kind: ResultKind = ResultKind.SR) -> Result:
    return Result(kind, f"k/{job_id}/{kind}", "0" * 64, 10, SR_CLASS, f"{job_id[:8]}.1", "2.25.2")


def finish(ledger: Ledger, job: Job, *kinds: ResultKind, made_with: str = "x") -> None:
    finding = Finding(
        1, "lesion", CODE, CODE, "2.25.9", measurements=(Measurement(CODE, 2.5, MILLILITRE),)
    )
    with ledger.write() as work:
        results = [a_result(job.id, kind) for kind in kinds or (ResultKind.SR,)]
        work.jobs.finish(
            job.id,
            job.lease_owner or "",
            J.DONE,
            T0 + 2000 * SECOND,
            findings=[finding],
            results=results,
            summary={"made_with": made_with},
        )


def test_the_same_input_is_not_computed_twice(ledger: Ledger) -> None:
    """A twin waits for the running one, is woken when that ends, and takes its results."""
    with ledger.write() as work:
        first = add(work, 1, route="a", destinations=("pacs", "archive"))
        second = add(work, 1, route="b", destinations=("pacs", "cloud"))
        other = add(work, 2, route="b", priority=LOW)
    running = take(ledger)
    assert running is not None
    assert running.id in {first, second}
    twin = first if running.id == second else second
    passed_over = take(ledger, "w:2")
    assert passed_over is not None
    assert passed_over.id == other
    assert take(ledger, "w:3") is None
    finish(ledger, running, ResultKind.SR, ResultKind.SC, ResultKind.PICTURE)
    later = T0 + 2000 * SECOND
    with ledger.write() as work:
        assert [job.id for job in work.jobs.to_publish(later, REPUBLISH)] == [twin]
    job = take(ledger, "w:2")
    assert job is not None
    assert job.id == twin
    with ledger.write() as work:
        assert work.jobs.same_done(twin, "other settings") is None
        assert work.jobs.same_done(twin, "x") == running.id
        made = work.jobs.finish_as(twin, "w:2", running.id, later)
    assert made == 2  # an SR and a picture to the one destination that had not got them
    with ledger.read() as work:
        ended = work.views.job(twin)
        findings = work.views.findings(twin)
        assert findings == work.views.findings(running.id)
        wanted = {("SR", name) for name in ("pacs", "archive", "cloud")}
        sent = [
            (item.kind, item.destination, item.sop_instance_uid)
            for item, _ in work.views.job_life(running.id).transfers
        ]
    assert (ended.state, ended.same_as) == (J.DONE, running.id)
    assert len(findings) == 1
    assert len(sent) == len(set(sent)) == 6
    assert {(kind, to) for kind, to, _ in sent if kind == "SR"} == wanted


def test_twins_are_computed_once_however_many_hands_there_are(ledger: Ledger) -> None:
    """Three routes name one model; whoever comes second in a pair waits, and takes."""
    with ledger.write() as work:
        jobs = {
            add(work, number, route=route, sender=route): number
            for number in range(1, 7)
            for route in ("a", "b", "c")
        }
    computed: list[int] = []
    now = T0 + 1000 * SECOND

    def worker(owner: str) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            job = take(ledger, owner)
            if job is None:
                with ledger.read() as work:
                    if not work.views.jobs((J.QUEUED, J.RUNNING)):
                        return
                continue
            with ledger.read() as work:
                same = work.jobs.same_done(job.id, "x")
            if same is None:
                computed.append(jobs[job.id])
                finish(ledger, job)
                continue
            with ledger.write() as work:
                work.jobs.finish_as(job.id, owner, same, now)

    hands = [threading.Thread(target=worker, args=(f"w:{number}",)) for number in range(4)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join(120)
    assert sorted(computed) == sorted(set(jobs.values()))
    with ledger.read() as work:
        assert {work.views.job(job_id).state for job_id in jobs} == {J.DONE}


def test_a_job_that_is_asked_for_again_is_computed_again(ledger: Ledger) -> None:
    with ledger.write() as work:
        first = add(work, 1, route="a")
    job = take(ledger)
    assert job is not None
    finish(ledger, job)
    with ledger.write() as work:
        again = work.jobs.rerun(first, "admin", T0 + 3000 * SECOND, model_version="1.0.0")
        work.jobs.to_publish(T0 + 3000 * SECOND, REPUBLISH)
        assert work.jobs.claim(again, "w:2", T0 + 3030 * SECOND, T0 + 3000 * SECOND)
        assert work.jobs.same_done(again, "x") is None


def test_results_are_not_shared_where_they_would_leave_an_earlier_object_standing(
    ledger: Ledger,
) -> None:
    """Route b has analysed a smaller input before, route a has not."""
    with ledger.write() as work:
        add(work, 1, route="b")
    job = take(ledger)
    assert job is not None
    finish(ledger, job)
    with ledger.write() as work:
        work.filing.file(
            incoming(mr_slice(2, SeriesInstanceUID="1.2.3.1", SOPInstanceUID="1.9.99")), T0
        )
        for route in ("a", "b"):
            instances = tuple(work.series.instances("1.2.3.1"))
            new = NewJob(
                "1.2.3", ("1.2.3.1",), instances, route, "model", "1.0.0", "cpu", ("pacs",)
            )
            assert work.jobs.create(new, T0 + 50 * SECOND)
        jobs = {job.route: job.id for job in work.jobs.to_publish(T0 + 60 * SECOND, REPUBLISH)}
        by_a = work.jobs.claim(jobs["a"], "w:1", T0 + 90 * SECOND, T0 + 60 * SECOND)
        assert by_a is not None
    finish(ledger, by_a)
    with ledger.write() as work:
        assert work.jobs.claim(jobs["b"], "w:1", T0 + 90 * SECOND, T0 + 60 * SECOND)
        assert work.jobs.same_done(jobs["b"], "x") is None


CANCELLABLE = (J.WAITING, J.QUEUED, J.RUNNING, J.HELD)


@pytest.mark.parametrize("state", CANCELLABLE)
def test_what_is_not_finished_can_be_cancelled(ledger: Ledger, state: JobState) -> None:
    with ledger.write() as work:
        job_id = add(work, 1)
        if state == J.RUNNING:
            assert work.jobs.claim(job_id, "w:1", T0 + LEASE, T0)
        elif state != J.QUEUED:
            work.jobs.move(work.jobs._locked(job_id), state, "", "test", T0)
    with ledger.write() as work:
        work.jobs.cancel(job_id, "somebody", T0 + SECOND)
    with ledger.read() as work:
        life = work.views.job_life(job_id)
    assert life.job.state == J.CANCELLED
    assert life.events[-1].actor == "somebody"
    with ledger.write() as work:
        assert not work.jobs.heartbeat(job_id, "w:1", T0 + LEASE, T0)
    with pytest.raises(LeaseLostError), ledger.write() as work:
        work.jobs.finish(job_id, "w:1", J.DONE, T0, results=[a_result(job_id)])
    with pytest.raises(IllegalMoveError, match="nothing to cancel"), ledger.write() as work:
        work.jobs.cancel(job_id, "somebody", T0)
    assert take(ledger) is None


def test_a_study_is_cancelled_as_a_whole(ledger: Ledger) -> None:
    with ledger.write() as work:
        jobs = [add(work, number) for number in (1, 2, 3)]
    done = take(ledger)
    assert done is not None
    finish(ledger, done)
    with ledger.write() as work:
        cancelled = work.jobs.cancel_study("1.2.3", "somebody", T0)
    assert set(cancelled) == set(jobs) - {done.id}
    with pytest.raises(NotFoundError), ledger.write() as work:
        work.jobs.cancel_study("9.9", "somebody", T0)


def test_a_worker_that_is_known_to_be_dead_gives_its_job_back_at_once(ledger: Ledger) -> None:
    with ledger.write() as work:
        job_id = add(work, 1)
        other = add(work, 2)
    for expected in (J.WAITING, J.QUARANTINED):
        with ledger.write() as work:
            work.jobs.to_publish(T0 + 100 * SECOND, REPUBLISH)
            assert work.jobs.claim(job_id, "w:1", T0 + 999 * SECOND, T0)
            assert work.jobs.worker_died(job_id, "w:2", T0) is None  # not his
            assert work.jobs.worker_died(job_id, "w:1", T0) == expected
            assert work.jobs.worker_died(job_id, "w:1", T0) is None
    with ledger.read() as work:
        assert "died 2 times" in work.views.job(job_id).reason
    blocked = take(ledger)
    assert blocked is not None
    assert blocked.id == other


def test_strain_is_kept_for_the_next_attempt(ledger: Ledger) -> None:
    with ledger.write() as work:
        job_id = add(work, 1)
        work.jobs.claim(job_id, "w:1", T0 + LEASE, T0)
        work.jobs.give_back(job_id, "w:1", "memory ran out", T0, T0, strain=1)
        work.jobs.to_publish(T0, REPUBLISH)
        job = work.jobs.claim(job_id, "w:1", T0 + LEASE, T0)
        assert job is not None
        assert (job.strain, job.deaths) == (1, 0)
        work.jobs.give_back(job_id, "w:1", "the store is away", T0, T0)
        assert work.views.job(job_id).strain == 1


@pytest.mark.parametrize(
    ("route", "said", "modality", "priority"),
    [
        ("routine", None, "MR", ROUTINE),
        ("routine", "STAT", "MR", STAT),
        ("routine", "stat ", "MR", STAT),
        ("low", "STAT", "MR", STAT),
        ("low", "MEDIUM", "MR", LOW),
        ("stat", "LOW", "MR", STAT),
        ("high", "LOW", "MR", HIGH),
        ("routine", "LOW", "MR", LOW),
        ("routine", "HIGH", "MR", HIGH),
        ("stat", "HIGH", "MR", STAT),
        ("low", None, "CT", STAT),
    ],
)
def test_the_priority_of_a_job(route: Any, said: str | None, modality: str, priority: int) -> None:
    made = Route(name="r", model="m", priority=route)
    attributes = {"RequestedProcedurePriority": said, "Modality": modality}
    assert priority_of(made, attributes, JobSettings(stat_modalities=("ct",))) == priority


def test_putting_jobs_back_and_cancelling_their_study_do_not_wait_in_a_circle(
    ledger: Ledger,
) -> None:
    """The first has one job in hand and wants another; who cancels has that, and wants the first.

    On SQLite one comes after the other.
    """
    with ledger.write() as work:
        jobs = sorted(add(work, number) for number in (1, 2))
    faults: list[Exception] = []
    begun = threading.Event()

    def cancel() -> None:
        begun.wait(30)
        try:
            with ledger.write() as work:
                work.jobs.cancel_study("1.2.3", "admin", T0)
        except Exception as error:  # noqa: BLE001 - told by the test
            faults.append(error)

    administrator = threading.Thread(target=cancel)
    administrator.start()
    with ledger.write() as work:
        work.jobs.publish_failed(jobs[1], T0, T0)
        begun.set()
        deadline = time.monotonic() + 30
        while ledger.engine.dialect.name == "postgresql" and time.monotonic() < deadline:
            with ledger.engine.connect() as connection:
                if connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                    break
        work.jobs.publish_failed(jobs[0], T0, T0)  # the administrator has this one
    administrator.join(30)
    assert faults == []
    with ledger.read() as work:
        assert {work.views.job(job).state for job in jobs} == {J.CANCELLED}
