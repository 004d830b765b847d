"""Processes that never outlive their parent, and the machine that they run on."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import socket
import sys
from functools import cache
from pathlib import Path

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


@cache
def this_machine() -> str:
    """A short name of this machine, the same after it was switched off; no host name is told."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


@cache
def this_boot() -> str:
    """Tells one start of this machine's kernel from another; "0" where the system does not."""
    try:
        said = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        return "0"
    return said.strip().replace("-", "")[:8]
