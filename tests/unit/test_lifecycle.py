"""The tables of legal moves, and jobs moved at random on a real database."""

from __future__ import annotations

import itertools
import tempfile
from contextlib import nullcontext
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import event
from support.instances import T0, incoming, mr_slice
from support.ledgers import new_ledger

from core.alternatives import COMPREHENSIVE_3D_SR
from core.domain import FOR_PAGES, Finding, Measurement, Result, ResultKind
from core.errors import IllegalMoveError, LeaseLostError, NotFoundError
from core.ledger.jobs import MAX_DEATHS, MAX_LOSSES, NewJob
from core.ledger.jobs.returning import TAKEN_BACK
from core.lifecycle import (
    JOB_MOVES,
    JOB_OPEN,
    RENDITION_MOVES,
    SERIES_MOVES,
    TRANSFER_MOVES,
    TRANSFER_OPEN,
    JobState,
    RenditionState,
    SeriesState,
    TransferState,
)
from core.modelspec import Code
from core.schema import JobRow

J, T = JobState, TransferState
SECOND = timedelta(seconds=1)
LEASE = 30 * SECOND
REPUBLISH = 20 * SECOND
RELEARN = 20 * SECOND
CLASSES = dict.fromkeys(ResultKind, "1.2") | {ResultKind.SR: COMPREHENSIVE_3D_SR}
CODE = Code(value="52988006", scheme="SCT", meaning="Lesion")
MILLILITRE = Code(value="mL", scheme="UCUM", meaning="milliliter")
TABLES = [
    (SeriesState, SERIES_MOVES, SeriesState.RECEIVING),
    (JobState, JOB_MOVES, J.WAITING),
    (TransferState, TRANSFER_MOVES, T.DUE),
    (RenditionState, RENDITION_MOVES, RenditionState.WAITING),
]


@pytest.mark.parametrize(("states", "moves", "first"), TABLES)
def test_the_tables_know_every_state_and_no_other(
    states: type[StrEnum], moves: dict[Any, frozenset[Any]], first: StrEnum
) -> None:
    assert set(moves) == set(states)
    assert frozenset().union(*moves.values()) <= set(states)
    assert all(state not in targets for state, targets in moves.items())


@pytest.mark.parametrize(("states", "moves", "first"), TABLES)
def test_every_state_can_be_reached(
    states: type[StrEnum], moves: dict[Any, frozenset[Any]], first: StrEnum
) -> None:
    reached, border = {first}, [first]
    while border:
        for state in moves[border.pop()] - reached:
            reached.add(state)
            border.append(state)
    assert reached == set(states)


def test_what_is_finished_stays_finished() -> None:
    for state in set(JobState) - JOB_OPEN - {J.QUARANTINED}:
        assert JOB_MOVES[state] <= {J.SUPERSEDED}
    assert JOB_MOVES[J.CANCELLED] == JOB_MOVES[J.SUPERSEDED] == frozenset()
    assert TRANSFER_MOVES[T.COMMITTED] == frozenset()


def test_only_a_running_job_gets_a_result_and_only_what_is_unfinished_runs() -> None:
    for end in (J.DONE, J.NOT_APPLICABLE, J.FAILED):
        assert {state for state in J if end in JOB_MOVES[state]} == {J.RUNNING}
    # the others where its worker was taken for dead, and is not
    may_run = {J.QUEUED, J.WAITING, J.QUARANTINED}
    assert {state for state in J if J.RUNNING in JOB_MOVES[state]} == may_run
    assert {state for state in T if T.SENT in TRANSFER_MOVES[state]} == {T.SENDING}


def test_open_work_can_be_held_and_ended() -> None:
    for state in JOB_OPEN - {J.HELD}:
        assert {J.HELD, J.CANCELLED, J.SUPERSEDED} <= JOB_MOVES[state]
    assert {J.WAITING, J.CANCELLED} <= JOB_MOVES[J.HELD]
    for transfer_state in TRANSFER_OPEN:
        assert T.FAILED in TRANSFER_MOVES[transfer_state]


