"""Processes that never outlive their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
PARENT_VARIABLE = "SENTINODE_PARENT_PID"


def die_with_parent(sig: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the parent ends, however it ends.

    Only where `SENTINODE_PARENT_PID` says that we were started by `sentinode up`, and only on
    Linux; elsewhere the supervisor's own shutdown has to do. The request survives exec.
    """
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if not parent or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(sig))
    if os.getppid() != int(parent):  # it ended before we asked
        os.kill(os.getpid(), sig)
