"""The state machine of workitems, by the service itself, against PS3.4 Table CC.1.1-2."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydicom.dataset import Dataset
from support.instances import T0
from support.workitems import order, workitem_sections

from core.ledger import Ledger
from core.schema import Base
from core.settings import Settings
from core.workitems import WorkitemState
from node.dimse.contexts import UPS_PULL, UPS_PUSH
from node.worklist.ups.service import UpsService

CLAIMS = ("", "2.25.1", "2.25.2")
SCHEDULED, IN_PROGRESS, COMPLETED, CANCELED = "SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"
# The rows of the table with the correct Transaction UID; the requirements of the end are apart.
WITH_CORRECT = {
    (SCHEDULED, IN_PROGRESS): 0x0000,
    (SCHEDULED, COMPLETED): 0xC310,
    (SCHEDULED, CANCELED): 0xC310,
    (IN_PROGRESS, IN_PROGRESS): 0xC302,
    (COMPLETED, IN_PROGRESS): 0xC300,
    (COMPLETED, COMPLETED): 0xB306,
    (COMPLETED, CANCELED): 0xC300,
    (CANCELED, IN_PROGRESS): 0xC300,
    (CANCELED, COMPLETED): 0xC300,
    (CANCELED, CANCELED): 0xB304,
}


def performed() -> Dataset:
    """What a performer has to say of a step that it completes."""
    made = Dataset()
    code = order().ScheduledWorkitemCodeSequence
    made.PerformedStationNameCodeSequence = made.PerformedWorkitemCodeSequence = code
    made.PerformedProcedureStepStartDateTime = "20260101120000"
    made.PerformedProcedureStepEndDateTime = "20260101120500"
    made.OutputInformationSequence = []
    return made


def discontinued() -> Dataset:
    """What a performer has to say of a step that it cancels."""
    made = Dataset()
    reason = Dataset()
    reason.CodeValue, reason.CodingSchemeDesignator = "110501", "DCM"
    reason.CodeMeaning = "Equipment failure"
    made.ProcedureStepDiscontinuationReasonCodeSequence = [reason]
    return made


SAID = {
    "UnifiedProcedureStepPerformedProcedureSequence": performed,
    "ProcedureStepProgressInformationSequence": discontinued,
}


class Machine(RuleBasedStateMachine):
    """Requests in any order, and what the standard says that each is answered with."""

    service: UpsService
    numbers = itertools.count(1)
    uids = Bundle("uids")

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, str] = {}
        self.claim: dict[str, str] = {}
        self.said: dict[str, set[str]] = {}

    def _status(self, answer: Any) -> int:
        status = answer[0]
        return status if isinstance(status, int) else int(status.Status)

    @precondition(lambda self: len(self.state) < 3)
    @rule(target=uids)
    def create(self) -> str:
        uid = f"1.9.{next(self.numbers)}"
        made = order("READ", "99RIS")
        assert self._status(self.service.on_create("RIS", UPS_PUSH, uid, made)) == 0
        self.state[uid], self.claim[uid], self.said[uid] = SCHEDULED, "", set()
        return uid

    @rule(uid=uids)
    def create_again(self, uid: str) -> None:
        answer = self.service.on_create("RIS", UPS_PUSH, uid, order("READ", "99RIS"))
        assert self._status(answer) == 0x0111

    @rule(uid=uids, wanted=st.sampled_from(list(WorkitemState)), claim=st.sampled_from(CLAIMS))
    def change_state(self, uid: str, wanted: str, claim: str) -> None:
        about = Dataset()
        about.ProcedureStepState, about.TransactionUID = str(wanted), claim
        status = self._status(self.service.on_action("READER", UPS_PULL, uid, 1, about))
        before = self.state[uid]
        correct = claim != "" and (before == SCHEDULED or claim == self.claim[uid])
        if wanted == SCHEDULED:
            assert status == 0xC303
        elif not correct:
            assert status == 0xC301
        elif (before, wanted) in WITH_CORRECT:
            assert status == WITH_CORRECT[before, wanted]
            if status == 0:
                self.claim[uid] = claim
        else:
            need = list(SAID)[0 if wanted == COMPLETED else 1]
            assert status == (0 if need in self.said[uid] else 0xC304)
        if status == 0:
            self.state[uid] = str(wanted)

    @rule(uid=uids, keyword=st.sampled_from(list(SAID)), claim=st.sampled_from(CLAIMS))
    def tell(self, uid: str, keyword: str, claim: str) -> None:
        changes = Dataset()
        setattr(changes, keyword, [SAID[keyword]()])
        if claim:
            changes.TransactionUID = claim
        status = self._status(self.service.on_set("RIS", UPS_PULL, uid, changes))
        if self.state[uid] in {COMPLETED, CANCELED}:
            assert status == 0xC300
        elif self.state[uid] == IN_PROGRESS and claim != self.claim[uid]:
            assert status == 0xC301
        else:
            assert status == 0
            self.said[uid].add(keyword)

    @rule(uid=uids)
    def request_cancel(self, uid: str) -> None:
        about = Dataset()
        status = self._status(self.service.on_action("RIS", UPS_PUSH, uid, 2, about))
        expected = {SCHEDULED: 0, IN_PROGRESS: 0xC312, COMPLETED: 0xC311, CANCELED: 0xB304}
        assert status == expected[self.state[uid]]
        if status == 0:
            self.state[uid] = CANCELED

    @invariant()
    def tells_its_state_and_never_the_transaction(self) -> None:
        for uid, state in list(self.state.items())[-2:]:
            status, found = self.service.on_get("RIS", UPS_PULL, uid, [])
            assert status == 0
            assert found is not None
            assert found.ProcedureStepState == state
            assert "TransactionUID" not in found


@pytest.fixture
def service(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[UpsService]:
    url = f"sqlite:///{tmp_path / 'states.db'}"
    ledger = Ledger(url)
    Base.metadata.create_all(ledger.engine)
    chosen = make_settings(**workitem_sections(url, 1))
    yield UpsService(chosen, lambda: ledger, lambda: T0)
    ledger.close()


@pytest.mark.parametrize(("before", "wanted"), list(itertools.product(WorkitemState, repeat=2)))
@pytest.mark.parametrize("claim", CLAIMS)
def test_each_field_of_the_table(
    service: UpsService, before: WorkitemState, wanted: WorkitemState, claim: str
) -> None:
    ways = {SCHEDULED: [], IN_PROGRESS: [IN_PROGRESS]}
    way = ways.get(before, [IN_PROGRESS, str(before)])
    made = order("READ", "99RIS")
    for keyword, item in SAID.items():
        setattr(made, keyword, [item()])
    assert service.on_create("RIS", UPS_PUSH, "1.9.1", made)[0] == 0

    def ask(state: str, transaction: str) -> int:
        about = Dataset()
        about.ProcedureStepState, about.TransactionUID = state, transaction
        answer, _ = service.on_action("READER", UPS_PULL, "1.9.1", 1, about)
        return answer if isinstance(answer, int) else int(answer.Status)

    for state in way:
        assert ask(state, CLAIMS[1]) == 0
    if wanted == SCHEDULED:
        expected = 0xC303
    elif claim == CLAIMS[1] or (claim and before == SCHEDULED):
        expected = WITH_CORRECT.get((str(before), str(wanted)), 0)
    else:
        expected = 0xC301
    assert ask(str(wanted), claim) == expected


def test_requests_in_any_order_are_answered_as_the_table_says(service: UpsService) -> None:
    made = type("Made", (Machine,), {"service": service})
    run_state_machine_as_test(
        made,
        settings=settings(
            max_examples=12,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