class Life(RuleBasedStateMachine):
    """Nodes, workers, senders and administrators who do what they may, in any order.

    The model beside the ledger is small: what was seen once and must never change.
    """

    WORKERS = ("w:1", "w:2")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = new_ledger(Path(self.folder.name) / "ledger.db")
        # what these tests are about is not the disk
        event.listen(
            self.ledger.engine,
            "connect",
            lambda connection, _: connection.execute("PRAGMA synchronous=OFF"),
        )
        self.now = T0
        self.jobs: list[str] = []
        self.inputs = 0
        self.strays = 0
        self.finished: dict[str, Any] = {}

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()

    @initialize()
    def an_image_comes(self) -> None:
        self.file()

    @rule()
    @precondition(lambda self: self.inputs < 5)
    def file(self) -> None:
        self.inputs += 1
        self._file(incoming(mr_slice(self.inputs, SOPInstanceUID=f"1.2.3.4.{self.inputs}")))

    @rule()
    @precondition(lambda self: self.strays < 2)
    def an_image_of_another_patient_comes(self) -> None:
        self.strays += 1
        series = f"1.2.3.{90 + self.strays}"
        stray = mr_slice(SeriesInstanceUID=series, SOPInstanceUID=f"{series}.1", PatientID="X")
        self._file(incoming(stray))

    def _file(self, item: Any) -> None:
        with self.ledger.write() as work:
            for study in work.filing.file(item, self.now).studies_in_conflict:
                work.conflicts.hold(study, self.now)

    @rule()
    def create(self) -> None:
        with self.ledger.write() as work:
            new = NewJob(
                "1.2.3",
                ("1.2.3.4",),
                tuple(work.series.instances("1.2.3.4")),
                "route",
                "model",
                "1.0.0",
                "cpu",
                ("pacs", "archive"),
            )
            made = work.jobs.create(new, self.now)
            conflict = work.views.study("1.2.3").conflict
            if made:
                assert work.views.job(made).state == (J.HELD if conflict else J.WAITING)
                assert made not in self.jobs
                self.jobs.append(made)

    @rule()
    def publish(self) -> None:
        with self.ledger.write() as work:
            due = work.jobs.has_work(self.now)
            published = work.jobs.to_publish(self.now, REPUBLISH)
            assert due or not published
            assert all(work.views.job(job.id).state == J.QUEUED for job in published)

    @rule(data=st.data())
    @precondition(lambda self: self.jobs)
    def publishing_fails(self, data: st.DataObject) -> None:
        with self.ledger.write() as work:
            work.jobs.publish_failed(self._job(data), self.now + 5 * SECOND, self.now)

    @rule(data=st.data(), owner=st.sampled_from(WORKERS))
    @precondition(lambda self: self.jobs)
    def claim(self, data: st.DataObject, owner: str) -> None:
        job_id = self._job(data)
        with self.ledger.write() as work:
            before = work.views.job(job_id)
            job = work.jobs.claim(job_id, owner, self.now + LEASE, self.now)
            assert (job is not None) == (before.state == J.QUEUED)
            if job is not None:
                assert job.attempt == before.attempt + 1
                assert job.lease_owner == owner

    @rule(owner=st.sampled_from(WORKERS), oldest=st.booleans())
    def claim_the_next(self, owner: str, oldest: bool) -> None:
        with self.ledger.write() as work:
            queued = {job.id for job in work.views.jobs((J.QUEUED,))}
            job = work.jobs.claim_next("cpu", owner, self.now + LEASE, self.now, oldest=oldest)
            assert (job is not None) == bool(queued)
            assert job is None or (job.id in queued and job.lease_owner == owner)

    @rule(data=st.data())
    @precondition(lambda self: self.jobs)
    def cancel(self, data: st.DataObject) -> None:
        job_id = self._job(data)
        with self.ledger.read() as work:
            before = work.views.job(job_id).state
        try:
            with self.ledger.write() as work:
                work.jobs.cancel(job_id, "admin", self.now)
        except IllegalMoveError:
            assert before not in JOB_OPEN | {J.QUARANTINED}
        else:
            assert before in JOB_OPEN | {J.QUARANTINED}

    @rule(data=st.data(), owner=st.sampled_from(WORKERS))
    @precondition(lambda self: self.jobs)
    def a_worker_dies(self, data: st.DataObject, owner: str) -> None:
        job_id = self._job(data)
        with self.ledger.write() as work:
            held = self._holds(work, job_id, owner)
            lost = self._lost(work, job_id) == owner
            state = work.jobs.worker_died(job_id, owner, self.now)
            assert held <= (state is not None) <= (held or lost)
            assert state in {None, J.WAITING, J.QUARANTINED}
            if state == J.QUARANTINED:
                assert work.views.job(job_id).deaths >= MAX_DEATHS

    @rule(data=st.data(), owner=st.sampled_from(WORKERS))
    @precondition(lambda self: self.jobs)
    def heartbeat(self, data: st.DataObject, owner: str) -> None:
        job_id = self._job(data)
        with self.ledger.write() as work:
            held = self._holds(work, job_id, owner)
            lost = self._lost(work, job_id) == owner
            before = work.views.job(job_id)
            beats = work.jobs.heartbeat(job_id, owner, self.now + LEASE, self.now)
            after = work.views.job(job_id)
            assert beats == self._holds(work, job_id, owner)
            assert held <= beats <= (held or lost)
            blame = before.deaths + before.losses - after.deaths - after.losses
            assert blame == (lost and not held)
            if lost and before.state in {J.WAITING, J.QUEUED}:
                assert beats

    @rule(seconds=st.integers(1, 40))
    def time_goes_by(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @rule()
    def expire(self) -> None:
        with self.ledger.write() as work:
            before = {job.id: job for job in work.views.jobs((J.RUNNING,))}
            moved = dict(work.jobs.expire(self.now))
            for job_id, job in before.items():
                assert job.lease_until is not None
                assert (job_id in moved) == (job.lease_until < self.now)
            for job_id, state in moved.items():
                assert work.views.job(job_id).state == state
                assert work.views.job(job_id).attempt >= (
                    MAX_DEATHS if state == J.QUARANTINED else 1
                )

    @rule()
    def expire_without_blame(self) -> None:
        with self.ledger.write() as work:
            for job_id, state in work.jobs.expire(self.now, blame=False):
                job = work.views.job(job_id)
                assert (state == J.QUARANTINED) == (job.losses >= MAX_LOSSES)

    @rule(data=st.data(), owner=st.sampled_from(WORKERS))
    @precondition(lambda self: self.jobs)
    def give_back(self, data: st.DataObject, owner: str) -> None:
        job_id = self._job(data)
        with self.ledger.read() as work:
            held = self._may_end(work, job_id, owner)
        try:
            with self.ledger.write() as work:
                work.jobs.give_back(job_id, owner, "trouble", self.now + SECOND, self.now)
        except LeaseLostError:
            assert not held
        else:
            assert held

    @rule(
        data=st.data(),
        owner=st.sampled_from(WORKERS),
        state=st.sampled_from([J.DONE, J.NOT_APPLICABLE, J.FAILED]),
        volume=st.floats(0.1, 100),
    )
    @precondition(lambda self: self.jobs)
    def finish(self, data: st.DataObject, owner: str, state: JobState, volume: float) -> None:
        job_id = self._job(data)
        with self.ledger.read() as work:
            held = self._may_end(work, job_id, owner)
        findings, results = [], []
        if state != J.NOT_APPLICABLE:  # a job may fail because of its objects; they are kept
            measured = (Measurement(CODE, volume, MILLILITRE),)
            findings = [
                Finding(1, "lesion", CODE, CODE, f"2.25.{owner[-1]}", measurements=measured)
            ]
            results = [
                Result(
                    kind, f"k/{owner}/{kind}", "0" * 64, 1, CLASSES[kind], f"{job_id}.{kind}", "1"
                )
                for kind in ResultKind
            ]
        try:
            with self.ledger.write() as work:
                work.jobs.finish(job_id, owner, state, self.now, findings=findings, results=results)
        except LeaseLostError:
            assert not held
        else:
            assert held
            assert job_id not in self.finished

    @rule()
    @precondition(lambda self: self.inputs < 5)
    def a_job_goes_well(self) -> None:
        """The usual way at once, or what comes after it would hardly ever be tried."""
        self.file()
        self.create()
        self.publish()
        with self.ledger.write() as work:
            queued = work.views.jobs((J.QUEUED,))
            for job in queued:
                assert work.jobs.claim(job.id, "w:1", self.now + LEASE, self.now)
        for job in queued:
            results = [
                Result(kind, "k", "0" * 64, 1, CLASSES[kind], f"{job.id}.{kind}", "1")
                for kind in ResultKind
            ]
            with self.ledger.write() as work:
                work.jobs.finish(job.id, "w:1", J.DONE, self.now, results=results)

    @rule(release=st.booleans())
    def decide_the_conflict(self, release: bool) -> None:
        try:
            with self.ledger.write() as work:
                held = len(work.views.jobs((J.HELD,)))
                assert work.conflicts.decide("1.2.3", release, "admin", self.now) == held
                assert not work.views.jobs((J.HELD,))
                assert not work.conflicts.open()
        except NotFoundError:
            with self.ledger.read() as work:
                assert not work.conflicts.open()

    @rule(data=st.data())
    @precondition(lambda self: self.jobs)
    def rerun(self, data: st.DataObject) -> None:
        job_id = self._job(data)
        with self.ledger.read() as work:
            before = work.views.job(job_id)
        try:
            with self.ledger.write() as work:
                made = work.jobs.rerun(job_id, "admin", self.now)
        except IllegalMoveError as error:
            # it is open itself, or the same or a later input is being analysed
            assert before.state in JOB_OPEN or "older input" in str(error) or "again" in str(error)
        else:
            assert before.state not in JOB_OPEN
            assert made not in self.jobs
            self.jobs.append(made)

    @rule(data=st.data(), state=st.sampled_from([T.SENT, T.DUE, T.REFUSED]))
    def send(self, data: st.DataObject, state: TransferState) -> None:
        with self.ledger.write() as work:
            name = data.draw(st.sampled_from(["pacs", "archive"]))
            for transfer in work.transfers.claim(name, "s:1", self.now + LEASE, self.now, 2):
                assert work.views.job(transfer.job_id).state in {J.DONE, J.SUPERSEDED}
                assert work.transfers.record(
                    transfer.id, "s:1", state, self.now, status=0, message="m"
                )

    @rule(data=st.data(), tried=st.booleans())
    def refuse_the_class(self, data: st.DataObject, tried: bool) -> None:
        name, since = data.draw(st.sampled_from(["pacs", "archive"])), self.now - RELEARN
        with self.ledger.write() as work:
            claimed = work.transfers.claim(name, "s:1", self.now + LEASE, self.now, 3)
            known = work.renditions.known_to_be_refused(name, claimed, since)
            for transfer in claimed:
                # a sender leaves out only what it knows to be refused
                offered = tried or transfer.id not in known
                instead = work.renditions.refuse(
                    transfer, "s:1", self.now, how="no", since=since, tried=offered
                )
                assert instead is not None
                if instead.target is not None:
                    assert transfer.kind == ResultKind.SR
                    assert instead.target != transfer.sop_class_uid

    @rule(data=st.data(), ends=st.sampled_from(["made", "cannot be made", "left"]))
    def make_what_is_wanted(self, data: st.DataObject, ends: str) -> None:
        with self.ledger.write() as work:
            work.renditions.expire(self.now, self.now - RELEARN, most_deaths=3)
            wanted = [item for item, _ in work.renditions.to_publish(self.now, REPUBLISH)]
        for rendition_id in wanted:
            with self.ledger.write() as work:
                rendition = work.renditions.claim(rendition_id, "w:1", self.now + LEASE, self.now)
                assert rendition is not None
                assert work.renditions.claim(rendition_id, "w:2", self.now, self.now) is None
                if ends == "made":
                    uid = f"{rendition_id}.{rendition.sop_class_uid}"
                    made = Result(
                        ResultKind.SR, "k", "0", 1, rendition.sop_class_uid, uid[-64:], "1",
                        alternative_to=rendition.result.id,
                    )  # fmt: skip
                    work.renditions.finish(rendition_id, "w:1", [made], self.now)
                elif ends == "cannot be made":
                    since = self.now - RELEARN
                    work.renditions.fail(rendition_id, "w:1", "no", since, self.now)

    @rule(data=st.data())
    @precondition(lambda self: self.jobs)
    def send_again(self, data: st.DataObject) -> None:
        with self.ledger.write() as work:
            # a study that is held lets nothing out, whoever asks
            held: Any = nullcontext()
            if work.views.study("1.2.3").conflict:
                held = pytest.raises(IllegalMoveError, match="held")
            with held:
                work.transfers.send_again(self._job(data))

    def _job(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(self.jobs))

    def _holds(self, work: Any, job_id: str, owner: str) -> bool:
        job = work.views.job(job_id)
        return bool(job.state == J.RUNNING and job.lease_owner == owner)

    def _lost(self, work: Any, job_id: str) -> str | None:
        """Whose lease ran out, and who may be heard again."""
        found: str | None = work.jobs._session.get_one(JobRow, job_id).lost_by
        return found

    def _may_end(self, work: Any, job_id: str, owner: str) -> bool:
        """It is the owner's, or nobody has it since the owner's lease ran out."""
        job, lost = work.views.job(job_id), self._lost(work, job_id) == owner
        later = self.jobs[self.jobs.index(job_id) + 1 :]
        free = job.state in {J.WAITING, J.QUEUED} or (
            job.state == J.QUARANTINED
            and not later
            and not work.views.study(job.study_instance_uid).conflict
        )
        return self._holds(work, job_id, owner) or (lost and free)

    @invariant()
    def the_ledger_is_in_order(self) -> None:
        with self.ledger.read() as work:
            conflict = work.views.counts()["instances"] and work.views.study("1.2.3").conflict
            jobs = [work.views.job_life(job_id) for job_id in self.jobs]
            undecided = bool(work.conflicts.open())
        assert bool(conflict) == undecided
        self._one_open_job_at_most([life.job for life in jobs])
        for life in jobs:
            job = life.job
            # a running job has a lease of exactly one owner, any other has none
            running = job.state == J.RUNNING
            assert (job.lease_owner in self.WORKERS) == running
            assert (job.lease_until is not None) == running
            if undecided:
                assert job.state not in JOB_OPEN - {J.HELD}
                assert all(
                    transfer.state not in {T.DUE, T.SENDING} for transfer, _ in life.transfers
                )
            else:
                assert job.state != J.HELD
            self._history_is_legal(life)
            self._results_are_made_once(life)
            # what was found once never changes, whatever happens later
            if job.finished_at is not None:
                now = (job.state, job.finished_at, life.findings, _first(life.results))
                assert self.finished.setdefault(job.id, now) == now
            else:
                assert life.findings == ()

    def _one_open_job_at_most(self, jobs: list[Any]) -> None:
        """The same series and route never has two jobs that will run."""
        assert sum(job.state in JOB_OPEN for job in jobs) <= 1

    def _history_is_legal(self, life: Any) -> None:
        states = [item.state for item in life.events]
        assert states[0] in {J.WAITING, J.HELD}
        assert states[-1] == life.job.state
        assert all(later in JOB_MOVES[earlier] for earlier, later in itertools.pairwise(states))
        begun = [item for item in life.events if item.state == J.RUNNING]
        assert sum(item.note != TAKEN_BACK for item in begun) == life.job.attempt

    def _results_are_made_once(self, life: Any) -> None:
        first = _first(life.results)
        kinds = [result.kind for result in first]
        sent = [(item.kind, item.destination) for item, _ in life.transfers if item.result in first]
        self._alternatives_are_made_once(life)
        if life.job.state == J.DONE:
            assert sorted(kinds) == sorted(ResultKind)
            assert sorted(sent) == sorted(
                (kind, to) for kind in set(ResultKind) - FOR_PAGES for to in ("pacs", "archive")
            )
        elif life.job.state != J.SUPERSEDED:
            assert sorted(kinds) == (sorted(ResultKind) if life.job.state == J.FAILED else [])
            assert sent == []

    def _alternatives_are_made_once(self, life: Any) -> None:
        """And go to destinations that refused the object itself, of which one waits at most."""
        others = [item for item in life.results if item.alternative_to is not None]
        assert len({item.sop_class_uid for item in others}) == len(others)
        transfers = [item for item, _ in life.transfers]
        assert len({(item.result.id, item.destination) for item in transfers}) == len(transfers)
        for item in transfers:
            assert not item.class_refused or item.state == T.REFUSED
            if item.result not in others and item.rendition_id is not None and item.class_refused:
                (rendition,) = (one for one in life.renditions if one.id == item.rendition_id)
                made = [one for one in others if one.sop_class_uid == rendition.sop_class_uid]
                there = [
                    one
                    for one in transfers
                    if one.result in made and one.destination == item.destination
                ]
                assert rendition.state != RenditionState.FAILED
                assert bool(there) == (rendition.state == RenditionState.DONE)


def _first(results: Any) -> list[Result]:
    """What the job itself made."""
    return [item for item in results if item.alternative_to is None]


def test_no_order_of_events_breaks_the_ledger() -> None:
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            deadline=None,
            # making a failure shorter takes minutes on a real database; 40 steps can be read
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
        ),
    )


