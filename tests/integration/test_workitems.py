"""Unified Procedure Step: ordered, asked for, claimed, cancelled, followed (PS3.4 Annex CC)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydicom.dataset import Dataset
from support.instances import T0
from support.peers import free_port, wait_for
from support.queries import QuerySite, find, query_site, seg, study
from support.workitems import (
    CLAIM,
    Follower,
    Listener,
    act,
    create,
    get,
    order,
    put,
    subscribe,
    to_state,
    workitem_sections,
)

from core import clock
from core.domain import ResultKind
from core.ledger import Ledger
from core.lifecycle import JobState
from core.settings import Settings
from core.workitems import FILTERED_SUBSCRIPTION, GLOBAL_SUBSCRIPTION, uid_of_job
from node.dimse.contexts import UPS_PULL, UPS_PUSH, UPS_QUERY, UPS_WATCH
from node.sending.workitem_events import GIVE_UP_AFTER, WorkitemTeller


@pytest.fixture
def watcher() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@pytest.fixture
def site(
    make_settings: Callable[..., Settings],
    ledger: Ledger,
    ledger_url: str,
    watcher: Listener,
) -> Iterator[QuerySite]:
    settings = make_settings(**workitem_sections(ledger_url, watcher.port))
    with query_site(settings, ledger) as opened:
        yield opened


@pytest.fixture
def roles(site: QuerySite) -> Iterator[Follower]:
    made = Follower(site)
    made.step()  # from here on it is news
    yield made
    made.teller.close()


def test_an_order_waits_for_its_images_and_becomes_a_job(site: QuerySite, roles: Follower) -> None:
    assert create(site, order()).Status == 0
    status, found = get(site, "1.9.1")
    assert status.Status == 0
    assert found is not None
    assert (found.ProcedureStepState, found.InputReadinessState) == ("SCHEDULED", "INCOMPLETE")
    assert found.WorklistLabel == "AI"
    assert found.ProcedureStepLabel == "A look at the brain"
    assert "TransactionUID" not in found
    roles.step()
    with site.ledger.read() as work:
        assert work.views.jobs() == []
        assert work.evidence.of_study("1.2.1")[0].uids == {"1.2.1.1.1"}
    site.add(study(1, PatientID="P1", PatientName="Doe^John"))
    roles.step()
    with site.ledger.read() as work:
        (job,) = work.views.jobs()
    assert (job.route, job.priority, job.state) == ("brain", 20, JobState.WAITING)
    _, found = get(site, "1.9.1")
    assert found is not None
    assert (found.ProcedureStepState, found.InputReadinessState) == ("SCHEDULED", "READY")
    # it goes by the UID of its order, and by no other
    status, _ = get(site, uid_of_job(job.id))
    assert status.Status == 0xC307
    # the same again is the same job, which has its order
    assert create(site, order(), "1.9.2").Status == 0
    roles.step()
    _, found = get(site, "1.9.2")
    assert found is not None
    assert found.ProcedureStepState == "CANCELED"
    progress = found.ProcedureStepProgressInformationSequence[0]
    assert "ordered before" in progress.ReasonForCancellation


def test_every_job_is_a_workitem_with_what_it_made(site: QuerySite) -> None:
    site.add(study(1, PatientID="P1", PatientName="Doe^John", AccessionNumber="A1"))
    made = site.job("1.2.1.1", "1.2.1", state=JobState.DONE, results=((ResultKind.SEG, seg()),))
    status, found = get(site, uid_of_job(made))
    assert status.Status == 0
    assert found is not None
    assert found.ProcedureStepState == "COMPLETED"
    assert found.PatientID == "P1"
    assert found.ReferencedRequestSequence[0].AccessionNumber == "A1"
    assert found.InputInformationSequence[0].SeriesInstanceUID == "1.2.1.1"
    (performed,) = found.UnifiedProcedureStepPerformedProcedureSequence
    (output,) = performed.OutputInformationSequence
    assert output.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.1.90.1"
    assert output.DICOMRetrievalSequence[0].RetrieveAETitle == "SENTINODE"
    assert performed.PerformedProcedureStepEndDateTime
    status, few = get(site, uid_of_job(made), 0x00741000, 0x00404041)
    assert few is not None
    assert {element.keyword for element in few} == {"ProcedureStepState", "InputReadinessState"}


@pytest.mark.parametrize("context", [UPS_PULL, UPS_WATCH, UPS_QUERY])
def test_workitems_are_found_by_their_keys(site: QuerySite, context: str) -> None:
    site.add(study(1, PatientID="P1"), study(2, PatientID="P2", PatientName="Roe^Jane"))
    done = site.job("1.2.1.1", "1.2.1", state=JobState.DONE)
    waits = site.job("1.2.2.1", "1.2.2", model="lung")
    assert create(site, order("READ", "99RIS", PatientID="P9"), "1.9.5").Status == 0

    def uids(**keys: Any) -> set[str]:
        asked = Dataset()
        asked.ProcedureStepState = asked.ProcedureStepLabel = asked.PatientID = ""
        asked.ScheduledProcedureStepStartDateTime = ""
        for keyword, value in keys.items():
            setattr(asked, keyword, value)
        found, status = find(site.door.port, asked, context, calling="RIS")
        assert status.Status == 0
        assert all(item.SOPClassUID == UPS_PUSH for item in found)
        return {str(item.SOPInstanceUID) for item in found}

    first, second = uid_of_job(done), uid_of_job(waits)
    assert uids() == {first, second, "1.9.5"}
    assert uids(ProcedureStepState="SCHEDULED") == {second, "1.9.5"}
    assert uids(PatientID="P2") == {second}
    assert uids(PatientName="roe^*") == {second}
    assert uids(SOPInstanceUID="1.9.5") == {"1.9.5"}
    assert uids(ProcedureStepLabel="lung*") == {second}
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "READ", "99RIS"
    assert uids(ScheduledWorkitemCodeSequence=[code]) == {"1.9.5"}
    series = Dataset()
    series.StudyInstanceUID = "1.2.1"
    assert uids(InputInformationSequence=[series]) == {first, "1.9.5"}
    day = f"{T0:%Y%m%d}"
    assert uids(ScheduledProcedureStepStartDateTime=f"{day}-{day}") == {first, second}
    assert uids(
        ScheduledProcedureStepStartDateTime=f"{clock.now() - timedelta(days=2):%Y%m%d}-"
    ) == {"1.9.5"}


def test_an_outside_performer_claims_tells_and_ends(
    site: QuerySite, roles: Follower, watcher: Listener
) -> None:
    assert create(site, order("READ", "99RIS")).Status == 0
    assert subscribe(site, "1.9.1") == 0
    assert to_state(site, "1.9.1", "COMPLETED") == 0xC310
    assert to_state(site, "1.9.1", "SCHEDULED") == 0xC303
    assert to_state(site, "1.9.1", "IN PROGRESS") == 0
    assert to_state(site, "1.9.1", "IN PROGRESS", "2.25.778") == 0xC301
    assert to_state(site, "1.9.1", "IN PROGRESS") == 0xC302
    changes = Dataset()
    progress = Dataset()
    progress.ProcedureStepProgress = "50"
    changes.ProcedureStepProgressInformationSequence = [progress]
    changes.TransactionUID = "2.25.778"
    assert put(site, "1.9.1", changes) == 0xC301
    changes.TransactionUID = CLAIM
    assert put(site, "1.9.1", changes) == 0
    assert to_state(site, "1.9.1", "COMPLETED", "2.25.778") == 0xC301
    assert to_state(site, "1.9.1", "COMPLETED") == 0xC304
    performed = Dataset()
    code = order().ScheduledWorkitemCodeSequence
    performed.PerformedStationNameCodeSequence = performed.PerformedWorkitemCodeSequence = code
    performed.PerformedProcedureStepStartDateTime = "20260101120000"
    performed.PerformedProcedureStepEndDateTime = "20260101120500"
    performed.OutputInformationSequence = []
    changes.UnifiedProcedureStepPerformedProcedureSequence = [performed]
    assert put(site, "1.9.1", changes) == 0
    assert to_state(site, "1.9.1", "COMPLETED") == 0
    assert to_state(site, "1.9.1", "COMPLETED") == 0xB306
    assert to_state(site, "1.9.1", "CANCELED") == 0xC300
    assert put(site, "1.9.1", changes) == 0xC300
    assert act(site, "1.9.1", 2, "RIS", UPS_PUSH) == 0xC311
    roles.step()
    assert watcher.states("1.9.1") == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    assert [kind for _, kind, _ in watcher.told] == [1, 1, 3, 3, 1]
    _, found = get(site, "1.9.1")
    assert found is not None
    kept = found.UnifiedProcedureStepPerformedProcedureSequence[0]
    assert kept.PerformedProcedureStepEndDateTime == "20260101120500"


def test_only_one_of_many_performers_gets_it(site: QuerySite) -> None:
    assert create(site, order("READ", "99RIS")).Status == 0
    answers: list[int] = []
    start = threading.Barrier(6)

    def claim(number: int) -> None:
        start.wait(30)
        answers.append(to_state(site, "1.9.1", "IN PROGRESS", f"2.25.{900 + number}"))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == [0, *[0xC301] * 5]


def test_our_own_work_is_claimed_by_nobody_else_and_an_overdue_claim_shows(
    site: QuerySite, ledger: Ledger
) -> None:
    site.add(study(1))
    own = uid_of_job(site.job("1.2.1.1", "1.2.1"))
    assert to_state(site, own, "IN PROGRESS") == 0x0124
    assert create(site, order("READ", "99RIS")).Status == 0
    long_ago = clock.now() - timedelta(hours=3)
    with ledger.write() as work:
        assert work.workitems.claim(
            "1.9.1", CLAIM, "READER", long_ago + timedelta(hours=1), long_ago
        )
    _, found = get(site, "1.9.1")
    assert found is not None
    progress = found.ProcedureStepProgressInformationSequence[0]
    assert progress.ProcedureStepProgressDescription.startswith("overdue: READER")


def test_a_cancel_ends_our_job_and_asks_an_outside_performer(
    site: QuerySite, roles: Follower, watcher: Listener
) -> None:
    site.add(study(1))
    job = site.job("1.2.1.1", "1.2.1", state=JobState.RUNNING)
    own = uid_of_job(job)
    assert subscribe(site, GLOBAL_SUBSCRIPTION) == 0
    roles.step()
    assert set(watcher.states(own)) == {"IN PROGRESS"}
    assert act(site, own, 2, "RIS", UPS_PUSH, ReasonForCancellation="wrong patient") == 0
    with site.ledger.read() as work:
        assert work.views.job_life(job).job.state == JobState.CANCELLED
    assert act(site, own, 2, "RIS", UPS_PUSH) == 0xB304
    roles.step()
    assert watcher.states(own)[-1] == "CANCELED"
    # scheduled: ended at once; claimed: who has it is asked, if it listens
    assert create(site, order("READ", "99RIS"), "1.9.3").Status == 0
    assert act(site, "1.9.3", 2, "RIS", UPS_WATCH) == 0
    assert create(site, order("READ", "99RIS"), "1.9.4").Status == 0
    assert to_state(site, "1.9.4", "IN PROGRESS") == 0
    assert act(site, "1.9.4", 2, "RIS", UPS_PUSH) == 0xC312
    assert create(site, order("READ", "99RIS"), "1.9.6").Status == 0
    assert act(
        site, "1.9.6", 1, "WATCHER", ProcedureStepState="IN PROGRESS", TransactionUID=CLAIM
    ) == 0  # fmt: skip
    assert act(site, "1.9.6", 2, "RIS", UPS_PUSH, ReasonForCancellation="no need") == 0
    roles.step()
    (asked,) = [said for uid, kind, said in watcher.told if (uid, kind) == ("1.9.6", 2)]
    assert (asked.RequestingAE, asked.ReasonForCancellation) == ("RIS", "no need")


def test_subscribers_follow_jobs_of_our_own_by_filter_and_until_they_unsubscribe(
    site: QuerySite, roles: Follower, watcher: Listener
) -> None:
    assert subscribe(site, FILTERED_SUBSCRIPTION, PatientID="P2") == 0
    site.add(study(1, PatientID="P1"), study(2, PatientID="P2"))
    other, wanted = site.job("1.2.1.1", "1.2.1"), site.job("1.2.2.1", "1.2.2")
    roles.step()
    with site.ledger.write() as work:
        work.jobs.cancel(other, "somebody", clock.now())
        work.jobs.cancel(wanted, "somebody", clock.now())
    roles.step()
    assert watcher.states(uid_of_job(other)) == []
    assert watcher.states(uid_of_job(wanted))[-1] == "CANCELED"
    before = len(watcher.told)
    assert subscribe(site, FILTERED_SUBSCRIPTION, 4) == 0
    site.job("1.2.2.1", "1.2.2", model="lung")
    roles.step()
    assert len(watcher.told) == before


def test_a_subscriber_that_is_away_is_told_later_and_dropped_after_a_day(
    site: QuerySite, watcher: Listener, ledger: Ledger
) -> None:
    assert create(site, order("READ", "99RIS")).Status == 0
    assert subscribe(site, "1.9.1") == 0
    watcher.close()
    now = clock.now()
    moments = [now]
    teller = WorkitemTeller(site.settings, ledger, lambda: moments[0])
    wait_for(lambda: teller.step(wait_seconds=10) == 0, 30, "the first try")
    with ledger.read() as work:
        assert work.subscriptions.peers_due(now) == []
        assert work.subscriptions.peers_due(now + timedelta(seconds=5)) == ["WATCHER"]
    moments[0] = now + GIVE_UP_AFTER + timedelta(hours=1)
    teller.step(wait_seconds=10)
    with ledger.read() as work:
        assert not work.subscriptions.any()
        assert work.subscriptions.peers_due(moments[0] + timedelta(days=2)) == []
    teller.close()


def test_what_cannot_be_a_workitem_is_refused(site: QuerySite) -> None:
    assert create(site, order(ProcedureStepState="IN PROGRESS")).Status == 0xC309
    assert create(site, order("OTHER")).Status == 0x0106
    assert create(site, order(InputInformationSequence=[])).Status == 0x0120
    assert create(site, order(TransactionUID="1.2.3")).Status == 0x0106
    assert create(site, order(), calling="VIEWER").Status == 0x0124
    assert create(site, order(ScheduledProcedureStepPriority="NOW")).Status == 0xB300
    assert create(site, order()).Status == 0x0111
    assert get(site, "1.9.404")[0].Status == 0xC307
    assert to_state(site, "1.9.404", "IN PROGRESS") == 0xC307
    assert to_state(site, "1.9.1", "ASLEEP") == 0x0106
    assert act(site, "1.9.1", 1, context=UPS_WATCH) == 0x0123
    assert act(site, "1.9.1", 3, "RIS", UPS_WATCH, ReceivingAE="NOBODY") == 0xC308
    assert act(site, "1.9.1", 5, "RIS", UPS_WATCH, ReceivingAE="WATCHER") == 0xC314
    changes = Dataset()
    changes.PatientID = "P2"
    assert put(site, "1.9.1", changes, "RIS") == 0x0106
    big = Dataset()
    big.CommentsOnTheScheduledProcedureStep = "x" * 300_000
    assert put(site, "1.9.1", big, "RIS") == 0x0106
    asked = Dataset()
    asked.ScheduledProcedureStepStartDateTime = "yesterday"
    found, status = find(site.door.port, asked, UPS_QUERY, calling="RIS")
    assert found == []
    assert status.Status == 0xA900
    asked.ScheduledProcedureStepStartDateTime = ""
    found, status = find(site.door.port, asked, UPS_QUERY, calling="VIEWER")
    assert (found, status.Status) == ([], 0x0124)


def test_while_sql_is_away_a_status_says_so(
    make_settings: Callable[..., Settings], tmp_path: Any
) -> None:
    settings = make_settings(
        node={"port": free_port()},
        ledger={"url": "postgresql://nobody@127.0.0.1:1/none"},
        peers=[{"name": "ris", "ae_title": "RIS", "worklist": True}],
        routes=[{"name": "brain", "model": "mr-flair-glioma"}],
        workitems=[{"code": "BRAIN", "meaning": "Outline", "route": "brain"}],
    )
    with query_site(settings, Ledger("sqlite://")) as site:
        assert create(site, order()).Status == 0x0213
        assert get(site, "1.9.1")[0].Status == 0x0213
