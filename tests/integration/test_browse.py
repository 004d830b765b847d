"""Lists, a study's page and figures, read from the ledger on each kind of server."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from support.instances import T0, incoming, mr_slice

from core.domain import Finding, Measurement, Result, ResultKind
from core.errors import InvalidValueError, NotFoundError
from core.ledger import Ledger
from core.ledger import browse as browse_room
from core.ledger.browse import JobLine, Wanted
from core.ledger.jobs import NewJob
from core.lifecycle import JobState, SeriesState, TransferState
from core.modelspec import Code

LESION = Code(value="52988006", scheme="SCT", meaning="Lesion")
VOLUME = Code(value="118565006", scheme="SCT", meaning="Volume")
ML = Code(value="mL", scheme="UCUM", meaning="milliliter")


def add_study(ledger: Ledger, number: int, **attributes: Any) -> str:
    """File two images of a study; its UID."""
    study = f"1.2.9.{number}"
    with ledger.write() as work:
        for place in (1, 2):
            dataset = mr_slice(
                place,
                StudyInstanceUID=study,
                SeriesInstanceUID=f"{study}.1",
                SOPInstanceUID=f"{study}.1.{place}",
                **attributes,
            )
            received = T0 + timedelta(minutes=number, seconds=place)
            work.filing.file(
                incoming(dataset, digest=f"{number:060d}{place:04d}", received_at=received),
                received,
            )
    return study


def add_job(
    ledger: Ledger, study: str, at: datetime = T0, *, sender: str = "MR1", model: str = "m"
) -> str:
    with ledger.write() as work:
        instances = tuple(work.series.instances(f"{study}.1"))
        new = NewJob(
            study, (f"{study}.1",), instances, "r", model, "1.0.0", "cpu", ("pacs",), sender=sender
        )
        made = work.jobs.create(new, at)
    assert made is not None
    return made


def run(ledger: Ledger, job: str, state: JobState, at: datetime = T0, **result: Any) -> None:
    """Let a worker take a job and end it so."""
    with ledger.write() as work:
        work.jobs.to_publish(at, timedelta(seconds=20))
    with ledger.write() as work:
        assert work.jobs.claim(job, "w:1", at + timedelta(hours=1), at)
    if state != JobState.RUNNING:
        with ledger.write() as work:
            work.jobs.finish(job, "w:1", state, at + timedelta(seconds=7), **result)


def all_pages(ledger: Ledger, wanted: Wanted, limit: int) -> list[JobLine]:
    """Every line, page by page."""
    lines: list[JobLine] = []
    after = ""
    for _ in range(100):
        with ledger.read() as work:
            page = work.browse.jobs(wanted, after, limit)
        assert len(page.lines) <= limit
        lines += page.lines
        after = page.after
        if not after:
            return lines
    raise AssertionError("pages without end")


def test_every_job_is_on_one_page_once_the_newest_first(ledger: Ledger) -> None:
    # several were made at the same moment, so that the time alone does not tell them apart
    made = {
        add_job(ledger, add_study(ledger, number), T0 + timedelta(minutes=number // 3))
        for number in range(10)
    }
    lines = all_pages(ledger, Wanted(), 3)
    assert len(lines) == len(made)
    assert {line.job.id for line in lines} == made
    times = [line.job.created_at for line in lines]
    assert times == sorted(times, reverse=True)
    assert {line.patient_name for line in lines} == {"Phantom^Test"}
    assert {line.modality for line in lines} == {"MR"}


def test_new_jobs_do_not_move_the_next_page(ledger: Ledger) -> None:
    old = [
        add_job(ledger, add_study(ledger, number), T0 + timedelta(minutes=number))
        for number in range(4)
    ]
    with ledger.read() as work:
        first = work.browse.jobs(Wanted(), limit=2)
    add_job(ledger, add_study(ledger, 9), T0 + timedelta(hours=1))
    with ledger.read() as work:
        second = work.browse.jobs(Wanted(), first.after, limit=2)
    assert [line.job.id for line in (*first.lines, *second.lines)] == old[::-1]
    assert not second.after
    for none_of_ours in ("x", "%%%", "MjAyNg", "MjAyNi0wMS0wMlQwMzowNDowNXxh"):
        with ledger.read() as work, pytest.raises(InvalidValueError):
            work.browse.jobs(Wanted(), none_of_ours)


def test_filters_take_what_they_say_and_nothing_else(ledger: Ledger) -> None:
    ct = add_job(ledger, add_study(ledger, 1, Modality="CT"), sender="CT1", model="lung")
    mr = add_job(ledger, add_study(ledger, 2), T0 + timedelta(days=1))
    run(ledger, ct, JobState.FAILED, reason="it broke", remedy="mend it")

    def found(**wanted: Any) -> set[str]:
        return {line.job.id for line in all_pages(ledger, Wanted(**wanted), 50)}

    assert found(states=(JobState.FAILED,)) == {ct}
    assert found(states=(JobState.FAILED, JobState.QUEUED)) == {ct, mr}
    assert found(modality="CT") == {ct}
    assert found(model="m") == {mr}
    assert found(sender="CT1") == {ct}
    assert found(since=T0 + timedelta(hours=1)) == {mr}
    assert found(until=T0 + timedelta(hours=1)) == {ct}
    assert found(modality="CT", model="m") == set()


TEXTS = {
    "muster": True,
    "ERIKA": True,
    "erika muster": True,
    "pat_7": True,
    "ACC%1": True,
    "BRAIN": True,
    "1.2.9.1": True,
    "nobody": False,
    # in SQL both stand for any character
    "patx7": False,
    "a%1": False,
    "erika nobody": False,
    "1.2.9.2": False,
    "'; DROP TABLE job; --": False,
}


def test_text_is_found_wherever_a_person_reads_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = add_study(
        ledger,
        1,
        PatientName="Muster^Erika",
        PatientID="Pat_7",
        AccessionNumber="ACC%1",
        StudyDescription="Brain",
    )
    job = add_job(ledger, study)
    others = {
        add_job(ledger, add_study(ledger, number, PatientName="Other^One", PatientID="Q"))
        for number in (3, 4, 5)
    }
    for text, finds in TEXTS.items():
        jobs = [line.job.id for line in all_pages(ledger, Wanted(text=text), 50)]
        assert jobs == [job] * finds, text
        with ledger.read() as work:
            listed = work.browse.studies(Wanted(text=text))
        assert [line.study_instance_uid for line in listed.lines] == [study] * finds, text
    assert [line.job.id for line in all_pages(ledger, Wanted(text=job[:8]), 50)] == [job]
    # very many studies that say it: their jobs are walked through
    monkeypatch.setattr(browse_room, "_FEW_STUDIES", 2)
    assert {line.job.id for line in all_pages(ledger, Wanted(text="other"), 2)} == others


def test_counts_stop_where_nobody_counts_any_more(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browse_room, "MOST_COUNTED", 2)
    for number in range(5):
        add_job(ledger, add_study(ledger, number))
    with ledger.read() as work:
        counts = work.browse.counts()
    assert counts[JobState.WAITING] == 3  # stands for "more than 2"
    assert counts[JobState.DONE] == 0


def test_studies_say_what_became_of_them_also_without_a_job(ledger: Ledger) -> None:
    alone, worked = add_study(ledger, 1), add_study(ledger, 2)
    add_job(ledger, worked)
    with ledger.read() as work:
        listed = work.browse.studies(Wanted())
        arriving = work.browse.arriving()
    assert [line.study_instance_uid for line in listed.lines] == [worked, alone]
    assert listed.lines[0].jobs == {JobState.WAITING: 1}
    assert listed.lines[1].jobs == {}
    assert listed.lines[1].states == {SeriesState.RECEIVING: 1}
    assert listed.lines[1].modalities == ("MR",)
    assert [item.images for item in arriving] == [2, 2]
    with ledger.read() as work:
        assert work.browse.studies(Wanted(modality="CT")).lines == ()
        first = work.browse.studies(Wanted(), limit=1)
        second = work.browse.studies(Wanted(), first.after, limit=1)
    assert [p.lines[0].study_instance_uid for p in (first, second)] == [worked, alone]
    assert not second.after


def test_the_page_of_a_study_has_findings_objects_and_where_they_are(ledger: Ledger) -> None:
    study = add_study(ledger, 1)
    job = add_job(ledger, study)
    findings = [
        Finding(
            number=number,
            label=f"lesion {number}",
            category=LESION,
            type=LESION,
            tracking_uid=f"2.25.{number}",
            measurements=(Measurement(VOLUME, 1.5 * number, ML),),
        )
        for number in (1, 2)
    ]
    result = Result(
        ResultKind.SEG,
        "results/x",
        "d" * 64,
        10,
        "1.2.840.10008.5.1.4.1.1.66.4",
        "2.25.7",
        "2.25.8",
    )
    run(ledger, job, JobState.DONE, findings=findings, results=[result])
    again = add_job(ledger, study, T0 + timedelta(hours=1), model="second")
    with ledger.read() as work:
        page = work.study_page.page(study)
    assert [item.job.id for item in page.jobs] == [again, job]
    done = page.jobs[1]
    assert [f.label for f in done.findings] == ["lesion 1", "lesion 2"]
    with ledger.read() as work:
        assert {line.findings for line in work.browse.jobs(Wanted()).lines} == {0, 2}
    assert [f.measurements[0].value for f in done.findings] == [1.5, 3.0]
    assert [(t.destination, t.state) for t in done.transfers] == [("pacs", TransferState.DUE)]
    assert done.results[0].sop_instance_uid == "2.25.7"
    assert done.sent_at is None
    assert [event.state for event in done.events][-1] == JobState.DONE
    assert page.jobs[0].findings == ()
    assert page.series[0].associations[0].calling_ae == "MR1"
    assert page.series[0].first_received_at == T0 + timedelta(minutes=1, seconds=1)
    assert page.series[0].series.instances == 2
    with ledger.read() as work:
        kept, of, gone = work.study_page.result(done.results[0].id)
        assert (kept.kind, of, gone) == (ResultKind.SEG, study, False)
        with pytest.raises(NotFoundError):
            work.study_page.result(99)
        with pytest.raises(NotFoundError):
            work.study_page.page("1.2.3.4.5")


def test_figures_of_queues_workers_models_and_rates(ledger: Ledger) -> None:
    jobs = [add_job(ledger, add_study(ledger, number)) for number in range(4)]
    run(ledger, jobs[0], JobState.DONE, summary={"device": "cpu"})
    run(ledger, jobs[1], JobState.FAILED, reason="no")
    run(ledger, jobs[2], JobState.RUNNING)
    with ledger.read() as work:
        queues = work.figures.queues()
        workers = work.figures.workers()
        model = work.figures.model("m")
        devices = work.figures.devices()
        rates = work.figures.rates(T0 + timedelta(minutes=20))
    (queue,) = queues
    assert queue.states[JobState.RUNNING] == 1
    assert sum(queue.states.values()) == 2
    assert queue.oldest == T0
    assert [worker.job_id for worker in workers] == [jobs[2]]
    assert model.states == {
        JobState.DONE: 1, JobState.FAILED: 1, JobState.RUNNING: 1, JobState.QUEUED: 1,
    }  # fmt: skip
    assert model.seconds == (7.0, 7.0, 7.0)
    assert devices == {"cpu": (1, 7.0)}
    assert sum(rates["jobs"]) == 4
    assert sum(rates["done"]) == sum(rates["failed"]) == 1
    assert rates["jobs"][-1] == 4
    assert sum(rates["studies"]) == 4


def test_what_came_and_went_lately(ledger: Ledger) -> None:
    study = add_study(ledger, 1)
    job = add_job(ledger, study)
    result = Result(ResultKind.SR, "results/x", "d" * 64, 10, "1.2", "2.25.7", "2.25.8")
    run(ledger, job, JobState.DONE, results=[result])
    now = T0 + timedelta(minutes=30)
    since = now - timedelta(hours=1)
    with ledger.write() as work:
        (transfer,) = work.transfers.claim("pacs", "s:1", now + timedelta(hours=1), now)
        assert work.transfers.record(
            transfer.id, "s:1", TransferState.SENT, now, status=0, message="success", proof="status"
        )
    with ledger.read() as work:
        assert work.figures.received(since, now)["MR1"].objects == 2
        sent = work.figures.sent("pacs", since, now)
        assert (sent.objects, sent.size, sent.seconds) == (1, 10, 3600.0)
        assert work.figures.sent("other", since, now).objects == 0
        assert work.figures.waiting_transfers() == {}


def test_studies_whose_patients_disagree_are_named_once_until_somebody_decides(
    ledger: Ledger,
) -> None:
    studies = [add_study(ledger, number) for number in (1, 2, 3)]
    with ledger.write() as work:
        for number, study in enumerate(studies[:2]):
            other = mr_slice(
                9,
                StudyInstanceUID=study,
                SeriesInstanceUID=f"{study}.2",
                SOPInstanceUID=f"{study}.2.9",
                PatientID="OTHER",
                PatientName="Other^One",
            )
            work.filing.file(incoming(other, digest=f"{number:064d}"), T0)
    with ledger.read() as work:
        assert work.browse.conflicts() == [studies[1], studies[0]]
        assert work.study_page.page(studies[0]).conflicts
        assert not work.study_page.page(studies[2]).conflicts
    with ledger.write() as work:
        work.conflicts.decide(studies[1], True, "test", T0)
    with ledger.read() as work:
        assert work.browse.conflicts() == [studies[0]]


@pytest.mark.parametrize(
    ("text", "found"), [("100%", 1), ("1_0", 0), ("50/50", 1), ("ERIKA 100%", 1)]
)
def test_what_means_something_to_sql_is_looked_for_as_it_is(
    ledger: Ledger, text: str, found: int
) -> None:
    add_study(ledger, 1, PatientName="Muster^Erika", StudyDescription="100% dose, 50/50")
    add_study(ledger, 2, PatientName="Muster^Emil", StudyDescription="140 kV")
    with ledger.read() as work:
        assert len(work.browse.studies(Wanted(text=text)).lines) == found
