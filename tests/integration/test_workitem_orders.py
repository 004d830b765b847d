"""What becomes of an order: the right images, all of them, once; and of what is ordered again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from support.workitems import MR, Desk, order, workitem_sections

from core.ledger import Ledger
from core.lifecycle import JOB_MOVES, JobState
from core.settings import Settings
from core.workitems import FINAL_STATES, OF_JOBS, WorkitemState, state_of_job


@pytest.fixture
def desk(make_settings: Callable[..., Settings], ledger: Ledger, ledger_url: str) -> Desk:
    return Desk(make_settings(**workitem_sections(ledger_url, 1)), ledger)


def without_list() -> Dataset:
    """An order of a whole series, whatever its images are."""
    made = order()
    made.InputInformationSequence[0].ReferencedSOPSequence = []
    return made


def test_a_series_without_a_list_is_begun_when_it_is_whole(desk: Desk) -> None:
    desk.order(made=without_list())
    desk.file(1)
    desk.step()
    assert desk.item().job_id == ""
    desk.file(2)
    with desk.ledger.write() as work:
        assert work.series.mark_whole("1.2.1.1", 2, "quiet", desk.now)
    desk.step()
    with desk.ledger.read() as work:
        assert len(work.jobs.instances_of(desk.item().job_id)) == 2


def test_an_order_with_a_list_waits_for_all_of_it_and_takes_no_more(desk: Desk) -> None:
    made = order()
    second = Dataset()
    second.ReferencedSOPClassUID, second.ReferencedSOPInstanceUID = MR, "1.2.1.1.2"
    made.InputInformationSequence[0].ReferencedSOPSequence.append(second)
    desk.order(made=made)
    desk.file(1)
    desk.file(3)
    desk.step()
    assert desk.item().job_id == ""
    desk.file(2)
    desk.step()
    with desk.ledger.read() as work:
        taken = work.jobs.instances_of(desk.item().job_id)
    assert {one.sop_instance_uid for one in taken} == {"1.2.1.1.1", "1.2.1.1.2"}


@pytest.mark.parametrize("wrong", [{"PatientID": "P2"}, {"StudyInstanceUID": "1.2.77"}])
def test_the_images_of_another_are_never_analysed(desk: Desk, wrong: dict[str, str]) -> None:
    desk.order()
    desk.file(**wrong)
    desk.step()
    assert desk.item().state is WorkitemState.CANCELED
    assert "another" in desk.item().reason
    with desk.ledger.read() as work:
        assert work.views.jobs() == []


def test_orders_whose_images_never_come_hold_no_other_up(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.deciding.workitems._MOST_ORDERS", 2)
    for number in range(5):
        made = order()
        made.InputInformationSequence[0].SeriesInstanceUID = f"1.2.1.5{number}"
        desk.order(f"1.9.5{number}", made)
        desk.now += timedelta(seconds=1)
    desk.order()
    desk.file()
    desk.step(4)
    assert desk.item().job_id


def test_what_failed_or_was_cancelled_is_done_again_and_what_is_done_is_the_answer(
    desk: Desk,
) -> None:
    desk.file()
    desk.order()
    desk.step()
    first = desk.item().job_id
    desk.end(first, JobState.FAILED)
    assert desk.item().state is WorkitemState.CANCELED
    assert desk.item().discontinued[0] == "110501"
    desk.order("1.9.2")
    desk.step()
    second = desk.item("1.9.2").job_id
    assert second != first
    desk.end(second, JobState.DONE)
    assert desk.item("1.9.2").state is WorkitemState.COMPLETED
    desk.order("1.9.3")
    desk.step()
    assert (desk.item("1.9.3").state, desk.item("1.9.3").job_id) == (WorkitemState.CANCELED, "")
    assert desk.item("1.9.3").reason.endswith("workitem 1.9.2")


def test_an_order_goes_on_with_the_job_that_took_the_place_of_its_own(desk: Desk) -> None:
    desk.file()
    desk.order()
    desk.step()
    first = desk.item().job_id
    with desk.ledger.write() as work:
        work.jobs.to_publish(desk.now, timedelta(seconds=20))
    with desk.ledger.write() as work:
        assert work.jobs.claim(first, "w:1", desk.now + timedelta(hours=1), desk.now)
    assert desk.item().state is WorkitemState.IN_PROGRESS
    desk.file(2)
    desk.order("1.9.2", without_list())
    with desk.ledger.write() as work:
        assert work.series.mark_whole("1.2.1.1", 2, "quiet", desk.now)
    desk.step()
    # the larger job serves the first order; never back to SCHEDULED
    assert desk.item().job_id not in ("", first)
    assert desk.item().state is WorkitemState.IN_PROGRESS
    assert desk.item("1.9.2").state is WorkitemState.CANCELED


def test_an_order_cancelled_in_the_same_moment_is_not_begun(desk: Desk) -> None:
    desk.file()
    desk.order()
    item = desk.item()
    with desk.ledger.write() as work:
        assert work.workitems.end(item.uid, item.state, WorkitemState.CANCELED, "", desk.now)
    with desk.ledger.write() as work:
        assert not work.workitems.hold(item)


_LEGAL = {
    WorkitemState.SCHEDULED: set(WorkitemState),
    WorkitemState.IN_PROGRESS: {WorkitemState.IN_PROGRESS, *FINAL_STATES},
    WorkitemState.COMPLETED: {WorkitemState.COMPLETED},
    WorkitemState.CANCELED: {WorkitemState.CANCELED},
}


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.integers(0, 9), max_size=15))
def test_whatever_happens_to_a_job_its_workitem_makes_legal_moves(choices: list[int]) -> None:
    job, started, before = JobState.WAITING, False, WorkitemState.SCHEDULED
    for choice in choices:
        # a job that is done is never superseded: `retry` makes another
        ends = OF_JOBS[job] in FINAL_STATES
        moves = [] if ends else sorted(JOB_MOVES[job])
        if not moves:
            break
        job = moves[choice % len(moves)]
        started = started or job is JobState.RUNNING
        after = state_of_job(job, started=started)
        assert after in _LEGAL[before], (before, job)
        before = after
