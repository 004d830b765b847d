"""What a C-STORE status means for an object, and how long a destination is left alone."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from core.alternatives import ALTERNATIVES
from core.lifecycle import TRANSFER_MOVES, TransferState
from node.dimse.contexts import RESULT_CLASSES, proposed
from node.sending.judge import backoff, judge

T = TransferState
SPREADS = st.floats(0, 1)


# PS3.4 Table B.2-1 and PS3.7 Annex C.
@pytest.mark.parametrize(
    ("status", "state", "trouble", "refusal"),
    [
        (0x0000, T.SENT, False, False),
        (0xB000, T.SENT, False, False),  # coercion of data elements
        (0xB007, T.SENT, False, False),  # data set does not match SOP class, stored
        (0xB006, T.SENT, False, False),  # elements discarded
        (0x0001, T.SENT, False, False),  # requested optional attributes not supported
        (0x0107, T.SENT, False, False),  # attribute list error
        (0x0116, T.SENT, False, False),  # attribute value out of range
        (0xA700, T.DUE, True, False),  # out of resources
        (0xA701, T.DUE, True, False),
        (0xA7FF, T.DUE, True, False),
        (0xA900, T.DUE, False, True),  # data set does not match SOP class
        (0xA9FF, T.DUE, False, True),
        (0xC000, T.DUE, False, True),  # cannot understand
        (0xCFFF, T.DUE, False, True),
        (0x0110, T.DUE, False, True),  # processing failure
        (0x0111, T.SENT, False, False),  # duplicate SOP instance: it is there
        (0x0117, T.DUE, False, True),  # invalid object instance
        (0x0211, T.DUE, False, True),  # unrecognised operation
        (0x0122, T.REFUSED, False, False),  # SOP class not supported
        (0x0124, T.REFUSED, False, False),  # not authorised
        (0x1234, T.DUE, False, True),  # a status that no table has
    ],
)
def test_a_status_is_judged_as_the_standard_means_it(
    status: int, state: TransferState, trouble: bool, refusal: bool
) -> None:
    verdict = judge(status, "")
    assert (verdict.state, verdict.trouble, verdict.refusal) == (state, trouble, refusal)
    assert verdict.message


def test_only_the_answer_about_the_class_asks_for_another_object() -> None:
    assert [status for status in range(0x10000) if judge(status, "").sop_class] == [0x0122]


def test_everything_that_we_make_is_also_offered_in_implicit_vr() -> None:
    made = {str(uid) for uid in RESULT_CLASSES}
    # also what stands in for an object
    assert {uid for first, others in ALTERNATIVES.items() for uid in (first, *others)} <= made
    offered = [
        (str(item.abstract_syntax), [str(syntax) for syntax in item.transfer_syntax])
        for item in proposed({(uid, str(ExplicitVRLittleEndian)) for uid in made})
    ]
    for uid in made:
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
            assert (uid, [str(syntax)]) in offered


@given(st.integers(0, 0xFFFF), st.text(max_size=64))
def test_every_status_leads_somewhere_and_is_quoted(status: int, comment: str) -> None:
    verdict = judge(status, comment)
    assert verdict.state in TRANSFER_MOVES[T.SENDING]
    assert not (verdict.trouble and verdict.refusal)
    # what is to be sent again says whether the object or the destination is at fault
    assert (verdict.state == T.DUE) == (verdict.trouble or verdict.refusal)
    if status:
        assert f"0x{status:04X}" in verdict.message
        assert comment in verdict.message


@given(
    st.integers(0, 10_000),
    st.floats(0.1, 60),
    st.floats(60, 3600),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_waits_double_up_to_the_longest_with_a_little_jitter(
    failures: int, first: float, longest: float, spread: float, other: float
) -> None:
    wait = backoff(failures, first, longest, spread)
    assert timedelta(seconds=0.8 * first) <= wait + timedelta(microseconds=1)
    assert wait <= timedelta(seconds=1.2 * longest) + timedelta(microseconds=1)
    # jitter never turns the order of two waits that are a doubling apart
    if first * 2 ** min(failures + 1, 30) <= longest:
        assert backoff(failures + 1, first, longest, other) > wait


def test_the_first_wait_is_the_one_of_the_settings() -> None:
    assert backoff(0, 5, 300, 0.5) == timedelta(seconds=5)
    assert backoff(3, 5, 300, 0.5) == timedelta(seconds=40)
    assert backoff(99, 5, 300, 0.5) == timedelta(seconds=300)
