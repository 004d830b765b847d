"""Workitems: the table of moves is whole, and UIDs of jobs lead back to them."""

from __future__ import annotations

import uuid
from itertools import product

from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from core.ledger.queries.matching import OneOf
from core.lifecycle import JobState
from core.workitems import FINAL_STATES, MOVES, OF_JOBS, WorkitemState, job_of_uid, uid_of_job
from node.worklist.ups.matching import Wish
from node.worklist.ups.statuses import MEANINGS


def test_every_move_has_an_answer_and_nothing_leaves_an_end() -> None:
    assert set(MOVES) == set(product(WorkitemState, WorkitemState))
    assert set(OF_JOBS) == set(JobState)
    known = {status for status, _, _ in MEANINGS}
    assert set(MOVES.values()) <= known
    for (before, after), status in MOVES.items():
        if before in FINAL_STATES or after is WorkitemState.SCHEDULED:
            assert status != 0


@given(st.lists(st.sampled_from(list(WorkitemState)), max_size=12))
def test_whatever_is_asked_for_an_end_is_an_end(asked: list[WorkitemState]) -> None:
    state, seen = WorkitemState.SCHEDULED, [WorkitemState.SCHEDULED]
    for wanted in asked:
        if MOVES[state, wanted] == 0:
            state = wanted
            seen.append(state)
    assert seen == list(dict.fromkeys(seen))
    assert all(one not in FINAL_STATES for one in seen[:-1])


@given(st.uuids())
def test_the_uid_of_a_job_leads_back_to_it(number: uuid.UUID) -> None:
    assert job_of_uid(uid_of_job(str(number))) == str(number)


@given(st.text(max_size=70))
def test_what_is_no_uid_of_a_job_leads_nowhere(text: str) -> None:
    found = job_of_uid(text)
    assert found is None or uid_of_job(found) == text or text.startswith("2.25.0")


def test_an_item_of_a_sequence_must_have_all_that_is_asked() -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "A", "X"
    other = Dataset()
    other.CodeValue, other.CodingSchemeDesignator = "B", "Y"
    item = Dataset()
    item.ScheduledWorkitemCodeSequence = [code, other]

    def wish(value: str, scheme: str) -> Wish:
        asked = (Wish(0x00080100, OneOf((value,))), Wish(0x00080102, OneOf((scheme,))))
        return Wish(0x00404018, items=asked)

    assert wish("A", "X").accepts(item)
    assert not wish("A", "Y").accepts(item)
    assert not wish("A", "X").accepts(Dataset())
