"""What a C-STORE status means for a delivery, and how long a destination is left alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from core.errors import BytesGoneError, StoreError
from core.lifecycle import TransferState

_JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a C-STORE status means for a transfer (PS3.4 Table B.2-1, PS3.7 Annex C).

    Attributes:
        trouble: the destination is in trouble, perhaps over this very object: stop here, and
            let others go first the next time.
        refusal: the destination answered with an error; after some of them it is final.
        ours: the trouble is in our own store, and says nothing about the destination; with
            `refusal` the object fails after some tries, else it is waited for.
        sop_class: the destination takes no object of this SOP class.
    """

    state: TransferState
    message: str
    trouble: bool = False
    refusal: bool = False
    ours: bool = False
    sop_class: bool = False


def judge(status: int, comment: str) -> Verdict:
    """Judge a status: success and warnings are delivered, out of resources comes again."""
    text = f"0x{status:04X}" + (f" {comment}" if comment else "")
    if status == 0x0000:
        return Verdict(TransferState.SENT, "success")
    if status in {0x0001, 0x0107, 0x0116} or 0xB000 <= status <= 0xBFFF:
        return Verdict(TransferState.SENT, f"stored with a warning: {text}")
    if status == 0x0111:  # Duplicate SOP Instance: an answer of earlier was lost on the way
        return Verdict(TransferState.SENT, f"the destination has it already: {text}")
    if 0xA700 <= status <= 0xA7FF:
        return Verdict(TransferState.DUE, f"out of resources: {text}", trouble=True)
    if status in {0x0122, 0x0124}:
        sop_class = status == 0x0122
        what = "SOP class not supported" if sop_class else "sender not allowed"
        return Verdict(TransferState.REFUSED, f"{what}: {text}", sop_class=sop_class)
    return Verdict(TransferState.DUE, f"refused: {text}", refusal=True)


def judge_store(error: StoreError) -> Verdict:
    """Our store did not give the object: bytes that are gone are given up after some tries."""
    gone = isinstance(error, BytesGoneError)
    what = f"{error}. {error.remedy}" if gone else str(error)
    return Verdict(TransferState.DUE, what, refusal=gone, ours=True)


def backoff(failures: int, first: float, longest: float, spread: float) -> timedelta:
    """Wait before the next try: doubling, with jitter; `spread` is in 0 to 1."""
    seconds = min(first * 2 ** min(failures, 30), longest)
    return timedelta(seconds=seconds * (1 + _JITTER * (2 * spread - 1)))
