"""Who is told what of workitems, once, by whichever node; and what a subscriber keeps here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from pydicom.dataset import Dataset
from support.workitems import Desk, order, workitem_sections

from core.ledger import Ledger
from core.ledger.kept import Kept
from core.lifecycle import JobState
from core.settings import Settings
from core.workitems import FILTERED_SUBSCRIPTION, GLOBAL_SUBSCRIPTION, uid_of_job
from node.dimse.contexts import UPS_PULL, UPS_PUSH

SUBSCRIBE, UNSUBSCRIBE, SUSPEND = 3, 4, 5


@pytest.fixture
def chosen(make_settings: Callable[..., Settings], ledger_url: str) -> Settings:
    return make_settings(**workitem_sections(ledger_url, 1))


@pytest.fixture
def desk(chosen: Settings, ledger: Ledger) -> Desk:
    return Desk(chosen, ledger)


def begun(desk: Desk, uid: str = "1.9.1") -> str:
    """An order whose job waits; the job."""
    desk.file()
    assert desk.order(uid) == 0
    desk.step()
    return desk.item(uid).job_id


def test_a_dispatch_that_starts_again_tells_what_happened_meanwhile_once(
    chosen: Settings, ledger: Ledger, desk: Desk
) -> None:
    assert desk.act(GLOBAL_SUBSCRIPTION, SUBSCRIBE) == 0
    job = begun(desk)
    assert [said for _, _, said in desk.told()] == ["SCHEDULED", "SCHEDULED"]  # not ready, ready
    desk.end(job, JobState.DONE)
    # nobody dispatched while it ran; then two do
    first, second = Desk(chosen, ledger), Desk(chosen, ledger)
    for one in (first, second, first, second, desk):
        one.now = desk.now + timedelta(hours=1)
        one.step()
    assert desk.told() == [("1.9.1", 1, "COMPLETED")]


def test_what_happens_between_subscription_and_first_look_is_told(desk: Desk) -> None:
    desk.file()
    assert desk.act(GLOBAL_SUBSCRIPTION, SUBSCRIBE) == 0
    job = begun(desk)
    with desk.ledger.write() as work:
        work.jobs.cancel(job, "somebody", desk.now)
    desk.step()
    assert desk.told()[-1] == ("1.9.1", 1, "CANCELED")


def test_a_cancel_is_told_once_although_the_job_says_so_too(desk: Desk) -> None:
    assert desk.act(GLOBAL_SUBSCRIPTION, SUBSCRIBE) == 0
    job = begun(desk)
    desk.told()
    assert desk.act("1.9.1", 2, UPS_PUSH, ReasonForCancellation="not needed") == 0
    desk.step(3)
    assert desk.told() == [("1.9.1", 1, "CANCELED")]
    with desk.ledger.read() as work:
        assert work.views.job_life(job).job.reason == "cancelled on request of RIS: not needed"


def test_who_follows_all_may_leave_one_out(desk: Desk) -> None:
    assert desk.act(GLOBAL_SUBSCRIPTION, SUBSCRIBE) == 0
    desk.order("1.9.1", order("READ", "99RIS"))
    desk.order("1.9.2", order("READ", "99RIS"))
    desk.told()
    assert desk.act("1.9.1", UNSUBSCRIBE) == 0
    for uid in ("1.9.1", "1.9.2"):
        assert desk.act(uid, 2, UPS_PUSH) == 0
    assert desk.told() == [("1.9.2", 1, "CANCELED")]
    # all anew: all of them
    desk.order("1.9.3", order("READ", "99RIS"))
    assert desk.act("1.9.3", UNSUBSCRIBE) == 0
    assert desk.act(GLOBAL_SUBSCRIPTION, SUBSCRIBE) == 0
    desk.told()
    assert desk.act("1.9.3", 2, UPS_PUSH) == 0
    assert desk.told() == [("1.9.3", 1, "CANCELED")]


def test_to_suspend_leaves_the_single_ones(desk: Desk) -> None:
    desk.order("1.9.1", order("READ", "99RIS"))
    assert desk.act("1.9.1", SUBSCRIBE) == 0
    assert desk.act(GLOBAL_SUBSCRIPTION, SUBSCRIBE) == 0
    assert desk.act(GLOBAL_SUBSCRIPTION, SUSPEND) == 0
    desk.order("1.9.2", order("READ", "99RIS"))
    desk.told()
    for uid in ("1.9.1", "1.9.2"):
        assert desk.act(uid, 2, UPS_PUSH) == 0
    assert desk.told() == [("1.9.1", 1, "CANCELED")]
    assert desk.act(GLOBAL_SUBSCRIPTION, UNSUBSCRIBE) == 0
    desk.step()
    with desk.ledger.read() as work:
        assert not work.subscriptions.any()
        assert work.subscriptions.followed() is None


def test_a_deletion_lock_keeps_a_study_in_the_ledger(desk: Desk) -> None:
    job = begun(desk)
    desk.end(job, JobState.DONE)
    assert desk.act("1.9.1", SUBSCRIBE, DeletionLock="TRUE") == 0
    later = desk.now + timedelta(days=99)

    def step() -> object:
        with desk.ledger.write() as work:
            work.series.mark_whole("1.2.1.1", 1, "quiet", desk.now)
            return work.forgetting.step("1.2.1", later, (), later)

    assert step() is Kept.LOCKED
    assert desk.act("1.9.1", UNSUBSCRIBE) == 0
    assert step() == "bytes"
    later += timedelta(days=1)
    with desk.ledger.write() as work:
        work.retention.removed(work.retention.to_remove(100))
    assert step() == "rows"
    with desk.ledger.read() as work:
        assert work.workitems.find("1.9.1") is None
    assert desk.act("1.9.1", SUBSCRIBE) == 0xC307
    assert desk.act(FILTERED_SUBSCRIPTION, SUBSCRIBE, DeletionLock="TRUE") == 0xB301


def test_orders_whose_images_never_came_are_forgotten(desk: Desk) -> None:
    desk.order("1.9.1")
    desk.order("1.9.2")
    assert desk.act("1.9.2", SUBSCRIBE, DeletionLock="TRUE") == 0
    with desk.ledger.write() as work:
        assert work.forgetting.forget_orders(desk.now) == 0
    with desk.ledger.write() as work:
        assert work.forgetting.forget_orders(desk.now + timedelta(seconds=1)) == 1
    with desk.ledger.read() as work:
        assert work.workitems.find("1.9.1") is None
        assert work.workitems.find("1.9.2") is not None


def test_an_assignment_is_told(desk: Desk) -> None:
    desk.order("1.9.1", order("READ", "99RIS"))
    assert desk.act("1.9.1", SUBSCRIBE) == 0
    desk.told()
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "R2", "99RIS", "Room 2"
    changes = Dataset()
    changes.ScheduledStationNameCodeSequence = [code]
    status, _ = desk.service.on_set("RIS", UPS_PULL, "1.9.1", changes)
    assert status == 0
    assert desk.told() == [("1.9.1", 5, "")]


def test_jobs_that_nobody_ordered_are_told_by_their_own_uid(desk: Desk) -> None:
    assert desk.act(GLOBAL_SUBSCRIPTION, SUBSCRIBE) == 0
    job = begun(desk)
    desk.end(job, JobState.DONE)
    with desk.ledger.write() as work:
        again = work.jobs.rerun(job, "somebody", desk.now)
    desk.step()
    assert (uid_of_job(again), 1, "SCHEDULED") in desk.told()