def test_a_job_keeps_its_findings_when_a_late_worker_finishes(tmp_path: Path) -> None:
    """The way that the machine above must be able to find, written out."""
    life = Life()
    try:
        life.an_image_comes()
        life.create()
        with life.ledger.write() as work:
            work.jobs.to_publish(life.now, REPUBLISH)
        (job_id,) = life.jobs
        for owner in Life.WORKERS:
            with life.ledger.write() as work:
                assert work.jobs.claim(job_id, owner, life.now + LEASE, life.now)
            life.now += LEASE + SECOND
            with life.ledger.write() as work:
                work.jobs.expire(life.now)
            with life.ledger.write() as work:
                work.jobs.to_publish(life.now, REPUBLISH)
        with life.ledger.read() as work:
            assert work.views.job(job_id).state == J.QUARANTINED
        with pytest.raises(LeaseLostError), life.ledger.write() as work:
            work.jobs.finish(job_id, "w:1", J.DONE, life.now)
        life.the_ledger_is_in_order()
    finally:
        life.teardown()


def test_the_same_input_again_needs_no_job_whatever_the_clock_says(tmp_path: Path) -> None:
    """Found by the machine above: two jobs of one moment each took the other for the later."""
    for step in (0 * SECOND, -3600 * SECOND):  # the clock stands still, or was set back
        life = Life()
        try:
            life.an_image_comes()
            life.a_job_goes_well()
            life.now += step
            life.a_job_goes_well()
            first, second = life.jobs
            for _ in range(3):
                life.create()
            assert life.jobs == [first, second]
            with life.ledger.read() as work:
                assert work.jobs.earlier(first)[0] == 1
                assert work.jobs.earlier(second)[0] == 2
                assert work.jobs.void(second)
            with pytest.raises(IllegalMoveError, match=second), life.ledger.write() as work:
                work.jobs.rerun(first, "admin", life.now)
            with life.ledger.write() as work:
                life.jobs.append(work.jobs.rerun(second, "admin", life.now))
            life.create()
            assert len(life.jobs) == 3
            life.the_ledger_is_in_order()
        finally:
            life.teardown()


