"""The ledger on real SQLite and real PostgreSQL: filing, jobs, leases, conflicts, transfers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from support.instances import T0, association, incoming, mr_slice

from core.domain import (
    Axes,
    Evaluation,
    Finding,
    FindingKind,
    KeyImage,
    Measurement,
    Result,
    ResultKind,
    Space,
)
from core.errors import IllegalMoveError, LeaseLostError, LedgerError, NotFoundError
from core.ledger import Ledger
from core.ledger.filing import Outcome
from core.ledger.jobs import NewJob
from core.ledger.unit import _alembic_config
from core.lifecycle import JobState, SeriesState, TransferState
from core.modelspec import Code
from core.schema import Base

SECOND = timedelta(seconds=1)
CODE = Code(value="52988006", scheme="SCT", meaning="Lesion")


def file(ledger: Ledger, *items: object) -> list[Outcome]:
    with ledger.write() as work:
        outcomes = []
        for item in items:
            filed = work.filing.file(item, T0)  # type: ignore[arg-type]
            for study in filed.studies_in_conflict:
                work.conflicts.hold(study, T0)
            outcomes.append(filed.outcome)
        return outcomes


def make_job(ledger: Ledger, now: datetime = T0) -> str | None:
    with ledger.write() as work:
        instances = tuple(work.series.instances("1.2.3.4"))
        new = NewJob("1.2.3", ("1.2.3.4",), instances, "r", "m", "1.0.0", "cpu", ("pacs",))
        return work.jobs.create(new, now)


def run_job(ledger: Ledger, job_id: str, owner: str = "w:1") -> None:
    with ledger.write() as work:
        work.jobs.to_publish(T0, 20 * SECOND)
    with ledger.write() as work:
        assert work.jobs.claim(job_id, owner, T0 + 30 * SECOND, T0)


def a_result(kind: ResultKind = ResultKind.SR, uid: str = "2.25.1") -> Result:
    return Result(kind, f"k/{kind}", "0" * 64, 10, "1.2.840.10008.5.1.4.1.1.88.34", uid, "2.25.2")


def state_of(ledger: Ledger, job_id: str) -> JobState:
    with ledger.read() as work:
        return work.views.job(job_id).state


def test_migrations_make_exactly_the_tables_of_the_schema(ledger: Ledger) -> None:
    with ledger.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    assert ledger.revision() == ledger.head()
    assert len(ScriptDirectory("alembic").get_heads()) == 1


def test_a_ledger_of_the_first_version_keeps_its_rows(empty_url: str) -> None:
    old = Ledger(empty_url)
    with old.engine.begin() as connection:
        command.upgrade(_alembic_config(connection), "0001")
        at = "2026-01-02 03:04:05"
        true = "true" if old.engine.dialect.name == "postgresql" else "1"
        for line in (
            "INSERT INTO study VALUES"
            f" ('1.2.3', 'P', '', 'N', '', 'A', '', '', NOT {true}, '{at}')",
            "INSERT INTO job (id, study_instance_uid, route, model, model_version, queue,"
            " destinations, input_digest, run, state, attempt, deaths, created_at, updated_at,"
            " published, reason, remedy, summary) VALUES ('j', '1.2.3', 'r', 'm', '1.0.0', 'cpu',"
            f" '[\"pacs\"]', 'd', 1, 'done', 1, 0, '{at}', '{at}', 0, '', '', '{{}}')",
            "INSERT INTO finding (id, job_id, number, label, present, tracking_uid, category, type,"
            f" color) VALUES (1, 'j', 3, 'lesion', {true}, '2.25.7', '{CODE.model_dump_json()}',"
            f" '{CODE.model_dump_json()}', '[1, 2, 3]')",
            "INSERT INTO result VALUES"
            f" (7, 'j', 'SR', '1.2', '2.25.1', '2.25.2', 'k', 'd', 1, '{at}')",
            "INSERT INTO transfer (id, result_id, job_id, study_instance_uid, destination, state,"
            " attempts, refusals, created_at, message) VALUES"
            f" (1, 7, 'j', '1.2.3', 'pacs', 'due', 0, 0, '{at}', '')",
        ):
            connection.exec_driver_sql(line)
    old.upgrade()
    with old.read() as work:
        life = work.views.job_life("j")
        assert [(item.id, item.part, item.alternative_to) for item in life.results] == [
            (7, 0, None)
        ]
        assert [item.result.id for item, _ in life.transfers] == [7]
        (finding,) = life.findings
        assert (finding.kind, finding.number, finding.segment) == ("lesion", 3, 3)
        assert finding.evaluations == ()
    with pytest.raises(LedgerError), old.write() as work:  # references are looked at again
        work.transfers._session.execute(text("DELETE FROM result"))
    old.close()


def test_a_failed_unit_of_work_leaves_nothing(ledger: Ledger) -> None:
    with pytest.raises(RuntimeError), ledger.write() as work:
        work.filing.file(incoming(), T0)
        raise RuntimeError
    with ledger.read() as work:
        assert work.views.counts()["instances"] == 0


def test_a_database_that_is_away_is_told_as_an_error_that_may_pass() -> None:
    away = Ledger("postgresql+psycopg://nobody@127.0.0.1:1/none?connect_timeout=1")
    with pytest.raises(LedgerError, match="away") as caught, away.read() as work:
        work.views.counts()
    assert caught.value.retry


def test_the_same_data_set_is_stored_once_and_another_is_a_new_version(ledger: Ledger) -> None:
    dataset = mr_slice()
    first = incoming(dataset, digest="a" * 64)
    other = incoming(dataset, digest="b" * 64)
    assert file(ledger, first, first, other, first) == [
        Outcome.NEW,
        Outcome.DUPLICATE,
        Outcome.NEW_VERSION,
        Outcome.DUPLICATE,  # and current again: it is what the sender means now
    ]
    with ledger.read() as work:
        current = work.series.instances("1.2.3.4")
        assert [(item.version, item.digest[0]) for item in current] == [(1, "a")]
        assert work.views.counts()["instances"] == 2


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientID", "OTHER"),
        ("IssuerOfPatientID", "HOSPITAL"),
        ("PatientName", "Other^Name"),
        ("PatientBirthDate", "19500101"),
        ("AccessionNumber", "A2"),
    ],
)
def test_a_series_of_another_patient_holds_the_study(
    ledger: Ledger, keyword: str, value: str
) -> None:
    file(ledger, incoming())
    job_id = make_job(ledger)
    assert job_id
    stray = mr_slice(SeriesInstanceUID="1.2.3.9", **{keyword: value})
    file(ledger, incoming(stray))
    assert state_of(ledger, job_id) == JobState.HELD
    with ledger.read() as work:
        assert [item.keyword for item in work.conflicts.open()] == [keyword]
        assert work.views.study("1.2.3").conflict
    with ledger.write() as work:
        assert work.jobs.to_publish(T0 + 60 * SECOND, SECOND) == []
    with ledger.write() as work:
        assert work.conflicts.decide("1.2.3", True, "admin", T0) == 1
    assert state_of(ledger, job_id) == JobState.WAITING
    with ledger.read() as work:
        assert work.conflicts.open() == []


def test_padding_of_a_name_is_no_conflict(ledger: Ledger) -> None:
    file(ledger, incoming(mr_slice(PatientName="Phantom^Test^^^ ")), incoming())
    with ledger.read() as work:
        assert work.conflicts.open() == []


def test_an_instance_that_comes_again_in_another_study_puts_both_in_conflict(
    ledger: Ledger,
) -> None:
    dataset = mr_slice()
    file(ledger, incoming(dataset, digest="a" * 64))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.9", "1.2.9.1"
    file(ledger, incoming(dataset, digest="b" * 64))
    with ledger.read() as work:
        assert {item.keyword for item in work.conflicts.open()} == {"StudyInstanceUID"}


def test_unsent_results_are_held_and_cancelled(ledger: Ledger) -> None:
    file(ledger, incoming())
    job_id = make_job(ledger)
    assert job_id
    run_job(ledger, job_id)
    with ledger.write() as work:
        work.jobs.finish(job_id, "w:1", JobState.DONE, T0, results=[a_result()])
        claimed = work.transfers.claim("pacs", "s:1", T0 + 60 * SECOND, T0)
    file(ledger, incoming(mr_slice(SeriesInstanceUID="1.2.3.9", PatientID="X")))
    with ledger.write() as work:
        # the sender that had it finds its lease gone
        assert not work.transfers.is_held_by(claimed[0].id, "s:1")
        assert work.transfers.destinations_due(T0 + 600 * SECOND) == []
        work.conflicts.decide("1.2.3", False, "admin", T0)
    with ledger.read() as work:
        ((transfer, _),) = work.views.job_life(job_id).transfers
    assert transfer.state == TransferState.FAILED


def test_a_job_is_made_once_for_the_same_input(ledger: Ledger) -> None:
    file(ledger, incoming())
    assert make_job(ledger)
    assert make_job(ledger) is None


def test_two_nodes_at_once_make_one_job(ledger: Ledger) -> None:
    file(ledger, incoming())
    made: list[str | None] = []
    threads = [threading.Thread(target=lambda: made.append(make_job(ledger))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert len([job for job in made if job]) == 1


def test_only_one_of_many_workers_gets_the_claim(ledger: Ledger) -> None:
    file(ledger, incoming())
    job_id = make_job(ledger)
    assert job_id
    with ledger.write() as work:
        work.jobs.to_publish(T0, 20 * SECOND)
    won: list[bool] = []

    def claim(number: int) -> None:
        with ledger.write() as work:
            won.append(work.jobs.claim(job_id, f"w:{number}", T0 + SECOND, T0) is not None)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]


def test_a_larger_input_supersedes_the_open_job(ledger: Ledger) -> None:
    file(ledger, incoming())
    first = make_job(ledger)
    file(ledger, incoming())
    second = make_job(ledger)
    assert first
    assert second
    assert first != second
    assert state_of(ledger, first) == JobState.SUPERSEDED


def test_a_lost_message_is_published_again_and_a_claimed_job_is_not(ledger: Ledger) -> None:
    file(ledger, incoming())
    job_id = make_job(ledger)
    assert job_id
    with ledger.write() as work:
        assert [job.id for job in work.jobs.to_publish(T0, 20 * SECOND)] == [job_id]
    with ledger.write() as work:
        assert work.jobs.to_publish(T0 + 19 * SECOND, 20 * SECOND) == []
    with ledger.write() as work:
        later = T0 + 21 * SECOND
        assert [job.id for job in work.jobs.to_publish(later, 20 * SECOND)] == [job_id]
        assert work.jobs.claim(job_id, "w:1", later + 30 * SECOND, later)
        assert work.jobs.to_publish(T0 + 50 * SECOND, 20 * SECOND) == []


def test_the_waits_between_lost_messages_double(ledger: Ledger) -> None:
    file(ledger, incoming())
    assert make_job(ledger)
    published = []
    for second in range(0, 7200, 5):
        with ledger.write() as work:
            if work.jobs.to_publish(T0 + second * SECOND, 20 * SECOND):
                published.append(second)
    assert published[:5] == [0, 20, 60, 140, 300]
    assert len(published) < 12


def test_a_lease_that_ran_out_while_the_node_was_away_blames_no_worker(ledger: Ledger) -> None:
    file(ledger, incoming())
    job_id = make_job(ledger)
    assert job_id
    for _ in range(4):
        run_job(ledger, job_id)
        with ledger.write() as work:
            assert work.jobs.expire(T0 + 31 * SECOND, blame=False) == [(job_id, JobState.WAITING)]


def test_a_retry_never_takes_the_place_of_a_larger_input(ledger: Ledger) -> None:
    file(ledger, incoming())
    first = make_job(ledger)
    assert first
    run_job(ledger, first)
    with ledger.write() as work:
        work.jobs.finish(first, "w:1", JobState.FAILED, T0, reason="x")
    file(ledger, incoming())
    second = make_job(ledger, T0 + SECOND)
    assert second
    with pytest.raises(IllegalMoveError, match="older input") as caught, ledger.write() as work:
        work.jobs.rerun(first, "admin", T0 + 2 * SECOND)
    assert second in caught.value.remedy
    assert state_of(ledger, second) == JobState.WAITING


def test_a_version_that_is_put_back_becomes_current_and_is_analysed(ledger: Ledger) -> None:
    dataset = mr_slice()
    first, other = incoming(dataset, digest="a" * 64), incoming(dataset, digest="b" * 64)
    file(ledger, first)
    job_a = make_job(ledger)
    file(ledger, other)
    job_b = make_job(ledger)
    assert job_a
    assert job_b
    assert state_of(ledger, job_a) == JobState.SUPERSEDED
    file(ledger, first)
    with ledger.read() as work:
        assert [item.digest[0] for item in work.series.instances("1.2.3.4")] == ["a"]
    again = make_job(ledger)
    assert again not in {None, job_a}
    assert state_of(ledger, job_b) == JobState.SUPERSEDED


def test_a_version_that_is_put_back_after_both_were_analysed_is_analysed_again(
    ledger: Ledger,
) -> None:
    dataset = mr_slice()
    first, other = incoming(dataset, digest="a" * 64), incoming(dataset, digest="b" * 64)
    for number, version in enumerate((first, other)):
        file(ledger, version)
        job = make_job(ledger, T0 + number * SECOND)
        assert job
        run_job(ledger, job)
        with ledger.write() as work:
            work.jobs.finish(job, "w:1", JobState.DONE, T0 + number * SECOND)
    file(ledger, first)
    assert make_job(ledger, T0 + 5 * SECOND) is not None
    assert make_job(ledger, T0 + 6 * SECOND) is None  # once is enough


def test_what_was_released_is_no_conflict_again(ledger: Ledger) -> None:
    file(ledger, incoming())
    stray = {"SeriesInstanceUID": "1.2.3.9", "PatientID": "OTHER"}
    file(ledger, incoming(mr_slice(**stray)))
    with ledger.write() as work:
        work.conflicts.decide("1.2.3", True, "admin", T0)
    file(ledger, incoming(mr_slice(**stray)))
    with ledger.read() as work:
        assert not work.views.study("1.2.3").conflict
    file(ledger, incoming(mr_slice(**stray | {"PatientID": "THIRD"})))
    with ledger.read() as work:
        assert work.views.study("1.2.3").conflict


def test_a_dead_worker_gives_back_then_is_quarantined(ledger: Ledger) -> None:
    file(ledger, incoming())
    job_id = make_job(ledger)
    assert job_id
    for expected in (JobState.WAITING, JobState.QUARANTINED):
        run_job(ledger, job_id)
        with ledger.write() as work:
            assert work.jobs.expire(T0 + 29 * SECOND) == []
            assert work.jobs.expire(T0 + 31 * SECOND) == [(job_id, expected)]
    with ledger.write() as work:
        again = work.jobs.rerun(job_id, "admin", T0)
    assert state_of(ledger, again) == JobState.WAITING
    with ledger.read() as work:
        assert work.views.job(again).run == 2


def test_who_lost_the_lease_writes_nothing(ledger: Ledger) -> None:
    file(ledger, incoming())
    job_id = make_job(ledger)
    assert job_id
    run_job(ledger, job_id, "w:1")
    with ledger.write() as work:
        assert work.jobs.heartbeat(job_id, "w:1", T0 + 60 * SECOND, T0)
        assert not work.jobs.heartbeat(job_id, "w:2", T0 + 60 * SECOND, T0)
        work.jobs.expire(T0 + 61 * SECOND)
    run_job(ledger, job_id, "w:2")
    with pytest.raises(LeaseLostError), ledger.write() as work:
        work.jobs.finish(job_id, "w:1", JobState.DONE, T0, results=[a_result()])
    with ledger.write() as work:
        work.jobs.finish(job_id, "w:2", JobState.DONE, T0, results=[a_result()])
    with ledger.read() as work:
        assert len(work.views.job_life(job_id).results) == 1


def test_findings_and_measurements_come_back_as_they_were(ledger: Ledger) -> None:
    file(ledger, incoming())
    job_id = make_job(ledger)
    assert job_id
    run_job(ledger, job_id)
    unit = Code(value="mL", scheme="UCUM", meaning="milliliter")
    whole = Finding(
        number=2,
        label="normal",
        category=CODE,
        type=CODE,
        tracking_uid="2.25.8",
        kind=FindingKind.CLASSIFICATION,
        space=Space.IMAGE,
        key_image=KeyImage("1.2.3", 4, 3),
        probability=0.25,
        evaluations=(Evaluation(CODE, unit), Evaluation(unit, CODE)),
    )
    finding = Finding(
        number=1,
        label="lesion",
        category=CODE,
        type=CODE,
        tracking_uid="2.25.7",
        centre=(1.0, -2.5, 3.25),
        box=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0),
        part=1,
        segment=5,
        channel=2,
        site=CODE,
        laterality=CODE,
        slices=(2, 4),
        key_image=KeyImage("1.2.3", None, 0),
        axes=Axes(3, ((0.5, 1.0), (2.0, 3.0)), ((1.0, 1.5), (2.5, 0.5))),
        probability=0.75,
        measurements=(
            Measurement(CODE, 12.5, unit),
            Measurement(CODE, 3.0, unit, CODE),
            Measurement(CODE, 3.0, unit, derivation=CODE),
        ),
    )
    with ledger.write() as work:
        work.jobs.finish(job_id, "w:1", JobState.DONE, T0, findings=[whole, finding])
    with ledger.read() as work:
        assert work.views.findings(job_id) == (whole, finding)


def ended_job(
    ledger: Ledger, seconds: int, state: JobState = JobState.DONE, *results: Result
) -> str:
    """One more image, and the job that came of it."""
    file(ledger, incoming(mr_slice(seconds + 1)))
    now = T0 + seconds * SECOND
    job_id = make_job(ledger, now)
    assert job_id
    with ledger.write() as work:
        work.jobs.to_publish(now, 20 * SECOND)
        assert work.jobs.claim(job_id, "w:1", now + 30 * SECOND, now)
        work.jobs.finish(job_id, "w:1", state, now, results=results)
    return job_id


def test_a_job_knows_its_revision_and_what_it_succeeds(ledger: Ledger) -> None:
    picture = Result(ResultKind.PICTURE, "k/p", "0" * 64, 1)
    segs = [replace(a_result(ResultKind.SEG, f"2.25.{n}"), part=n) for n in (0, 1)]
    first = ended_job(ledger, 0, JobState.DONE, *segs, picture, a_result())
    second = ended_job(ledger, 1, JobState.FAILED, a_result(uid="2.25.8"))
    third = ended_job(ledger, 2, JobState.DONE, picture)
    fourth = ended_job(ledger, 3, JobState.DONE, a_result(uid="2.25.9"))
    fifth = ended_job(ledger, 4)
    with ledger.read() as work:
        earlier = {job: work.jobs.earlier(job) for job in (first, second, third, fourth, fifth)}
    assert earlier[first] == (1, ())
    kinds = [(item.kind, item.part, item.sop_instance_uid) for item in earlier[second][1]]
    assert kinds == [("SEG", 0, "2.25.0"), ("SEG", 1, "2.25.1"), ("SR", 0, "2.25.1")]
    # neither the one that failed nor the one without objects is in the way
    assert earlier[second] == earlier[third] == (2, earlier[second][1])
    assert earlier[fourth] == (3, earlier[second][1])
    assert (earlier[fifth][0], earlier[fifth][1][0].sop_instance_uid) == (4, "2.25.9")


def test_of_alternatives_only_those_that_somebody_has_are_succeeded(ledger: Ledger) -> None:
    job_id = ended_job(ledger, 0, JobState.DONE, a_result())
    late = T0 + 10 * SECOND
    with ledger.write() as work:
        (transfer,) = work.transfers.claim("pacs", "s", late, T0)
        work.renditions.refuse(transfer, "s", T0, how="no", since=T0 - SECOND)
        ((rendition, _),) = work.renditions.to_publish(T0, SECOND)
        made = work.renditions.claim(rendition, "w", late, T0)
        assert made
        other = replace(
            a_result(uid="2.25.5"),
            alternative_to=made.result.id,
            sop_class_uid=made.sop_class_uid,
        )
        assert work.renditions.finish(rendition, "w", [other], T0) == ["pacs"]
    later = ended_job(ledger, 1)
    with ledger.write() as work:
        assert len(work.jobs.earlier(later)[1]) == 1
        (again,) = work.transfers.claim("pacs", "s", late, T0)
        work.transfers.record(again.id, "s", TransferState.SENT, T0, status=0, message="")
        assert [item.sop_instance_uid for item in work.jobs.earlier(later)[1]] == [
            "2.25.1",
            "2.25.5",
        ]
    assert job_id != later


def test_a_failed_job_keeps_its_objects_and_sends_nothing(ledger: Ledger) -> None:
    job_id = ended_job(ledger, 0, JobState.FAILED, a_result())
    with ledger.read() as work:
        life = work.views.job_life(job_id)
    assert len(life.results) == 1
    assert life.transfers == ()


def test_two_senders_at_once_want_one_rendition_and_one_worker_gets_it(ledger: Ledger) -> None:
    file(ledger, incoming())
    with ledger.write() as work:
        instances = tuple(work.series.instances("1.2.3.4"))
        names = tuple(f"pacs{number}" for number in range(5))
        new = NewJob("1.2.3", ("1.2.3.4",), instances, "r", "m", "1.0.0", "cpu", names)
        job_id = work.jobs.create(new, T0)
    assert job_id
    run_job(ledger, job_id)
    with ledger.write() as work:
        work.jobs.finish(job_id, "w:1", JobState.DONE, T0, results=[a_result()])

    def refuse(name: str) -> None:
        with ledger.write() as work:
            (transfer,) = work.transfers.claim(name, name, T0 + SECOND, T0)
        with ledger.write() as work:
            work.renditions.refuse(transfer, name, T0, how="no", since=T0 - SECOND)

    in_parallel(refuse, names)
    with ledger.write() as work:
        ((rendition, _),) = work.renditions.to_publish(T0, SECOND)
    won = []

    def claim(name: str) -> None:
        with ledger.write() as work:
            won.append(work.renditions.claim(rendition, name, T0 + SECOND, T0) is not None)

    in_parallel(claim, names)
    assert sorted(won) == [False] * 4 + [True]
    with ledger.read() as work:
        transfers = work.views.job_life(job_id).transfers
    assert {item.rendition_id for item, _ in transfers} == {rendition}


def in_parallel(what: Callable[[str], None], names: tuple[str, ...]) -> None:
    threads = [threading.Thread(target=what, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_an_illegal_move_is_refused(ledger: Ledger) -> None:
    file(ledger, incoming())
    job_id = make_job(ledger)
    assert job_id
    with pytest.raises(IllegalMoveError), ledger.write() as work:
        work.jobs.rerun(job_id, "admin", T0)  # it waits already
    with pytest.raises(NotFoundError), ledger.read() as work:
        work.views.job("no-such-job")


def test_a_whole_series_is_decided_once_and_a_late_image_reopens_it(ledger: Ledger) -> None:
    file(ledger, incoming())
    with ledger.write() as work:
        (facts,) = work.series.receiving()
        assert facts.open_associations == 1
        work.filing.end_association(replace(association(), ended_at=T0, end="released"))
        (facts,) = work.series.receiving()
        assert (facts.open_associations, facts.last_end) == (0, "released")
        assert work.series.mark_whole("1.2.3.4", facts.revision, "quiet", T0)
        assert not work.series.mark_whole("1.2.3.4", facts.revision, "quiet", T0)
        assert work.series.receiving() == []
    file(ledger, incoming(name="a2"))
    with ledger.write() as work:
        (late,) = work.series.receiving()
        assert late.revision == facts.revision + 1
        # the decision of a node that has not seen the late image does not count
        assert not work.series.mark_whole("1.2.3.4", facts.revision, "quiet", T0)


def test_our_own_results_are_never_received_as_new_work(ledger: Ledger) -> None:
    file(ledger, incoming(mr_slice(SeriesInstanceUID="1.2.3.8"), own_result=True))
    with ledger.read() as work:
        assert work.series.get("1.2.3.8").state == SeriesState.OWN
        assert work.series.receiving() == []


def test_transfers_go_out_in_order_and_a_dead_sender_gives_them_back(ledger: Ledger) -> None:
    file(ledger, incoming())
    job_id = make_job(ledger)
    assert job_id
    run_job(ledger, job_id)
    results = [a_result(ResultKind.SEG, "2.25.10"), a_result(ResultKind.SR, "2.25.11")]
    with ledger.write() as work:
        work.jobs.finish(job_id, "w:1", JobState.DONE, T0, results=results)
        claimed = work.transfers.claim("pacs", "s:1", T0 + 60 * SECOND, T0)
        assert [item.kind for item in claimed] == ["SEG", "SR"]
        assert work.transfers.claim("pacs", "s:2", T0 + 60 * SECOND, T0) == []
        later = T0 + 61 * SECOND
        assert work.transfers.destinations_due(later) == ["pacs"]
        assert len(work.transfers.claim("pacs", "s:2", later + 60 * SECOND, later)) == 2
        # the first sender wakes up: its attempt is kept, the transfer is not its own any more
        assert not work.transfers.record(
            claimed[0].id, "s:1", TransferState.SENT, later, status=0, message="success"
        )
        assert work.transfers.record(
            claimed[0].id, "s:2", TransferState.SENT, later, status=0, message="success"
        )
        work.circuits.failed("pacs", "away", later + 300 * SECOND)
        assert work.transfers.destinations_due(later + 299 * SECOND) == []
        assert work.transfers.destinations_due(later + 301 * SECOND) == ["pacs"]
    with ledger.read() as work:
        life = work.views.job_life(job_id)
    assert [len(attempts) for _, attempts in life.transfers] == [2, 0]


def test_text_with_nul_or_any_script_can_be_filed(ledger: Ledger) -> None:
    dataset = mr_slice(PatientName="王^小东=王^小東", SeriesDescription="FLAIR\0 é 山")
    file(ledger, incoming(dataset))
    with ledger.read() as work:
        assert work.views.study("1.2.3").patient_name == "王^小东=王^小東"
