"""`sentinode up`: all roles on one machine, each its own process.

A role that dies is started again, after a growing wait. When the supervisor ends, however it
ends, no process stays behind: roles get SIGTERM from it, or from the kernel when it was killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import structlog

from core.errors import SentinodeError
from core.processes import PARENT_VARIABLE
from node.loop import stop_on_signals

log = structlog.get_logger()

# In this order they start; in the reverse order they end.
ROLES = ("broker", "intake", "dispatch", "send", "worker", "web", "scp")
# A role that lived so long counts as well, and its next death begins the waiting anew.
_WELL_AFTER_SECONDS = 30.0
_LONGEST_RESTART_WAIT = 10.0
_POLL_SECONDS = 0.1


@dataclass(slots=True)
class _Child:
    name: str
    role: str
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)
    deaths: int = 0
    restart_at: float | None = None


class Supervisor:
    """Starts roles as child processes and keeps them running.

    Args:
        roles: which ones.
        command: gives the arguments that run a role.
        pid_folder: gets `<role>.pid` files; `<role>-2.pid` and so on of further processes.
        processes: how many processes of a role run; one, unless it is named here.
    """

    def __init__(
        self,
        roles: Sequence[str],
        command: Callable[[str], list[str]],
        pid_folder: Path,
        processes: Mapping[str, int] | None = None,
    ) -> None:
        unknown = sorted(set(roles) - set(ROLES))
        if unknown:
            raise SentinodeError(
                f"no such role: {', '.join(unknown)}", remedy=f"Roles are: {', '.join(ROLES)}."
            )
        self._roles = [role for role in ROLES if role in roles]
        self._processes = dict(processes or {})
        self._command = command
        self._pid_folder = pid_folder
        self._children: dict[str, _Child] = {}
        self._lock: IO[bytes] | None = None

    def run(self, grace_seconds: float = 30.0) -> None:
        """Run until SIGTERM or Ctrl-C, then end every role."""
        stop = stop_on_signals()
        try:
            self.start()
            while not stop.wait(_POLL_SECONDS):
                self.tend()
        finally:
            self.end(grace_seconds)

    def start(self) -> None:
        """Start every role.

        Raises:
            SentinodeError: another node runs on the same folder.
        """
        self._pid_folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self._pid_folder / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise SentinodeError(
                f"a node runs on {self._pid_folder.parent} already",
                remedy="End it, or set storage.data to another folder.",
            ) from error
        # what counted before has ended: a new node counts from nothing
        shutil.rmtree(self._pid_folder / "counters", ignore_errors=True)
        for role in self._roles:
            for number in range(1, self._processes.get(role, 1) + 1):
                name = role if number == 1 else f"{role}-{number}"
                self._children[name] = _Child(name, role, self._spawn(name, role))

    def tend(self) -> None:
        """Start roles again that died."""
        now = time.monotonic()
        for child in self._children.values():
            if child.restart_at is None and child.process.poll() is not None:
                well = now - child.started > _WELL_AFTER_SECONDS
                child.deaths = 1 if well else child.deaths + 1
                wait = min(0.25 * 2**child.deaths, _LONGEST_RESTART_WAIT)
                child.restart_at = now + wait
                log.error(
                    "role_died",
                    died=child.name,
                    exit_status=child.process.returncode,
                    restart_in_seconds=wait,
                )
            if child.restart_at is not None and now >= child.restart_at:
                child.process, child.started = self._spawn(child.name, child.role), now
                child.restart_at = None

    def end(self, grace_seconds: float) -> None:
        """End every role: the door first, the broker last. What does not end is killed."""
        deadline = time.monotonic() + grace_seconds
        waves = [[r for r in reversed(self._roles) if r != "broker"], ["broker"]]
        for wave in waves:
            children = [
                child for role in wave for child in self._children.values() if child.role == role
            ]
            for child in children:
                if child.process.poll() is None:
                    child.process.send_signal(signal.SIGTERM)
            for child in children:
                try:
                    child.process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    log.warning("role_killed", killed=child.name, grace_seconds=grace_seconds)
                    child.process.kill()
                    child.process.wait()
                (self._pid_folder / f"{child.name}.pid").unlink(missing_ok=True)
        self._children.clear()
        if self._lock is not None:
            self._lock.close()
        log.info("ended")

    def alive(self) -> dict[str, int]:
        """Process ids of what runs now, by the names of the pid files."""
        return {
            child.name: child.process.pid
            for child in self._children.values()
            if child.process.poll() is None
        }

    def _spawn(self, name: str, role: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
        # its own session: Ctrl-C at a terminal reaches the supervisor only, which ends the roles
        process = subprocess.Popen(
            self._command(role), env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
        (self._pid_folder / f"{name}.pid").write_text(f"{process.pid}\n", encoding="ascii")
        return process


def role_command(role: str, config: Path | None) -> list[str]:
    """The arguments that run a role of this installation."""
    command = [sys.executable, "-m", "cli"]
    if config is not None:
        command += ["--config", str(config)]
    return [*command, role]