def test_every_illegal_move_of_a_job_is_refused(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path / "ledger.db")
    with ledger.write() as work:
        work.filing.file(incoming(), T0)
        instances = tuple(work.series.instances("1.2.3.4"))
        new = NewJob("1.2.3", ("1.2.3.4",), instances, "r", "m", "1.0.0", "cpu", ())
        job_id = work.jobs.create(new, T0)
        assert job_id
        row = work.jobs._locked(job_id)
        for state in JobState:
            for target in JobState:
                row.state = state
                if target in JOB_MOVES[state]:
                    work.jobs.move(row, target, "", "test", T0)
                    assert row.state == target
                    continue
                with pytest.raises(IllegalMoveError, match=f"from {state} to {target}"):
                    work.jobs.move(row, target, "", "test", T0)
                assert row.state == state
    ledger.close()


def test_the_machine_has_teeth() -> None:
    """A job whose findings were changed behind the ledger's back is noticed."""
    life = Life()
    try:
        life.an_image_comes()
        life.create()
        (job_id,) = life.jobs
        with life.ledger.write() as work:
            work.jobs.to_publish(life.now, REPUBLISH)
            work.jobs.claim(job_id, "w:1", life.now + LEASE, life.now)
        life.the_ledger_is_in_order()
        with life.ledger.write() as work:
            work.jobs._locked(job_id).lease_until = None
        with pytest.raises(AssertionError):
            life.the_ledger_is_in_order()
    finally:
        life.teardown()
